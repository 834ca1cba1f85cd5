"""A database URL in parts: what is taken, and what is said of the rest."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import pytest
from flask import Flask
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import URL as SQLAlchemyURL  # noqa: N811
from sqlalchemy import make_url

from flask_pooled_db.config import PoolConfig
from flask_pooled_db.config.parts import FIELDS, url_from_parts
from flask_pooled_db.config.url import DatabaseURL, URLError, parse_url
from tests.config.configs import SECRET, binds_of, problems_of

HUGE = pytest.param(10**5000, id="huge")  # has no text
HARD = "p@ss/w:or?d#%41&=é '\"\\"


def url_of(**parts: Any) -> DatabaseURL:
    """The URL of these parts, on a driver."""
    return url_from_parts({"drivername": "mysql+pymysql", **parts})


def refusal(**parts: Any) -> str:
    """What is said of these parts."""
    with pytest.raises(URLError) as caught:
        url_of(**parts)
    assert SECRET not in f"{caught.value}{caught.value!r}"
    return str(caught.value)


def env_config(monkeypatch: pytest.MonkeyPatch, **variables: str) -> dict[str, Any]:
    """The configuration that Flask makes of environment variables."""
    for name, value in variables.items():
        monkeypatch.setenv(f"FLASK_POOLED_DB_{name}", value)
    app = Flask("app_under_test")
    app.config.from_prefixed_env()
    return {name: value for name, value in app.config.items() if name.startswith("POOLED_DB")}


def test_all_parts() -> None:
    """Each field of `URL.create` is read, and no value is decoded."""
    url = url_of(
        username="änn%41",
        password=HARD,
        host="db.example",
        port=3307,
        database="a/b%20",
        query={"charset": "utf8mb4", "init_command": "SET @x=1"},
    )
    assert url == DatabaseURL(
        dialect="mysql",
        driver="pymysql",
        username="änn%41",
        password=HARD,
        hosts=(("db.example", 3307),),
        database="a/b%20",
        query={"charset": "utf8mb4", "init_command": "SET @x=1"},
    )


@given(st.text(min_size=1), st.text(min_size=1), st.text(min_size=1))
def test_any_text(user: str, password: str, database: str) -> None:
    """Any user, password and database come through as they are."""
    url = url_of(username=user, password=password, database=database)
    assert (url.username, url.password, url.database) == (user, password, database)


@pytest.mark.parametrize(
    "text",
    [
        "mysql+pymysql://ann:pw@h:1/d?charset=utf8mb4",
        "mariadb://h",
        "mysql://ann@a:1,b/d",
        "sqlite:///shop.db",
        "sqlite://",
        "mysql://[::1]:3306/d",
    ],
)
def test_same_as_text(text: str) -> None:
    """A URL of SQLAlchemy's, and a mapping of its fields, mean what its text means."""
    if "," in text:  # SQLAlchemy knows one host
        parts: Any = {"drivername": "mysql", "username": "ann", "host": "a:1,b", "database": "d"}
        assert url_from_parts(parts) == parse_url(text)
        return
    made = make_url(text)
    given = {name: value for name, value in made._asdict().items() if value is not None}
    assert url_from_parts(made) == url_from_parts(given) == parse_url(text)


@pytest.mark.parametrize(
    ("parts", "hosts"),
    [
        ({}, ()),
        ({"host": ""}, ()),
        ({"port": 3307}, ((None, 3307),)),
        ({"port": "3307", "host": "h"}, (("h", 3307),)),
        ({"port": "", "host": "h"}, (("h", None),)),
        ({"host": "a:1,b", "port": 2}, (("a", 1), ("b", 2))),
        ({"host": ["a:1", "b"]}, (("a", 1), ("b", None))),
        ({"host": "::1", "port": 1}, (("::1", 1),)),
        ({"host": "[::1]:2,b"}, (("::1", 2), ("b", None))),
        ({"host": "/run/postgresql"}, (("/run/postgresql", None),)),
    ],
)
def test_hosts(parts: dict[str, Any], hosts: Any) -> None:
    """Several hosts are written as in a URL; `port` is that of each which names none."""
    assert url_of(**parts).hosts == hosts


