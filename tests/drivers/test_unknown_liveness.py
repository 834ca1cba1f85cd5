"""P4 for modules that the package does not know: whether a connection is alive."""

from __future__ import annotations

import os
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest

from flask_pooled_db.config import PoolConfig
from flask_pooled_db.drivers import make_driver
from flask_pooled_db.errors import PoolTimeout
from harness.waiting import wait_until
from tests.drivers.generic import MODULES, keys, value
from tests.support.pools import check_counts, open_pool
from tests.support.rawdb import rawdb


@pytest.fixture(scope="module")
def url(postgresql: str) -> str:
    """The URL of an empty database on PostgreSQL."""
    return postgresql


@pytest.fixture(params=MODULES)
def module(request: pytest.FixtureRequest) -> ModuleType:
    """Each module."""
    found: ModuleType = MODULES[request.param]
    return found


@pytest.fixture
def admin(url: str) -> Iterator[Any]:
    """Return the first value of a statement that is run over a connection of its own."""
    raw = MODULES["pg8000"].connect(**keys(MODULES["pg8000"], url)["connect_args"])
    raw.autocommit = True
    yield lambda sql: value(raw, sql)
    raw.close()


def is_gone(admin: Callable[[str], Any], pid: int) -> bool:
    return not admin(f"SELECT count(*) FROM pg_stat_activity WHERE pid = {pid}")


def test_p4_terminated_connection(module: ModuleType, url: str, admin: Any) -> None:
    """An idle connection that the server has ended is replaced before it is lent."""
    with open_pool(ping_after=0, maxconnections=1, **keys(module, url)) as pool:
        with pool.lease() as conn:
            victim = value(conn, "SELECT pg_backend_pid()")
        pool.engine.state.idle[0].valid_until = 0.0
        admin(f"SELECT pg_terminate_backend({victim})")
        wait_until(lambda: is_gone(admin, victim))
        with pool.lease() as conn:
            assert value(conn, "SELECT pg_backend_pid()") != victim


def test_p4_look_at_socket(url: str, admin: Any) -> None:
    """Where the connection tells its socket, a look at it is enough, as for known modules."""
    with open_pool(ping_after=100, maxconnections=1, **keys(MODULES["psycopg2"], url)) as pool:
        with pool.lease() as conn:
            victim = value(conn, "SELECT pg_backend_pid()")
        admin(f"SELECT pg_terminate_backend({victim})")
        wait_until(lambda: is_gone(admin, victim))
        with pool.lease() as conn:
            assert value(conn, "SELECT pg_backend_pid()") != victim


def test_p4_ping_leaves_no_transaction(module: ModuleType, url: str, admin: Any) -> None:
    """A connection that was pinged is not in a transaction, at a checkout and by `ping()`."""
    with open_pool(ping_after=0, maxconnections=1, **keys(module, url)) as pool:
        with pool.lease() as conn:
            pid = value(conn, "SELECT pg_backend_pid()")
        state = f"SELECT state FROM pg_stat_activity WHERE pid = {pid}"
        pool.engine.state.idle[0].valid_until = 0.0
        with pool.lease() as conn:
            assert admin(state) == "idle"
            conn.ping()
            assert admin(state) == "idle"
            assert value(conn, "SELECT pg_backend_pid()") == pid
            conn.ping()
            assert admin(state) == "idle in transaction"


def test_t4_ping_in_transaction(module: ModuleType, url: str) -> None:
    """A `ping()` in a transaction undoes nothing."""
    with open_pool(**keys(module, url)) as pool:
        with pool.lease() as conn:
            conn.cursor().execute("CREATE TABLE pinged AS SELECT 1")
            conn.ping()
            conn.commit()
        with pool.lease() as conn:
            conn.cursor().execute("DROP TABLE pinged")
            conn.commit()


def test_p4_silent_server(module: ModuleType, url: str) -> None:
    """A ping that gets no answer takes no longer than CONNECT_TIMEOUT, and costs its connection:
    also where nothing can end the call.
    """
    with open_pool(
        ping_after=0, maxconnections=1, connect_timeout=0.5, **keys(module, url)
    ) as pool:
        with pool.lease() as conn:
            pid = value(conn, "SELECT pg_backend_pid()")
        raw = pool.engine.state.idle[0].raw
        pool.engine.state.idle[0].valid_until = 0.0
        os.kill(pid, signal.SIGSTOP)
        try:
            started = time.monotonic()
            with pool.lease(timeout=30) as conn:
                assert value(conn, "SELECT pg_backend_pid()") != pid
                assert time.monotonic() - started < 5
                assert check_counts(pool).open == 1
        finally:
            os.kill(pid, signal.SIGCONT)
        wait_until(lambda: not any("pinger" in each.name for each in threading.enumerate()))
        wait_until(lambda: is_closed(raw))


