"""Observers of statements are told of each one, once, however it was run."""

from __future__ import annotations

import asyncio
import gc
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from flask import Flask

from flask_pooled_db import PooledDB, TransactionAborted, UsageError, db_connection_context
from flask_pooled_db.config import DEFAULT_OPTIONS
from flask_pooled_db.lease.dbutils import Pool
from flask_pooled_db.lease.home import Leases
from flask_pooled_db.lease.lease import Lease
from flask_pooled_db.lease.observing import MOST_UNREAD, ObservingLease
from flask_pooled_db.lease.scope import Scope
from flask_pooled_db.lease.script import Script
from flask_pooled_db.lease.texts import shown_text
from flask_pooled_db.pool.statements import NOBODY, Observers, observer_of
from harness.server import MariaDBServer
from tests.support.clock import Clock
from tests.support.fake_driver import FakeDriver, OperationalError
from tests.support.observers import Watcher
from tests.support.pools import open_pool, queue_up

NUMBERS = (
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 9) SELECT i FROM n"
)


@contextmanager
def watched(url: str = "sqlite://", **keys: Any) -> Iterator[tuple[Pool, Watcher]]:
    """A pool that is observed."""
    watcher = Watcher()
    with open_pool(url=url, observer=watcher, **keys) as pool:
        yield pool, watcher


@contextmanager
def observed_app(url: str, watcher: Watcher) -> Iterator[PooledDB]:
    """An app whose pool is observed by nobody else."""
    app = Flask("app_under_test")
    app.config.update(POOLED_DB_URL=url, POOLED_DB_RECORD_STATEMENTS=False, POOLED_DB_MINCACHED=0)
    db = PooledDB(app)
    with app.app_context():
        engine = db.pool().engine
        engine.terms = engine.terms._replace(observer=watcher)
        yield db
    db.close()


def test_ways_of_cursors_and_connections() -> None:
    """Each way that sqlite3 has to run a statement tells it once, with its text."""
    with watched() as (pool, watcher), pool.connection() as conn:
        cur = conn.cursor()
        cur.execute("CREATE TABLE t (a)")
        cur.execute("INSERT INTO t VALUES (%s)", (1,))
        cur.executemany("INSERT INTO t VALUES (?)", [(2,), (3,)])
        conn.execute("SELECT 2")
        conn.executemany("INSERT INTO t VALUES (?)", [(4,)])
        cur.executescript("SELECT 3; SELECT 4")
        conn.executescript("SELECT 5")
        conn.commit()
        assert watcher.texts == [
            "CREATE TABLE t (a)",
            "INSERT INTO t VALUES (?)",
            "INSERT INTO t VALUES (?)",
            "SELECT 2",
            "INSERT INTO t VALUES (?)",
            "SELECT 3; SELECT 4",
            "SELECT 5",
        ]


def test_ways_of_the_app(url: str) -> None:
    """So do the methods of the extension, scripts, nested blocks and tasks; savepoints and the end
    of a transaction are no statements of the app's.
    """
    watcher = Watcher()
    with observed_app(url, watcher) as db:
        db.run_script("CREATE TABLE t (a); INSERT INTO t VALUES (1)")
        db.execute("UPDATE t SET a = 2")
        assert db.fetch_value("SELECT a FROM t") == 2
        with db_connection_context() as conn, db_connection_context():
            conn.cursor().execute("INSERT INTO t VALUES (3)")
        db.connection.cursor().execute("SELECT 4")

        async def work() -> None:
            async with db.async_connection_context() as conn, conn.cursor() as cur:
                await cur.execute("SELECT 5")
                await cur.executemany("INSERT INTO t VALUES (?)", [(6,)])

        asyncio.run(work())
    assert [text.strip(" ;") for text in watcher.texts] == [
        "CREATE TABLE t (a)",
        "INSERT INTO t VALUES (1)",
        "UPDATE t SET a = 2",
        "SELECT a FROM t",
        "INSERT INTO t VALUES (3)",
        "SELECT 4",
        "SELECT 5",
        "INSERT INTO t VALUES (?)",
    ]


def test_script(url: str) -> None:
    """A script's statements are told one by one."""
    with watched(url) as (pool, watcher), pool.connection() as conn:
        assert Script(conn, "SELECT 1; SELECT 2;", "x").run() == 2
        assert [text.strip(" ;") for text in watcher.texts] == ["SELECT 1", "SELECT 2"]


