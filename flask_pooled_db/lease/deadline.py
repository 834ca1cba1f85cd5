"""Deadlines: how long a block may wait for its databases in all."""

from __future__ import annotations

import inspect
import sys
import weakref
from collections.abc import Iterable
from contextvars import ContextVar
from time import monotonic
from types import FrameType, TracebackType
from typing import Any, Protocol, Self

from flask_pooled_db.errors import DeadlineExceeded, PoolTimeout, UsageError
from flask_pooled_db.lease import refusals
from flask_pooled_db.lease.enclosing import holder_of
from flask_pooled_db.lease.openscopes import scopes_of
from flask_pooled_db.lease.owner import current_owner

TOLERANCE = 0.1
"""By which part of itself a limit may differ from the one that a session has, which then stays: to
change it would take a round trip."""

_SHORTEST = 0.01
"""Seconds that a statement gets at least, if it may begin: the server must not round them to 0."""


class Bounded(Protocol):
    """A lease, as far as a deadline goes."""

    owner: Any

    def watch_time(self) -> None:
        """Look at the time before each statement from now on."""


class Deadline:
    """The block of `deadline()`. It can be entered once.

    It binds whoever enters it, and the tasks and threads that begin with a copy of its context,
    for as long as the block is open. Contexts know it by a weak reference, so that a generator that
    was dropped amid the block binds nobody. One that is suspended there binds nobody meanwhile.
    """

    __slots__ = (
        "__weakref__",
        "_ends",
        "_frame",
        "_is_open",
        "_leases",
        "_was_begun",
        "seconds",
        "what",
    )

    def __init__(self, seconds: float, what: str, leases: Iterable[Bounded] = ()) -> None:
        """`leases` are those that may be in use already, beside those of open scopes. `what` is how
        messages name it.
        """
        self.seconds = seconds
        self.what = what
        self._ends = seconds  # from its beginning on; then it is a time of the clock
        self._leases = leases
        self._is_open = False
        self._was_begun = False
        self._frame: FrameType | None = None  # of the generator that it is in

    def __enter__(self) -> Self:
        frame = holder_of(sys._getframe(1))
        if frame is not None and frame.f_code.co_flags & inspect.CO_GENERATOR:
            self._frame = frame  # a coroutine has a context of its own
        self.begin()
        owner = current_owner()
        for lease in list(self._leases):
            if lease.owner == owner:
                lease.watch_time()
        for scope in scopes_of(owner).newest_first():
            scope.watch_time()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.end()

    def begin(self) -> None:
        """Bind the current context."""
        if self._was_begun:
            raise UsageError("a deadline() can be entered once: make a new one")
        self._was_begun = True
        self._ends += monotonic()
        self._is_open = True
        alive = (one for one in around.get() if one() is not None)
        around.set((*alive, weakref.ref(self)))

    def end(self) -> None:
        """Bind nobody any more. It may be called in any context, and again."""
        self._is_open, self._frame = False, None
        around.set(tuple(one for one in around.get() if one() is not self))

    @property
    def is_in_effect(self) -> bool:
        """Whether it binds those whose context knows it."""
        frame = self._frame
        return self._is_open and (frame is None or frame.f_back is not None)

    @property
    def ends(self) -> float:
        """When it ends, by the monotonic clock."""
        return self._ends

    def left(self) -> float:
        """Return the seconds that are left of it; none or less if it has passed."""
        return self._ends - monotonic()

    def time_to_run(self) -> float:
        """Return how long a statement may run. Raises `DeadlineExceeded` if it may not begin."""
        left = self.left()
        if left <= 0:
            raise refusals.out_of_time(self.what, self.seconds)
        return max(left, _SHORTEST)

    def exceeded(self, drivers: Any) -> DeadlineExceeded:
        """Return the error of a statement that it has ended; `drivers` is a class of errors of the
        driver's, which it is too.
        """
        return refusals.ended_in_time(self.what, self.seconds, drivers)


Around = tuple["weakref.ref[Deadline]", ...]

around: ContextVar[Around] = ContextVar("flask_pooled_db_deadlines", default=())
"""The deadlines that a context knows. Some of them may have ended."""


def nearest() -> Deadline | None:
    """Return the deadline that the caller is bound by and that ends first."""
    found: Deadline | None = None
    for reference in around.get():
        one = reference()
        if one is not None and one.is_in_effect and (found is None or one.ends < found.ends):
            found = one
    return found


def time_to_wait(timeout: float | None, usual: float) -> float | None:
    """Return how many seconds the caller may wait for a connection: `timeout` (None: as `usual`),
    or what is left of a deadline. Raises `DeadlineExceeded` if nothing is.
    """
    deadline = nearest()
    if deadline is None:
        return timeout
    left = deadline.left()
    if left <= 0:
        raise refusals.out_of_time(deadline.what, deadline.seconds)
    return left if left < (usual if timeout is None else timeout) else timeout


def tell_limit(error: BaseException) -> None:
    """Have a `PoolTimeout` say that a deadline was the limit of the wait, if it was."""
    deadline = nearest() if isinstance(error, PoolTimeout) else None
    if deadline is not None and deadline.left() <= 0:
        error.args = (f"{error}; {deadline.what} left no more time to wait",)


def fits(limit: float, wanted: float) -> bool:
    """Return whether a session's limit serves for the one that is wanted."""
    return wanted * (1 - TOLERANCE) <= limit <= wanted / (1 - TOLERANCE)
