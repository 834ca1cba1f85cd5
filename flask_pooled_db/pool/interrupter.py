"""Time limits of statements that neither the server nor the driver keeps.

The pool keeps them: it interrupts the statement from outside, on MySQL by a KILL QUERY over another
connection. In the same way it ends what the server does for a task that was cancelled.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
from collections import deque
from collections.abc import Callable
from time import monotonic
from types import TracebackType
from typing import Any, Self

from flask_pooled_db.drivers import Driver
from flask_pooled_db.pool.entry import Entry, Origin
from flask_pooled_db.runtime import guard, housekeeper, reporter, workers

logger = logging.getLogger("flask_pooled_db")

REPEAT_INTERVAL = 0.25
"""Seconds between two interruptions of a statement that goes on: one that reaches the server before
the statement, or that the statement's own code handles, is lost."""

END_GRACE = 1.0
"""Seconds beyond its own time limits that the end of a statement waits for an interruption."""


class IsOverError(Exception):
    """There is nothing to interrupt: the statement has ended, or was not sent."""


class Limit:
    """A block that runs one statement, which is interrupted when it takes longer than `seconds`.

    It is interrupted again and again while it goes on. After `patience` seconds more its connection
    is cut. The block's end waits for an interruption under way, so that it hits nothing that comes
    later.
    """

    def __init__(
        self, interrupter: Interrupter, victim: Entry, seconds: float, patience: float
    ) -> None:
        self.victim = victim
        self.seconds = seconds
        self.interruptions = 0
        self.was_cut = False
        self._interrupter = interrupter
        self._patience = patience
        self._ending = threading.Lock()  # guards what follows, and `was_cut`
        # Of the last interruption, which lets go of it at its end. Who waits for that keeps it: an
        # exception of its own can't leave a lock taken that the next interruption would wait for.
        self._striking: threading.Lock | None = None
        self._is_over = False
        self._elapsed = 0.0

    def __enter__(self) -> Self:
        self._started = monotonic()
        due = self.seconds + self.victim.driver.interruption_grace
        self._gives_up_at = self._started + due + self._patience
        self._job = housekeeper.call_later(due, self._act)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._elapsed = monotonic() - self._started
        with self._ending:
            self._is_over, striking = True, self._striking
        self._job.cancel()
        if striking is not None and not striking.acquire(timeout=self._patience + END_GRACE):
            self.victim.condemn("the interruption of a statement of it hangs")

    @property
    def was_exceeded(self) -> bool:
        """Whether the statement took longer than it may, interrupted or not."""
        return self.interruptions > 0 or self._elapsed >= self.seconds

    def _act(self) -> None:
        """Have the statement interrupted, and look again in a while. The housekeeper calls it."""
        if monotonic() >= self._gives_up_at:
            reporter.tell(
                logger.warning,
                "A statement goes on %.3f s after its time limit of %.3f s, although it was to be "
                "interrupted; its connection is cut",
                self._patience,
                self.seconds,
            )
            self.cut()
        elif not self._is_over:
            self._interrupter.order(self)
            self._job = housekeeper.call_later(REPEAT_INTERVAL, self._act)

    def cut(self) -> None:
        """Cut the connection if the statement is still running. It raises nothing: others are to be
        interrupted as well.
        """
        try:
            with self._ending:
                if not self._is_over:
                    self.was_cut = True
                    self.victim.driver.cut(self.victim.raw)
        except Exception as error:  # noqa: BLE001  whatever the driver says
            text = "Cutting the connection of a statement after its time limit failed (%s)"
            reporter.tell(logger.warning, text, type(error).__name__)

    def strike(self, helper: Helper) -> None:
        """Interrupt the statement if it is still running. It raises nothing, like `cut()`."""
        striking = threading.Lock()
        striking.acquire()
        with self._ending:
            if self._is_over:
                return
            self._striking = striking
        try:
            self._strike(helper)
        finally:
            striking.release()

    def _strike(self, helper: Helper) -> None:
        try:
            connection = functools.partial(self._connection, helper)
            self.victim.driver.interrupt(self.victim.raw, connection)
            self.interruptions += 1
        except IsOverError:
            return
        except BaseException as error:  # noqa: BLE001  whatever it is: the caller has waited enough
            self.interruptions += 1  # its answer may have been lost
            reporter.tell(
                logger.warning,
                "Interrupting a statement after its time limit of %.3f s failed (%s); its "
                "connection is cut instead",
                self.seconds,
                type(error).__name__,
            )
            self.cut()

    def _connection(self, helper: Helper) -> Any:
        raw = helper.connection(self.victim.origin)  # opening it takes a while
        if self._is_over:
            raise IsOverError
        return raw