def test_what_is_told() -> None:
    """An observer is told the lease, the times by the pool's clock, and the driver's error."""
    clock, watcher, driver = Clock(), Watcher(), FakeDriver()

    def take(seconds: float) -> OperationalError:
        clock.now += seconds
        return OperationalError("gone")

    driver.fail_always("SELECT 1", lambda: take(2.5))
    with open_pool(driver, clock=clock, observer=watcher) as pool:
        lease = pool.lease()
        with pytest.raises(OperationalError) as raised:
            lease.cursor().execute("SELECT 1")
        with pytest.raises(TransactionAborted):  # it was not sent
            lease.cursor().execute("SELECT 2")
        [told] = watcher.told
        lease.close()
    assert told.lease is lease
    assert (told.began, told.ended, told.duration) == (1000.0, 1002.5, 2.5)
    assert told.error is raised.value
    assert told.rows.count is None


def test_least() -> None:
    """Each observer says which duration it wants to be told; one that is off is told nothing."""
    clock, driver = Clock(), FakeDriver()
    some, all_ = Watcher(least=1.0), Watcher()

    class Off(Watcher):
        def is_on(self) -> bool:
            return False

    off = Off()
    driver.fail_always("SLOW", lambda: setattr(clock, "now", clock.now + 1.0) or LookupError())  # type: ignore[func-returns-value]
    with open_pool(driver, clock=clock, observer=observer_of([some, all_, off])) as pool:
        with pool.lease() as conn:
            conn.cursor().execute("FAST")
        conn = pool.lease()
        with pytest.raises(LookupError):
            conn.cursor().execute("SLOW")
        conn.close()
    assert (some.texts, all_.texts, off.texts) == (["SLOW"], ["FAST", "SLOW"], [])
    assert observer_of([]) is NOBODY
    assert observer_of([some]) is some
    assert Observers([off]).least == math.inf


def test_nobody_observes() -> None:
    """Where nobody observes, leases are of classes that know nothing of it."""
    with open_pool(url="sqlite://") as pool, pool.connection() as conn:
        assert not isinstance(conn, ObservingLease)
        assert not hasattr(conn, "unread")
    with watched() as (pool, _), pool.connection() as conn:
        assert isinstance(conn, ObservingLease)


def test_observer_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    """An observer's error is logged, and is not that of the statement."""

    class Broken(Watcher):
        def ran(self, statement: Any) -> None:
            raise LookupError("broken")

    with open_pool(url="sqlite://", observer=Broken()) as pool, pool.connection() as conn:
        assert conn.execute("SELECT 1").fetchall() == [(1,)]
    assert "An observer of statements failed: LookupError" in caplog.text


READS: dict[str, Callable[[Any], object]] = {
    "fetchall": lambda cur: cur.fetchall(),
    "fetchmany": lambda cur: [cur.fetchmany(4), cur.fetchmany(4), cur.fetchmany(4)],
    "fetchone": lambda cur: [cur.fetchone() for _ in range(10)],
    "iteration": list,
    "a mixture": lambda cur: [cur.fetchone(), cur.fetchmany(3), *cur],
}


@pytest.mark.parametrize("read", READS.values(), ids=list(READS))
def test_rows_that_are_read(read: Callable[[Any], object]) -> None:
    """Where the driver does not know the number of rows, they are counted as they are read."""
    with watched() as (pool, watcher), pool.connection() as conn:
        cur = conn.cursor()
        cur.execute(NUMBERS)
        assert (watcher.rows, watcher.told[0].rows.is_final) == (0, False)
        read(cur)
        assert (watcher.rows, watcher.told[0].rows.is_final) == (9, True)


def test_rows_of_two_cursors() -> None:
    """Each cursor's rows are its own, while others are read, and run statements."""
    with watched() as (pool, watcher), pool.connection() as conn:
        outer = conn.cursor()
        outer.execute(NUMBERS)
        for _ in outer:
            conn.cursor().execute("SELECT 1").fetchall()
        counts = [statement.rows.count for statement in watcher.told]
    assert counts == [9, *[1] * 9]


def end_by_statement(conn: Any, cur: Any) -> None:
    cur.execute("SELECT 1 WHERE 0")


def end_by_close(conn: Any, cur: Any) -> None:
    cur.close()


def end_by_release(conn: Any, cur: Any) -> None:
    conn.close()


def end_by_many(conn: Any, cur: Any) -> None:
    cursors = [conn.cursor() for _ in range(MOST_UNREAD)]
    for other in cursors:
        other.execute("SELECT 1")


