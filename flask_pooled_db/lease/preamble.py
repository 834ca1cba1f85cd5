"""What has to come before a lease's next statement."""

from __future__ import annotations

from types import FrameType
from typing import Any

from flask_pooled_db.config import Rows
from flask_pooled_db.drivers import Session
from flask_pooled_db.lease.enclosing import enclosing
from flask_pooled_db.pool import Entry


class Part:
    """What a nested scope does in the transaction, and the savepoint before it, if it wants one.

    The savepoint is set when the scope's first statement comes.
    """

    __slots__ = (
        "cursor_settings",
        "entered",
        "failure",
        "frame",
        "has_savepoint",
        "is_mixed",
        "is_open",
        "number",
        "outer",
        "session",
        "set_as",
        "wanted_rows",
    )

    def __init__(
        self,
        outer: Part | None,
        frame: FrameType | None,
        session: Session,
        *,
        has_savepoint: bool,
        rows: Rows = "tuple",
    ) -> None:
        self.outer = outer  # None if it is a part of the outermost scope
        self.frame = frame
        self.session = session  # the state of the session that its statements are to find
        self.has_savepoint = has_savepoint
        self.is_open = True
        self.entered = 0  # blocks of the driver's own that were entered before it
        self.failure: Exception | None = None  # of what its statements left to read
        self.is_mixed = False  # statements of others came after its savepoint
        self.number = 0
        self.wanted_rows = rows  # the shape of its cursors' rows
        self.cursor_settings: dict[str, Any] | None = None  # what it set of its connection
        self.set_as = 0  # which of the lease's savepoints it was: 0 if it is not set

    @property
    def savepoint(self) -> str:
        """The name of its savepoint."""
        return f"pooled_db_{self.number}"

    def line(self) -> list[Part]:
        """Return it and the parts around it, from the inside out."""
        return [self, *(self.outer.line() if self.outer else ())]


ANYWHERE: Any = object()
"""Stands for a part that the stack tells."""


class Preamble:
    """The savepoints that are due, and the isolation level of each transaction.

    They are sent with the first statement that needs them: a scope without a statement sends
    nothing.
    """

    __slots__ = ("_parts", "_sets", "isolation", "session", "watch", "working_in")

    def __init__(self, session: Session) -> None:
        self.session = session  # that of the outermost scope
        self.watch: Any = None  # what its lease knows of time, if that is limited
        self.isolation: str | None = None  # the statement that begins each transaction
        # In the order they began. It is replaced and never changed, and ended ones may be in it:
        # the garbage collector may end a part at any moment.
        self._parts: list[Part] = []
        self._sets = 0
        self.working_in: Part | None = ANYWHERE  # where a worker's call was asked for by a task

    def parts(self) -> list[Part]:
        """Return the parts that have not ended, in the order they began."""
        return [part for part in self._parts if part.is_open]

    def add(self, part: Part) -> None:
        """Begin a part: its savepoint is set before its first statement."""
        parts = self.parts()
        part.number = parts[-1].number + 1 if parts else 1
        self._parts = [*parts, part]

    def session_of(self, part: Part | None) -> Session:
        """Return the session state that the statements of a part are to find."""
        return self.session if part is None else part.session

    def has_inside(self, outer: Part) -> bool:
        """Return whether a part inside this one has not ended."""
        return any(part is not outer and outer in part.line() for part in self.parts())

    def has_after(self, savepoint: int) -> bool:
        """Return whether a part that has not ended has a later savepoint."""
        return any(part.set_as > savepoint for part in self.parts())

    @property
    def has_savepoint(self) -> bool:
        """Whether a savepoint is set whose part has not ended."""
        return any(part.set_as for part in self.parts())

    @property
    def is_needed(self) -> bool:
        """Whether it must see every statement: time goes by, or other code may run amid a
        generator's part.
        """
        return self.watch is not None or any(part.frame is not None for part in self.parts())

    def innermost(self, *, is_owner: bool) -> Part | None:
        """Return the part that the caller is in; None if it is the outermost scope."""
        return self.look(is_owner=is_owner) if self.working_in is ANYWHERE else self.working_in

    def look(self, *, is_owner: bool) -> Part | None:
        """Return what `innermost` does, as the stack has it.

        That of another thread than the owner's does not show it: there it is the newest part.
        """
        newest_first = self.parts()[::-1]
        around = enclosing(newest_first) if is_owner else newest_first
        return around[0] if around else None

    def before_statement(self, *, is_owner: bool) -> tuple[list[Part], Session]:
        """Return the parts whose savepoints have to come before the caller's statement, and the
        session state that it is to find.

        These are the parts that the statement is in. All others that have begun are mixed from now
        on: to undo one of them would undo this statement.
        """
        innermost = self.innermost(is_owner=is_owner)
        line = innermost.line() if innermost else []
        for part in self.parts():
            if part.set_as and part not in line:
                part.is_mixed = True
        due = [part for part in line[::-1] if part.is_open and part.has_savepoint]
        session = self.session_of(line[0] if line else None)
        return [part for part in due if not part.set_as], session

    def send(self, entry: Entry, due: list[Part], *, is_open: bool) -> None:
        """Send what is due; `is_open` says whether a transaction is open already."""
        driver = entry.driver
        if self.isolation is not None and not is_open:
            driver.begin(entry.raw, self.isolation)
        for part in due:
            driver.set_savepoint(entry.raw, part.savepoint)
            self._sets += 1
            part.set_as = self._sets


def enter_session(entry: Entry, session: Session) -> bool:
    """Bring a connection's session to the state that its lease wants, in one round trip at most,
    and one more for its schema. Returns whether that has begun a transaction.
    """
    has_begun = False
    if entry.session != session:
        driver, raw = entry.driver, entry.raw
        entry.is_changed = entry.is_changed or driver.has_changed(raw)
        if entry.session.schema != session.schema:
            has_begun = entry.enter_schema(session.schema)
        driver.apply_session(raw, entry.session, session)
        driver.session_is_set(raw)  # what the scope itself changes counts as no change
    if entry.session is not session:
        entry.enter_session(session)
    if entry.limits(session) and entry.origin.identity is None:
        entry.origin.identity = entry.driver.identity(entry.raw)
    return has_begun
