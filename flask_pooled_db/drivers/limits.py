"""What the pool asks of a driver to keep the time limits of statements by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar


class TimeLimits:
    """The part of a driver that ends statements whose time limit neither the server nor the driver
    enforces.

    The answers here are for a driver whose connections may have `cancel()`.
    """

    failures: tuple[type[Exception], ...]

    def needs_interrupting(self, raw: Any) -> bool:
        """Return whether only `interrupt` can enforce a statement's time limit."""
        return callable(getattr(raw, "cancel", None))

    keeps_time: ClassVar[bool] = False
    """Whether the session can be told the time limit of its statements."""
    sets_time_for_free: ClassVar[bool] = False
    """Whether that takes no round trip."""

    def is_time_limit(self, error: BaseException) -> bool:
        """Return whether an error says that a statement was ended at the session's time limit."""
        return self.is_interruption(error)

    def commit_unlimited(self, raw: Any) -> None:
        """Send COMMIT, which the session's time limit of statements is not to end."""
        raw.commit()

    def limit_transactions(self, raw: Any, seconds: float) -> None:
        """Have the server end transactions that are open for longer, as far as it can."""

    from_any_thread: ClassVar[frozenset[str]] = frozenset({"cancel", "interrupt"})
    """The methods that end a call under way in another thread."""
    interrupts_late: ClassVar[bool] = True
    """Whether these may end a later call than the one that they were meant for."""

    interruption_grace: ClassVar[float] = 0.0
    """Seconds after a time limit in which the server may still end the statement by itself."""

    def interrupt(self, raw: Any, helper: Callable[[], Any]) -> None:
        """End the statement that is running on a connection, from another thread, and wait for it.

        `helper` returns another connection to the same server.
        """
        raw.cancel()

    def identity(self, raw: Any) -> Any:
        """Return what identifies the connection's server, if it takes that to end a statement."""
        return None

    # What nobody waits for any more, on a connection that is not used again

    def cut(self, raw: Any) -> None:
        """Cut the connection, from any thread."""
        raise NotImplementedError

    cut_after: float = 0.0
    """Seconds that `ending` has before `stop` comes: what stands in front of the server may forget
    whose statement it was once the connection is cut."""

    def stop(self, raw: Any) -> None:
        """End the call under way, from any thread, as far as that needs no server."""
        self.cut(raw)

    def ending(self, raw: Any) -> Callable[[Callable[[], Any]], object] | None:
        """Return what ends, later and from any thread, what the server still does for a connection
        that is cut; it is given what returns another connection to the same server. None if there
        is nothing to do.
        """
        return (lambda _: raw.cancel()) if callable(getattr(raw, "cancel", None)) else None

    def is_interruption(self, error: BaseException) -> bool:
        """Return whether the interruption ended the statement, so that no more answers follow."""
        return False

    def time_is_up(self, seconds: float, error: Exception | None = None) -> Exception:
        """Return the error to raise for a statement that exceeded its time limit.

        `error` is the error that the statement ended with, if any.
        """
        text = f"the statement took longer than its limit of {seconds:g} s"
        return error or self.failures[0](text)
