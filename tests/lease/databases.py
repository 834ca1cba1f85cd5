"""Two databases for one table of numbers: a fake server that fails at will, and an SQLite file."""

from __future__ import annotations

import enum
import sqlite3
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, NoReturn

from flask_pooled_db.config import ScopeOptions
from flask_pooled_db.drivers import Driver, Failure, Session
from flask_pooled_db.drivers.sqlite import SQLiteDriver
from tests.support.fake_driver import Error, FakeConnection, FakeDriver, OperationalError


class Fault(enum.Enum):
    """How a call of the driver ends."""

    NONE = "it succeeds"
    STATEMENT = "only the statement fails"
    ROLLED_BACK = "the server has rolled the transaction back"
    LOST_BEFORE = "the connection is lost before the server did anything"
    LOST_AFTER = "the connection is lost after the server did what was asked"
    UNSENT = "the connection is lost, and the driver knows that nothing was sent"
    INTERRUPTED_BEFORE = "KeyboardInterrupt comes before the server did anything"
    INTERRUPTED_AFTER = "KeyboardInterrupt comes after the server did what was asked"
    BUG = "the driver has a bug"
    DEBT = "it succeeds, and COMMIT will be refused for it"

    @property
    def is_done(self) -> bool:
        """Whether the server does what it was asked for."""
        return self in _DONE

    @property
    def is_interruption(self) -> bool:
        """Whether the caller's own exception comes in the middle."""
        return self in (Fault.INTERRUPTED_BEFORE, Fault.INTERRUPTED_AFTER)


_DONE = (Fault.NONE, Fault.LOST_AFTER, Fault.INTERRUPTED_AFTER, Fault.DEBT)

Errors = dict[Fault, type[BaseException]]


class Deadlock(Error):
    """The server has rolled the transaction back."""


class Unsent(OperationalError):
    """The connection was lost before anything was sent."""


class Database:
    """A table of numbers, and how to make what is done with it fail."""

    driver: Driver
    errors: ClassVar[Errors]
    locked: type[BaseException] | None = None
    """The error of a second writer; None if there may be several."""
    read_only: type[BaseException]
    """The error of a write in a session that only reads."""

    def committed(self) -> set[int]:
        """The numbers that are there to stay."""
        raise NotImplementedError

    def insert(self, cursor: Any, number: int, fault: Fault) -> None:
        """Insert a number."""
        raise NotImplementedError

    @contextmanager
    def failing(self, what: str, fault: Fault) -> Iterator[None]:
        """Have the first call that begins with these words fail, if one comes in the block."""
        yield

    def close(self) -> None:
        """Remove it."""


class FakeServer(FakeDriver):
    """A fake driver with a server: transactions, savepoints, and what is committed."""

    def __init__(self) -> None:
        super().__init__()
        self.committed: set[int] = set()
        self.sessions: dict[int, list[int | str]] = {}
        self.lost: set[int] = set()
        self.unread: set[int] = set()
        self.reading: set[int] = set()
        self.planned: tuple[str, Fault] | None = None

    # What happens

    def note(self, what: str, raw: FakeConnection | None) -> None:
        super().note(what, raw)
        if raw is None or what in ("cursor", "close cursor"):  # the server learns nothing of it
            return
        if what == "close":
            self.end(raw.number)
            return
        if raw.number in self.lost:
            raise OperationalError
        fault = self._take_fault(what)
        if fault.is_done:
            self._do(what, raw.number)
        if fault is not Fault.NONE:
            if fault is Fault.ROLLED_BACK:
                self.sessions.pop(raw.number, None)
            elif issubclass(FAKE_ERRORS[fault], OperationalError):
                self.end(raw.number)
            raise FAKE_ERRORS[fault](what)

    def _take_fault(self, what: str) -> Fault:
        if self.planned is None or not what.startswith(self.planned[0]):
            return Fault.NONE
        fault, self.planned = self.planned[1], None
        return fault

    def _do(self, what: str, number: int) -> None:
        session = self.sessions.setdefault(number, [])
        verb, _, name = what.rpartition(" ")
        if verb == "INSERT":
            if number in self.reading:
                raise Error("the session only reads")
            session.append(int(name))
        elif verb == "SAVEPOINT":
            session.append(name)
        elif verb == "ROLLBACK TO SAVEPOINT":
            del session[_last(session, name) + 1 :]
        elif verb == "RELEASE SAVEPOINT":
            place = _last(session, name)
            session[place:] = [item for item in session[place:] if isinstance(item, int)]
        elif what == "STREAM":
            self.unread.add(number)
        elif what in ("commit", "rollback"):
            if what == "commit":
                self.committed |= {item for item in session if isinstance(item, int)}
            session.clear()

    def end(self, number: int) -> None:
        """End a session: what it did not commit is rolled back."""
        self.sessions.pop(number, None)
        self.lost.add(number)

    def hang_up(self, number: int) -> None:
        """End a session, so that its client can see it."""
        self.end(number)
        self.raws[number].die()

    # The adapter's side

    def prepare_cursor(self, cursor: Any) -> None:
        def fetch() -> tuple[int]:
            self.note("fetch", cursor.raw)
            return (cursor.raw.number,)

        cursor.fetchone = fetch

    def classify(self, raw: Any, error: BaseException) -> Failure:
        return Failure.ROLLED_BACK if isinstance(error, Deadlock) else super().classify(raw, error)

    def never_sent(self, raw: Any, error: BaseException) -> bool:
        return isinstance(error, Unsent)

    def apply_session(self, raw: Any, old: Session, new: Session) -> None:
        self.note("set the session", raw)
        change = self.reading.add if new.readonly else self.reading.discard
        change(raw.number)

    def has_unread_rows(self, raw: Any) -> bool:
        return raw.number in self.unread

    def finish_reading(self, raw: Any) -> None:
        self.unread.discard(raw.number)


