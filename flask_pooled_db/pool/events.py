"""What a pool and its leases tell whoever watches them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

from flask_pooled_db.pool.holding import Holder
from flask_pooled_db.runtime.callers import Place


class Events(Protocol):
    """The events of one pool. They are told without any lock held, by the thread they happen in.

    An implementation must be quick, must not block, and must not raise. What happens at each
    checkout and at each return is no event: the pool counts it where it holds its lock anyway.
    """

    def opened(self, seconds: float) -> None:
        """A connection was opened, which took so many seconds."""

    def connect_failed(self, error: BaseException) -> None:
        """A connect failed, or hangs beyond its time limit."""

    def went_down(self, error: BaseException) -> None:
        """Connecting failed for the first time in a row, or a server does not answer."""

    def came_back(self) -> None:
        """Connecting has succeeded after it had failed."""

    def queued(self) -> None:
        """A caller has to wait for a connection."""

    def waited(self, seconds: float, holders: Callable[[], Sequence[Holder]]) -> None:
        """A caller got a connection that it had to wait for, or that had to be checked first.
        `holders` tells who holds connections now.
        """

    def bind_waited(self, seconds: float, holders: Callable[[], Sequence[Holder]]) -> None:
        """A caller had to wait for so long until the bind could be opened. `holders` tells who
        holds connections of those that are open.
        """

    def timed_out(self, seconds: float, holders: Callable[[], Sequence[Holder]]) -> None:
        """A caller got no connection in this time. `holders` tells who holds connections now."""

    def found_dead(self) -> None:
        """A connection that was about to be lent was found dead: another one takes its place."""

    def was_reset(self) -> None:
        """The session of a connection was reset."""

    def evicted(self, reason: str) -> None:
        """A connection was closed by the pool, for this reason: see `evictions.kind_of`."""

    def leaked(self, place: Place | None) -> None:
        """A lease was taken back from an owner that did not return it. `place` is where it was
        taken, if that is known.
        """

    def overdue(self, place: Place | None, seconds: float) -> None:
        """A lease has been out for these seconds, and for longer than the leak threshold."""

    def committed(self) -> None:
        """A lease committed its transaction."""

    def rolled_back(self) -> None:
        """A lease rolled its transaction back, as its caller wanted."""

    def aborted(self, cause: BaseException | None) -> None:
        """A transaction was lost, or could not be committed, because of `cause` if it is known."""

    def outcome_unknown(self) -> None:
        """The answer to a COMMIT was lost."""

    def implicitly_committed(self) -> None:
        """SQL text has committed what came before it."""

    def forked(self) -> None:
        """This is a forked child: what was told so far was told of its parent's pool."""


class NoEvents:
    """Nobody watches."""

    __slots__ = ()

    def opened(self, seconds: float) -> None: ...

    def connect_failed(self, error: BaseException) -> None: ...

    def went_down(self, error: BaseException) -> None: ...

    def came_back(self) -> None: ...

    def queued(self) -> None: ...

    def waited(self, seconds: float, holders: Callable[[], Sequence[Holder]]) -> None: ...

    def bind_waited(self, seconds: float, holders: Callable[[], Sequence[Holder]]) -> None: ...

    def timed_out(self, seconds: float, holders: Callable[[], Sequence[Holder]]) -> None: ...

    def found_dead(self) -> None: ...

    def was_reset(self) -> None: ...

    def evicted(self, reason: str) -> None: ...

    def leaked(self, place: Place | None) -> None: ...

    def overdue(self, place: Place | None, seconds: float) -> None: ...

    def committed(self) -> None: ...

    def rolled_back(self) -> None: ...

    def aborted(self, cause: BaseException | None) -> None: ...

    def outcome_unknown(self) -> None: ...

    def implicitly_committed(self) -> None: ...

    def forked(self) -> None: ...


class _Several:
    """Tells all events to several listeners, in their order."""

    def __init__(self, listeners: Sequence[Events]) -> None:
        self._listeners = listeners


def _to_all(name: str) -> Callable[..., None]:
    def tell(self: _Several, *args: Any) -> None:
        for listener in self._listeners:
            getattr(listener, name)(*args)

    return tell


for _name in [name for name in vars(Events) if not name.startswith("_")]:
    setattr(_Several, _name, _to_all(_name))


def to_all(listeners: Sequence[Events]) -> Events:
    """Return what tells every event to all of these."""
    return listeners[0] if len(listeners) == 1 else cast("Events", _Several(listeners))
