"""What has to come before a lease's next statement."""

from __future__ import annotations

from flask_pooled_db.drivers import Session
from flask_pooled_db.pool import Entry


class Savepoint:
    """A savepoint of a nested scope. It is set when the scope's first statement comes."""

    __slots__ = ("is_set", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_set = False


class Preamble:
    """The savepoints that are due, and the isolation level of each transaction.

    They are sent with the first statement that needs them: a scope without a statement sends
    nothing.
    """

    __slots__ = ("_savepoints", "isolation")

    def __init__(self) -> None:
        self.isolation: str | None = None  # the statement that begins each transaction
        self._savepoints: list[Savepoint] = []

    def add(self, savepoint: Savepoint) -> None:
        """Have a savepoint set before the next statement."""
        self._savepoints.append(savepoint)

    def drop(self, savepoint: Savepoint) -> None:
        """Forget a savepoint that was not set."""
        self._savepoints.remove(savepoint)

    def opens_transaction(self, *, is_open: bool) -> bool:
        """Return whether anything is to be sent that a transaction begins with."""
        return bool(self._savepoints) or (self.isolation is not None and not is_open)

    def send(self, entry: Entry, *, is_open: bool) -> None:
        """Send what is due; `is_open` says whether a transaction is open already."""
        driver = entry.driver
        if self.isolation is not None and not is_open:
            driver.execute(entry.raw, self.isolation)
        while self._savepoints:
            savepoint = self._savepoints[0]
            driver.begin(entry.raw)
            driver.execute(entry.raw, f"SAVEPOINT {savepoint.name}")
            savepoint.is_set = True
            del self._savepoints[0]


def enter_session(entry: Entry, session: Session) -> None:
    """Bring a connection's session to the state that its lease wants, in one round trip at most."""
    if entry.session != session:
        entry.driver.apply_session(entry.raw, entry.session, session)
    if entry.session is not session:
        entry.enter_session(session)
    if entry.limits(session) and entry.origin.identity is None:
        entry.origin.identity = entry.driver.identity(entry.raw)
