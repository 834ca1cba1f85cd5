"""A driver without a server, for the interleavings that no server can show at will."""

from __future__ import annotations

import socket
import threading
from collections import deque
from collections.abc import Callable
from types import ModuleType
from typing import Any

from flask_pooled_db.drivers import Driver, Failure
from flask_pooled_db.runtime import guard
from harness.waiting import PATIENCE


class Error(Exception):
    """The root of the fake module's errors."""


class OperationalError(Error):
    """Something outside of the program's hands: the connection is lost."""


class InterfaceError(Error):
    """Wrong use of the interface."""


class InternalError(Error):
    """Something inside the database."""


class WrongPassword(Error):
    """A failure to connect that another try won't mend."""


def _module(threadsafety: int) -> ModuleType:
    module = ModuleType("fakedb")
    classes = (Error, OperationalError, InterfaceError, InternalError)
    module.__dict__.update({cls.__name__: cls for cls in classes})
    module.__dict__.update(apilevel="2.0", threadsafety=threadsafety, paramstyle="format")
    return module


class Gate:
    """Stops every thread that comes to it until it is opened."""

    def __init__(self) -> None:
        self._arrivals = threading.Semaphore(0)
        self._opened = threading.Event()

    def stop_here(self) -> None:
        self._arrivals.release()
        assert self._opened.wait(PATIENCE), "nobody opened the gate"

    def wait_for_arrivals(self, count: int = 1) -> None:
        """Return when so many threads more have come to the gate."""
        for _ in range(count):
            assert self._arrivals.acquire(timeout=PATIENCE), "nobody came to the gate"

    def open(self) -> None:
        """Let all pass, from now on."""
        self._opened.set()


class FakeConnection:
    """The driver's own connection: what it is asked for is put on record by its driver."""

    def __init__(self, driver: FakeDriver, number: int) -> None:
        self.driver = driver
        self.number = number
        self.closed = False
        self.socket, self.server_side = socket.socketpair()

    def __repr__(self) -> str:
        return f"<FakeConnection {self.number}>"

    def cursor(self) -> FakeCursor:
        if self.closed:
            raise InterfaceError("the connection is closed")
        self.driver.note("cursor", self)
        return FakeCursor(self)

    def commit(self) -> None:
        self.driver.note("commit", self)

    def rollback(self) -> None:
        self.driver.note("rollback", self)

    def close(self) -> None:
        self.driver.note("close", self)
        if not self.closed:
            self.closed = True
            self.socket.close()
            self.server_side.close()
            self.driver.gone()

    def die(self) -> None:
        """The server ends the connection."""
        self.server_side.close()

    def __del__(self) -> None:
        self.socket.close()
        self.server_side.close()


class FakeCursor:
    """A cursor that puts its statements on record."""

    description = None
    rowcount = 0
    arraysize = 1

    def __init__(self, raw: FakeConnection) -> None:
        self.raw = raw

    def execute(self, sql: str, parameters: object = None) -> None:
        self.raw.driver.note(sql, self.raw)

    def fetchone(self) -> tuple[int]:
        return (self.raw.number,)

    def close(self) -> None:
        self.raw.driver.note("close cursor", self.raw)


class FakeDriver(Driver):
    """Connects to nothing, counts, and fails or stops where a test says so.

    What it is asked for is a word ("connect", "ping", "close", ...) or the text of a statement.
    `watch` makes it see whether the lock is held by who calls it.
    """

    module = "fakedb"

    def __init__(self, threadsafety: int = 1, connect_timeout: float = 5.0) -> None:
        module = _module(threadsafety)
        self._numbers = 0
        self._guard = threading.Lock()  # guards what follows
        self.record: list[tuple[str, int]] = []
        self.open_now = 0
        self.most_open = 0
        self._gates: dict[str, Gate] = {}
        self._failures: dict[str, deque[BaseException]] = {}
        self._always: dict[str, Callable[[], BaseException]] = {}
        self.is_deaf = False
        self.resets = False
        self.raws: dict[int, FakeConnection] = {}
        self.violations: list[str] = []
        self._is_watching = False
        module.connect = self._connect  # type: ignore[attr-defined]
        super().__init__(module, module, {}, connect_timeout)
        self.statement_errors = (Error,)  # `failures` come first

    # What a test says

    def hold(self, what: str) -> Gate:
        """A gate that all who ask for this come to, until it is opened."""
        with self._guard:
            gate = self._gates[what] = Gate()
        return gate

    def fail(self, what: str, *errors: BaseException) -> None:
        """The next ones who ask for this get these errors, one each."""
        with self._guard:
            self._failures.setdefault(what, deque()).extend(errors)

    def fail_always(self, what: str, make: Callable[[], BaseException]) -> None:
        """All who ask for this get an error, until `mend`."""
        with self._guard:
            self._always[what] = make

    def mend(self, what: str) -> None:
        """No errors any more for those who ask for this."""
        with self._guard:
            self._always.pop(what, None)
            self._failures.pop(what, None)

    def count(self, what: str) -> int:
        """How often this was asked for."""
        with self._guard:
            return sum(event == what for event, _ in self.record)

    def take_most_open(self) -> tuple[int, int]:
        """The most that were open since the last call of this, and how many are now."""
        with self._guard:
            most, self.most_open = self.most_open, self.open_now
            return most, self.open_now

    # What happens

    def note(self, what: str, raw: FakeConnection | None) -> None:
        self.look_at_lock(what)
        with self._guard:
            self.record.append((what, raw.number if raw else 0))
            gate = self._gates.get(what)
            failures = self._failures.get(what)
            error = failures.popleft() if failures else None
            make = self._always.get(what)
        if gate is not None:
            gate.stop_here()
        if error is None and make is not None:
            error = make()
        if error is not None:
            raise error

    def look_at_lock(self, what: str) -> None:
        if self._is_watching and guard.is_inside():
            self.violations.append(what)

    def gone(self) -> None:
        with self._guard:
            self.open_now -= 1

    def _connect(self) -> FakeConnection:
        with self._guard:
            self._numbers += 1
            number = self._numbers
            self.open_now += 1  # also while it is being opened
            self.most_open = max(self.most_open, self.open_now)
        try:
            self.note("connect", None)
        except BaseException:
            self.gone()
            raise
        raw = self.raws[number] = FakeConnection(self, number)
        return raw

    # The adapter's side

    def fileno(self, raw: Any) -> int | None:
        self.look_at_lock("fileno")
        return None if raw.closed else int(raw.socket.fileno())

    def ping(self, raw: Any) -> None:
        self.note("ping", raw)
        if self.is_deaf and not raw.socket.recv(1):
            raise OperationalError("nobody answered, and the socket was shut")

    def classify(self, raw: Any, error: BaseException) -> Failure:
        # As a server whose errors are known: each leaves the transaction as it was.
        failure = super().classify(raw, error)
        return Failure.STATEMENT if failure is Failure.DOOMED else failure

    def reset_session(self, raw: Any, fresh: Any) -> bool:
        self.note("reset", raw)
        return self.resets

    def checkpoint(self, raw: Any) -> None:
        self.note("checkpoint", raw)

    def cut(self, raw: Any) -> None:
        self.look_at_lock("cut")
        super().cut(raw)

    def terminate(self, raw: Any) -> None:
        self.look_at_lock("terminate")
        super().terminate(raw)

    def detach(self, raw: Any) -> None:
        self.look_at_lock("detach")
        super().detach(raw)

    def watch(self) -> None:
        """Report in `violations` what is asked for by who holds the lock of the package."""
        self._is_watching = True
