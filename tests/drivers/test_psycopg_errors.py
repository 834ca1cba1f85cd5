"""What the errors of PostgreSQL mean, each on a real server, and what is done about them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from flask_pooled_db import (
    CommitOutcomeUnknown,
    PooledDB,
    PoolTimeout,
    TransactionAborted,
    db_connection_context,
)
from flask_pooled_db.drivers import Failure
from flask_pooled_db.drivers.psycopg import PsycopgDriver
from harness.postgres import PostgreSQLServer
from harness.sockets import is_readable
from harness.tls import Certificates
from harness.workloads import add, run
from tests.support.apps import pooled_app
from tests.support.scenarios.base import (
    MOVED,
    assert_fit,
    must_raise,
    rival,
    signalled,
    statement_is_sent,
)
from tests.support.stages import UNTOUCHED, ServerStage


@pytest.fixture
def db(postgresql_server: PostgreSQLServer) -> Iterator[PooledDB]:
    """A pool on a database with a table of one row."""
    name = postgresql_server.create_database()
    with pooled_app(postgresql_server.url(database=name)) as (_, db):
        with db_connection_context() as conn:
            run(conn, "CREATE TABLE t (id INT PRIMARY KEY, value INT)")
            run(conn, "INSERT INTO t VALUES (1, 0), (2, 0)")
        yield db
        assert db.stats().in_use == 0


def values() -> list[int]:
    with db_connection_context() as conn:
        return [value for (value,) in run(conn, "SELECT value FROM t ORDER BY id")]


# What ends the statement alone, the transaction, the connection

FAILING = {
    "syntax": ("SELEC 1", psycopg.errors.SyntaxError),
    "constraint": ("INSERT INTO t VALUES (1, 0)", psycopg.errors.UniqueViolation),
    "cast": ("SELECT 'x'::int", psycopg.errors.InvalidTextRepresentation),
    "raised": (
        "DO $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '40001'; END $$",
        psycopg.errors.SerializationFailure,
    ),
    "by its first statement": ("SELECT 1 / 0", psycopg.errors.DivisionByZero),
}


@pytest.mark.parametrize(("sql", "kind"), FAILING.values(), ids=FAILING)
def test_t4_error_in_a_part(db: PooledDB, sql: str, kind: type[Exception]) -> None:
    """An error that leaves a nested block costs that block alone."""
    with db_connection_context() as conn:
        run(conn, "UPDATE t SET value = 1 WHERE id = 1")
        with must_raise(kind):
            with db_connection_context() as inner:
                run(inner, "UPDATE t SET value = 9")
                run(inner, sql)
        run(conn, "UPDATE t SET value = 2 WHERE id = 2")
    assert values() == [1, 2]
    assert db.stats().discarded == 0


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize(("sql", "kind"), FAILING.values(), ids=FAILING)
def test_t4_error_without_a_part(
    db: PooledDB, sql: str, kind: type[Exception], is_first: bool
) -> None:
    """A block that swallowed an error can't commit, and `rollback()` leads on."""

    def work() -> None:
        with db_connection_context() as conn:
            if not is_first:
                run(conn, "UPDATE t SET value = 9")
            with pytest.raises(kind):
                run(conn, sql)
            with pytest.raises(psycopg.errors.InFailedSqlTransaction):
                run(conn, "SELECT 1")

    with pytest.raises(TransactionAborted, match="would turn COMMIT into ROLLBACK"):
        work()
    with db_connection_context() as conn:
        with contextlib.suppress(kind):
            run(conn, sql)
        conn.rollback()
        run(conn, "UPDATE t SET value = 3 WHERE id = 1")
    assert values() == [3, 0]
    assert db.stats().discarded == 0


def test_t4_idle_for_too_long(db: PooledDB) -> None:
    """A session that PostgreSQL has ended since its transaction was idle is lost, with its work."""

    def work() -> None:
        with db_connection_context() as conn:
            run(conn, "SET LOCAL idle_in_transaction_session_timeout = 50")
            run(conn, "UPDATE t SET value = 9")
            assert is_readable(conn.usable().raw.fileno())
            run(conn, "UPDATE t SET value = 8")

    with pytest.raises(psycopg.errors.IdleInTransactionSessionTimeout):
        work()
    assert values() == [0, 0]
    assert db.stats().discarded == 1


