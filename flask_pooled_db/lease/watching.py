"""What SQL text does to a lease's transaction and session by itself, and what follows from that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flask_pooled_db.drivers.effects import Effect
from flask_pooled_db.errors import TransactionAborted
from flask_pooled_db.lease import refusals
from flask_pooled_db.lease.fate import Ending, Fate, verb_of
from flask_pooled_db.lease.reading import ReadingLease
from flask_pooled_db.lease.state import State
from flask_pooled_db.pool import Entry
from flask_pooled_db.runtime import callers

IN_TRANSACTION, ABORTED, BROKEN = State.IN_TRANSACTION, State.ABORTED, State.BROKEN

_MAY_CHANGE = Effect.CHANGES_SESSION | Effect.LOCKS | Effect.UNKNOWN
_MAY_COMMIT_EACH = Effect.CHANGES_SESSION | Effect.UNKNOWN
_MAY_END = Effect.COMMITS | Effect.UNDOES | Effect.UNKNOWN
_PROBE = "pooled_db_probe"


class WatchingLease(ReadingLease):
    """A lease that knows what its statements did beside what they were sent for.

    A statement whose text does nothing but read and write rows takes the short way. After any other
    it is known, or asked, whether the transaction that it came in is still there.
    """

    __slots__ = ()

    def watched(self, function: Callable[..., Any], *args: Any) -> Any:
        """Send a statement that may do more than read and write rows."""
        entry, driver = self.usable(), self.driver
        effect = self._effect_of(args[0]) if args else Effect.UNKNOWN
        if effect & _MAY_CHANGE and driver.texts_tell_changes:
            entry.is_changed = True
        is_open = self._state is IN_TRANSACTION and driver.in_transaction(entry.raw) is not False
        has_work = is_open and self._before is IN_TRANSACTION
        fate = Fate(Ending.MAYBE, verb_of(args[0] if args else None), callers.place())
        ends = effect & (Effect.COMMITS | Effect.UNDOES)
        if has_work and effect & Effect.UNKNOWN and not ends and driver.tells_lost_savepoints:
            self.call(driver.execute, entry.raw, f"SAVEPOINT {_PROBE}")
            self._probe = fate
        try:
            result = self.sent(function, *args)
        except BaseException:
            if has_work:
                self._look_after_error(entry, effect, fate)
            raise
        if effect & _MAY_COMMIT_EACH and self._entry is not None and self._commits_each(entry):
            self._note(fate._replace(ending=Ending.EACH), has_work=True)
        elif is_open and self._entry is not None:
            self._look_back(entry, effect, fate, has_work=has_work)
        elif effect & Effect.UNKNOWN:
            self._routine = fate
            self._is_ready = self._is_ready and not driver.has_unread_rows(entry.raw)
        if effect & _MAY_END and self._state is IN_TRANSACTION:
            self.call(driver.catch_up, entry.raw)
            if has_work and driver.in_transaction(entry.raw) is None:
                self._routine, self.has_committed = fate, True  # nobody knows
        return result

    def _effect_of(self, text: Any) -> Effect:
        effect = self.driver.effects(text)
        if effect & Effect.DISTRIBUTES:
            raise refusals.distributed(verb_of(text))
        return effect

    def _commits_each(self, entry: Entry) -> bool:
        """Return whether autocommit was switched on, which only readonly scopes do."""
        return not self._session.readonly and self.driver.commits_each(entry.raw)

    def _look_back(self, entry: Entry, effect: Effect, fate: Fate, *, has_work: bool) -> None:
        """See whether the transaction has survived its statement."""
        is_over = self.driver.in_transaction(entry.raw) is False
        begins = effect & (Effect.BEGINS | Effect.UNKNOWN)
        if effect & Effect.UNDOES and (is_over or begins):
            self._note(fate._replace(ending=Ending.UNDONE), has_work=has_work)
        elif effect & Effect.COMMITS and (is_over or begins):
            self._note(fate._replace(ending=Ending.COMMITTED), has_work=has_work)
        elif effect & Effect.UNKNOWN:
            self._routine = fate
            if self.driver.has_unread_rows(entry.raw):
                self._is_ready = False  # its end is still to come
            elif is_over:
                self._probe = None
                self._note(fate._replace(ending=Ending.ENDED), has_work=has_work)
            self._is_ready = self._is_ready and self._probe is None

    def _look_after_error(self, entry: Entry, effect: Effect, fate: Fate) -> None:
        """See what a statement that failed has done before that: DDL commits in any case."""
        if self._entry is None:
            return
        if self._state is IN_TRANSACTION and effect & Effect.COMMITS:
            if self.call(self.driver.is_in_transaction_for_sure, entry.raw) is False:
                self._note(fate._replace(ending=Ending.COMMITTED), has_work=True)
        elif (self._state is ABORTED and effect & Effect.UNKNOWN) or (
            effect & _MAY_END and self._is_in_the_dark(entry)
        ):
            self._fate = fate.after(self._fate)
            self.has_committed = True  # perhaps

    def _is_in_the_dark(self, entry: Entry) -> bool:
        """Return whether nobody can tell what an error has left of the transaction."""
        driver = self.driver
        is_lost = self._state is BROKEN and not driver.tells_transactions
        return is_lost or driver.in_transaction(entry.raw) is None

    def settle(self, entry: Entry) -> None:
        """Read all that is left, and see what it tells of the transaction."""
        self.finish_reading(entry)
        if self._probe is not None:
            self._check_probe(entry)

    def _check_probe(self, entry: Entry) -> None:
        """See whether the transaction has survived a routine, once all it has sent was read."""
        fate, self._probe = self._probe, None
        if fate is None or self._state is not IN_TRANSACTION:
            return
        try:
            is_there = self.call(self.driver.release_if_there, entry.raw, _PROBE)
        except self.driver.Error:
            self._probe = fate  # nobody has told yet
            raise
        if not is_there:
            self._note(fate._replace(ending=Ending.ENDED), has_work=True)
            raise self._refusal()

    def _prepare(self, function: Callable[..., Any]) -> Callable[..., Any]:
        entry = self._entry
        if self._probe is not None and entry is not None and self._state is IN_TRANSACTION:
            if entry.streams:
                self.clear_way(entry)
            self._check_probe(entry)
        elif self._routine is not None and entry is not None:
            self.read_results(entry)
        return super()._prepare(function)

    def _note(self, fate: Fate, *, has_work: bool) -> None:
        """Note that the transaction was ended: its savepoints are gone, and what came before is
        committed or undone.
        """
        parts = [] if self._preamble is None else self._preamble.parts()
        for part in parts:
            if part.set_as:
                part.set_as, part.has_savepoint = 0, False
        if not has_work:
            return
        self._fate = self._offence = fate.after(self._fate)
        fate.warn()
        self.has_committed = self.has_committed or fate.ending is not Ending.UNDONE
        if fate.ending in (Ending.COMMITTED, Ending.EACH):
            if self.after_commit is not None:
                self.after_commit.committed()
        elif fate.ending is Ending.ENDED or parts:
            self.abort(TransactionAborted(f"{fate}"))
        elif self.after_commit is not None:
            self.after_commit.undone()

    def _refusal(self) -> Any:
        error = super()._refusal()
        told = self._fate or self._routine
        return refusals.with_fate(error, told.whole()) if told is not None else error