@pytest.mark.parametrize("end", [end_by_statement, end_by_close, end_by_release, end_by_many])
def test_rows_that_are_left(end: Callable[[Any, Any], None]) -> None:
    """The number is final when the cursor runs another statement or is closed, when its lease ends,
    and when too many others came since.
    """
    with watched() as (pool, watcher):
        conn = pool.lease()
        cur = conn.cursor()
        cur.execute(NUMBERS)
        cur.fetchmany(2)
        rows = watcher.told[0].rows
        told: list[int | None] = []
        rows.when_final(lambda: told.append(rows.count))
        assert told == []
        end(conn, cur)
        conn.close()
    assert told == [2]
    rows.when_final(lambda: told.append(rows.count))
    assert told == [2, 2]


def test_cursor_that_is_garbage() -> None:
    """Whoever counts rows keeps no cursor: one that is garbage is finalized, with its locks."""
    with watched() as (pool, _), pool.connection() as conn:
        conn.execute("CREATE TABLE t (a)")
        conn.execute("INSERT INTO t VALUES (1), (2)")
        conn.execute("SELECT a FROM t").fetchone()
        gc.collect()
        conn.execute("DROP TABLE t")  # it would be locked


def test_waited() -> None:
    """It is told whether the lease had to wait for its connection."""
    with watched(maxconnections=1) as (pool, watcher):
        first = pool.lease()

        def work() -> None:
            with pool.lease() as conn:
                conn.execute("SELECT 2")

        caller = queue_up(pool, work)
        first.execute("SELECT 1")
        first.close()
        caller.result()
        with pool.lease() as conn:
            conn.execute("SELECT 3")
        waited = {statement.text: statement.has_waited for statement in watcher.told}
    assert waited == {"SELECT 1": True, "SELECT 2": True, "SELECT 3": False}  # opened, and handed


def test_readings_of_clock() -> None:
    """An observer costs a statement two readings of the clock, and none if nobody observes."""

    def readings(**options: Any) -> int:
        clock, count = Clock(), 0

        def read() -> float:
            nonlocal count
            count += 1
            return clock()

        with open_pool(FakeDriver(), clock=read, **options) as pool:
            with pool.lease() as conn:
                conn.cursor().execute("SELECT 1")
            before = count
            with pool.lease() as conn:
                conn.cursor().execute("SELECT 2")
            return count - before

    assert readings(observer=Watcher(least=1.0)) == readings() + 2


def test_threads_of_one_pool() -> None:
    """Statements of several threads are told each with its own lease."""
    with watched(maxconnections=4) as (pool, watcher):
        together = threading.Barrier(4)

        def work(number: int) -> None:
            with pool.lease() as conn:
                together.wait(10)
                conn.execute(f"SELECT {number}").fetchall()

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        leases = {id(statement.lease) for statement in watcher.told}
        assert len(leases) == 4
    assert sorted(watcher.texts) == [f"SELECT {number}" for number in range(4)]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (
            "CREATE USER a IDENTIFIED BY 'se''cret' ACCOUNT LOCK",
            "CREATE USER a IDENTIFIED BY ? ACCOUNT LOCK",
        ),
        (
            'ALTER USER a IDENTIFIED VIA x USING "se\\"cret"',
            "ALTER USER a IDENTIFIED VIA x USING ?",
        ),
        ("SET PASSWORD FOR a = PASSWORD('secret')", "SET PASSWORD FOR a = PASSWORD(?)"),
        ("SET PASSWORD FOR 'a'@'b' = 'secret'", "SET PASSWORD FOR ?@? = ?"),
        ("CREATE USER a IDENTIFIED BY /* x */ 'secret'", "CREATE USER a IDENTIFIED BY /* x */ ?"),
        (
            "ALTER USER a IDENTIFIED BY 'secret' REPLACE 's2'",
            "ALTER USER a IDENTIFIED BY ? REPLACE ?",
        ),
        ("ALTER ROLE a PASSWORD $x$secret$x$", "ALTER ROLE a PASSWORD ?"),
        ("/* x */ CREATE ROLE a PASSWORD E'secret'", "/* x */ CREATE ROLE a PASSWORD E?"),
        ("CHANGE MASTER TO MASTER_PASSWORD='secret'", "CHANGE MASTER TO MASTER_PASSWORD=?"),
        (
            "CREATE SUBSCRIPTION a CONNECTION 'password=secret'",
            "CREATE SUBSCRIPTION a CONNECTION ?",
        ),
        ("SELECT 'x' FROM t WHERE key_ = 'y'", "SELECT 'x' FROM t WHERE key_ = 'y'"),
        ("CREATE ROLE a LOGIN PASSWORD 'secret'", "CREATE ROLE a LOGIN PASSWORD ?"),
        ("ATTACH 'x.db' AS x KEY 'secret'", "ATTACH 'x.db' AS x KEY ?"),
        ("SELECT a AS 'b' FROM t", "SELECT a AS 'b' FROM t"),
    ],
)
def test_a3_passwords_in_texts(text: str, shown: str) -> None:
    """A password in a statement that takes no parameters is not told."""
    assert shown_text(text, None) == shown
    assert shown_text(text.encode(), None) == shown


