"""PROXY "transaction": psycopg behind a pgbouncer that has one session for all its clients."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from flask_pooled_db import (
    CommitOutcomeUnknown,
    ConnectFailed,
    DeadlineExceeded,
    PooledDB,
    PoolTimeout,
    TransactionAborted,
    UsageError,
    db_connection_context,
    get_db_connection,
)
from harness.pgbouncer import PgBouncer
from harness.waiting import wait_until
from tests.support.aio import run, value
from tests.support.apps import pooled_app
from tests.support.pgsessions import left_in
from tests.support.scenarios.base import must_raise

PROXY = "transaction"
SLEEP = "SELECT pg_sleep(300)"
PID = "SELECT pg_backend_pid()"
END = "SELECT pg_terminate_backend(%s, 5000)"


def plain(url: str) -> str:
    """A URL as psycopg takes it."""
    return url.replace("+psycopg", "")


@pytest.fixture
def side(postgresql: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection to the server itself, which commits each statement; the table `t` is empty."""
    with psycopg.connect(plain(postgresql), autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS t")
        connection.execute("CREATE TABLE t (id INT PRIMARY KEY)")
        yield connection


@pytest.fixture
def db(side: psycopg.Connection[Any], pgbouncer: PgBouncer) -> Iterator[PooledDB]:
    """An app behind the proxy."""
    with pooled_app(pgbouncer.url, proxy=PROXY) as (_, db):
        yield db


@pytest.fixture
def other(pgbouncer: PgBouncer) -> Iterator[psycopg.Connection[Any]]:
    """Another program's connection: it has the same session in its transactions."""
    url = f"{plain(pgbouncer.url)}?application_name=other"
    with psycopg.connect(url, prepare_threshold=None) as connection:
        yield connection


@contextlib.contextmanager
def left_by(error: type[BaseException]) -> Iterator[Any]:
    """A block that is left by this error."""
    with pytest.raises(error), db_connection_context() as conn:
        yield conn


def insert(conn: Any, number: int) -> None:
    conn.execute("INSERT INTO t VALUES (%s)", (number,))


def ids(side: psycopg.Connection[Any]) -> list[int]:
    """What is committed."""
    return [id_ for (id_,) in side.execute("SELECT id FROM t ORDER BY id")]


# What one app does never shows in another one's transactions


def all_settings() -> None:
    with db_connection_context(isolation_level="SERIALIZABLE", statement_timeout=7) as conn:
        assert conn.execute("SHOW transaction_isolation").fetchone() == ("serializable",)
        assert conn.execute("SHOW statement_timeout").fetchone() == ("7s",)
        assert conn.execute("SHOW idle_in_transaction_session_timeout").fetchone() == ("9s",)
        with db_connection_context(statement_timeout=2):
            assert conn.execute("SHOW statement_timeout").fetchone() == ("2s",)
        conn.execute("SET LOCAL work_mem = '1MB'")
        conn.execute("SELECT set_config('search_path', 'pg_catalog', true)")
        conn.execute("SELECT pg_advisory_xact_lock(1)")
        conn.execute("CREATE TEMP TABLE q (a INT) ON COMMIT DROP")


def reads() -> None:
    with db_connection_context(readonly=True) as conn:
        assert conn.execute("SHOW transaction_read_only").fetchone() == ("on",)


def statements_often() -> None:
    with get_db_connection() as conn:
        for number in range(20):
            conn.execute("SELECT %s + 1", (number,))
        conn.commit()
        conn.close()


def ends_by_text() -> None:
    with db_connection_context(readonly=True, statement_timeout=3) as conn:
        conn.execute("ROLLBACK")
        assert conn.execute("SHOW transaction_read_only").fetchone() == ("on",)
        assert conn.execute("SHOW statement_timeout").fetchone() == ("3s",)


def fails() -> None:
    with contextlib.suppress(psycopg.Error), db_connection_context(statement_timeout=0.01) as conn:
        conn.execute(SLEEP)


def told_by_driver() -> None:
    with db_connection_context() as conn:
        conn.set_read_only(True)
        conn.set_deferrable(True)
        assert conn.execute("SHOW transaction_read_only").fetchone() == ("on",)
        assert conn.execute("SHOW statement_timeout").fetchone() == ("8s",)


def streams() -> None:
    with db_connection_context() as conn, conn.cursor("named") as cur:
        cur.execute("SELECT generate_series(1, 9)")
        assert cur.fetchmany(2) == [(1,), (2,)]


def queues() -> None:
    with db_connection_context() as conn, conn.pipeline():
        conn.execute("SELECT 1")
        conn.execute("SELECT %s::int", (1,))


@pytest.mark.parametrize(
    "work",
    [all_settings, reads, statements_often, ends_by_text, fails, told_by_driver, streams, queues],
)
def test_p9_two_apps(
    pgbouncer: PgBouncer,
    postgresql: str,
    other: psycopg.Connection[Any],
    work: Callable[[], None],
) -> None:
    """Whatever a block does, another program that has the same session next finds nothing of it."""
    ask = "SELECT pg_backend_pid(), current_setting('statement_timeout')"
    before, session = left_in(other), other.execute(ask).fetchone()
    other.commit()
    timeouts = {"statement_timeout": 8, "transaction_timeout": 9}
    with pooled_app(pgbouncer.url, proxy=PROXY, **timeouts):
        work()
        assert other.execute(ask).fetchone() == session
        other.commit()
        assert left_in(other) == before


def test_p9_refused(db: PooledDB, side: psycopg.Connection[Any]) -> None:
    """What would stay in the session is refused before it is sent, in whatever way it is asked for,
    and the block goes on.
    """
    set_it = "SET work_mem = '1MB'"
    with db_connection_context() as conn:
        insert(conn, 1)
        held = conn.cursor("named", withhold=True)
        ways: list[Callable[[], object]] = [
            lambda: conn.execute(set_it),
            lambda: conn.execute(query=set_it),
            lambda: conn.cursor().execute(query=set_it),
            lambda: conn.cursor().execute(set_it),
            lambda: conn.cursor().executemany(set_it, [()]),
            lambda: conn.cursor().stream(set_it),
            lambda: conn.execute("SELECT 1", prepare=True),
            lambda: conn.cursor().execute("SELECT 1", prepare=True),
            lambda: held.execute("SELECT 1"),
            lambda: conn.execute("LISTEN news"),
        ]
        for way in ways:
            with pytest.raises(UsageError):
                way()
        insert(conn, 2)
    assert ids(side) == [1, 2]
    with pytest.raises(UsageError, match="SET LOCAL"), db_connection_context() as conn:
        conn.execute(set_it)


def test_p9_label(db: PooledDB, other: psycopg.Connection[Any]) -> None:
    """Each program's transactions have its own name."""
    with db_connection_context() as conn:
        (label,) = conn.execute("SHOW application_name").fetchone()
    assert label.endswith(" default")
    assert other.execute("SHOW application_name").fetchone() == ("other",)


# The transaction


def test_t1_proxied_scope(db: PooledDB, side: psycopg.Connection[Any]) -> None:
    """Blocks commit, roll back and nest as they do without a proxy."""
    with db_connection_context() as conn:
        insert(conn, 1)
        with pytest.raises(conn.IntegrityError), db_connection_context() as inner:
            insert(inner, 1)
        with conn.transaction(), conn.cursor() as cur, cur.copy("COPY t FROM STDIN") as copy:
            copy.write_row((2,))
        assert list(conn.cursor().stream("SELECT id FROM t ORDER BY id")) == [(1,), (2,)]
    with left_by(LookupError) as conn:
        insert(conn, 3)
        raise LookupError
    assert ids(side) == [1, 2]
    assert db.fetch_value("SELECT count(*) FROM t") == 2


def test_proxied_readonly(db: PooledDB, side: psycopg.Connection[Any]) -> None:
    """A readonly block is a transaction in which the server refuses what writes; it may nest."""
    with db_connection_context(readonly=True), db_connection_context(readonly=True) as conn:
        assert conn.execute("SELECT count(*) FROM t").fetchone() == (0,)
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        with db_connection_context(readonly=True) as conn:
            insert(conn, 1)
    with db_connection_context(), pytest.raises(UsageError):
        db_connection_context(readonly=True).__enter__()
    assert ids(side) == []


def test_proxied_round_trips(pgbouncer: PgBouncer, side: psycopg.Connection[Any]) -> None:
    """A transaction takes two round trips more than it has statements, whatever is set for it."""
    limits = {"statement_timeout": 5, "transaction_timeout": 5}

    def spent(**options: Any) -> int:
        before = pgbouncer.queries()
        with db_connection_context(**options) as conn:
            conn.execute("SELECT 1")
            conn.execute("SELECT 2")
        return pgbouncer.queries() - before

    for settings in ({}, limits):
        with pooled_app(pgbouncer.url, proxy=PROXY, **settings):
            spent()
            for options in ({}, {"readonly": True}, {"isolation_level": "SERIALIZABLE"}):
                assert spent(**options) == 4


def test_proxied_retry(db: PooledDB, side: psycopg.Connection[Any]) -> None:
    """A transaction starts over when its session is lost before COMMIT, and is done once."""
    tries = []

    def work(conn: Any) -> None:
        tries.append(conn)
        insert(conn, len(tries))
        if len(tries) == 1:
            side.execute(END, conn.execute(PID).fetchone())
        conn.execute("SELECT 1")

    db.run_transaction(work)
    assert ids(side) == [2]


def test_t4_proxied_server_lost(db: PooledDB, side: psycopg.Connection[Any]) -> None:
    """A block whose server ends is lost as a whole, and the next one works."""
    with left_by(TransactionAborted) as conn:
        insert(conn, 1)
        side.execute(END, conn.execute(PID).fetchone())
        with pytest.raises(psycopg.OperationalError):
            insert(conn, 2)
    assert db.fetch_value("SELECT count(*) FROM t") == 0


def test_t4_proxy_restart(side: psycopg.Connection[Any], private_pgbouncer: PgBouncer) -> None:
    """A block amid which the proxy ends is lost as a whole; idle connections are replaced."""
    with pooled_app(private_pgbouncer.url, proxy=PROXY) as (_, db):
        with left_by(TransactionAborted) as conn:
            insert(conn, 1)
            private_pgbouncer.restart()
        assert db.fetch_value("SELECT count(*) FROM t") == 0
        private_pgbouncer.restart()
        assert db.fetch_value("SELECT count(*) FROM t") == 0


def test_t5_proxy_lost(side: psycopg.Connection[Any], private_pgbouncer: PgBouncer) -> None:
    """If the proxy ends while the server commits, nobody claims to know what became of it."""
    side.execute(
        "CREATE OR REPLACE FUNCTION wait() RETURNS TRIGGER LANGUAGE plpgsql AS"
        " 'BEGIN PERFORM pg_advisory_xact_lock(5); RETURN NULL; END'"
    )
    side.execute(
        "CREATE CONSTRAINT TRIGGER wait AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION wait()"
    )
    waits = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"

    def kill() -> None:
        wait_until(lambda: side.execute(waits).fetchone() == (1,), "COMMIT is under way")
        private_pgbouncer.kill()

    with pooled_app(private_pgbouncer.url, proxy=PROXY):
        side.execute("SELECT pg_advisory_lock(5)")
        killer = threading.Thread(target=kill)
        with left_by(CommitOutcomeUnknown) as conn:
            insert(conn, 1)
            killer.start()
        killer.join()
        side.execute("SELECT pg_advisory_unlock(5)")
    wait_until(lambda: ids(side) == [1], "the server has committed")


# Time


def test_proxied_deadline(db: PooledDB) -> None:
    """The server ends a statement at a block's limit, and at a deadline."""
    with pytest.raises(psycopg.errors.QueryCanceled):
        with db_connection_context(statement_timeout=0.05) as conn:
            conn.execute(SLEEP)
    with pytest.raises(DeadlineExceeded), db.deadline(0.1), db_connection_context() as conn:
        conn.execute(SLEEP)


def test_proxied_cancel(db: PooledDB) -> None:
    """A cancel request reaches the statement that is running."""
    with left_by(psycopg.errors.QueryCanceled) as conn:
        timer = threading.Timer(0.1, conn.cancel)
        timer.start()
        conn.execute(SLEEP)
    timer.join()


def test_t6_proxied_tasks(private_pgbouncer: PgBouncer, side: psycopg.Connection[Any]) -> None:
    """Statements of cancelled tasks end at the server, and none of another program does."""
    running = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query = %s"

    async def sleep(db: PooledDB) -> None:
        with must_raise(TimeoutError):
            async with asyncio.timeout(0.2), db.async_connection_context() as conn:
                await conn.cursor().execute("INSERT INTO t VALUES (1) ON CONFLICT DO NOTHING")
                await value(conn, SLEEP)

    async def main(db: PooledDB) -> None:
        await asyncio.gather(*(sleep(db) for _ in range(5)))
        async with db.async_connection_context() as conn:
            assert await value(conn, "SELECT count(*) FROM t") == 0

    with pooled_app(private_pgbouncer.url, proxy=PROXY) as (_, db):
        run(lambda: main(db))
        wait_until(lambda: side.execute(running, (SLEEP,)).fetchone() == (0,), "they end")


# Fewer sessions than callers


def test_p2_waits_in_proxy(db: PooledDB, side: psycopg.Connection[Any]) -> None:
    """More leases than sessions wait for one another inside the proxy."""
    with contextlib.ExitStack() as stack:
        threads = []
        for number in range(4):
            thread = threading.Thread(
                target=db.run_transaction, args=(lambda conn, number=number: insert(conn, number),)
            )
            threads.append(thread)
            stack.callback(thread.join)
        with db_connection_context() as conn:
            insert(conn, 9)
            for thread in threads:
                thread.start()
            wait_until(lambda: db.stats().in_use == 5, "all have a connection")
    assert ids(side) == [0, 1, 2, 3, 9]


@pytest.mark.parametrize(
    ("settings", "keys"),
    [
        ({"query_wait_timeout": "1"}, {}),
        ({}, {"acquire_timeout": 0.1, "connect_timeout": 0.3}),
    ],
    ids=["its limit", "our limit"],
)
def test_p2_no_session(postgresql: str, settings: dict[str, str], keys: dict[str, float]) -> None:
    """A transaction for which the proxy has no session in time fails as one that gets no connection
    does.
    """
    with PgBouncer(postgresql, {"default_pool_size": "1", **settings}) as proxy:
        with (
            psycopg.connect(plain(proxy.url)) as other,
            pooled_app(proxy.url, proxy=PROXY, **keys) as (_, db),
        ):
            wait_until(lambda: answers(db), "a connection")
            before = db.stats().timeouts
            other.execute("SELECT 1")
            with pytest.raises(PoolTimeout, match="default_pool_size"):
                db.fetch_value("SELECT 1")
            assert db.stats().timeouts == before + 1
            other.commit()
            assert db.fetch_value("SELECT 1") == 1


def answers(db: PooledDB) -> bool:
    """Whether there is a connection that answers: opening one may take longer than callers wait."""
    with contextlib.suppress(PoolTimeout):
        return bool(db.fetch_value("SELECT 1"))
    return False


def test_deadline_in_proxy(db: PooledDB, other: psycopg.Connection[Any]) -> None:
    """A deadline counts while a transaction waits inside the proxy."""
    other.execute("SELECT 1")
    with pytest.raises(DeadlineExceeded), db.deadline(0.1):
        db.fetch_value("SELECT 1")


@pytest.mark.parametrize("how", ["database=nowhere", "options=-cwork_mem%3D64"])
def test_proxy_refusal(postgresql: str, how: str) -> None:
    """What pgbouncer refuses, it will refuse again: callers are told at once."""
    with PgBouncer(postgresql) as proxy:
        user = proxy.url.rpartition("/")[0]
        url = f"{user}/nowhere" if how.startswith("database") else f"{proxy.url}?{how}"
        with pooled_app(url) as (_, db):
            with pytest.raises(ConnectFailed):
                db.fetch_value("SELECT 1")


# A proxy that nobody has declared


@pytest.mark.parametrize("proxy", [None, PROXY])
def test_check(pgbouncer: PgBouncer, proxy: str | None) -> None:
    """`check` tells of a pooler that is in between, and what to set if it was not declared."""
    with pooled_app(pgbouncer.url, proxy=proxy) as (app, _):
        result = app.test_cli_runner().invoke(args=["pooled-db", "check"])
    assert result.exception is None, result.output
    assert "a proxy is in between that gives connections other ids" in result.stdout
    assert ("set PROXY to 'transaction'" in result.stdout) == (proxy is None)


def test_check_of_a_server(postgresql: str) -> None:
    """A server itself is not taken for a pooler."""
    with pooled_app(postgresql) as (app, _):
        result = app.test_cli_runner().invoke(args=["pooled-db", "check"])
    assert "a proxy is in between" not in result.stdout
