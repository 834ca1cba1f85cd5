"""What a connect of psycopg that fails says of another try."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from flask_pooled_db import ConfigError, ConnectFailed, PoolTimeout
from flask_pooled_db.config import PoolConfig
from flask_pooled_db.drivers import make_driver
from flask_pooled_db.drivers.psycopg import PsycopgDriver
from harness.sockets import free_port
from harness.waiting import PATIENCE
from tests.support.pgusers import server_of_users
from tests.support.pools import open_pool

SECRET = "Kolibri7Geheim"


@pytest.fixture(scope="module")
def server() -> Iterator[dict[str, Any]]:
    """The parts of the URL of a server of this module's own, with all kinds of users."""
    with server_of_users() as parts:
        yield parts


REFUSED = {
    "database": ({"database": "nodb"}, 'database "nodb" does not exist'),
    "role": ({"username": "stranger"}, 'role "stranger" does not exist'),
    "password": ({"password": SECRET}, 'password authentication failed for user "ann"'),
    "no role but a password": ({"username": "nobody"}, "password authentication failed"),
    "no password": ({"password": ""}, "no password supplied"),
    "no login": ({"username": "nologin"}, "is not permitted to log in"),
    "no rule": ({"username": "outsider"}, "no pg_hba.conf entry"),
    "no right": ({"database": "closed"}, 'permission denied for database "closed"'),
    "no parameter": ({"query": {"options": "-c nosuch=1"}}, "unrecognized configuration"),
}


@pytest.mark.parametrize(("parts", "words"), REFUSED.values(), ids=REFUSED)
def test_p2_refused_by_server(server: dict[str, Any], parts: dict[str, Any], words: str) -> None:
    """What the server refuses for good is a `ConnectFailed` at once, in the driver's words."""
    with (
        open_pool(url={**server, **parts}, acquire_timeout=PATIENCE) as pool,
        pytest.raises(ConnectFailed) as caught,
    ):
        pool.lease()
    assert words in str(caught.value)
    assert SECRET not in str(caught.value)


def test_p2_busy_server(server: dict[str, Any]) -> None:
    """A server that has no room is tried again: `PoolTimeout` has its words."""
    with (
        open_pool(url={**server, "username": "full"}) as pool,
        pytest.raises(PoolTimeout, match='too many connections for role "full"'),
    ):
        pool.lease(timeout=0.3)


@pytest.mark.parametrize("is_up", [True, False])
def test_p2_several_servers(server: dict[str, Any], is_up: bool) -> None:
    """Of several servers in a conninfo, each has to refuse: one that is away may come back."""
    port = server["port"] if is_up else free_port()
    arguments = {"host": "127.0.0.1,127.0.0.1", "port": f"{port},{server['port']}"}
    keys: dict[str, Any] = {**arguments, "user": "postgres", "dbname": "nodb"}
    error = ConnectFailed if is_up else PoolTimeout
    with (
        open_pool(creator=psycopg, connect_args=keys) as pool,
        pytest.raises(error, match='"nodb" does not exist'),
    ):
        pool.lease(timeout=PATIENCE if is_up else 0.3)


DRIVER = make_driver(PoolConfig.from_mapping({"URL": "postgresql://h/d"}))
WHERE = 'connection failed: connection to server at "h"'
NO_DATABASE = 'FATAL:  database "d" does not exist'


@pytest.mark.parametrize(
    ("text", "is_transient"),
    [
        (f"{WHERE} (::1), port 1 failed: Connection refused\n{WHERE} failed: {NO_DATABASE}", False),
        (f"{WHERE} failed: FATAL:  the database system is starting up", True),
        (f"{WHERE} failed: FATAL:  the database system is shutting down", True),
        (f"{WHERE} failed: FATAL:  LDAP authentication failed for user", True),
        (f"{WHERE} failed: FATAL:  sorry, too many clients already", True),
        # with TLS, and then without it
        (f"{WHERE} failed: FATAL:  sorry, too many clients\n{WHERE} failed: {NO_DATABASE}", True),
        (f"{WHERE} failed: FATAL:  Datenbank »d« existiert nicht", True),
        (f"{WHERE} failed: server closed the connection unexpectedly", True),
        ("", True),
    ],
)
def test_p10_words_of_server(text: str, is_transient: bool) -> None:
    """A connect is tried again unless all that servers answered is known to be a refusal."""
    assert isinstance(DRIVER, PsycopgDriver)
    assert DRIVER.is_transient(psycopg.OperationalError(text)) is is_transient


def test_p10_error_of_closed_connection(server: dict[str, Any]) -> None:
    """An error whose connection is closed says nothing but its words."""
    raw = psycopg.connect(f"host=127.0.0.1 port={server['port']} user=postgres")
    raw.close()
    assert DRIVER.is_transient(psycopg.OperationalError("lost", pgconn=raw.pgconn))


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("sslmode", SECRET, "it is one of disable, allow, prefer, require, verify-ca, verify-full"),
        ("sslmode", "REQUIRE", "it is one of disable"),
        ("target_session_attrs", "master", "it is one of any, read-write"),
        ("channel_binding", "yes", "it is one of disable, prefer, require"),
        ("sslmode", "verify-full", ""),
    ],
)
@pytest.mark.parametrize("form", ["url", "arguments", "conninfo"])
def test_a3_unknown_choice(form: str, name: str, value: str, told: str) -> None:
    """A value that libpq does not know is a `ConfigError` that names those it knows."""
    forms: dict[str, dict[str, Any]] = {
        "url": {"URL": f"postgresql://h/d?{name}={value}"},
        "arguments": {"URL": "postgresql://h/d", "CONNECT_ARGS": {name: value}},
        "conninfo": {"CREATOR": psycopg, "CONNECT_ARGS": {"conninfo": f"{name}={value}"}},
    }
    with pytest.raises(ConfigError) if told else contextlib.nullcontext() as caught:
        make_driver(PoolConfig.from_mapping(forms[form]))
    if caught is not None:
        within = f"'conninfo' (of its {name!r}: " if form == "conninfo" else f"{name!r} ("
        assert f"psycopg refuses the connect argument {within}{told}" in str(caught.value)
        assert SECRET not in str(caught.value)
