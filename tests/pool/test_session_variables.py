"""P9: a session that was reset has the variables of a new one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from harness.server import MariaDBServer
from harness.workloads import connection_id
from tests.pool.on_server import run
from tests.support.pools import open_pool

# Those that tell of the moment, or of the connection itself.
MOMENTARY = {"timestamp", "rand_seed1", "rand_seed2", "pseudo_thread_id"}

SERVERS = {
    "as it comes": [],
    "of another character set": ["--character-set-server=latin1", "--collation-server=latin1_bin"],
    "that decides the character set": [
        "--skip-character-set-client-handshake",
        "--character-set-server=utf8mb4",
        "--collation-server=utf8mb4_unicode_ci",
    ],
    "of another mode": ["--sql-mode=ANSI_QUOTES", "--autocommit=0", "--wait-timeout=777"],
}


@pytest.fixture(scope="module", params=SERVERS)
def any_server(request: pytest.FixtureRequest) -> Iterator[MariaDBServer]:
    """A server whose own settings differ from what drivers ask for."""
    with MariaDBServer(SERVERS[request.param]) as server:
        yield server


def session_variables(conn: Any) -> dict[str, str]:
    with conn.cursor() as cursor:
        cursor.execute("SHOW SESSION VARIABLES")
        return {name: value for name, value in cursor.fetchall() if name not in MOMENTARY}


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"charset": "latin1"},
        {"collation": "utf8mb4_bin"},
        {"init_command": "SET SESSION wait_timeout = 77"},
        {"sql_mode": "ANSI"},
    ],
    ids=["plain", "charset", "collation", "init_command", "sql_mode"],
)
def test_p9_session_variables(
    any_server: MariaDBServer, mariadb_driver: str, arguments: dict[str, Any]
) -> None:
    """After a reset every session variable is as in a new session, whatever the server's own
    settings.
    """
    if mariadb_driver == "mariadbconnector":
        # It knows no other character set, and takes no collation nor mode to connect with.
        arguments = {k: v for k, v in arguments.items() if k == "init_command"}
    url = any_server.url(mariadb_driver, any_server.create_database(), **arguments)
    with open_pool(url=url, reset="session", maxconnections=1) as pool:
        with pool.connection() as conn:
            number, fresh = connection_id(conn), session_variables(conn)
            run(conn, "SET NAMES utf8mb4 COLLATE utf8mb4_german2_ci")
            run(conn, "SET sql_mode = 'NO_ZERO_DATE', time_zone = '+03:00', autocommit = 0")
            run(conn, "SET SESSION TRANSACTION ISOLATION LEVEL SERIALIZABLE")
            run(conn, "SET max_statement_time = 7, innodb_lock_wait_timeout = 7")
            run(conn, "USE information_schema")
            changed = {
                name for name, value in session_variables(conn).items() if fresh[name] != value
            }
            assert len(changed) > 5
        with pool.connection() as conn:
            assert connection_id(conn) == number
            assert session_variables(conn) == fresh


def test_p9_init_connect(mariadb_driver: str) -> None:
    """A session that the server itself prepared is replaced: a reset would not prepare it again."""
    with MariaDBServer(["--init-connect=SET @prepared = 7"]) as server:
        url = server.url(mariadb_driver)
        with open_pool(url=url, reset="session", maxconnections=1) as pool:
            numbers = []
            for _ in range(2):
                with pool.connection() as conn:
                    with conn.cursor() as cursor:
                        cursor.execute("SELECT @prepared")
                        assert cursor.fetchone()[0] == 7
                    run(conn, "SET @prepared = 8")
                    numbers.append(connection_id(conn))
            assert numbers[0] != numbers[1]
