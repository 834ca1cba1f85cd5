"""Scenarios, and what they are made of."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any, Generic, TypeVar

import psycopg
import pymysql

from harness.waiting import PATIENCE, wait_until
from harness.workloads import add, connection_id, run
from tests.support.stages import UNTOUCHED, ServerStage, Stage, join

ON_MARIADB = ("pymysql", "mariadbconnector")
ON_SQLITE = ("sqlite",)
EVERYWHERE = ON_MARIADB + ON_SQLITE
MOVED = {**UNTOUCHED, 1: 90, 2: 110}
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
    client = _client(stage)
    number = connection_id(client)
    waiting = None
    try:
        for account in holds:
            for _ in range(20):  # much changed, much to roll back: the deadlock's victim is another
                add(client, account, 1)
        if then is not None:
            waiting = threading.Thread(target=_lock, args=(client, then), daemon=True)
            waiting.start()
            wait_until(lambda: _waits(stage, number), "the rival waits for its lock", 0.2)
        yield
    except BaseException:
        stage.server.kill_connection(number)
        raise
    finally:
        if waiting is not None:
            join(waiting)
        with contextlib.suppress(client.Error):
            client.rollback()
            client.close()


def _client(stage: ServerStage) -> Any:
    if stage.driver != "psycopg":
        return pymysql.connect(**stage.server.connect_args(stage.database), ssl_disabled=True)
    client = psycopg.connect(stage.server.url("psycopg", stage.database).replace("+psycopg", ""))
    client.execute("SET deadlock_timeout = '60s'")  # the victim is who looks, which is the other
    client.commit()
    return client


def _lock(client: Any, account: int) -> None:
    with contextlib.suppress(client.Error):  # it was killed
        add(client, account, 1)
        client.rollback()


def _waits(stage: ServerStage, number: int) -> bool:
    if stage.driver == "psycopg":
        waits = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND pid = %s"
        return bool(stage.server.query(waits, number))
    # This table is a cache, which is brought up to date once nobody has read it for 0.1 s.
    return bool(
        stage.server.query(
            "SELECT 1 FROM information_schema.innodb_trx"
            " WHERE trx_state = 'LOCK WAIT' AND trx_mysql_thread_id = %s",
            number,
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
        stage.proxy.wait_for_command(prefix, PATIENCE)
        wait_until(lambda: _works_on(stage, prefix), "the server works on the statement")

    return wait


def _works_on(stage: ServerStage, prefix: bytes) -> bool:
    if stage.driver == "psycopg":
        return any(sql.startswith(prefix.decode()) for sql in stage.server.statements())
    rows = stage.server.query("SHOW FULL PROCESSLIST")  # Id, User, Host, db, …, Info
    return any(
        row[3] == stage.database and (row[7] or "").startswith(prefix.decode()) for row in rows
    )
