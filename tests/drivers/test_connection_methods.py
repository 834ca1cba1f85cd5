"""What drivers' connections have beside PEP 249, through a lease: nothing of it works against the
block's transaction, or reaches the next lease.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import psycopg2
import psycopg2.extensions
import pytest

from flask_pooled_db import PooledDB, TransactionAborted, UsageError, db_connection_context
from harness.server import MariaDBServer
from tests.drivers.generic import MODULES, keys
from tests.support.apps import pooled_app


@contextlib.contextmanager
def pool(url: str, driver: str) -> Iterator[PooledDB]:
    """A pool of one connection to a database with an empty table."""
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as own:
        own.execute("DROP TABLE IF EXISTS t")
        own.execute("CREATE TABLE t (id INT PRIMARY KEY)")
    found = keys(MODULES[driver], url) if driver in MODULES else {"url": url}
    with pooled_app(**found, maxconnections=1) as (_, db):
        yield db


def put(conn: Any, number: int) -> None:
    conn.cursor().execute("INSERT INTO t VALUES (%s)", (number,))


def ids() -> list[int]:
    with db_connection_context() as conn:
        cur = conn.cursor()
        cur.execute("SELECT id FROM t ORDER BY id")
        return [id_ for (id_,) in cur.fetchall()]


AUTOCOMMIT: dict[str, Callable[[Any], object]] = {
    "set_session by name": lambda conn: conn.set_session(autocommit=True),
    "set_session": lambda conn: conn.set_session(None, None, None, True),
    "set_isolation_level": lambda conn: conn.set_isolation_level(
        psycopg2.extensions.ISOLATION_LEVEL_AUTOCOMMIT
    ),
}


@pytest.mark.parametrize("how", AUTOCOMMIT)
def test_t1_autocommit_by_other_names(postgresql: str, how: str) -> None:
    """Whatever switches autocommit on is refused, and the block stays a transaction."""
    with pool(postgresql, "psycopg2"):
        with contextlib.suppress(LookupError), db_connection_context() as conn:
            with pytest.raises(UsageError, match="autocommit"):
                AUTOCOMMIT[how](conn)
            put(conn, 1)
            raise LookupError
        assert ids() == []


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
@pytest.mark.parametrize("is_nested", [True, False])
def test_t1_isolation_level_amid_a_transaction(
    postgresql: str, driver: str, is_nested: bool
) -> None:
    """`set_isolation_level()` in an open transaction, which psycopg2 would roll back, is refused;
    it works as the first thing of a block.
    """
    level: Any = psycopg.IsolationLevel.SERIALIZABLE
    if driver == "psycopg2":
        level = psycopg2.extensions.ISOLATION_LEVEL_SERIALIZABLE
    with pool(postgresql, driver):
        with db_connection_context() as conn:
            conn.set_isolation_level(level)
            put(conn, 1)
            with db_connection_context() if is_nested else contextlib.nullcontext(conn) as inner:
                with pytest.raises(UsageError, match="open transaction"):
                    inner.set_isolation_level(level)
            cur = conn.cursor()
            cur.execute("SHOW transaction_isolation")
            assert cur.fetchone() == ("serializable",)
        with db_connection_context() as conn:
            cur = conn.cursor()
            cur.execute("SHOW transaction_isolation")
            assert cur.fetchone() == ("read committed",)
        assert ids() == [1]


def test_t7_containers_of_psycopg2(postgresql: str) -> None:
    """What a lease puts into psycopg2's containers, and the notices of its statements, do not reach
    the next one.
    """
    with pool(postgresql, "psycopg2") as db:
        with db_connection_context() as conn:
            conn.string_types[23] = psycopg2.extensions.UNICODE
            conn.notices.append("strange")
            conn.cursor().execute("CREATE TABLE IF NOT EXISTS t (id INT)")
            assert "already exists" in conn.notices[-1]
        with db_connection_context() as conn:
            put(conn, 1)
            assert conn.notices == []
        with db_connection_context() as conn:
            cur = conn.cursor()
            cur.execute("SELECT id FROM t")
            assert cur.fetchone() == (1,)
        assert db.stats().discarded == 0


def test_notifications_of_psycopg2(postgresql: str) -> None:
    """psycopg2's notifications are emptied by who reads them, as its documentation shows."""
    with pool(postgresql, "psycopg2"), db_connection_context() as conn:
        conn.cursor().execute("DO $$ BEGIN EXECUTE 'LISTEN here'; END $$")  # as a routine does
        conn.commit()
        conn.cursor().execute("NOTIFY here")
        conn.commit()
        conn.poll()
        found = []
        while conn.notifies:
            found.append(conn.notifies.pop(0).channel)
    assert found == ["here"]


def test_t7_containers_of_pymysql(mariadb: MariaDBServer) -> None:
    """What a lease puts into PyMySQL's containers does not reach the next one."""
    url = mariadb.url("pymysql", mariadb.create_database())
    with pooled_app(url, maxconnections=1):
        with db_connection_context() as conn:
            conn.decoders[3] = lambda value: "strange"
            conn.encoders[str] = lambda value, mapping=None: "'strange'"
            conn.cursor().execute("SELECT 1")
        with db_connection_context() as conn:
            cur = conn.cursor()
            cur.execute("SELECT 1, %s", ("x",))
            assert cur.fetchone() == (1, "x")


