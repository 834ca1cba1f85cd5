"""The promises as scenarios that can be played on any pool: on ours, and on the naive one.

A scenario takes a stage, and raises AssertionError where the pool on it breaks the promise. Its SQL
has no parameters: the naive pool takes those of its driver alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any, Generic, TypeVar

import pymysql
from flask import Response, stream_with_context

from flask_pooled_db import CommitOutcomeUnknown
from tests.support.stages import UNTOUCHED, FileStage, ServerStage, Stage, eventually, join
from tests.support.workloads import connection_id

ON_MARIADB = ("pymysql", "mariadbconnector")
ON_SQLITE = ("sqlite",)
EVERYWHERE = ON_MARIADB + ON_SQLITE

MOVED = {**UNTOUCHED, 1: 90, 2: 110}
DEADLINE = 10.0

AnyStage = TypeVar("AnyStage", bound=Stage, contravariant=True)


@dataclass(frozen=True)
class Scenario(Generic[AnyStage]):
    """A scenario, the drivers it can be played with, and what it needs of the server.

    `options` are those of a server of its own. `is_direct`: no proxy in front of it. (The MariaDB
    connector reads rows one by one without letting go of the interpreter, which our proxy needs.)
    """

    name: str
    play: Callable[[AnyStage], None]
    drivers: tuple[str, ...]
    options: tuple[str, ...]
    is_direct: bool

    def __call__(self, stage: AnyStage) -> None:
        self.play(stage)


SCENARIOS: dict[str, Scenario[Any]] = {}


def scenario(
    drivers: tuple[str, ...], options: Sequence[str] = (), *, is_direct: bool = False
) -> Callable[[Callable[[AnyStage], None]], Scenario[AnyStage]]:
    """Enter a function in the list of scenarios."""

    def register(play: Callable[[AnyStage], None]) -> Scenario[AnyStage]:
        made = Scenario(play.__name__, play, drivers, tuple(options), is_direct)
        SCENARIOS[made.name] = made
        return made

    return register


# -- what scenarios are made of ------------------------------------------------------------------


def add(connection: Any, account: int, amount: int) -> None:
    """Add to an account's balance, in the connection's transaction."""
    run(connection, f"UPDATE accounts SET balance = balance + {amount} WHERE id = {account}")


def run(connection: Any, sql: str) -> list[tuple[Any, ...]]:
    """Run a statement and return its rows, if it has any."""
    cursor = connection.cursor()
    try:
        cursor.execute(sql)
        return list(cursor.fetchall()) if cursor.description else []
    finally:
        cursor.close()


@contextmanager
def must_raise(*kinds: type[BaseException]) -> Iterator[list[BaseException]]:
    """Assert that the block raises one of these, and swallow it; a failed assert is passed on."""
    caught: list[BaseException] = []
    try:
        yield caught
    except AssertionError:
        raise
    except kinds as error:
        caught.append(error)
    else:
        raise AssertionError(f"no error where there should be {kinds}")


def assert_untouched(stage: Stage) -> None:
    """Nothing was committed."""
    assert stage.committed() == UNTOUCHED


def assert_fit(stage: Stage) -> None:
    """What the pool lends now gives right answers, and commits and rolls back as it should."""
    before = stage.committed()
    with stage.db.connection_context() as connection:
        for number in range(3):
            assert run(connection, f"SELECT {number}, 'x'") == [(number, "x")]
        add(connection, 1, 1)
    assert stage.committed() == {**before, 1: before[1] + 1}
    with must_raise(LookupError):
        with stage.db.connection_context() as connection:
            add(connection, 1, 1)
            raise LookupError
    assert stage.committed() == {**before, 1: before[1] + 1}


@contextmanager
def rival(stage: ServerStage, holds: Sequence[int], then: int | None = None) -> Iterator[None]:
    """Another client of the database, which has locked some accounts and perhaps waits for one.

    It rolls back when it got what it waits for, at the latest at the end of the block.
    """
    client: Any = pymysql.connect(**stage.server.connect_args(stage.database), ssl_disabled=True)
    waiting = None
    try:
        for account in holds:
            for _ in range(20):  # much changed, much to roll back: the deadlock's victim is another
                add(client, account, 1)
        if then is not None:
            waiting = threading.Thread(target=_lock, args=(client, then), daemon=True)
            waiting.start()
            eventually(lambda: _waits(stage, client), "the rival waits for its lock", 0.2)
        yield
    except BaseException:
        stage.server.kill_connection(client.thread_id())
        raise
    finally:
        if waiting is not None:
            join(waiting)
        with contextlib.suppress(pymysql.Error):
            client.rollback()
            client.close()


def _lock(client: Any, account: int) -> None:
    with contextlib.suppress(pymysql.Error):  # it was killed
        add(client, account, 1)
        client.rollback()


def _waits(stage: ServerStage, client: Any) -> bool:
    # This table is a cache, which is brought up to date once nobody has read it for 0.1 s.
    return bool(
        stage.server.query(
            "SELECT 1 FROM information_schema.innodb_trx"
            " WHERE trx_state = 'LOCK WAIT' AND trx_mysql_thread_id = %s",
            client.thread_id(),
        )
    )


@contextmanager
def signalled(error: BaseException, when: Callable[[], object]) -> Iterator[None]:
    """A block in which the main thread gets a signal that raises `error`, once `when` returns.

    Not by setitimer(): the alarm is what ends a test that hangs.
    """

    def handler(signum: int, frame: FrameType | None) -> None:
        raise error

    def send() -> None:
        when()
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    previous = signal.signal(signal.SIGUSR1, handler)
    sender = threading.Thread(target=send, daemon=True)
    try:
        sender.start()
        yield
    finally:
        sender.join()
        signal.signal(signal.SIGUSR1, previous)


def statement_is_sent(stage: ServerStage, prefix: bytes) -> Callable[[], object]:
    """A function that returns while the server works on a statement that starts so."""

    def wait() -> None:
        stage.proxy.wait_for_command(prefix, DEADLINE)
        eventually(lambda: _works_on(stage, prefix), "the server works on the statement")

    return wait


def _works_on(stage: ServerStage, prefix: bytes) -> bool:
    rows = stage.server.query("SHOW FULL PROCESSLIST")  # Id, User, Host, db, …, Info
    return any(
        row[3] == stage.database and (row[7] or "").startswith(prefix.decode()) for row in rows
    )


# -- T1, T2: commit, rollback, the caller's exception --------------------------------------------


@scenario(EVERYWHERE)
def left_normally(stage: Stage) -> None:
    """A block that is left normally has committed."""
    with stage.db.connection_context() as connection:
        add(connection, 1, -10)
        add(connection, 2, 10)
    assert stage.committed() == MOVED
    assert_fit(stage)


@scenario(EVERYWHERE)
def left_by_an_exception(stage: Stage) -> None:
    """A block that is left by an exception has rolled back, and the exception is the caller's."""
    for error in (ValueError("x"), SystemExit(3), KeyboardInterrupt(), GeneratorExit()):
        with must_raise(type(error)) as caught:
            with stage.db.connection_context() as connection:
                add(connection, 1, -10)
                raise error
        assert caught == [error]
        assert_untouched(stage)
    assert_fit(stage)


