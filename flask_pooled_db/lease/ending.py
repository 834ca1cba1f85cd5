"""Leases that tell of each COMMIT and ROLLBACK. Others are of classes that know nothing of it, and
theirs cost nothing more.
"""

from __future__ import annotations

from collections.abc import Callable

from flask_pooled_db.lease.observing import tell_observer
from flask_pooled_db.lease.transaction import TransactionLease
from flask_pooled_db.pool import Entry
from flask_pooled_db.pool.statements import Rows, Statement


class EndingLease(TransactionLease):
    """A lease that tells its pool's observer of what ends its transactions, once the driver has
    returned. It comes before a driver's class of leases.
    """

    __slots__ = ()

    def send_commit(self, entry: Entry) -> None:
        """Send COMMIT, and tell of it."""
        self._timed("COMMIT", super().send_commit, entry)

    def undoing(self) -> Callable[[Entry], None]:
        """Return what sends the ROLLBACK of its end, and tells of it."""
        return self.undo

    def undo(self, entry: Entry) -> None:
        """Send ROLLBACK, and tell of it."""
        self._timed("ROLLBACK", super().undo, entry)

    def _timed(self, verb: str, send: Callable[[Entry], None], entry: Entry) -> None:
        terms = self._home.terms
        began, failure = terms.clock(), None
        try:
            send(entry)
        except BaseException as error:
            failure = error
            raise
        finally:
            times, where = (began, terms.clock()), entry.origin.where
            end = Statement(self, verb, *times, Rows(None), failure, entry.was_waited_for, where)
            tell_observer(terms.observer.ended, end)
