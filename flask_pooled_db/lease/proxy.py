"""What a caller sees of a lease: a connection and its cursors, as PEP 249 has them.

Whatever is not the standard's is passed on to the driver's own objects.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, Self

from flask_pooled_db.config import PingPolicy
from flask_pooled_db.drivers import Driver
from flask_pooled_db.errors import UsageError
from flask_pooled_db.lease.state import State
from flask_pooled_db.lease.transaction import TransactionLease
from flask_pooled_db.pool import Entry

UNUSED, IDLE, IN_TRANSACTION = State.UNUSED, State.IDLE, State.IN_TRANSACTION

_EXCEPTIONS = frozenset(
    {
        "Warning",
        "Error",
        "InterfaceError",
        "DatabaseError",
        "DataError",
        "OperationalError",
        "IntegrityError",
        "InternalError",
        "ProgrammingError",
        "NotSupportedError",
    }
)

_CHANGES_SESSION = ("set_", "select_db", "change_user", "create_", "enable_", "load_", "reset")


class Forbidden:
    """An attribute of drivers' connections that would work against the lease or the pool."""

    def __init__(self, why: str) -> None:
        self._why = why

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: object, owner: type) -> NoReturn:
        raise UsageError(f"{self._name} {self._why}")

    def __set__(self, instance: object, value: object) -> NoReturn:
        raise UsageError(f"{self._name} can't be set: it {self._why}")


class DriverAttribute:
    """An attribute of the driver's connection that is passed on to the caller of its lease."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, lease: LeaseConnection | None, owner: type) -> Any:
        return self if lease is None else lease.driver_attribute(self._name)


class DriverException(DriverAttribute):
    """An exception class of the driver's. It works after release, since an `except` clause may come
    later.
    """

    def __get__(self, lease: LeaseConnection | None, owner: type) -> Any:
        return self if lease is None else lease.driver_exception(self._name)


class LeaseConnection(TransactionLease):
    """A connection lent to a caller, as PEP 249 has it.

    `commit()`, `rollback()`, `cursor()` and `close()` are the standard's; the driver's exception
    classes are attributes (`conn.IntegrityError`); everything else that the driver's connection has
    is passed on. Once released, the connection and its cursors refuse to work. It is for one thread
    at a time.

    Raises `UsageError` for use after release or by two threads at once, and `TransactionAborted`
    for use after its transaction was lost.
    """

    __slots__ = ()

    # Set by the class that is made for a pool's connections
    cursor_class: ClassVar[type[LeaseCursor]]
    pings_on_cursor: ClassVar[bool]

    def cursor(self, *args: Any, **kwargs: Any) -> LeaseCursor:
        """Return a new cursor; the arguments are the driver's."""
        entry = self._entry
        if entry is None or self._state > IN_TRANSACTION:
            raise self._refusal()
        if self._state is UNUSED:
            self._state = IDLE
        if self.pings_on_cursor:
            self.check_by_ping()
        cursor = entry.raw.cursor(*args, **kwargs)  # the server learns nothing of it
        return self.cursor_class(self, cursor)

    def close(self) -> None:
        """Return the connection; uncommitted work is rolled back. Closing twice is harmless."""
        if self._depth:
            raise UsageError(
                "close() inside db_connection_context(): the scope gives its connection back "
                "itself; remove the call"
            )
        self.release()

    def __enter__(self) -> Self:
        self.usable()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._depth:
            self.release()

    def ping(self, reconnect: bool = False) -> None:
        """Raise if the server does not answer. Whatever `reconnect` says, the connection is not
        replaced: that would lose the transaction without a word.
        """
        self.call(self.driver.ping, self.usable().raw)

    autocommit = Forbidden("is the scope's: use readonly=True for reads that need no transaction")
    isolation_level = Forbidden("is the scope's: give it to db_connection_context()")
    connect = Forbidden("belongs to the pool")
    reconnect = Forbidden("belongs to the pool")
    auto_reconnect = Forbidden("belongs to the pool")

    # The driver's own

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Return what the driver's connection has: `class_for` makes attributes of it."""

    def driver_attribute(self, name: str) -> Any:
        """Return what the driver's connection has by this name."""
        attribute = getattr(self.usable().raw, name)
        return functools.partial(self._driver_call, name) if callable(attribute) else attribute

    def driver_exception(self, name: str) -> Any:
        """Return the driver's exception class of this name."""
        if self.driver.dbapi is None:
            raise AttributeError(
                f"{name} can't be told: the function that connects does not say whose connections "
                "they are; give it an attribute `dbapi` with the driver's module"
            )
        return getattr(self.driver.dbapi, name)

    def _driver_call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        raw = self.usable().raw
        if name.startswith(_CHANGES_SESSION):
            self.session_changed(f"{name}()")
        translate = self.driver.translate
        if translate and name.startswith("execute") and args[1:2] not in ((), (None,)):
            args = (translate(args[0]), *args[1:])
        result = self.statement(functools.partial(getattr(raw, name), **kwargs), *args)
        is_cursor = hasattr(result, "fetchone") and hasattr(result, "execute")
        return self.cursor_class(self, result) if is_cursor else result


class ForwardingConnection(LeaseConnection):
    """A lease of a driver's connection that does not tell which attributes it has."""

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return self.driver_attribute(name)


_set = object.__setattr__  # past LeaseCursor's own, which forwards