@pytest.mark.parametrize("value", [1e5, 123, True, [SECRET, 5], {"a": SECRET}, b"x"])
@pytest.mark.parametrize("name", ["username", "password", "database", "host", "password_file"])
def test_a3_no_text(name: str, value: Any) -> None:
    """A field that is no text is refused, with the way to write it, and is not shown."""
    told = refusal(**{name: value})
    assert f"has a {name} that is no text" in told
    assert f"FLASK_POOLED_DB_URL__{name.upper()}='\"...\"'" in told
    assert not any(number in told for number in ("100000", "123"))


def test_left_out() -> None:
    """A field that is None is left out, as in `URL.create`, and in a URL of SQLAlchemy's."""
    nothing = dict.fromkeys(FIELDS)
    assert url_of(**{**nothing, "drivername": "mysql"}) == parse_url("mysql://")
    assert url_from_parts(SQLAlchemyURL.create("mysql")) == parse_url("mysql://")
    assert "has no drivername: add it" in refusal(drivername=None)
    assert url_of(password="x", PASSWORD=None).password is None


@pytest.mark.parametrize("port", [0, 65536, -1, HUGE, True, False, 3.5, "x", "33o6", SECRET, [1]])
def test_a3_wrong_port(port: Any) -> None:
    """A port is a number from 1 to 65535, or its digits."""
    assert refusal(port=port) == "has a port that is not a number from 1 to 65535"


@pytest.mark.parametrize(
    "host",
    [f"ann:{SECRET}@h", f"{SECRET}@h", f"mysql://ann:{SECRET}@h/d", f"h?{SECRET}", "a:b:c", "a b"],
)
def test_a3_wrong_host(host: str) -> None:
    """A host that holds more than its name is refused and not shown."""
    assert refusal(host=host).startswith(("has a host", "has a port"))


def test_missing_drivername() -> None:
    """Parts without a driver say what to add, and where a password beside a text URL belongs."""
    with pytest.raises(URLError, match=r"has no drivername: add it.*CONNECT_ARGS"):
        url_from_parts({"PASSWORD": "x"})


@pytest.mark.parametrize("name", ["mysql://", f"mysql://ann:{SECRET}@h", "", 5, "MySQL"])
def test_a3_wrong_drivername(name: Any) -> None:
    """A drivername that is none is not shown."""
    assert "has a drivername that is none" in refusal(drivername=name)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("pasword", "has no field 'pasword': did you mean password?"),
        ("USER", "has no field 'USER': did you mean username?"),
        ("zzz", f"has no field 'zzz': they are {', '.join(FIELDS)}"),
        (f"mysql://ann:{SECRET}@h", "has a field that is not a name: the fields are drivername"),
    ],
)
def test_unknown_field(name: str, hint: str) -> None:
    """An unknown field is refused, with a suggestion or the fields that there are."""
    assert hint in refusal(**{name: SECRET})


def test_all_problems_at_once() -> None:
    """All that is wrong with the parts is told together."""
    told = refusal(password=5, port="x", nonsense=1, query=5)
    assert told.count("; it has") == 3


@pytest.mark.parametrize(
    ("value", "text"),
    [("a", "a"), (["a"], "a"), (("a",), "a"), (5, "5"), (2.5, "2.5"), (True, "true")],
)
def test_query(value: Any, text: str) -> None:
    """Connect arguments are texts, as in a URL, or what JSON makes of those."""
    assert url_of(query=OrderedDict(CHARSET=value)).query == {"charset": text}


@pytest.mark.parametrize(
    "query",
    [
        5,
        {"a": 10**5000},
        SECRET,
        {1: SECRET},
        {"a": [SECRET, SECRET]},
        {"a": None},
        {"password": 1e5},
    ],
)
def test_a3_wrong_query(query: Any) -> None:
    """A query that is none is refused and not shown."""
    assert "query" in refusal(query=query)