@pytest.mark.parametrize("way", ["stop", "kill"])
def test_t4_server_that_ends(way: str) -> None:
    """A transaction whose server ends is lost, and the pool works again once the server does."""
    with PostgreSQLServer() as server, pooled_app(server.url()) as (_, db):
        with db_connection_context() as conn:
            run(conn, "CREATE TABLE t (id INT)")

        def work() -> None:
            with db_connection_context() as conn:
                run(conn, "INSERT INTO t VALUES (1)")
                getattr(server, way)()
                server.start()
                with contextlib.suppress(psycopg.Error):
                    run(conn, "INSERT INTO t VALUES (2)")
                run(conn, "INSERT INTO t VALUES (3)")

        with pytest.raises(TransactionAborted):
            work()
        with db_connection_context() as conn:
            assert run(conn, "SELECT id FROM t") == []
        assert db.stats().in_use == 0


STATES = {
    "08006": Failure.LOST,
    "25P03": Failure.LOST,
    "25P04": Failure.LOST,
    "40003": Failure.LOST,
    "57P01": Failure.LOST,
    "57P02": Failure.LOST,
    "57P03": Failure.LOST,
    "57P05": Failure.LOST,
    "25006": Failure.STATEMENT,
    "25P02": Failure.STATEMENT,
    "40001": Failure.STATEMENT,
    "40P01": Failure.STATEMENT,
    "55P03": Failure.STATEMENT,
    "57014": Failure.STATEMENT,
}


@pytest.mark.parametrize(("state", "means"), STATES.items())
def test_meaning_of_states(db: PooledDB, state: str, means: Failure) -> None:
    """What is known of each state, the server's own severity aside."""
    driver = db.pool().driver
    assert isinstance(driver, PsycopgDriver)
    with db_connection_context() as conn:
        error = psycopg.errors.lookup(state)("said so")
        assert driver.classify(conn.usable().raw, error) is means
        is_retryable = state in ("40001", "40P01", "55P03")
        assert driver.is_retryable(error) is is_retryable


# Starting over


def fail_once(db: PooledDB, first: Callable[[Any], object]) -> None:
    tries: list[int] = []

    def work(conn: Any) -> None:
        tries.append(1)
        run(conn, "UPDATE t SET value = value + 1 WHERE id = 1")
        if len(tries) == 1:
            first(conn)

    db.run_transaction(work)
    assert len(tries) == 2
    assert values() == [1, 0]


def test_lock_that_is_not_available_starts_over(db: PooledDB) -> None:
    """A transaction that could not have a lock at once starts over."""

    def lock(conn: Any) -> None:
        with db_connection_context(independent=True) as other:
            run(other, "SELECT value FROM t WHERE id = 2 FOR UPDATE")
            run(conn, "SELECT value FROM t WHERE id = 2 FOR UPDATE NOWAIT")

    fail_once(db, lock)


def test_deadlock_starts_over(psycopg_stage: ServerStage) -> None:
    """A deadlock's victim starts over, and succeeds."""
    stage, tries = psycopg_stage, []

    def work(conn: Any) -> None:
        tries.append(1)
        add(conn, 1, -10)
        with rival(stage, holds=[2], then=1) if len(tries) == 1 else contextlib.nullcontext():
            add(conn, 2, 10)

    stage.db.run_transaction(work)
    assert len(tries) == 2
    assert stage.committed() == MOVED


def test_commit_on_a_closed_connection(db: PooledDB) -> None:
    """COMMIT on a connection that psycopg knows to be closed was never sent: there is no doubt."""
    driver = db.pool().driver

    def work() -> None:
        with db_connection_context() as conn:
            run(conn, "UPDATE t SET value = 9")
            raw = conn.usable().raw
            raw.pgconn.finish()
            with pytest.raises(psycopg.OperationalError) as caught:
                raw.commit()
            assert driver.never_sent(raw, caught.value)

    with pytest.raises(Exception) as caught:  # noqa: PT011  any but the one below
        work()
    assert not isinstance(caught.value, CommitOutcomeUnknown)
    assert values() == [0, 0]


# The first statement, which its BEGIN is sent along with


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt(), GeneratorExit()])
def test_t6_first_statement_is_interrupted(
    psycopg_stage: ServerStage, error: BaseException
) -> None:
    """What interrupts the first statement of a block is what the caller sees, at once; its
    connection is not used again.
    """
    stage = psycopg_stage
    sleep = stage.sleep(77)
    with must_raise(type(error)) as caught:
        with stage.db.connection_context() as conn:
            with signalled(error, statement_is_sent(stage, sleep.encode())):
                run(conn, sleep)
    assert caught == [error]
    assert stage.db.stats().discarded == 1
    assert_fit(stage)