def test_refused_statement() -> None:
    """A statement that the lease refuses was not run, and is not told."""
    with watched() as (pool, watcher):
        conn = pool.lease()
        cur = conn.cursor()
        conn.close()
        with pytest.raises(UsageError):
            cur.execute("SELECT 1")
    assert watcher.texts == []


def test_t9_interrupted_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lease that an interruption left made in part is given back."""
    make = Lease.__init__

    def interrupted(*args: Any) -> None:
        make(*args)
        raise KeyboardInterrupt

    with watched() as (pool, _):
        with monkeypatch.context() as patch:
            patch.setattr(Lease, "__init__", interrupted)
            with pytest.raises(KeyboardInterrupt):
                Scope(pool.engine, Leases(), DEFAULT_OPTIONS).__enter__()
        assert (pool.stats().in_use, pool.stats().idle) == (0, 1)


def test_shaped_rows() -> None:
    """Rows of another shape are counted as well."""
    with watched(rows="dict") as (pool, watcher), pool.connection() as conn:
        cur = conn.cursor()
        cur.execute("SELECT 1 AS a UNION SELECT 2")
        assert cur.fetchall() == [{"a": 1}, {"a": 2}]
        assert watcher.rows == 2


@pytest.mark.parametrize("args", [{}, {"buffered": False}], ids=["buffered", "unbuffered"])
def test_on_mariadb(mariadb: MariaDBServer, mariadb_driver: str, args: dict[str, Any]) -> None:
    """On MariaDB the number of rows is known at once, unless they are sent as they are fetched."""
    if mariadb_driver == "pymysql" and args:
        from pymysql.cursors import SSCursor

        args = {"cursor": SSCursor}
    url = mariadb.url(mariadb_driver, mariadb.create_database())
    with watched(url) as (pool, watcher), pool.connection() as conn:
        cur = conn.cursor(**args)
        cur.execute("CREATE TABLE t (a INTEGER, b VARCHAR(20))")
        cur.executemany("INSERT INTO t VALUES (%s, %s)", [(1, "a"), (2, "b"), (3, "c")])
        assert watcher.rows == 3
        cur.execute("SELECT a FROM t WHERE a > %s", (1,))
        assert watcher.rows == (0 if args else 2)
        assert len(cur.fetchall()) == watcher.rows == 2
        cur.execute("UPDATE t SET b = 'x'")
        assert watcher.rows == 3
        cur.execute("CREATE PROCEDURE p (IN x INTEGER) SELECT a FROM t WHERE a > x")
        cur.callproc("p", (41,))
        cur.fetchall()
        cur.close()
        assert "41" not in str(watcher.texts[-1])


def test_on_postgresql(shared_postgresql: str) -> None:
    """On PostgreSQL too; what a server-side cursor is read by is part of its statement, and a value
    that was composed into a text is not shown.
    """
    from psycopg import sql

    with watched(shared_postgresql) as (pool, watcher), pool.connection() as conn:
        conn.execute("SELECT generate_series(1, 3)")
        assert watcher.rows == 3
        cur = conn.cursor()
        cur.execute(sql.SQL("SELECT {} AS {}").format(sql.Literal("secret"), sql.Identifier("a")))
        assert watcher.texts[-1] == 'SELECT ? AS "a"'
        with conn.cursor("named") as named:
            named.execute("SELECT generate_series(1, 5)")
            assert len([*named.fetchmany(2), *named]) == 5
        assert watcher.rows == 5
        with cur.copy("COPY (SELECT 1) TO STDOUT") as copy:
            assert b"".join(copy) == b"1\n"
        assert watcher.texts == ["SELECT generate_series(1, 5)", "COPY (SELECT 1) TO STDOUT"]
