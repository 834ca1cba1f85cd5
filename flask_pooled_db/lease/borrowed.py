"""A lease that its caller gives back: by `close()`, or by the end of a `with` block.

It knows more than a scope's: where it was taken, and what its `close()` would lose. Scopes do not
pay for that.
"""

from __future__ import annotations

import contextlib
import functools
import re
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any, ClassVar, TypeVar

from flask_pooled_db.drivers.effects import Effect
from flask_pooled_db.drivers.writes import may_write
from flask_pooled_db.lease.classes import class_for, extended
from flask_pooled_db.lease.fate import Ending, Fate, verb_of
from flask_pooled_db.lease.owner import current_owner, id_of
from flask_pooled_db.lease.proxy import LeaseConnection
from flask_pooled_db.lease.state import State
from flask_pooled_db.lease.storing import storing_class
from flask_pooled_db.pool import Engine, Entry
from flask_pooled_db.runtime import callers

IN_TRANSACTION, RELEASED = State.IN_TRANSACTION, State.RELEASED
_GONE = (State.ROLLED_BACK, State.ABORTED, State.BROKEN)

_ENDS = Effect.COMMITS | Effect.UNDOES
_ENDS_BY_TEXT = ("COMMIT", "ROLLBACK", "END", "BEGIN", "START", "LOCK", "UNLOCK")
_SCRIPT = "executescript"  # of a cursor of sqlite3's: its text is no statement's
_SAVEPOINT = re.compile(
    r"\s*+(?:savepoint|(?P<undoes>rollback(?:\s++(?:work|transaction))?\s++to(?:\s++savepoint)?+))"
    r"(?:\s++|(?=[`\"]))[`\"]?+(?P<name>[\w$]++)[`\"]?+\s*+;?+\s*+",
    re.IGNORECASE,
)
_WRITING = frozenset(
    {"callproc", "copy_from", "truncate", "unlink", "write", "write_row", "__setitem__"}
)
"""The methods that write, and have no statement for an argument: of cursors, COPY, blobs, large
objects."""