def test_two_password_files() -> None:
    """Two different files for one password are refused."""
    assert "keep one" in refusal(password_file="/a", query={"password_file": "/b"})
    assert url_of(password_file="/a", query={"password_file": "/a"}).query == {
        "password_file": "/a"
    }


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each part can come from an environment variable, unquoted, in any case of letters."""
    keys = env_config(
        monkeypatch,
        URL__DRIVERNAME="mysql+pymysql",
        URL__USERNAME="ann",
        URL__PASSWORD=HARD,
        URL__host="db1,db2",
        URL__PORT="3307",
        URL__QUERY__CHARSET="utf8mb4",
        URL__QUERY__CONNECT_TIMEOUT="7",
        BINDS__orders__URL__DRIVERNAME="sqlite",
    )
    binds = binds_of(keys)
    assert binds["orders"].url == parse_url("sqlite://")
    url = binds["default"].url
    assert isinstance(url, DatabaseURL)
    assert (url.username, url.password) == ("ann", HARD)
    assert url.hosts == (("db1", 3307), ("db2", 3307))
    assert url.query == {"charset": "utf8mb4", "connect_timeout": "7"}


@pytest.mark.parametrize("password", ["1e5", "true", "123", '{"a": 1}', "[1]"])
def test_a3_password_read_as_json(monkeypatch: pytest.MonkeyPatch, password: str) -> None:
    """A password that Flask reads as JSON is refused with the way to write it; so written it is
    right.
    """
    keys = env_config(monkeypatch, URL__DRIVERNAME="mysql", URL__PASSWORD=password)
    (problem,) = problems_of(keys)
    assert problem.startswith("POOLED_DB_URL has a password that is no text")
    assert "='\"...\"'" in problem
    quoted = '"{}"'.format(password.replace('"', '\\"'))
    config = binds_of(env_config(monkeypatch, URL__PASSWORD=quoted))["default"]
    assert isinstance(config.url, DatabaseURL)
    assert config.url.password == password


def test_password_read_as_null(monkeypatch: pytest.MonkeyPatch) -> None:
    """`null` in the environment is no password; the word is in quotes."""
    for text, password in (("null", None), ('"null"', "null")):
        keys = env_config(monkeypatch, URL__DRIVERNAME="mysql", URL__PASSWORD=text)
        url = binds_of(keys)["default"].url
        assert isinstance(url, DatabaseURL)
        assert url.password == password


def test_environment_over_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a field that is named twice, in two cases of letters, the one set last counts."""
    monkeypatch.setenv("FLASK_POOLED_DB_URL__PASSWORD", "production")
    app = Flask("app_under_test")
    app.config["POOLED_DB_URL"] = {"drivername": "mysql", "password": "development"}
    app.config.from_prefixed_env()
    config = PoolConfig.from_mapping({"URL": app.config["POOLED_DB_URL"]})
    assert isinstance(config.url, DatabaseURL)
    assert config.url.password == "production"


def test_environment_beside_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flask can't add parts to a URL that is a text; CONNECT_ARGS take the password there."""
    monkeypatch.setenv("FLASK_POOLED_DB_CONNECT_ARGS__password", HARD)
    app = Flask("app_under_test")
    app.config["POOLED_DB_URL"] = "mysql://ann@h/d"
    app.config.from_prefixed_env()
    assert PoolConfig.from_mapping(app.config, "POOLED_DB_").connect_args == {"password": HARD}
    monkeypatch.setenv("FLASK_POOLED_DB_URL__PASSWORD", HARD)
    with pytest.raises(TypeError):
        app.config.from_prefixed_env()


def test_bind_in_parts() -> None:
    """A bind's URL may be in parts, and SQLAlchemy's URL stands for a text everywhere."""
    made = SQLAlchemyURL.create("mysql", "ann", HARD, "h")
    for bind in (
        made,
        {"URL": made},
        {"URL": dict(made._asdict(), port=1, database="d", query={})},
    ):
        config = binds_of({"POOLED_DB_BINDS": {"orders": bind}})["orders"]
        assert isinstance(config.url, DatabaseURL)
        assert config.url.password == HARD


def test_problem_of_bind() -> None:
    """What is wrong with the parts of a bind's URL is told with the bind's name."""
    (problem,) = problems_of({"POOLED_DB_BINDS": {"orders": {"URL": {"drivername": 5}}}})
    assert problem.startswith("POOLED_DB_BINDS['orders'].URL has a drivername that is none")


def test_hidden_password() -> None:
    """The text that SQLAlchemy shows of a URL is refused, with what to give instead."""
    made = SQLAlchemyURL.create("mysql", "ann", "pw", "h")
    (problem,) = problems_of({"POOLED_DB_URL": str(made)})
    assert "render_as_string(hide_password=False)" in problem
    whole = binds_of({"POOLED_DB_URL": made.render_as_string(hide_password=False)})["default"]
    assert whole.url == binds_of({"POOLED_DB_URL": made})["default"].url
    assert parse_url("mysql://ann:%2A%2A%2A@h").password == "***"