def test_first_statement_that_takes_too_long(psycopg_stage: ServerStage) -> None:
    """A time limit ends the first statement of a block too, and costs no connection."""
    stage = psycopg_stage
    with must_raise(psycopg.errors.QueryCanceled):
        with stage.db.connection_context(statement_timeout=0.1) as conn:
            run(conn, stage.sleep(77))
    assert_fit(stage)
    assert stage.db.stats().discarded == 0


def test_t4_answer_to_the_first_statement_is_lost(psycopg_stage: ServerStage) -> None:
    """Where the answer to the first statement is lost, nothing of it is committed."""
    stage = psycopg_stage
    stage.proxy.hold_replies_to(b"UPDATE")
    with must_raise(psycopg.OperationalError):
        with stage.db.connection_context() as conn:
            add(conn, 1, 1)
    assert stage.committed() == UNTOUCHED
    assert_fit(stage)


def refused(conn: Any) -> None:
    conn.cursor().execute("SELECT %s", (object(),))


def refused_in_python(conn: Any) -> None:
    conn.cursor().executemany("INSERT INTO accounts VALUES (%s, 0)", ((1 // 0,) for _ in "x"))


@pytest.mark.parametrize("work", [refused, refused_in_python])
def test_t4_first_statement_that_is_not_sent(psycopg_stage: ServerStage, work: Any) -> None:
    """What fails before anything was sent costs neither transaction nor connection."""
    stage = psycopg_stage
    with stage.db.connection_context() as conn:
        with pytest.raises((psycopg.ProgrammingError, ZeroDivisionError)):
            work(conn)
        add(conn, 1, -10)
        add(conn, 2, 10)
    assert stage.committed() == MOVED
    assert stage.db.stats().discarded == 0


@pytest.mark.parametrize("prefix", ["", "-- who\n", "/* who */ ", "("])
def test_t1_first_statement_of_any_form(db: PooledDB, prefix: str) -> None:
    """However a first statement is written, it is a part of its block's transaction."""
    first = f"{prefix}SELECT 1{')' if prefix == '(' else ''}"
    for sql in (f"{prefix}UPDATE t SET value = 5".replace("(", ""), first, f"{first};"):
        with must_raise(LookupError):
            with db_connection_context() as conn:
                run(conn, sql)
                run(conn, "UPDATE t SET value = 6")
                raise LookupError
    assert values() == [0, 0]


# TLS


@pytest.mark.parametrize("mode", ["require", "verify-ca", "verify-full"])
def test_p11_server_without_tls_on_postgresql(
    postgresql_server: PostgreSQLServer, certificates: Certificates, mode: str
) -> None:
    """Where TLS was asked for, a server without it gets no connection."""
    url = postgresql_server.url(sslmode=mode, sslrootcert=str(certificates.ca))
    with pooled_app(url, acquire_timeout=0.2):
        with pytest.raises(PoolTimeout, match="SSL"), db_connection_context() as conn:
            run(conn, "SELECT 1")


def test_p11_server_with_tls_on_postgresql(certificates: Certificates) -> None:
    """Where TLS was asked for, it is used, and a certificate of the wrong authority is refused."""
    with PostgreSQLServer(certificates=certificates) as server:
        with pooled_app(server.url()) as (_, db):
            with db_connection_context() as conn:
                assert conn.info.pgconn.ssl_in_use
            server.restart()
            with db_connection_context() as conn:
                assert run(conn, "SELECT 1") == [(1,)]
            assert db.stats().discarded == 1
        wrong: dict[str, Any] = {
            "sslmode": "verify-full",
            "sslrootcert": str(certificates.wrong_ca),
        }
        with pooled_app(server.url(**wrong), acquire_timeout=0.2):
            with pytest.raises(PoolTimeout, match="certificate"), db_connection_context() as conn:
                run(conn, "SELECT 1")


def test_interrupted_first_statement(postgresql: str, caplog: pytest.LogCaptureFixture) -> None:
    """A first statement that is interrupted costs its connection, and nothing is logged of it."""

    class Interrupting:
        pass

    class Dumper(psycopg.adapt.Dumper):
        def dump(self, obj: object) -> bytes:
            raise KeyboardInterrupt

    def interrupt(db: PooledDB) -> None:
        with db.connection_context() as conn:
            conn.adapters.register_dumper(Interrupting, Dumper)
            conn.execute("SELECT %s", (Interrupting(),))

    with pooled_app(postgresql) as (_, db):
        with pytest.raises(KeyboardInterrupt):
            interrupt(db)
        assert db.fetch_value("SELECT 1") == 1
        assert sum(db.stats().evictions.values()) == 1
    assert "error ignored" not in caplog.text