@scenario(ON_MARIADB)
def rollback_fails(stage: ServerStage) -> None:
    """Where the rollback fails too, the caller sees its own exception."""
    error = LookupError("the caller's own")
    with must_raise(Exception) as caught:
        with stage.db.connection_context() as connection:
            add(connection, 1, -10)
            stage.kill(connection)
            raise error
    assert caught == [error]
    assert_untouched(stage)
    assert_fit(stage)


# -- T3, T4: a transaction that is gone -----------------------------------------------------------


@scenario(ON_MARIADB)
def killed_between_two_updates(stage: ServerStage) -> None:
    """A transfer whose connection is killed in its middle ends in an error, and moves nothing."""
    with must_raise(Exception):
        with stage.db.connection_context() as connection:
            add(connection, 1, -10)
            stage.kill(connection)
            add(connection, 2, 10)
    assert_untouched(stage)
    assert_fit(stage)


@scenario(ON_MARIADB)
def killed_and_swallowed(stage: ServerStage) -> None:
    """The same where the caller swallows the error and goes on."""
    with must_raise(Exception):
        with stage.db.connection_context() as connection:
            add(connection, 1, -10)
            stage.kill(connection)
            with must_raise(Exception):
                add(connection, 2, 10)
            with must_raise(Exception):
                add(connection, 3, 10)
            with must_raise(Exception):
                run(connection, "SELECT 1")
    assert_untouched(stage)
    assert_fit(stage)