def is_closed(raw: Any) -> bool:
    try:
        raw.cursor().execute("SELECT 1")
    except Exception:
        return True
    return False


def test_p2_silent_server(module: ModuleType, url: str) -> None:
    """A caller waits for a ping up to its own deadline."""
    with open_pool(ping_after=0, maxconnections=1, connect_timeout=60, **keys(module, url)) as pool:
        with pool.lease() as conn:
            pid = value(conn, "SELECT pg_backend_pid()")
        pool.engine.state.idle[0].valid_until = 0.0
        os.kill(pid, signal.SIGSTOP)
        try:
            started = time.monotonic()
            with pytest.raises(PoolTimeout):
                pool.lease(timeout=0.3)
            assert time.monotonic() - started < 5
        finally:
            os.kill(pid, signal.SIGCONT)


# What a ping() of its own says


class Pinged(sqlite3.Connection):
    """A connection whose `ping()` a test sets, and that keeps the statements that it ran."""

    ping: Any

    def cursor(self, *args: Any) -> Any:
        return Counting(self)


class Counting(sqlite3.Cursor):
    """A cursor whose statements fail as a test says, and are counted."""

    statements: list[str]
    errors: list[BaseException]

    def execute(self, sql: str, *args: Any) -> Any:
        self.statements.append(sql)
        if self.errors:
            raise self.errors.pop(0)
        return super().execute(sql, *args)


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The statements that were run; none of them fails."""
    monkeypatch.setattr(Counting, "statements", [], raising=False)
    monkeypatch.setattr(Counting, "errors", [], raising=False)
    return Counting.statements


def ping(method: Any) -> Any:
    """Ping a connection of an unknown module that has this `ping()`."""
    driver = make_driver(PoolConfig.from_mapping({"CREATOR": rawdb()}))
    raw = sqlite3.connect(":memory:", factory=Pinged)
    try:
        if method is not None:
            raw.ping = method
        return driver.ping(raw)
    finally:
        raw.close()


def unimplemented(*args: object) -> None:
    raise AttributeError("ping")


def greedy(one: object, other: object) -> None:
    """Want two arguments."""


def plain() -> bool:
    return True


def careful(reconnect: bool = True) -> bool:
    return not reconnect


def deprecating(*args: object) -> None:
    if args:
        raise DeprecationWarning("reconnect")


@pytest.mark.parametrize("method", [None, "a text", unimplemented, greedy])
def test_p4_ping_not_available(statements: list[str], method: Any) -> None:
    """A connection without a `ping()` that can be called runs a statement."""
    ping(method)
    assert statements == ["SELECT 1"]


@pytest.mark.parametrize("method", [lambda *_: None, plain, careful, deprecating])
def test_p4_ping_says_alive(statements: list[str], method: Any) -> None:
    """A `ping()` that returns None, or anything true, says that the connection is alive; it is
    told not to reconnect.
    """
    assert not ping(method)
    assert statements == []


def fail(*_: object) -> None:
    raise sqlite3.OperationalError("gone")


@pytest.mark.parametrize("method", [lambda *_: False, lambda *_: 0, fail])
def test_p4_ping_says_dead(statements: list[str], method: Any) -> None:
    """A `ping()` that returns False, or raises, says that it is dead."""
    with pytest.raises(sqlite3.OperationalError):
        ping(method)
    assert statements == []


@pytest.mark.parametrize(
    ("errors", "count"),
    [
        ([sqlite3.ProgrammingError("FROM keyword not found")], 1),
        ([sqlite3.DatabaseError("ORA-00923"), sqlite3.NotSupportedError("what?")], 2),
        ([sqlite3.Error("HY000"), sqlite3.DataError("?")], 2),
    ],
)
def test_p4_ping_statement_refused(
    statements: list[str], errors: list[BaseException], count: int
) -> None:
    """A server that finds fault with the statement is alive; if the error does not say so, another
    statement is tried.
    """
    Counting.errors.extend(errors)
    ping(None)
    assert len(statements) == count


@pytest.mark.parametrize("error", [sqlite3.OperationalError, sqlite3.InterfaceError, OSError])
def test_p4_ping_statement_fails(statements: list[str], error: type[Exception]) -> None:
    """No statement that gets through, or the error of a lost connection, says that it is dead."""
    Counting.errors.extend([error("no") for _ in range(10)])
    with pytest.raises(error):
        ping(None)
    assert len(statements) == (4 if error is OSError else 1)
