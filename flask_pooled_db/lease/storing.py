"""Leases for code that was written for a driver which stores some work without COMMIT.

sqlite3 does so where no transaction is open. Scopes do not: each is one transaction.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flask_pooled_db.drivers import Driver
from flask_pooled_db.lease.classes import extended
from flask_pooled_db.lease.proxy import LeaseConnection
from flask_pooled_db.lease.state import State
from flask_pooled_db.pool import Entry


class StoringLease(LeaseConnection):
    """A lease that somebody has borrowed, of a driver with rules of its own about what is stored
    without COMMIT.
    """

    __slots__ = ()

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._is_ready = False  # before its first statement

    def _prepare(self, function: Callable[..., Any]) -> Callable[..., Any]:
        function = super()._prepare(function)
        self.driver.store_at_once(self.usable().raw, True)
        return function

    def script(self, function: Callable[..., Any], *args: Any) -> Any:
        """Send a script, which begins by committing the open transaction."""
        entry = self.usable()
        if self.driver.in_transaction(entry.raw):
            self._commit_first(entry)
        return self.statement(function, *args)

    def _commit_first(self, entry: Entry) -> None:
        """Commit like the driver itself: where it refuses to, the transaction goes on."""
        try:
            self.call(entry.raw.commit)
        except self.driver.Error:
            raise
        except BaseException as error:
            self._commit_failed(entry, error)
            if self.after_commit is not None:
                self.after_commit.unknown()
            raise
        self._home.terms.events.committed()
        self._note_end()

    def statement(self, function: Callable[..., Any], *args: Any) -> Any:
        has_succeeded = False
        try:
            result = super().statement(function, *args)
            has_succeeded = True
        finally:
            entry = self._entry
            if entry is not None and self.driver.has_stored(entry.raw):
                self._note_stored(entry, has_succeeded=has_succeeded)
        return result

    def _note_stored(self, entry: Entry, *, has_succeeded: bool) -> None:
        """Note that a statement came in no transaction, so that nothing of it is left to commit."""
        if self._state is not State.IN_TRANSACTION or self.driver.in_transaction(entry.raw):
            return
        if has_succeeded:
            self._note_end()
        else:
            self._end_transaction()

    def _note_end(self) -> None:
        self._end_transaction()
        self.has_committed = True
        if self.after_commit is not None:
            self.after_commit.committed()

    def _give_back(self, entry: Entry, state: State) -> None:
        self.driver.store_at_once(entry.raw, False)
        super()._give_back(entry, state)


def storing_class(plain: type[LeaseConnection], driver: Driver) -> type[LeaseConnection]:
    """Return the class for leases of a kind that are borrowed."""
    return extended(StoringLease, plain) if driver.stores_at_once else plain
