"""A lease of a connection that has others: they take part in one transaction.

What ends the transaction ends it for all, and none goes on as if its statements were still there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flask_pooled_db.drivers import Failure
from flask_pooled_db.errors import TransactionAborted, UsageError
from flask_pooled_db.lease import refusals
from flask_pooled_db.lease.borrowed import BorrowedLease
from flask_pooled_db.lease.sharing import Shared, Sharing
from flask_pooled_db.lease.state import TRANSITIONS, Event, State
from flask_pooled_db.pool import Entry

_, IDLE, IN_TRANSACTION, BUSY, ROLLED_BACK, ABORTED, BROKEN, RELEASED = State


class SharedLease(BorrowedLease):
    """A lease of a connection that has others."""

    __slots__ = ("_has_begun", "_is_undone", "_shared")

    _home: Sharing[SharedLease]

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._state = IDLE  # what others do on its connection is not known to it
        self._has_begun = False  # begin() was called, and its end has not come yet
        self._is_undone = False  # it has lost its work, and the ROLLBACK was sent by another
        entry = self.usable()
        self._shared = self._home.join(entry, self)
        if entry.condemned is not None:  # since the connection was chosen
            self._lose_connection(TransactionAborted(refusals.SHARE_LOST))

    @property
    def may_be_joined(self) -> bool:
        """Whether the connection may get one more lease, as far as this one is concerned."""
        return not self._has_begun and not self.is_over

    # One after the other

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        with self._shared.turn:
            return super().call(function, *args)

    def statement(self, function: Callable[..., Any], *args: Any) -> Any:
        with self._shared.turn:
            return super().statement(function, *args)

    def fetch(self, function: Callable[..., Any], *args: Any) -> Any:
        with self._shared.turn:
            return super().fetch(function, *args)

    def inherit(self) -> None:
        super().inherit()
        self._shared = Shared()  # a thread of the parent's may hold the other's lock

    # The transaction

    def on_commit(self, function: Callable[[], object]) -> None:
        raise UsageError(
            "on_commit() on a shared connection: another lease may end its transaction; take one "
            "without shareable=True"
        )

    def begin(self) -> None:
        super().begin()
        self.touch()
        self._has_begun = True

    def commit(self) -> None:
        with self._shared.turn:
            self._take_over()
            try:
                super().commit()
            finally:
                self._end()

    def commit_work(self) -> None:
        with self._shared.turn:
            partners = self._partners() if self._state is IN_TRANSACTION else []
            try:
                super().commit_work()
            except BaseException:
                for other in partners:
                    other._follow(self._last_state, self._cause)
                if self._last_state is ABORTED:
                    self._abort_others()
                raise
            for other in partners:
                other._state = TRANSITIONS[Event.COMMITTED].get(other._state, other._state)

    def rollback(self) -> None:
        with self._shared.turn:
            self._take_over()
            try:
                if self._is_undone:
                    self._state, self._cause, self._is_undone = IDLE, None, False
                else:
                    self._roll_back()
            finally:
                self._end()

    def _look_for_transaction(self, entry: Entry, *, is_certain: bool = False) -> None:
        """Do nothing: what is open may be the others' alone."""

    def _take_over(self) -> None:
        """End what another lease left, too."""
        if self._state is IDLE and self._shared.has_leftovers:
            self._state = IN_TRANSACTION

    def _end_transaction(self) -> None:
        super()._end_transaction()
        self._shared.has_leftovers = False

    @property
    def has_work(self) -> bool:
        return super().has_work or self._shared.has_leftovers or bool(self._partners())

    def ping(self, reconnect: bool = False) -> None:
        with self._shared.turn:
            super().ping(reconnect)

    def check_by_ping(self) -> None:
        with self._shared.turn:
            if not self.has_work:  # it would be rolled back
                super().check_by_ping()

    def _roll_back(self) -> None:
        is_sent = TRANSITIONS[Event.ROLLBACK].get(self._state) is not self._state
        super().rollback()
        if is_sent:
            for other in self._others():
                other._undo()

    def abort(self, cause: BaseException) -> None:
        super().abort(cause)
        self._abort_others()

    def undo_at_once(self, entry: Entry) -> None:
        """Do nothing: the others have to know before."""

    def _end(self) -> None:
        self._has_begun = False
        self._home.notify()

    # What it tells the others. Each has its turn, so none of them is in the middle of a call

    def _others(self) -> list[SharedLease]:
        return self._home.others(self._shared, self)

    def _partners(self) -> list[SharedLease]:
        """Return the others that have sent a statement since the last COMMIT or ROLLBACK."""
        return [other for other in self._others() if other.state is IN_TRANSACTION]

    def _classify(self, error: BaseException) -> Failure:
        failure = super()._classify(error)
        if failure is Failure.STATEMENT:
            for other in self._others():
                other._doubt()
        elif failure in (Failure.ROLLED_BACK, Failure.DOOMED):
            state = ROLLED_BACK if failure is Failure.ROLLED_BACK else ABORTED
            for other in self._partners():
                other._state, other._cause = state, refusals.shared(error)
        else:
            self._share_loss(failure.value, error)
        return failure

    def _break(self, event: Event, cause: BaseException, reason: str) -> None:
        super()._break(event, cause, reason)
        self._share_loss(reason, cause)

    def _share_loss(self, reason: str, cause: BaseException) -> None:
        """Have nobody use the connection any more."""
        self._condemn(reason)
        self._home.retire(self._shared)
        for other in self._others():
            other._lose_connection(refusals.shared(cause))

    def _abort_others(self) -> None:
        """Have nobody commit before a ROLLBACK: the server may have kept what must not stay."""
        for other in self._others():
            other._state = TRANSITIONS[Event.ABORT][other._state]
            other._cause = other._cause or refusals.shared(self._cause)

    # What another one tells it

    def _lose_connection(self, cause: BaseException) -> None:
        if self._state is not RELEASED:
            self._state, self._cause, self._is_undone = BROKEN, self._cause or cause, False

    def _doubt(self) -> None:
        """A statement failed: what the driver says of the transaction may be out of date."""
        self._is_certain = False

    def _follow(self, state: State, cause: BaseException | None) -> None:
        """Its statements were lost with those of another one, or may have been."""
        if self._state is not RELEASED and state > BUSY:
            self._state, self._cause = state, refusals.shared(cause)

    def _undo(self) -> None:
        """Its statements, if there are any, were undone."""
        if self._state is IN_TRANSACTION:
            self._state, self._cause = ROLLED_BACK, TransactionAborted(refusals.UNDONE)
        self._is_undone = self._state in (ROLLED_BACK, ABORTED)

    # The end

    def _give_back(self, entry: Entry, state: State) -> None:
        # It is rolled back with its last lease, and not before: others may have work under way.
        if state is BUSY:
            entry.condemn("another thread was using it")
        if state is not IN_TRANSACTION:
            self._wrote = None  # another one has committed it, or rolled it back
        if self._home.leave(entry, self, is_valid=entry.condemned is None):
            super()._give_back(entry, max(state, IN_TRANSACTION))
        elif state is IN_TRANSACTION:
            self._shared.has_leftovers = True