def test_t7_closed_of_a_large_object(postgresql: str) -> None:
    """What was handed out answers whether it is closed in any state of its lease."""
    with pool(postgresql, "psycopg2"):
        with db_connection_context() as conn:
            large, other = conn.lobject(), conn.lobject()
            assert not large.closed
            other.close()
            assert other.closed
            with pytest.raises(AttributeError):
                _ = large.open
        assert large.closed
        assert other.closed
        with pytest.raises(AttributeError):
            _ = large.open
        with pytest.raises(UsageError, match="was released"):
            large.read()


SLOW = {
    "sqlite": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000000)"
    " SELECT max(i) FROM n",
    "psycopg": "SELECT pg_sleep(5)",
    "psycopg2": "SELECT pg_sleep(5)",
}


@pytest.mark.timeout(15)
@pytest.mark.parametrize(
    ("driver", "method"),
    [
        ("sqlite", "interrupt"),
        ("psycopg", "cancel"),
        ("psycopg", "cancel_safe"),
        ("psycopg2", "cancel"),
    ],
)
def test_cancel_from_another_thread(
    postgresql: str, tmp_path: Path, driver: str, method: str
) -> None:
    """What drivers made for other threads ends a statement from there, until the lease ends."""
    failed: list[BaseException] = []

    def cancel(conn: Any) -> None:
        try:
            for _ in range(3):  # the first one may come too early
                time.sleep(0.3)
                getattr(conn, method)()
        except BaseException as error:
            failed.append(error)

    where = pooled_app(f"sqlite:///{tmp_path}/file.db") if driver == "sqlite" else None
    with where or pool(postgresql, driver):
        with contextlib.suppress(Exception), db_connection_context() as conn:
            thread = threading.Thread(target=cancel, args=(conn,))
            thread.start()
            try:
                with pytest.raises(conn.Error):
                    conn.cursor().execute(SLOW[driver])
            finally:
                thread.join()
        assert failed == []
        with pytest.raises(UsageError, match="was released"):
            getattr(conn, method)()
        with db_connection_context() as conn:
            conn.cursor().execute("SELECT 1")


BARE: dict[str, tuple[str, Callable[[Any], object]]] = {
    "pgconn": ("psycopg", lambda conn: conn.pgconn.exec_(b"INSERT INTO t VALUES (50)")),
    "info.pgconn": ("psycopg", lambda conn: conn.info.pgconn.exec_(b"INSERT INTO t VALUES (50)")),
    "pipeline.pgconn": (
        "psycopg",
        lambda conn: (
            conn.pipeline().__enter__().pgconn.send_query_params(b"INSERT INTO t VALUES (50)", None)
        ),
    ),
    "execute_simple": ("pg8000", lambda conn: conn.execute_simple("INSERT INTO t VALUES (50)")),
    "execute_unnamed": ("pg8000", lambda conn: conn.execute_unnamed("INSERT INTO t VALUES (50)")),
}


@pytest.mark.parametrize("is_nested", [True, False])
@pytest.mark.parametrize("name", BARE)
def test_t1_bare_execution_comes_first(postgresql: str, name: str, is_nested: bool) -> None:
    """What a driver runs outside of its own transactions is undone with its block."""
    driver, run = BARE[name]
    with pool(postgresql, driver):
        with contextlib.suppress(LookupError), db_connection_context() as conn:
            with db_connection_context() if is_nested else contextlib.nullcontext(conn) as inner:
                run(inner)
                raise LookupError
        assert ids() == []


def test_info_of_psycopg(postgresql: str) -> None:
    """psycopg's `info` costs no transaction and no connection, and ends with the lease."""
    with pool(postgresql, "psycopg") as db:
        with db_connection_context() as conn:
            info = conn.info
            assert info.dbname == "postgres"
            assert info.transaction_status == psycopg.pq.TransactionStatus.IDLE
            assert info.parameter_status("server_encoding") == "UTF8"
        with pytest.raises(UsageError, match="was released"):
            _ = info.dbname
        assert ids() == []
        assert db.stats().discarded == 0


def test_t10_first_argument_is_no_statement(mariadb: MariaDBServer) -> None:
    """A message never takes the first argument of a connection's method for a statement."""
    database = mariadb.create_database()
    mariadb.execute(f"CREATE TABLE `{database}`.t (id INT PRIMARY KEY) ENGINE=InnoDB")

    def work() -> None:
        with db_connection_context() as conn:
            put(conn, 1)
            with conn.cursor() as cur:
                cur.execute("SELECT CONNECTION_ID()")
                number = cur.fetchone()[0]
            conn.select_db("information_schema")
            mariadb.kill_connection(number)
            with contextlib.suppress(conn.Error):
                put(conn, 2)
            put(conn, 3)

    with pooled_app(mariadb.url("mariadbconnector", database), maxconnections=1):
        with pytest.raises(TransactionAborted) as caught:
            work()
    assert "may have committed" in str(caught.value)
    assert "INFORMATION" not in str(caught.value)