class LeaseCursor:
    """A driver's cursor that works as long as its lease does."""

    __slots__ = ("__weakref__", "_lease", "driver_cursor")

    def __init__(self, lease: LeaseConnection, driver_cursor: Any) -> None:
        _set(self, "_lease", lease)
        _set(self, "driver_cursor", driver_cursor)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute of the driver's cursor; it ends with the cursor."""
        if hasattr(LeaseCursor, name):
            object.__setattr__(self, name, value)
        else:
            self._lease.usable()
            setattr(self.driver_cursor, name, value)

    @property
    def connection(self) -> LeaseConnection:
        """The connection this cursor was made from."""
        lease: LeaseConnection = self._lease
        return lease

    def execute(self, operation: Any, *args: Any, **kwargs: Any) -> Any:
        """Run a statement; the arguments are the driver's."""
        return self._run(self.driver_cursor.execute, operation, args, kwargs)

    def executemany(self, operation: Any, *args: Any, **kwargs: Any) -> Any:
        """Run a statement once for each set of parameters."""
        return self._run(self.driver_cursor.executemany, operation, args, kwargs)

    def _run(
        self, function: Callable[..., Any], operation: Any, args: Any, kwargs: dict[str, Any]
    ) -> Any:
        if args == (None,):
            args = ()  # "no parameters" for every driver
        if kwargs:
            function = functools.partial(function, **kwargs)
        result = self._lease.statement(function, operation, *args)
        return self if result is self.driver_cursor else result

    def callproc(self, *args: Any, **kwargs: Any) -> Any:
        """Call a stored procedure."""
        return self._lease.statement(
            functools.partial(self.driver_cursor.callproc, **kwargs), *args
        )

    def fetchone(self) -> Any:
        """Return the next row, or None."""
        row = self._lease.call(self.driver_cursor.fetchone)
        if row is None:
            self._lease.has_read(self)
        return row

    def fetchmany(self, *args: Any, **kwargs: Any) -> Any:
        """Return the next rows."""
        rows = self._lease.call(functools.partial(self.driver_cursor.fetchmany, **kwargs), *args)
        if not rows:
            self._lease.has_read(self)
        return rows

    def fetchall(self) -> Any:
        """Return all rows that are left."""
        rows = self._lease.call(self.driver_cursor.fetchall)
        self._lease.has_read(self)
        return rows

    def close(self) -> None:
        """Close the cursor. If its connection was released or its transaction is lost, there is
        nothing to close: an error in a `finally` would hide the one that says why.
        """
        self._lease.close_cursor(self)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.fetchone, None)

    def __next__(self) -> Any:
        row = self.fetchone()
        if row is None:
            raise StopIteration
        return row

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._lease.close_cursor(self)

    @property
    def arraysize(self) -> int:
        """How many rows `fetchmany` returns."""
        return int(self.driver_cursor.arraysize)

    @arraysize.setter
    def arraysize(self, size: int) -> None:
        self.driver_cursor.arraysize = size

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        self._lease.usable()
        attribute = getattr(self.driver_cursor, name)
        if callable(attribute):
            runs_sql = name.startswith("execute")
            call = self._lease.statement if runs_sql else self._lease.call
            return functools.partial(self._driver_call, call, attribute)
        return attribute

    def _driver_call(
        self, call: Callable[..., Any], method: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        result = call(functools.partial(method, **kwargs), *args)
        return self if result is self.driver_cursor else result


class ParticularCursor(LeaseCursor):
    """A cursor of a driver that needs more: preparing, translating, watching for streams, closing.

    Drivers without such needs do not pay for them.
    """

    __slots__ = ()

    def __init__(self, lease: LeaseConnection, driver_cursor: Any) -> None:
        super().__init__(lease, driver_cursor)
        driver = lease.driver
        if driver.prepare_cursor:
            driver.prepare_cursor(driver_cursor)
        if driver.has_to_close_cursors:
            lease.note_cursor(self)

    def _run(
        self, function: Callable[..., Any], operation: Any, args: Any, kwargs: dict[str, Any]
    ) -> Any:
        driver = self._lease.driver
        if driver.translate and (kwargs or args not in ((), (None,))):
            operation = driver.translate(operation)
        result = super()._run(function, operation, args, kwargs)
        if driver.is_streaming and driver.is_streaming(self.driver_cursor):
            self._lease.note_stream(self)
        return result


def class_for(entry: Entry, known: dict[type, type[LeaseConnection]]) -> type[LeaseConnection]:
    """Return the class for leases of a connection; `known` are those of its pool so far.

    Each attribute of the driver's connection is an attribute of the class. With a `__getattr__` for
    all of them, CPython would take the slow way for every attribute of a lease, its own too: a
    lease took a fifth more time.
    """
    kind = type(entry.raw)
    if kind not in known:
        known[kind] = make_class(entry.raw, entry.driver, entry.origin.ping)
    entry.lease_class = known[kind]
    return known[kind]


def make_class(raw: Any, driver: Driver, ping: PingPolicy) -> type[LeaseConnection]:
    """Make the class for leases of connections like this one."""
    kind: Any = type(raw)
    if hasattr(kind, "__getattr__") or kind.__getattribute__ is not object.__getattribute__:
        base: type[LeaseConnection] = ForwardingConnection
        names: list[str] = []
    else:
        base = LeaseConnection
        names = [name for name in dir(raw) if not name.startswith("_")]
    is_plain = not (
        driver.prepare_cursor
        or driver.translate
        or driver.is_streaming
        or driver.has_to_close_cursors
    )
    namespace: dict[str, Any] = {name: DriverAttribute(name) for name in names}
    for name in dir(base):
        namespace.pop(name, None)
    namespace |= {name: DriverException(name) for name in _EXCEPTIONS}
    cursor_class = LeaseCursor if is_plain else ParticularCursor
    namespace |= {
        "__slots__": (),
        "driver": driver,
        "cursor_class": cursor_class,
        "pings_on_cursor": ping.on_cursor,
    }
    return type("LeaseConnection", (base,), namespace)