def _last(session: list[int | str], name: str) -> int:
    for place in reversed(range(len(session))):
        if session[place] == name:
            return place
    raise Error(f"there is no savepoint {name}")


FAKE_ERRORS: Errors = {
    Fault.STATEMENT: Error,
    Fault.ROLLED_BACK: Deadlock,
    Fault.LOST_BEFORE: OperationalError,
    Fault.LOST_AFTER: OperationalError,
    Fault.UNSENT: Unsent,
    Fault.INTERRUPTED_BEFORE: KeyboardInterrupt,
    Fault.INTERRUPTED_AFTER: KeyboardInterrupt,
    Fault.BUG: LookupError,
}


class FakeDatabase(Database):
    """A table on the fake server."""

    errors: ClassVar[Errors] = FAKE_ERRORS
    read_only = Error

    def __init__(self) -> None:
        self.server = self.driver = FakeServer()

    def committed(self) -> set[int]:
        return self.server.committed

    def insert(self, cursor: Any, number: int, fault: Fault) -> None:
        cursor.execute(f"INSERT {number}")

    @contextmanager
    def failing(self, what: str, fault: Fault) -> Iterator[None]:
        self.server.planned = (what, fault) if fault is not Fault.NONE else None
        try:
            yield
        finally:
            self.server.planned = None

    def sent(self, what: str) -> list[int]:
        """The numbers of the connections over which something was sent."""
        return [number for asked, number in self.server.record if asked == what]


class Raising:
    """A parameter that cannot be converted."""

    def __init__(self, error: type[BaseException]) -> None:
        self._error = error

    def __conform__(self, protocol: object) -> NoReturn:
        raise self._error


class NumberingDriver(SQLiteDriver):
    """sqlite3 with a number on each connection."""

    count = 0

    def connect(self, *args: Any) -> Any:
        raw = super().connect(*args)
        self.count += 1
        raw.number = self.count
        return raw


class FileDatabase(Database):
    """A table in an SQLite file, which has the number 0 already. It has one writer at a time.

    The references of its rows are checked by COMMIT.
    """

    errors: ClassVar[Errors] = {
        Fault.STATEMENT: sqlite3.IntegrityError,
        Fault.ROLLED_BACK: sqlite3.IntegrityError,
        Fault.INTERRUPTED_BEFORE: KeyboardInterrupt,
        Fault.BUG: LookupError,
        Fault.DEBT: sqlite3.IntegrityError,  # comes with COMMIT
    }
    locked = sqlite3.OperationalError
    read_only = sqlite3.OperationalError

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        path = Path(self._folder.name) / "numbers.sqlite"
        self.driver = NumberingDriver(sqlite3, sqlite3, {"database": path, "timeout": 0}, 5.0)
        self._reader = sqlite3.connect(path, isolation_level=None)
        self._reader.executescript(
            "PRAGMA journal_mode=WAL;"
            "CREATE TABLE numbers (number INTEGER PRIMARY KEY,"
            " owner INTEGER REFERENCES numbers DEFERRABLE INITIALLY DEFERRED);"
            "INSERT INTO numbers (number) VALUES (0)"
        )

    def committed(self) -> set[int]:
        rows = self._reader.execute("SELECT number FROM numbers WHERE number > 0")
        return {number for (number,) in rows.fetchall()}

    def insert(self, cursor: Any, number: int, fault: Fault) -> None:
        values: tuple[Any, Any] = (number, None)
        if fault in (Fault.STATEMENT, Fault.ROLLED_BACK):
            values = (0, None)
        elif fault is Fault.DEBT:
            values = (number, -1)
        elif fault is not Fault.NONE:
            values = (number, Raising(self.errors[fault]))
        verb = "INSERT OR ROLLBACK" if fault is Fault.ROLLED_BACK else "INSERT"
        cursor.execute(f"{verb} INTO numbers VALUES (%s, %s)", values)

    def close(self) -> None:
        self._reader.close()
        self._folder.cleanup()


READONLY = ScopeOptions(readonly=True)
WITH_SAVEPOINT = ScopeOptions()
WITHOUT_SAVEPOINT = ScopeOptions(savepoint=False)


def told(function: Callable[..., object], *args: Any) -> BaseException | None:
    """What a call raises, whatever it is."""
    try:
        function(*args)
    except BaseException as error:
        return error
    return None


def is_one_of(
    error: BaseException | None, expected: Collection[type[BaseException | None]]
) -> bool:
    """Whether an error is exactly of one of these classes; none at all means no error.

    Ours may also be of a class of the driver's: it has the same name and one more base then.
    """
    if not expected:
        return error is None
    kind = type(error)
    own = kind.__mro__[1] if kind.__mro__[1].__name__ == kind.__name__ else kind
    return own in expected
