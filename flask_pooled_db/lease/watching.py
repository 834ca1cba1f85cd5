"""What SQL text does to a lease's transaction and session by itself, and what follows from that."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from flask_pooled_db.drivers.effects import Effect
from flask_pooled_db.errors import PooledDBError, TransactionAborted
from flask_pooled_db.lease import refusals
from flask_pooled_db.lease.fate import Ending, Fate, verb_of
from flask_pooled_db.lease.reading import ReadingLease
from flask_pooled_db.lease.state import State
from flask_pooled_db.pool import Entry
from flask_pooled_db.runtime import callers

IN_TRANSACTION = State.IN_TRANSACTION

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
        if self._told.in_script and driver.routines_end_nothing:
            effect &= ~Effect.UNKNOWN  # its statements come one by one
        told = driver.in_transaction(entry.raw)
        # On MariaDB a savepoint alone does not show in the flag.
        has_savepoint = driver.tells_lost_savepoints and self._has_savepoint
        is_open = self._state is IN_TRANSACTION and (has_savepoint or told is not False)
        has_work = self._before is IN_TRANSACTION and told is not False
        text = args[0] if args else None
        fate = Fate(Ending.MAYBE, verb_of(text), callers.place(), has_work=has_work)
        # A script has to know also what a routine did that came first.
        is_open = is_open or self._told.in_script
        if is_open:
            self._set_probe(entry, effect, fate)
        try:
            result = self.sent(function, *args)
        except BaseException as error:
            if isinstance(error, PooledDBError) and not refusals.was_sent(error):
                raise
            if told:  # also one that text has opened in a readonly block
                fate = fate._replace(has_work=True)
            if fate.has_work or effect & Effect.UNKNOWN:
                self._look_after_error(entry, effect, fate)
            if told and self._session.readonly and effect & Effect.UNKNOWN:
                self._refuse_doubt(fate, error)
            raise
        self._look_after(entry, effect, fate, is_open=is_open, was_told=bool(told))
        if effect & _MAY_END and self._state is IN_TRANSACTION:
            self._catch_up(entry, fate)
        return result

    def _tell(self, **news: Any) -> None:
        self._told = self._told._replace(**news)

    def _catch_up(self, entry: Entry, fate: Fate) -> None:
        """Have the driver go on after the end of a transaction that it may not know of."""
        self.call(self.driver.catch_up, entry.raw)
        if fate.has_work and self.driver.in_transaction(entry.raw) is None:
            self._tell(routine=fate)
            self.has_committed = True  # nobody knows

    def _set_probe(self, entry: Entry, effect: Effect, fate: Fate) -> None:
        """Set a savepoint before a routine. Whether it is there afterwards tells what became of the
        transaction.
        """
        is_told = effect & (Effect.COMMITS | Effect.UNDOES)
        if effect & Effect.UNKNOWN and not is_told and self.driver.tells_lost_savepoints:
            self.call(self.driver.execute, entry.raw, f"SAVEPOINT {_PROBE}")
            self._tell(probe=fate)

    def _look_after(
        self, entry: Entry, effect: Effect, fate: Fate, *, is_open: bool, was_told: bool
    ) -> None:
        """See what a statement that succeeded has done to the transaction.

        `is_open` says whether one was, and `was_told` whether the driver had said so.
        """
        if self._entry is None:
            return
        if effect & _MAY_COMMIT_EACH and self._commits_each(entry):
            each = Ending.EACH if fate.has_work else Ending.EACH_AFTER
            self._note(fate._replace(ending=each, has_work=True))
        elif is_open and self._state is IN_TRANSACTION:
            self._look_back(entry, effect, fate)
        elif was_told:  # it was opened by text in a readonly block
            self._look_back(entry, effect, fate._replace(has_work=True))
        elif effect & Effect.UNKNOWN:
            self._tell(routine=fate)
            self._is_ready = self._is_ready and not self.driver.has_unread_rows(entry.raw)

    def _effect_of(self, text: Any) -> Effect:
        effect = self.driver.effects(text)
        if effect & Effect.DISTRIBUTES:
            raise refusals.distributed(verb_of(text))
        if effect & Effect.LISTENS:
            raise refusals.listening(verb_of(text))
        return effect

    def _commits_each(self, entry: Entry) -> bool:
        """Return whether autocommit was switched on, which only readonly scopes do."""
        return not self._session.readonly and self.driver.commits_each(entry.raw)

    def _look_back(self, entry: Entry, effect: Effect, fate: Fate) -> None:
        """See whether the transaction has survived its statement."""
        is_over = self.driver.in_transaction(entry.raw) is False
        # The text alone does not tell if the session has another `completion_type`.
        ends = fate.statement.startswith(("COMMIT", "ROLLBACK")) and entry.is_changed
        begins = effect & (Effect.BEGINS | Effect.UNKNOWN) or ends
        if effect & Effect.UNDOES and (is_over or begins):
            self._note(fate._replace(ending=Ending.UNDONE))
        elif effect & Effect.COMMITS and (is_over or begins):
            self._note(fate._replace(ending=Ending.COMMITTED))
        elif effect & Effect.UNKNOWN:
            self._tell(routine=fate)
            if self._told.probe is not None or self.driver.has_unread_rows(entry.raw):
                self._is_ready = False  # its end is still to come, or what tells of it
            elif is_over:
                self._note(fate._replace(ending=Ending.ENDED))

    def _look_after_error(self, entry: Entry, effect: Effect, fate: Fate) -> None:
        """See what a statement that failed has done before that: DDL commits in any case."""
        if self._entry is None:
            return
        is_known = self.driver.in_transaction(entry.raw) is not None
        if self._told.in_script and self.driver.routines_end_nothing:
            return
        if self._state > IN_TRANSACTION:
            if effect & _MAY_END and self._doom is None:  # else a savepoint can still undo it
                self._told = self._told.then(fate)
                self.has_committed = True  # perhaps
                if self.after_commit is not None:
                    self.after_commit.unknown()
        elif effect & Effect.COMMITS:
            is_open = self.call(self.driver.is_in_transaction_for_sure, entry.raw)
            if is_open is False:
                self._note(fate._replace(ending=Ending.COMMITTED))
            elif is_open is None:
                self._tell(routine=fate)
                self.has_committed = True
        elif effect & Effect.UNKNOWN or not is_known:
            self._tell(routine=fate)

    def _refuse_doubt(self, fate: Fate, error: BaseException) -> None:
        """Abort after a routine that failed in a transaction which text had opened in a readonly
        block: no savepoint was set before it, so nobody can tell what it did before that.
        """
        if self._state <= IN_TRANSACTION:
            self._told = self._told.then(fate)
            self.has_committed = True  # perhaps
            self.abort(refusals.in_doubt(error))

    def settle(self, entry: Entry) -> None:
        """Read all that is left, and see what it tells of the transaction."""
        self.finish_reading(entry)
        if self._told.probe is not None:
            self._check_probe(entry)

    def _check_probe(self, entry: Entry) -> None:
        """See whether the transaction has survived a routine, once all it has sent was read."""
        fate = self._told.probe
        self._tell(probe=None)
        if fate is None or self._state is not IN_TRANSACTION:
            return
        try:
            is_there = self.call(self.driver.release_if_there, entry.raw, _PROBE)
        except self.driver.Error:
            self._tell(probe=fate)  # the server has not answered yet
            raise
        if is_there:
            self._tell(routine=None)  # it has ended nothing
        else:
            self._note(fate._replace(ending=Ending.ENDED))
            if fate.has_work and not self._told.in_script:
                raise self._refusal()

    def _prepare(self, function: Callable[..., Any]) -> Callable[..., Any]:
        entry = self._entry
        if self._told.probe is not None and entry is not None and self._state is IN_TRANSACTION:
            if entry.streams:
                self.clear_way(entry)
            self._check_probe(entry)
        elif self._told.routine is not None and entry is not None:
            self.read_results(entry)
        return super()._prepare(function)

    def _note(self, fate: Fate) -> None:
        """Note that the transaction was ended: its savepoints are gone, and what came before is
        committed or undone.
        """
        parts = [] if self._preamble is None else self._preamble.parts()
        self._clock_again()
        for part in parts:
            if part.set_as:
                part.set_as, part.has_savepoint = 0, False
        if self._told.in_script and fate.ending is Ending.ENDED:
            self._told = self._told.then(fate)
            self.has_committed = True
            return
        if not fate.has_work:
            return
        self.has_committed = self.may_have_committed  # nobody asks any more what a routine did
        self._told = self._told.then(fate)
        self._tell(offence=self._told.fate)
        self._warn(fate)
        if fate.ending is Ending.COMMITTED or fate.ending is Ending.EACH:
            self._home.terms.events.implicitly_committed()
        self.has_committed = self.has_committed or fate.ending is not Ending.UNDONE
        self._settle_work(fate, has_parts=bool(parts))

    def _settle_work(self, fate: Fate, *, has_parts: bool) -> None:
        """Tell those who wait for a COMMIT of a transaction's end, and abort what can't go on."""
        if fate.ending is Ending.COMMITTED or fate.ending.is_each:
            if self.after_commit is not None:
                self.after_commit.committed()
        elif fate.ending is Ending.ENDED or has_parts:
            if fate.ending is Ending.ENDED and self.after_commit is not None:
                self.after_commit.unknown()
            self.abort(TransactionAborted(f"{fate}"))
        elif self.after_commit is not None:
            self.after_commit.undone()

    # What a script asks, whose statements may end transactions as they like

    def begin_script(self) -> None:
        """Note that a script follows: a routine of it that ends the transaction is no offence."""
        self._tell(in_script=True)

    def ask_probe(self) -> None:
        """See what became of the transaction when the last statement has failed."""
        entry = self._entry
        if entry is not None and self._told.probe is not None and self._state is IN_TRANSACTION:
            with contextlib.suppress(self.driver.Error, PooledDBError):
                self.settle(entry)

    @property
    def may_have_ended(self) -> bool:
        """Whether SQL text has, or may have, ended a transaction since the last `commit()`."""
        return self._told.fate is not None or self._told.routine is not None

    @property
    def commits_each(self) -> bool:
        """Whether SQL text has switched autocommit on."""
        return self._told.commits_each

    def _warn(self, fate: Fate) -> None:
        fate.warn(self._home.terms.notices)

    @property
    def may_have_committed(self) -> bool:
        """Whether a part of the work is there to stay, or may be: it must not be done again."""
        return self.has_committed or self._told.routine is not None

    def _refusal(self) -> Any:
        error = super()._refusal()
        told = self._told.so_far
        return refusals.with_fate(error, told.whole()) if told is not None else error
