"""Leases whose holders are known. Others are of classes that know nothing of it, and cost nothing.

Where a lease was taken and by whom, how long its statements were on their way, and whether a
transaction is open: reports of leases that are out for too long tell it, and so does `PoolTimeout`.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from typing import Any

from flask_pooled_db.config import shown
from flask_pooled_db.drivers import Session
from flask_pooled_db.lease.home import Home, Leases
from flask_pooled_db.lease.lease import Lease
from flask_pooled_db.lease.state import State
from flask_pooled_db.pool import Entry
from flask_pooled_db.pool.holding import Hold
from flask_pooled_db.runtime import callers, reporter

IN_TRANSACTION, BUSY = State.IN_TRANSACTION, State.BUSY


class HeldLease(Lease):
    """A lease that others may look at. It comes before a driver's class of leases."""

    __slots__ = ()

    def __init__(
        self,
        home: Home,
        entry: Entry,
        owner: Any,
        holder: Leases,
        session: Session,
        in_scope: bool = False,
    ) -> None:
        super().__init__(home, entry, owner, holder, session, in_scope)
        # Most often the scope has called, and the application the scope.
        place, name = callers.place(sys._getframe(2)), callers.named() or ""
        self.hold = entry.link.hold = Hold(entry.since, weakref.ref(self), owner, name, place)

    @property
    def has_begun(self) -> bool:
        """Whether a transaction is open, or a statement is on its way that may begin one."""
        return self._state is IN_TRANSACTION or (self._state is BUSY and not self._session.readonly)

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call the driver, and note for how long."""
        hold, clock = self.hold, self._home.terms.clock
        if hold is None or hold.busy_since is not None:
            return super().call(function, *args)
        hold.busy_since = began = clock()
        try:
            return super().call(function, *args)
        finally:
            now = clock()
            hold.busy += now - began
            hold.busy_since, hold.rests_since = None, now

    def fetch(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call the driver for what a statement has left; that of a stream comes from the server."""
        entry = self._entry
        if entry is not None and entry.streams:
            return self.call(function, *args)
        return super().fetch(function, *args)

    def release(self) -> None:
        """Return the connection, and tell for how long it was out."""
        hold, entry, terms = self.hold, self._entry, self._home.terms
        if hold is None or entry is None:
            super().release()
            return
        self.hold = None
        if entry.link.hold is hold:
            entry.link.hold = None
        now = terms.clock()
        super().release()
        age = now - hold.since
        terms.holders.ended(hold.name or callers.kind_of(hold.owner), age, age - hold.busy)
        if hold.is_reported:
            reporter.hand_over(  # as the line that it is out was: it comes after that one
                terms.notices.warn,
                ("back", hold.place, hold.name),
                "The lease of bind %s that had been out for too long is back after %.1f s: it was "
                "held by %s",
                shown(terms.bind),
                age,
                hold.at(now, terms.bind),
            )
