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


def test_all_parts() -> None:
    """Dialect, driver, user, password, host, port, database and query are read."""
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
def test_missing_parts(text: str, parts: dict[str, Any]) -> None:
    """A missing part is None, and percent-encoding is decoded."""
    url = parse_url(text)
    assert {name: getattr(url, name) for name in parts} == parts


@pytest.mark.parametrize(
    "password", ["p@ss", "p/w", "p?x=1", "p#w", "p:w", "a@@b", "@", "p w", "%"]
)
def test_unencoded_password(password: str) -> None:
    """A password may hold any character as long as the URL is unambiguous."""
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
def test_a3_ambiguous_url(text: str) -> None:
    """An ambiguous URL is refused, so that no part of a password is taken for a
    host or a database.
    """
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
        "mysql://h:1,k:0/d",
        "mysql://h:1,k:65536/d",
        "mysql://h1 ,h2/d",
        "mysql://h1, h2/d",
        "mysql://h1,\th2/d",
        "mysql:// h1/d",
        "mysql://u@h 1/d",
        "mysql://h1;h2:1:2/d",
        "sqlite:///f?a=1&a=2",
    ],
)
def test_malformed_url(text: str) -> None:
    """A malformed URL raises `URLError` with the reason."""
    with pytest.raises(URLError, match=r"^(does not have the form|has a port|names the same key)"):
        parse_url(text)


@pytest.mark.parametrize(
    "hosts",
    [
        "h1,,h2",
        ",h1",
        "h1,",
        ",",
        ",,",
        "h1:3306,:3307",
        ":3306,h2",
        "[::1],",
        ",[::1]:3306",
        "h1:,",
    ],
)
@pytest.mark.parametrize("user", ["", "u@", "u:p@"])
def test_host_without_name(user: str, hosts: str) -> None:
    """An empty host among several is refused: a driver would connect to this machine."""
    with pytest.raises(URLError, match=r"^has a host without a name among several"):
        parse_url(f"mysql://{user}{hosts}/d")


@pytest.mark.parametrize("host", ["[:]", "[1.2.3.4]", "[::1::2]", "[abc]", "[%]"])
def test_brackets_without_address(host: str) -> None:
    """Brackets hold an IPv6 address."""
    with pytest.raises(URLError, match="no IPv6 address"):
        parse_url(f"mysql://{host}/d")


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
def test_a3_url_error(text: str) -> None:
    """A URLError shows no part of the text."""
    with pytest.raises(URLError) as caught:
        parse_url(text)
    assert SECRET not in f"{caught.value}{caught.value!r}"


def test_a3_url_repr() -> None:
    """The repr of a URL shows neither password nor query."""
    url = parse_url(f"mysql://ann:{SECRET}@h/d?ssl_key_password={SECRET}")
    assert SECRET not in f"{url}{url!r}"
    assert "'h'" in repr(url)


@given(st.text())
@example("a://h:x")
@example("a://[")
@example("a://h?b&b")
def test_any_text(text: str) -> None:
    """Any text gives a URL or a URLError."""
    with contextlib.suppress(URLError):
        assert isinstance(parse_url(text), DatabaseURL)


@given(st.text(min_size=1), st.text(min_size=1), st.text(min_size=1))
def test_percent_encoding(user: str, password: str, database: str) -> None:
    """Any user, password and database survive percent-encoding."""
    parts = [quote(part, safe="", errors="replace") for part in (user, password, database)]
    user, password, database = map(unquote, parts)
    url = parse_url("mysql://{}:{}@h:1/{}".format(*parts))
    assert (url.username, url.password, url.database) == (user, password, database)


@given(st.text(alphabet="ab@/?#:[]%41,&= ", min_size=1))
@example("Kolibri@:/?#[]%41%s{}&=+ '\"\\!")
def test_a3_any_unencoded_password(password: str) -> None:
    """An unencoded password is read as a whole, or the URL is refused."""
    try:
        url = parse_url(f"mysql://ann:{password}@db.example/shop")
    except URLError:
        return
    assert (url.password, url.host, url.database) == (unquote(password), "db.example", "shop")
