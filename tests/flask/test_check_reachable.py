"""What `flask pooled-db check` says to do about databases that it can't reach."""

from __future__ import annotations

import contextlib
import gc
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from flask_pooled_db.flask.commands.servers.remedies import remedy
from harness.postgres import PostgreSQLServer
from harness.sockets import free_port
from tests.flask.checking import check, found, run, site
from tests.support.pgusers import server_of_users

pytestmark = pytest.mark.usefixtures("surroundings")

SECRET = "Kolibri7Geheim"


@pytest.fixture(scope="module")
def server() -> Iterator[dict[str, Any]]:
    """The parts of the URL of a server of this module's own, with all kinds of users."""
    with server_of_users() as parts:
        yield parts


def told(url: Any, folder: Path) -> str:
    """What is said of a database that can't be reached."""
    with site(url, folder, connect_timeout=2.0) as app:
        ((severity, text),) = found(check(app), "reachable")
        assert SECRET not in run(app).output
    assert severity == "error"
    return text


REMEDIES = {
    "refused": (
        {"port": 0},
        "nothing answers at its address: start the server, or correct the URL",
    ),
    "host": ({"host": "nowhere.invalid"}, "there is no host of that name: correct the URL"),
    "password": ({"password": SECRET}, "the server refuses the user or the password: correct the"),
    "no password": (
        {"password": ""},
        "it wants a password: give one in the URL, or a password_file",
    ),
    "role": ({"username": "stranger"}, "there is no such role: create it"),
    "no login": ({"username": "nologin"}, "ALTER ROLE ... LOGIN"),
    "database": ({"database": "nodb"}, "there is no such database: create it, or correct the URL"),
    "no right": ({"database": "closed"}, "GRANT CONNECT ON DATABASE"),
    "full role": ({"username": "full"}, "raise its CONNECTION LIMIT by ALTER ROLE"),
    "full database": ({"database": "small"}, "raise its CONNECTION LIMIT by ALTER DATABASE"),
    "no entry": ({"username": "outsider"}, "add a line to its pg_hba.conf and reload it"),
    "parameter": ({"query": {"options": "-c nosuch=1"}}, "what 'options' asks for: correct it"),
    "TLS": (
        {"query": {"sslmode": "require"}},
        "TLS was asked for, and there is none: switch it on",
    ),
}


@pytest.mark.parametrize(("parts", "words"), REMEDIES.values(), ids=REMEDIES)
def test_remedies_on_postgresql(
    parts: dict[str, Any], words: str, server: dict[str, Any], tmp_path: Path
) -> None:
    """What PostgreSQL refuses is told with what to do."""
    if parts.get("port") == 0:
        parts = {"port": free_port()}
    assert words in told({**server, **parts}, tmp_path)


def test_full_server(tmp_path: Path) -> None:
    """So is a server that has no connection left."""
    options = ["max_connections=8", "superuser_reserved_connections=3"]
    with PostgreSQLServer(options) as server, contextlib.ExitStack() as stack:
        server.execute("CREATE ROLE bob LOGIN")
        bob = server.url().replace("+psycopg", "").replace("postgres@", "bob@")
        with contextlib.suppress(psycopg.OperationalError):
            while True:
                stack.enter_context(psycopg.connect(bob))
        text = told(bob, tmp_path)
    assert (
        "the server has no connection left: see what uses them by `flask pooled-db server`" in text
    )


@pytest.mark.parametrize("driver", ["mysql+pymysql", "mysql+mariadbconnector", "postgresql"])
def test_server_that_says_nothing(driver: str, tmp_path: Path) -> None:
    """A server that takes connections and is silent is told with something to do."""
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        text = told(f"{driver}://app:{SECRET}@127.0.0.1:{deaf.getsockname()[1]}/shop", tmp_path)
    gc.collect()  # to which psycopg leaves the connections that were too slow
    assert "does not answer in time: look at its load" in text


def test_file_that_can_not_be_opened(tmp_path: Path) -> None:
    """So is an SQLite file in a folder that is not there, and one that is no database."""
    text = told(f"sqlite:///{tmp_path}/nowhere/shop.db", tmp_path)
    assert "unable to open database file; there is no such folder, or this user may not" in text
    (tmp_path / "text.db").write_text("This is no database." * 100)
    assert "correct the URL" in told(f"sqlite:///{tmp_path}/text.db", tmp_path)


@pytest.mark.parametrize("port", [1040, 1045, 2005])
def test_port_that_is_an_error_number(port: int) -> None:
    """A port in the words of a driver is no error number."""
    words = f'connection to server at "127.0.0.1", port {port} failed: Connection refused'
    assert remedy(f"OperationalError: {words}").startswith("nothing answers at its address")


def test_words_in_another_language() -> None:
    """What nobody knows is told with something to do as well."""
    words = 'connection to server at "h" failed: FATAL:  Datenbank »d« existiert nicht'
    assert "correct the URL" in remedy(f"OperationalError: {words}")