@scenario(ON_MARIADB)
def cut_between_two_updates(stage: ServerStage) -> None:
    """A transfer whose connection the network drops in its middle ends in an error."""
    with must_raise(Exception):
        with stage.db.connection_context() as connection:
            add(connection, 1, -10)
            stage.proxy.cut()
            with contextlib.suppress(Exception):
                add(connection, 2, 10)
    assert_untouched(stage)
    assert_fit(stage)


@scenario(ON_MARIADB)
def nothing_is_sent_twice(stage: ServerStage) -> None:
    """A statement whose answer was lost is not sent again."""
    with contextlib.suppress(Exception):
        with stage.db.connection_context() as connection:
            run(connection, "SELECT 1")
            stage.proxy.hold_replies_to(b"UPDATE")
            with contextlib.suppress(Exception):
                add(connection, 1, -10)
    sent = [command for command in stage.proxy.commands if command.starts_with(b"UPDATE")]
    assert len(sent) == 1
    assert_untouched(stage)


@scenario(ON_MARIADB)
def killed_before_the_first_write(stage: ServerStage) -> None:
    """A lease that has only read so far does not go on with another connection either."""
    with must_raise(Exception):
        with stage.db.connection_context() as connection:
            stage.kill(connection)
            with contextlib.suppress(Exception):
                add(connection, 1, -10)
            with contextlib.suppress(Exception):
                add(connection, 2, 10)
    assert_untouched(stage)
    assert_fit(stage)


@scenario(ON_MARIADB)
def deadlock(stage: ServerStage) -> None:
    """A deadlock's victim gets the error, and nothing of its transaction remains."""
    with must_raise(Exception):
        with stage.db.connection_context() as connection:
            add(connection, 1, -10)
            with rival(stage, holds=[2, 3], then=1):
                add(connection, 2, 10)
    assert_untouched(stage)
    assert_fit(stage)


@scenario(ON_MARIADB)
def deadlock_swallowed(stage: ServerStage) -> None:
    """A deadlock's victim that swallows the error and goes on commits nothing of it."""
    with must_raise(Exception):
        with stage.db.connection_context() as connection:
            add(connection, 1, -10)
            with rival(stage, holds=[2, 3], then=1):
                with must_raise(Exception):
                    add(connection, 2, 10)
            with must_raise(Exception):
                add(connection, 4, 10)
    assert_untouched(stage)
    assert_fit(stage)


@scenario(ON_MARIADB, ["--innodb-rollback-on-timeout=ON", "--innodb-lock-wait-timeout=1"])
def lock_wait_timeout_that_rolls_back(stage: ServerStage) -> None:
    """Where a lock wait timeout ends the transaction, the scope that swallowed it ends in an
    error, and commits nothing.
    """
    with must_raise(Exception):
        with stage.db.connection_context() as connection:
            add(connection, 1, -10)
            with rival(stage, holds=[2]):
                with must_raise(Exception):
                    add(connection, 2, 10)
            with must_raise(Exception):
                add(connection, 3, 10)
    assert_untouched(stage)
    assert_fit(stage)


@scenario(ON_MARIADB, ["--innodb-lock-wait-timeout=1"])
def lock_wait_timeout(stage: ServerStage) -> None:
    """By default a lock wait timeout costs the statement alone: the scope goes on and commits."""
    with stage.db.connection_context() as connection:
        add(connection, 1, -10)
        with rival(stage, holds=[3]):
            with must_raise(Exception):
                add(connection, 3, 10)
        add(connection, 2, 10)
    assert stage.committed() == MOVED
    assert_fit(stage)


@scenario(EVERYWHERE)
def statement_failed(stage: Stage) -> None:
    """A duplicate key or a wrong column costs the statement alone: the scope goes on."""
    with stage.db.connection_context() as connection:
        add(connection, 1, -10)
        with must_raise(Exception):
            run(connection, "INSERT INTO accounts VALUES (1, 0)")
        with must_raise(Exception):
            run(connection, "SELECT nonsense FROM accounts")
        add(connection, 2, 10)
    assert stage.committed() == MOVED


@scenario(ON_SQLITE)
def database_rolls_back(stage: FileStage) -> None:
    """Where SQLite ends the transaction by itself, the scope that swallowed it commits nothing."""
    with must_raise(Exception):
        with stage.db.connection_context() as connection:
            add(connection, 1, -10)
            with must_raise(Exception):
                run(connection, "INSERT OR ROLLBACK INTO accounts VALUES (1, 0)")
            with must_raise(Exception):
                add(connection, 2, 10)
    assert_untouched(stage)
    assert_fit(stage)


