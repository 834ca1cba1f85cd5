"""Database URLs: every form that is taken, and what is said of the others."""

from __future__ import annotations

import contextlib
from typing import Any
from urllib.parse import quote, unquote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flask_pooled_db.config.url import DatabaseURL, URLError, parse_url

SECRET = "Kolibri7Geheim"


def test_every_part_is_read() -> None:
    """Dialect, driver, user, password, host, port, database and query each have their place."""
    url = parse_url("mysql+pymysql://ann:secret@db.example:3307/shop?charset=utf8mb4&x=1")
    assert url == DatabaseURL(
        dialect="mysql",
        driver="pymysql",
        username="ann",
        password="secret",
        hosts=(("db.example", 3307),),
        database="shop",
        query={"charset": "utf8mb4", "x": "1"},
    )
    assert (url.scheme, url.host, url.port) == ("mysql+pymysql", "db.example", 3307)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("mariadb://", {"dialect": "mariadb"}),
        ("mariadb://h", {"hosts": (("h", None),)}),
        ("mariadb://h/", {"hosts": (("h", None),), "database": None}),
        ("mariadb://h:3306", {"hosts": (("h", 3306),)}),
        ("mariadb://h:/d", {"hosts": (("h", None),), "database": "d"}),
        ("mariadb://ann@h/d", {"username": "ann", "password": None, "database": "d"}),
        ("mariadb://ann:@h/d", {"username": "ann", "password": None}),
        ("mariadb://:pw@h/d", {"username": None, "password": "pw"}),
        ("mariadb://[::1]:3306/d", {"hosts": (("::1", 3306),)}),
        ("mariadb://a:1,b,[::1]:3/d", {"hosts": (("a", 1), ("b", None), ("::1", 3))}),
        ("mariadb:///d?unix_socket=/run/s", {"hosts": (), "query": {"unix_socket": "/run/s"}}),
        ("mariadb://h/a%2Fb", {"database": "a/b"}),
        ("mariadb://%C3%A4nn:p%40ss@h/d", {"username": "änn", "password": "p@ss"}),
        ("mariadb://h/d?a=&b=x%26y", {"query": {"a": "", "b": "x&y"}}),
        ("sqlite://", {"dialect": "sqlite", "database": None}),
        ("sqlite:///shop.db", {"database": "shop.db"}),
        ("sqlite:////var/shop.db", {"database": "/var/shop.db"}),
        ("sqlite:///a@b/c.db", {"database": "a@b/c.db"}),
        ("sqlite:///:memory:", {"database": ":memory:"}),
        ("postgresql+psycopg://h/d", {"dialect": "postgresql", "driver": "psycopg"}),
    ],
)
def test_a_part_may_be_left_out(text: str, parts: dict[str, Any]) -> None:
    """What a URL doesn't name is None, and percent-encoding is undone."""
    url = parse_url(text)
    assert {name: getattr(url, name) for name in parts} == parts


@pytest.mark.parametrize(
    "password", ["p@ss", "p/w", "p?x=1", "p#w", "p:w", "a@@b", "@", "p w", "%"]
)
def test_a_password_may_be_written_as_it_is(password: str) -> None:
    """No character of a password has to be encoded where the URL can be read in one way."""
    url = parse_url(f"mysql://ann:{password}@db.example:3306/shop?a=1")
    assert (url.password, url.host, url.port, url.database) == (
        password,
        "db.example",
        3306,
        "shop",
    )


@pytest.mark.parametrize(
    "text",
    [
        f"mysql://ann:a@{SECRET}/b@db.example/shop",
        f"mysql://ann:a@b/{SECRET}@db.example/shop",
        f"mysql://ann:a@b?{SECRET}@db.example/shop",
        f"mysql://ann:a@:/{SECRET}@db.example/shop",
        f"mysql://an/n:{SECRET}@db.example/shop",
    ],
)
def test_a3_a_url_that_can_be_read_in_two_ways_is_refused(text: str) -> None:
    """A part of a password is never taken for a host or a database, which are shown."""
    with pytest.raises(URLError, match="%40") as caught:
        parse_url(text)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "shop.db",
        "mysql",
        "mysql:",
        "mysql:/h/d",
        "://h/d",
        "MySQL://h/d",
        "my sql://h/d",
        "mysql+://h/d",
        "mysql+py+mysql://h/d",
        " mysql://h/d",
        "mysql://a:b:3306/d",
        "mysql://[::1/d",
        "mysql://[zz]/d",
        "mysql://h:0/d",
        "mysql://h:65536/d",
        "mysql://h:33o6/d",
        "mysql://h:-1/d",
        "mysql://h:٣٣٠٦/d",
        "mysql://h:1,k:x/d",
        "sqlite:///f?a=1&a=2",
    ],
)
def test_what_is_no_url_is_refused(text: str) -> None:
    """A text in any other form raises `URLError`, which says what is wrong with it."""
    with pytest.raises(URLError, match=r"^(does not have the form|has a port|names the same key)"):
        parse_url(text)


@pytest.mark.parametrize(
    "text",
    [
        f"{SECRET}",
        f"mysql:/{SECRET}",
        f"mysql://root:{SECRET}",
        f"mysql://h:{SECRET}/d",
        f"mysql://a:b:{SECRET}/d",
        f"mysql://[{SECRET}]/d",
        f"mysql://h/d?{SECRET}=1&{SECRET}=2",
    ],
)
def test_a3_no_part_of_the_text_is_in_the_error(text: str) -> None:
    """Wherever a password stands in what is no URL, the error doesn't show it."""
    with pytest.raises(URLError) as caught:
        parse_url(text)
    assert SECRET not in f"{caught.value}{caught.value!r}"


def test_a3_the_repr_shows_neither_password_nor_query() -> None:
    """A parsed URL can be logged."""
    url = parse_url(f"mysql://ann:{SECRET}@h/d?ssl_key_password={SECRET}")
    assert SECRET not in f"{url}{url!r}"
    assert "'h'" in repr(url)


@given(st.text())
@example("a://h:x")
@example("a://[")
@example("a://h?b&b")
def test_any_text_gives_a_url_or_a_url_error(text: str) -> None:
    """No text makes anything else happen."""
    with contextlib.suppress(URLError):
        assert isinstance(parse_url(text), DatabaseURL)


@given(st.text(min_size=1), st.text(min_size=1), st.text(min_size=1))
def test_whatever_is_percent_encoded_comes_back(user: str, password: str, database: str) -> None:
    """A user, a password and a database of any characters can be written in a URL."""
    parts = [quote(part, safe="", errors="replace") for part in (user, password, database)]
    user, password, database = map(unquote, parts)
    url = parse_url("mysql://{}:{}@h:1/{}".format(*parts))
    assert (url.username, url.password, url.database) == (user, password, database)


@given(st.text(alphabet="ab@/?#:[]%41,&= ", min_size=1))
@example("Kolibri@:/?#[]%41%s{}&=+ '\"\\!")
def test_a3_a_raw_password_is_read_as_a_whole_or_refused(password: str) -> None:
    """There is no password of which a part ends up in another place."""
    try:
        url = parse_url(f"mysql://ann:{password}@db.example/shop")
    except URLError:
        return
    assert (url.password, url.host, url.database) == (unquote(password), "db.example", "shop")