class BorrowedLease(LeaseConnection):
    """A lease that its caller gives back."""

    __slots__ = ("_around", "_before_work", "_wrote", "place", "taker")

    tells_loss_when_revoked: ClassVar = False

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.place = callers.place()
        """Where it was taken."""
        self.taker = callers.named() if self.terms.config.leak_threshold else None
        """Who took it, for a report from another thread."""
        self._wrote: str | None = None  # the first statement since the last commit that wrote
        self._before_work: tuple[str, ...] = ()  # the savepoints set while nothing was written
        self._around = _handled()  # when it last wrote, or was taken
        link = self.usable().link
        link.taken_at, link.taken_by = self.place, id_of(self.owner)

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Commit, unless an exception leaves the block, and give the connection back."""
        if self._state is RELEASED and self._revoked is None:
            return  # by close(), inside
        try:
            self.finish(exc)
        finally:
            if self.after_commit is not None:
                self.after_commit.run()

    def _warn(self, fate: Fate) -> None:
        # Whoever borrows a connection may end transactions by text.
        if not fate.statement.startswith(_ENDS_BY_TEXT):
            super()._warn(fate)

    # What it has written

    def statement(self, function: Callable[..., Any], *args: Any) -> Any:
        """Send a statement, and note whether it wrote."""
        self._begin_with()
        result = super().statement(function, *args)
        self._look_for_writes(function, args)
        return result

    def rows_only(self, function: Callable[..., Any], *args: Any) -> Any:
        """Send a statement that only reads or writes rows, and note whether it wrote."""
        self._begin_with()
        result = super().rows_only(function, *args)
        self._look_for_writes(function, args)
        return result

    def last_step(self, function: Callable[..., Any], *args: Any) -> Any:
        """Go on with what the driver handed out, and note whether that wrote."""
        self._begin_with()
        result = super().last_step(function, *args)
        self._look_for_writes(function, ())
        return result

    def _begin_with(self) -> None:
        if self._state < IN_TRANSACTION:
            self._wrote, self._before_work = None, ()  # committed, or rolled back by hand

    def _note(self, fate: Fate) -> None:
        if fate.ending is not Ending.ENDED:
            self._wrote = None  # text has committed it, or rolled it back
        super()._note(fate)

    def _look_for_writes(self, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        """Note a statement that has succeeded, if it wrote what a ROLLBACK would undo."""
        entry = self._entry
        if entry is None or self._state is not IN_TRANSACTION:
            return
        text, name = _statement_of(function, args, entry.raw), _name(function)
        effect = self.driver.effects(text) if text else Effect.NONE
        if effect is not Effect.NONE and effect & _ENDS and not self._is_open(entry):
            self._wrote = None  # as DDL does, where it is no part of the transaction
        elif text and (savepoint := _SAVEPOINT.fullmatch(text)):
            self._look_at_savepoint(savepoint["name"].lower(), undoes=bool(savepoint["undoes"]))
        elif self._wrote is not None and _handled() in (0, self._around):
            pass  # all that matters is known
        elif may_write(text):
            self._note_write(verb_of(text))
        elif not text and name in _WRITING:
            self._note_write(f"{name}()")

    def _note_write(self, what: str) -> None:
        self._wrote = self._wrote or what
        self._around = _handled()

    def _look_at_savepoint(self, name: str, *, undoes: bool) -> None:
        if undoes:
            if name in self._before_work:
                self._wrote = None
            return
        others = tuple(other for other in self._before_work if other != name)
        self._before_work = others if self._wrote else (*others, name)

    def uncommitted(self) -> str | None:
        """Return the first statement that wrote what its end would roll back."""
        entry = self._entry
        return None if entry is None else self._lost(entry, self._state)

    def _lost(self, entry: Entry, state: State) -> str | None:
        if self._wrote is None:
            return None
        is_open = state is IN_TRANSACTION and self._is_open(entry) is not False
        # The errors of these may have been swallowed. What text did to it, another line has told.
        is_gone = state in _GONE and self._told.fate is None
        return self._wrote if is_open or is_gone else None

    def _is_open(self, entry: Entry) -> bool | None:
        try:
            return self.driver.in_transaction(entry.raw)
        except Exception:  # noqa: BLE001  the statement was sent, and the return has to go on
            return None

    def commit_work(self) -> None:
        """Send COMMIT if there may be anything to commit. Raises if it can't be committed."""
        try:
            super().commit_work()
        except BaseException:
            self._wrote = None  # its caller gets an error that says what became of it
            raise

    # The end

    def release(self) -> None:
        """Return the connection."""
        entry = self._entry
        if entry is not None:
            entry.link.taken_at = entry.link.taken_by = None
        super().release()

    def _give_back(self, entry: Entry, state: State) -> None:
        try:
            self._tell_loss(entry, state)
        finally:
            super()._give_back(entry, state)

    def _tell_loss(self, entry: Entry, state: State) -> None:
        lost = self._lost(entry, state)
        # Whoever gives it back because of an error wants it to be rolled back.
        is_wanted = callers.has_failed() or _handled() not in (0, self._around)
        is_told_already = self._revoked is not None and not self.tells_loss_when_revoked
        if lost is not None and not is_told_already and not is_wanted:
            self._home.terms.notices.warn(
                ("rolled back", self.place, callers.named()),
                "%s was rolled back: the connection taken %s by %s was given back without a "
                "commit(). Call commit() when the work is done, or take the connection by `with`, "
                "which commits",
                lost,
                callers.at(self.place),
                taker_of(self),
            )


def taker_of(lease: LeaseConnection) -> str:
    """Return what a message calls the caller that took a lease."""
    owner = lease.owner
    return callers.who() if owner == current_owner() else callers.name_of(owner)


def _handled() -> int:
    """Return what identifies the exception that is being handled; 0 if there is none."""
    error = sys.exception()
    return 0 if error is None else id(error)


def _name(function: Callable[..., Any]) -> str:
    while isinstance(function, functools.partial):
        function = function.func
    return getattr(function, "__name__", "")


def _statement_of(function: Callable[..., Any], args: tuple[Any, ...], raw: Any) -> str | None:
    """Return the text of a statement, if it has one."""
    text: Any = args[0] if args else None
    if isinstance(function, functools.partial) and not args and _name(function) == _SCRIPT:
        text = next(iter((*function.args, *function.keywords.values())), None)
    if hasattr(text, "as_string"):  # composed by psycopg
        with contextlib.suppress(Exception):  # it was sent all the same
            text = text.as_string(raw)
    if isinstance(text, bytes | bytearray):
        text = text.decode("latin-1")
    return text if isinstance(text, str) else None


Kind = TypeVar("Kind", bound=BorrowedLease)


def borrowed_class(kind: type[Kind], entry: Entry, pool: Engine) -> type[Kind]:
    """Return the class for leases of this kind of a connection."""
    plain = entry.lease_class or class_for(entry, pool.lease_classes, pool.terms)
    made: type[Kind] | None = pool.lease_classes.get((kind, plain))
    if made is None:
        made = extended(kind, storing_class(plain, entry.driver))
        pool.lease_classes[kind, plain] = made
    return made