@scenario(ON_SQLITE)
def first_statement_is_no_plain_one(stage: FileStage) -> None:
    """A write that begins with WITH, or creates a table, is rolled back like any other."""
    with must_raise(LookupError):
        with stage.db.connection_context() as connection:
            run(connection, "WITH x(i) AS (SELECT 9) INSERT INTO accounts SELECT i, i FROM x")
            raise LookupError
    assert_untouched(stage)
    with must_raise(LookupError):
        with stage.db.connection_context() as connection:
            run(connection, "CREATE TABLE more (id INTEGER)")
            raise LookupError
    with stage.db.connection_context() as connection:
        assert run(connection, "SELECT name FROM sqlite_master WHERE name = 'more'") == []


# -- T5: COMMIT ---------------------------------------------------------------------------------


@scenario(ON_MARIADB)
def commit_answer_lost(stage: ServerStage) -> None:
    """A COMMIT whose answer is lost is told apart from every other failure."""
    with must_raise(CommitOutcomeUnknown) as caught:
        with stage.db.connection_context() as connection:
            add(connection, 1, -10)
            add(connection, 2, 10)
            stage.proxy.hold_replies_to(b"COMMIT")
    assert isinstance(caught[0].__cause__, connection.Error)
    assert stage.committed() == MOVED
    assert_fit(stage)


@scenario(ON_MARIADB)
def commit_lost(stage: ServerStage) -> None:
    """A COMMIT that was lost on its way is one whose answer is lost: the caller can't tell."""
    with must_raise(CommitOutcomeUnknown) as caught:
        with stage.db.connection_context() as connection:
            add(connection, 1, -10)
            add(connection, 2, 10)
            stage.proxy.cut_before(b"COMMIT")
    assert isinstance(caught[0].__cause__, connection.Error)
    assert_untouched(stage)
    assert_fit(stage)


@scenario(ON_MARIADB)
def killed_before_commit(stage: ServerStage) -> None:
    """A connection that is gone before COMMIT is sent: an error, and not one that leaves doubt."""
    with must_raise(Exception) as caught:
        with stage.db.connection_context() as connection:
            add(connection, 1, -10)
            add(connection, 2, 10)
            stage.kill(connection)
    assert not isinstance(caught[0], CommitOutcomeUnknown)
    assert_untouched(stage)
    assert_fit(stage)


@scenario(ON_MARIADB, ["--innodb-lock-wait-timeout=1"])
def commit_refused(stage: ServerStage) -> None:
    """A COMMIT that the server refuses is the driver's error: nothing was committed, no lock
    stays, and there is no doubt.
    """
    try:
        with must_raise(Exception) as caught:
            with stage.db.connection_context() as connection:
                add(connection, 1, -10)
                add(connection, 2, 10)
                stage.server.execute("SET GLOBAL read_only = ON")
    finally:
        stage.server.execute("SET GLOBAL read_only = OFF")
    assert "read-only" in str(caught[0])
    assert not isinstance(caught[0], CommitOutcomeUnknown)
    assert_untouched(stage)
    assert_fit(stage)


@scenario(ON_SQLITE)
def commit_refused_by_a_constraint(stage: FileStage) -> None:
    """A COMMIT that a deferred constraint refuses is the driver's error, and nothing is left."""
    with stage.db.connection_context() as connection:
        run(
            connection,
            "CREATE TABLE child"
            " (id INTEGER REFERENCES accounts (id) DEFERRABLE INITIALLY DEFERRED)",
        )
    with must_raise(Exception) as caught:
        with stage.db.connection_context() as connection:
            run(connection, "PRAGMA foreign_keys=ON")
            run(connection, "INSERT INTO child VALUES (99)")
            add(connection, 1, -10)
    assert "FOREIGN KEY" in str(caught[0])
    assert_untouched(stage)
    assert_fit(stage)


# -- T6: interrupted, or not read to the end -----------------------------------------------------


class Timeout(BaseException):
    """One of the exceptions with which workers and libraries end what takes too long."""