class Helper:
    """The connection that interrupts others, opened when it is needed."""

    def __init__(self, driver: Driver, timeout: float) -> None:
        self._source = driver
        self._timeout = timeout
        self._driver = driver  # that opened the connection
        self._raw: Any = None
        self._identity: Any = None

    def connection(self, victims: Origin) -> Any:
        """Return a connection to the victim's own server, which must answer in time."""
        if self._raw is None or self._identity != victims.identity:
            self.close()
            with workers.connecting():
                self._driver = self._source.for_connect()
                self._raw = self._driver.connect(victims.where)
            self._identity = self._driver.identity(self._raw)
        if self._identity != victims.identity:
            raise ConnectionError("the same address leads to another server now")
        return self._raw

    def close(self) -> None:
        """Close the connection, if there is one."""
        raw, self._raw = self._raw, None
        if raw is not None:
            with contextlib.suppress(Exception):  # it is gone, which is what was wanted
                self._driver.terminate(raw)

    def cut(self) -> None:
        """Let whoever waits for its server get an error, from any thread."""
        if self._raw is not None:
            self._driver.cut(self._raw)


class Ending:
    """What a server still does for a connection that was cut, which is to end."""

    def __init__(self, victims: Origin, end: Callable[[Callable[[], Any]], object]) -> None:
        self._victims = victims
        self._end = end

    def strike(self, helper: Helper) -> None:
        """End it."""
        try:
            self._end(functools.partial(self._connection, helper))
        except IsOverError:
            return
        except Exception as error:  # noqa: BLE001  whatever it is: nobody waits for it
            reporter.tell(
                logger.warning,
                "A statement of a cancelled task goes on at its server, which could not be told "
                "(%s): it holds its locks until it ends",
                type(error).__name__,
            )

    def _connection(self, helper: Helper) -> Any:
        victims = self._victims
        # Its server is asked who it is before the first statement that may have to be ended. So the
        # connection was cut before that, and nothing is left to be ended.
        if victims.identity is None and not victims.is_unasked:
            raise IsOverError
        return helper.connection(victims)

    def cut(self) -> None:
        """Do nothing: the connection is cut already."""


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
        self._orders: deque[Limit | Ending] = deque()
        self._works = False

    def limit(self, victim: Entry, seconds: float) -> Limit:
        """Return a block that bounds one statement of a connection."""
        return Limit(self, victim, seconds, self._timeout)

    def end(self, victim: Entry) -> None:
        """Cut a connection, and have the server end what it still does for it; does not wait for
        that.
        """
        end = victim.link.ending()  # first: once it is cut, whoever is at work with it may close it
        origin = victim.origin
        is_late = origin.identity is None and not origin.is_unasked
        if end is not None and not is_late:
            self.order(Ending(origin, end))
        if end is not None and victim.driver.cut_after:
            housekeeper.call_later(victim.driver.cut_after, victim.link.stop)
        else:
            victim.link.stop()
        if end is not None and is_late:  # a statement that was not sent by now never will be
            self.order(Ending(origin, end))

    def order(self, limit: Limit | Ending) -> None:
        """Have a statement interrupted; does not wait for it."""
        try:
            with guard.lock:
                if limit not in self._orders:
                    self._orders.append(limit)
        finally:
            # `Thread.start()` blocks, and a caller could be interrupted inside it.
            housekeeper.call_later(0.0, self._begin)

    def _begin(self) -> None:
        """Start the thread, if it has something to do and is not at work. The housekeeper calls
        this, in which no signal handler runs.
        """
        with guard.lock:
            starts = bool(self._orders) and not self._works
            self._works = self._works or starts
        if not starts:
            return
        try:
            helper = Helper(self.driver, self._timeout)
            workers.start("interrupter", functools.partial(self._work, helper))
        except Exception:  # noqa: BLE001  no more threads: cutting a connection needs none
            while (left := self._next()) is not None:
                left.cut()

    def _work(self, helper: Helper) -> None:
        try:
            while (limit := self._next()) is not None:
                with housekeeper.bounded(self._timeout, helper.cut):
                    limit.strike(helper)
        except BaseException:
            self._works = False
            housekeeper.call_later(0.0, self._begin)  # another goes on with what is left
            raise
        finally:
            helper.close()

    def _next(self) -> Limit | Ending | None:
        with guard.lock:
            if self._orders:
                return self._orders.popleft()
            self._works = False
            return None
