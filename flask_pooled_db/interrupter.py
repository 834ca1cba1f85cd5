"""Time limits of statements that neither the server nor the driver keeps.

The pool keeps them: it interrupts the statement from outside, on MySQL by a KILL QUERY over another
connection.
"""

from __future__ import annotations

import functools
import logging
import threading
from collections import deque
from collections.abc import Mapping
from time import monotonic
from types import TracebackType
from typing import Any, Protocol, Self

from flask_pooled_db.drivers import Driver
from flask_pooled_db.housekeeping import housekeeper
from flask_pooled_db.threads import workers

logger = logging.getLogger("flask_pooled_db")


class Victim(Protocol):
    """What has to be known of a connection whose statement is interrupted."""

    raw: Any
    where: Mapping[str, Any]
    identity: Any


class Limit:
    """A block that runs one statement, which is interrupted when it takes longer than `seconds`.

    The block's end waits for an interruption under way, so that it hits nothing that comes later.
    """

    def __init__(self, interrupter: Interrupter, victim: Victim, seconds: float) -> None:
        self.victim = victim
        self.seconds = seconds
        self.was_interrupted = False
        self._interrupter = interrupter
        self._lock = threading.Lock()  # held during an interruption
        self._is_over = False
        self._elapsed = 0.0

    def __enter__(self) -> Self:
        self._started = monotonic()
        due = self.seconds + self._interrupter.driver.interruption_grace
        self._job = housekeeper.call_later(due, functools.partial(self._interrupter.order, self))
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._elapsed = monotonic() - self._started
        self._is_over = True
        self._job.cancel()
        with self._lock:
            pass

    @property
    def was_exceeded(self) -> bool:
        """Whether the statement took longer than it may, interrupted or not."""
        return self.was_interrupted or self._elapsed >= self.seconds

    def strike(self, helper: Helper) -> None:
        """Interrupt the statement if it is still running."""
        driver = self._interrupter.driver
        with self._lock:
            if self._is_over:
                return
            try:
                driver.interrupt(self.victim.raw, functools.partial(helper.connection, self.victim))
            except Exception as error:  # noqa: BLE001  whatever it is: the caller has waited enough
                logger.warning(
                    "Interrupting a statement after its time limit of %.3f s failed (%s); its "
                    "connection is cut instead",
                    self.seconds,
                    type(error).__name__,
                )
                driver.cut(self.victim.raw)
            self.was_interrupted = True


class Helper:
    """The connection that interrupts others, opened when it is needed."""

    def __init__(self, driver: Driver, timeout: float) -> None:
        self._driver = driver
        self._timeout = timeout
        self._raw: Any = None
        self._identity: Any = None

    def connection(self, victim: Victim) -> Any:
        """Return a connection to the victim's own server, which must answer in time."""
        if self._raw is None or self._identity != victim.identity:
            self.close()
            with workers.connecting():
                self._raw = self._driver.connect(victim.where)
            self._identity = self._driver.identity(self._raw)
        if self._identity != victim.identity:
            raise ConnectionError("the same address leads to another server now")
        return self._raw

    def close(self) -> None:
        """Close the connection, if there is one."""
        raw, self._raw = self._raw, None
        if raw is not None:
            self._driver.terminate(raw)

    def cut(self) -> None:
        """Let whoever waits for its server get an error, from any thread."""
        if self._raw is not None:
            self._driver.cut(self._raw)


class Interrupter:
    """Interrupts the statements of one pool, one after the other, in a thread that ends with them.

    Its connection is open for as long as there are statements to interrupt. It comes on top of
    `maxconnections`: a pool all of whose connections are busy is where it is needed.
    """

    def __init__(self, driver: Driver, timeout: float) -> None:
        self.driver = driver
        self._timeout = timeout
        self.after_fork()

    def after_fork(self) -> None:
        """Forget the orders, whose leases are the parent's."""
        self._lock = threading.Lock()  # guards the two that follow
        self._orders: deque[Limit] = deque()
        self._works = False

    def limit(self, victim: Victim, seconds: float) -> Limit:
        """Return a block that bounds one statement of a connection."""
        return Limit(self, victim, seconds)

    def order(self, limit: Limit) -> None:
        """Have a statement interrupted; does not wait for it."""
        with self._lock:
            self._orders.append(limit)
            starts, self._works = not self._works, True
        if not starts:
            return
        try:
            workers.start("interrupter", self._work)
        except RuntimeError:  # no more threads to be had: cutting a connection needs none
            while (left := self._next()) is not None:
                self.driver.cut(left.victim.raw)

    def _work(self) -> None:
        helper = Helper(self.driver, self._timeout)
        try:
            while (limit := self._next()) is not None:
                with housekeeper.bounded(self._timeout, helper.cut):
                    limit.strike(helper)
        finally:
            helper.close()

    def _next(self) -> Limit | None:
        with self._lock:
            if self._orders:
                return self._orders.popleft()
            self._works = False
            return None