def _interrupted_by(error: BaseException) -> None:
    def play(stage: ServerStage) -> None:
        """What interrupts a statement is what the caller sees; the connection is not used again."""
        with must_raise(type(error)) as caught:
            with stage.db.connection_context() as connection:
                before = connection_id(connection)
                add(connection, 1, -10)
                with signalled(error, statement_is_sent(stage, b"SELECT SLEEP")):
                    run(connection, "SELECT SLEEP(1)")
        assert caught == [error]
        with stage.db.connection_context() as connection:
            assert connection_id(connection) != before
        eventually(lambda: before not in stage.server.connections(), "the connection is closed")
        assert_untouched(stage)
        assert_fit(stage)

    play.__name__ = f"interrupted_by_{type(error).__name__.lower()}"
    scenario(ON_MARIADB)(play)


for _error in (
    SystemExit(1),
    KeyboardInterrupt(),
    GeneratorExit(),
    asyncio.CancelledError(),
    Timeout(),
):
    _interrupted_by(_error)


@scenario(ON_MARIADB)
def interrupted_and_swallowed(stage: ServerStage) -> None:
    """A caller that swallows what interrupted a statement can't go on with the connection."""
    error = Timeout()
    with must_raise(Exception):
        with stage.db.connection_context() as connection:
            add(connection, 1, -10)
            with must_raise(Timeout):
                with signalled(error, statement_is_sent(stage, b"SELECT SLEEP")):
                    run(connection, "SELECT SLEEP(1)")
            with must_raise(Exception):
                add(connection, 2, 10)
    assert_untouched(stage)
    assert_fit(stage)


@scenario(ON_SQLITE)
def interrupted_while_reading(stage: FileStage) -> None:
    """A signal in the middle of an endless SELECT: rolled back, and the pool lends on."""
    error = KeyboardInterrupt()
    with must_raise(KeyboardInterrupt) as caught:
        with stage.db.connection_context() as connection:
            add(connection, 1, -10)
            cursor = connection.cursor()
            cursor.execute(
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n"
            )
            with signalled(error, lambda: time.sleep(0.05)):
                while True:
                    cursor.fetchone()
    assert caught == [error]
    assert_untouched(stage)
    assert_fit(stage)


@scenario(EVERYWHERE, is_direct=True)
def half_read_on_commit(stage: Stage) -> None:
    """Rows that nobody read do not stand in the way of COMMIT, nor of the next lease."""
    with stage.db.connection_context() as connection:
        add(connection, 1, -10)
        add(connection, 2, 10)
        cursor = stage.streaming_cursor(connection)
        cursor.execute(stage.many_rows)
        assert cursor.fetchone() == (1,)
    assert stage.committed() == MOVED
    assert_fit(stage)


@scenario(EVERYWHERE, is_direct=True)
def half_read_on_rollback(stage: Stage) -> None:
    """Rows that nobody read do not stand in the way of a rollback, nor of the next lease."""
    error = LookupError("the caller's own")
    with must_raise(Exception) as caught:
        with stage.db.connection_context() as connection:
            add(connection, 1, -10)
            cursor = stage.streaming_cursor(connection)
            cursor.execute(stage.many_rows)
            assert cursor.fetchone() == (1,)
            raise error
    assert caught == [error]
    assert_untouched(stage)
    assert_fit(stage)


@scenario(EVERYWHERE, is_direct=True)
def half_read_and_dropped(stage: Stage) -> None:
    """The same where the cursor was dropped without being closed."""
    with stage.db.connection_context() as connection:
        add(connection, 1, -10)
        add(connection, 2, 10)
        cursor = stage.streaming_cursor(connection)
        cursor.execute(stage.many_rows)
        assert cursor.fetchone() == (1,)
        del cursor
        gc.collect()
    assert stage.committed() == MOVED
    assert_fit(stage)


@scenario(ON_MARIADB, is_direct=True)
def half_read_is_not_read_on(stage: ServerStage) -> None:
    """A connection with unread rows that is rolled back is closed, and not used again."""
    with must_raise(LookupError):
        with stage.db.connection_context() as connection:
            before = connection_id(connection)
            cursor = stage.streaming_cursor(connection)
            cursor.execute(stage.many_rows)
            cursor.fetchone()
            raise LookupError
    with stage.db.connection_context() as connection:
        assert connection_id(connection) != before


