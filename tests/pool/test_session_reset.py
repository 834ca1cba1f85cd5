"""P9: nothing of a session reaches the next lease."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pymysql
import pytest

from flask_pooled_db.drivers import Session
from flask_pooled_db.lease.dbutils import Pool
from harness.proxy import Proxy
from harness.server import MariaDBServer
from harness.workloads import connection_id
from tests.pool.on_server import COM_RESET_CONNECTION, run, use, value
from tests.support.pools import open_pool


@pytest.fixture
def reset_pool(mariadb: MariaDBServer, mariadb_driver: str, database: str) -> Iterator[Pool]:
    """A pool of one connection whose session is reset after each lease."""
    with open_pool(
        url=mariadb.url(mariadb_driver, database),
        reset="session",
        maxconnections=1,
        setsession=["SET @mine = 'set up'", "SET time_zone = '+03:00'"],
    ) as pool:
        yield pool


SESSION_STATE: dict[str, tuple[str, str]] = {
    "user variables": ("SET @other = 'left'", "SELECT @other"),
    "sql_mode": ("SET sql_mode = 'ANSI'", "SELECT @@sql_mode"),
    "isolation level": (
        "SET SESSION TRANSACTION ISOLATION LEVEL SERIALIZABLE",
        "SELECT @@tx_isolation",
    ),
    "read only": ("SET SESSION TRANSACTION READ ONLY", "SELECT @@tx_read_only"),
    "current database": ("USE information_schema", "SELECT DATABASE()"),
    "character set": (
        "SET character_set_connection = latin1",
        "SELECT @@character_set_connection",
    ),
    "result character set": (
        "SET character_set_results = latin1",
        "SELECT @@character_set_results",
    ),
    "collation": (
        "SET NAMES utf8mb4 COLLATE utf8mb4_german2_ci",
        "SELECT @@collation_connection",
    ),
    "what SETSESSION set": ("SET @mine = 'other'", "SELECT @mine"),
    "the time zone SETSESSION set": ("SET time_zone = '+05:00'", "SELECT @@time_zone"),
    "statement timeout": ("SET max_statement_time = 7", "SELECT @@max_statement_time"),
    "lock wait timeout": ("SET innodb_lock_wait_timeout = 7", "SELECT @@innodb_lock_wait_timeout"),
    "foreign key checks": ("SET foreign_key_checks = 0", "SELECT @@foreign_key_checks"),
}


@pytest.mark.parametrize("what", SESSION_STATE)
def test_p9_session_state(reset_pool: Pool, mariadb: MariaDBServer, what: str) -> None:
    """With RESET "session", each lease finds the session as the first one found it."""
    change, look = map(mariadb.sql, SESSION_STATE[what])
    with reset_pool.connection() as conn:
        number, fresh = connection_id(conn), value(conn, look)
        run(conn, change)
        assert value(conn, look) != fresh
    with reset_pool.connection() as conn:
        assert value(conn, look) == fresh
        assert connection_id(conn) == number  # reset, and not replaced


def test_p9_creator_replaces_connections(mariadb: MariaDBServer, database: str) -> None:
    """Connections of the application's own creator are replaced, since only the creator can set
    them up.
    """

    def connect() -> Any:
        raw = pymysql.connect(**mariadb.connect_args(database), ssl_disabled=True)
        raw.query("SET time_zone = '+03:00'")
        return raw

    connect.dbapi = pymysql  # type: ignore[attr-defined]
    with open_pool(creator=connect, reset="session") as pool:
        for _ in range(2):
            with pool.connection() as conn:
                assert value(conn, "SELECT @@time_zone") == "+03:00"
        assert pool.stats().discarded > 0


def test_p9_unused_lease(server: MariaDBServer, proxy: Proxy, mariadb_driver: str) -> None:
    """An unused lease costs no round trip, even with RESET "session"."""
    url = server.url(mariadb_driver, "information_schema", port=proxy.port)
    with open_pool(url=url, reset="session") as pool:
        first = use(pool)
        proxy.reset_counts()
        pool.connection().close()
        assert proxy.round_trips == 0
        assert use(pool) == first
        assert proxy.round_trips > 0


def test_p9_autocommit(reset_pool: Pool) -> None:
    """Autocommit is off in the next lease, whether the connection was reset or replaced."""
    with reset_pool.connection() as conn:
        run(conn, "SET autocommit = 1")
    with reset_pool.connection() as conn:
        assert value(conn, "SELECT @@autocommit") == 0


@pytest.fixture(scope="module")
def latin1_server() -> Iterator[MariaDBServer]:
    """A server whose own character set is not what the drivers ask for."""
    with MariaDBServer(["--character-set-server=latin1"]) as server:
        yield server


def test_p9_character_set(latin1_server: MariaDBServer, mariadb_driver: str) -> None:
    """The character set after a reset is the connection's, not the server's."""
    url = latin1_server.url(mariadb_driver, "information_schema")
    with open_pool(url=url, reset="session") as pool:
        first = use(pool)
        with pool.connection() as conn:
            assert connection_id(conn) == first
            assert value(conn, "SELECT @@character_set_client") == "utf8mb4"
            assert value(conn, "SELECT 'äß€😀'") == "äß€😀"


def test_p9_collation(mariadb: MariaDBServer) -> None:
    """The collation after a reset is the one in the URL, not that of the handshake."""
    url = mariadb.url("pymysql", "information_schema", collation="utf8mb4_german2_ci")
    with open_pool(url=url, reset="session") as pool:
        first = use(pool)
        with pool.connection() as conn:
            assert connection_id(conn) == first
            assert value(conn, "SELECT @@collation_connection") == "utf8mb4_german2_ci"


def test_p9_set_names(latin1_server: MariaDBServer) -> None:
    """SET NAMES ends with the lease, even with PyMySQL, which does not notice it."""
    with open_pool(url=latin1_server.url("pymysql"), reset="session") as pool:
        with pool.connection() as conn:
            run(conn, "SET NAMES latin1")
        with pool.connection() as conn:
            assert value(conn, "SELECT 'äß€😀'") == "äß€😀"


def test_p9_temporary_tables(reset_pool: Pool) -> None:
    """The next lease can create a temporary table of the same name."""
    for _ in range(2):
        with reset_pool.connection() as conn:
            run(conn, "CREATE TEMPORARY TABLE t (a INT)")
            conn.commit()


def test_p9_locks(reset_pool: Pool, mariadb: MariaDBServer, database: str) -> None:
    """GET_LOCK ends with the lease."""
    with reset_pool.connection() as conn:
        assert value(conn, f"SELECT GET_LOCK('{database}', 0)") == 1
        assert mariadb.query("SELECT IS_FREE_LOCK(%s)", database) == [(0,)]
    assert mariadb.query("SELECT IS_FREE_LOCK(%s)", database) == [(1,)]


def test_p9_transaction(reset_pool: Pool, mariadb: MariaDBServer, database: str) -> None:
    """After a reset, which turns autocommit on, a rollback still undoes the writes."""
    mariadb.execute(f"CREATE TABLE `{database}`.t (a INT)")
    use(reset_pool)
    with reset_pool.connection() as conn:
        run(conn, "INSERT INTO t VALUES (1)")
        conn.rollback()
    assert mariadb.query(f"SELECT count(*) FROM `{database}`.t") == [(0,)]


def test_p9_readonly(reset_pool: Pool, mariadb: MariaDBServer, database: str) -> None:
    """After a readonly lease and its reset, the next lease can write."""
    mariadb.execute(f"CREATE TABLE `{database}`.t (a INT)")
    with reset_pool.lease(session=Session(readonly=True)) as conn:
        value(conn, "SELECT 1")
    with reset_pool.connection() as conn:
        run(conn, "INSERT INTO t VALUES (1)")
        conn.commit()
    for _ in range(2):
        with reset_pool.lease(session=Session(readonly=True)) as conn:
            assert value(conn, mariadb.sql("SELECT @@tx_read_only")) == 1
    assert mariadb.query(f"SELECT count(*) FROM `{database}`.t") == [(1,)]


@pytest.mark.mariadb_only
def test_p9_statement_timeout(reset_pool: Pool) -> None:
    """A statement timeout ends with its lease."""
    for limit in (5.0, 0.0, 5.0, 5.0):
        with reset_pool.lease(session=Session(statement_timeout=limit)) as conn:
            assert value(conn, "SELECT @@max_statement_time") == limit


def test_p9_database_not_in_url(mariadb: MariaDBServer, mariadb_driver: str) -> None:
    """If the URL names no database, a lease that chose one costs the connection."""
    with open_pool(url=mariadb.url(mariadb_driver), reset="session") as pool:
        with pool.connection() as conn:
            run(conn, "USE information_schema")
        with pool.connection() as conn:
            assert value(conn, "SELECT DATABASE()") is None


def test_p9_reset_rollback(server: MariaDBServer, proxy: Proxy, mariadb_driver: str) -> None:
    """RESET "rollback" sends no reset."""
    with open_pool(url=server.url(mariadb_driver, port=proxy.port)) as pool:
        use(pool)
        use(pool)
        assert not [c for c in proxy.commands if c.code == COM_RESET_CONNECTION]


def test_p9_driver_without_reset(tmp_path: Path) -> None:
    """On SQLite, which has no reset, the connection is replaced."""
    with open_pool(url=f"sqlite:///{tmp_path}/db", reset="session") as pool:
        with pool.connection() as conn:
            run(conn, "PRAGMA cache_size = 77")
            run(conn, "CREATE TEMPORARY TABLE t (a)")
            conn.commit()
        with pool.connection() as conn:
            assert value(conn, "PRAGMA cache_size") != 77
            assert value(conn, "SELECT count(*) FROM sqlite_temp_master") == 0
        assert pool.stats().discarded >= 1