@scenario(EVERYWHERE, is_direct=True)
def abandoned_stream(stage: Stage) -> None:
    """A streamed response whose client goes away: rolled back, and its connection is back."""

    @stage.app.get("/stream")
    def stream() -> Response:
        def rows() -> Iterator[str]:
            with stage.db.connection_context() as connection:
                add(connection, 1, -10)
                cursor = stage.streaming_cursor(connection)
                cursor.execute(stage.many_rows)
                while (row := cursor.fetchone()) is not None:
                    yield f"{row[0]}\n"

        return Response(stream_with_context(rows()))

    response = stage.app.test_client().get("/stream", buffered=False)
    chunks = response.iter_encoded()
    assert next(chunks) == b"1\n"
    response.close()
    assert_untouched(stage)
    assert_fit(stage)


# -- T7: after release ----------------------------------------------------------------------------


@scenario(EVERYWHERE)
def cursor_used_after_release(stage: Stage) -> None:
    """A cursor that outlived its block can't touch what another one now holds."""
    with stage.db.connection_context() as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT 1")
        cursor.fetchall()
    with stage.db.connection_context() as other:
        run(other, "SELECT 1")
        with must_raise(Exception):
            cursor.execute("UPDATE accounts SET balance = 0 WHERE id = 1")
    assert_untouched(stage)


@scenario(EVERYWHERE)
def rows_fetched_after_release(stage: Stage) -> None:
    """A cursor that outlived its block can't read what another one asked for."""
    with stage.db.connection_context() as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT id FROM accounts")
    with must_raise(Exception):
        cursor.fetchall()
    assert_fit(stage)


@scenario(EVERYWHERE)
def connection_used_after_release(stage: Stage) -> None:
    """A connection that outlived its block can't touch what another one now holds."""
    with stage.db.connection_context() as connection:
        run(connection, "SELECT 1")
    with stage.db.connection_context() as other:
        add(other, 1, -10)
        for method in ("cursor", "commit", "rollback"):
            with must_raise(Exception):
                getattr(connection, method)()
        add(other, 2, 10)
    assert stage.committed() == MOVED


# -- nesting and what one scope leaves to the next -----------------------------------------------


@scenario(EVERYWHERE)
def inner_block_sees_the_outer_one(stage: Stage) -> None:
    """A block inside a block is a part of its transaction."""
    with stage.db.connection_context() as outer:
        add(outer, 1, -10)
        with stage.db.connection_context() as inner:
            assert run(inner, "SELECT balance FROM accounts WHERE id = 1") == [(90,)]


@scenario(ON_MARIADB)
def inner_block_ends_with_the_outer_one(stage: ServerStage) -> None:
    """What an inner block did is undone with the outer one."""
    with must_raise(LookupError):
        with stage.db.connection_context() as outer:
            add(outer, 1, -10)
            with stage.db.connection_context() as inner:
                add(inner, 2, 10)
            raise LookupError
    assert_untouched(stage)


@scenario(ON_MARIADB)
def autocommit_by_sql(stage: ServerStage) -> None:
    """Autocommit switched on by SQL in one lease does no harm to the next."""
    with stage.db.connection_context() as connection:
        run(connection, "SET autocommit = 1")
    assert_fit(stage)


@scenario(ON_MARIADB)
def autocommit_by_sql_before_reading(stage: ServerStage) -> None:
    """The same where the last statement of the lease returned rows."""
    with stage.db.connection_context() as connection:
        run(connection, "SET autocommit = 1")
        run(connection, "SELECT * FROM accounts")
    assert_fit(stage)


@scenario(EVERYWHERE)
def write_in_a_readonly_block(stage: Stage) -> None:
    """A write in a readonly block fails: it neither happens nor vanishes."""
    with stage.db.connection_context(readonly=True) as connection:
        run(connection, "SELECT * FROM accounts")
        with must_raise(Exception):
            add(connection, 1, -10)
    assert_untouched(stage)
    assert_fit(stage)


@scenario(ON_MARIADB)
def slow_statement(stage: ServerStage) -> None:
    """A statement that takes longer than its scope allows is ended by the server."""
    with stage.db.connection_context(statement_timeout=0.2) as connection:
        with must_raise(Exception):
            run(connection, "SELECT SLEEP(2)")
    with stage.db.connection_context() as connection:
        assert run(connection, "SELECT @@max_statement_time + 0") == [(0.0,)]
    assert_fit(stage)


@scenario(ON_MARIADB)
def statement_and_commit(stage: ServerStage) -> None:
    """A warm connection needs one round trip for each statement and one for COMMIT."""
    assert_fit(stage)
    stage.proxy.reset_counts()
    with stage.db.connection_context() as connection:
        add(connection, 1, -10)
        add(connection, 2, 10)
    assert stage.proxy.round_trips == 3
