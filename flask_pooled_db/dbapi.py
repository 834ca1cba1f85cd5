"""What a caller sees of a lease: a connection and its cursors, as PEP 249 has them.

What is not the standard's is passed on to the driver's own.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self

from flask_pooled_db.errors import UsageError
from flask_pooled_db.lease import Lease

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
    """An exception class of the driver's. It can be had after release: an `except` clause may come
    later.
    """

    def __get__(self, lease: LeaseConnection | None, owner: type) -> Any:
        return self if lease is None else lease.driver_exception(self._name)


class LeaseConnection(Lease):
    """A connection lent to a caller, as PEP 249 has it.

    `commit()`, `rollback()`, `cursor()` and `close()` are the standard's; the driver's exception
    classes are attributes (`conn.IntegrityError`); what else the driver's connection has is passed
    on. Once released, it and its cursors refuse to work. It is for one thread at a time.

    Raises `UsageError` for use after release or by two threads at once, and `TransactionAborted`
    for use after its transaction was lost.
    """

    __slots__ = ()

    def cursor(self, *args: Any, **kwargs: Any) -> LeaseCursor:
        """A new cursor; the arguments are the driver's."""
        con = self.usable()
        if con.pings_on_cursor:
            self.check_by_ping(con)
        self.is_untouched = False
        cursor = con.raw.cursor(*args, **kwargs)  # of which the server learns nothing
        if self.driver.prepare_cursor:
            self.driver.prepare_cursor(cursor)
        return LeaseCursor(self, cursor)

    def close(self) -> None:
        """Give the connection back; uncommitted work is rolled back. Closing twice is harmless."""
        if self.depth:
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
        if not self.depth:
            self.release()

    def ping(self, reconnect: bool = False) -> None:
        """Raise when the server doesn't answer. Whatever `reconnect` says, there is none: it would
        lose the transaction without a word.
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
            """What the driver's connection has: `connection_class` makes attributes of it."""

    def driver_attribute(self, name: str) -> Any:
        """What the driver's connection has by this name."""
        attribute = getattr(self.usable().raw, name)
        return functools.partial(self._driver_call, name) if callable(attribute) else attribute

    def driver_exception(self, name: str) -> Any:
        """The driver's exception class of this name."""
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
        return LeaseCursor(self, result) if is_cursor else result


class ForwardingConnection(LeaseConnection):
    """For a driver's connection that does not tell what attributes it has."""

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return self.driver_attribute(name)


def connection_class(raw: Any) -> type[LeaseConnection]:
    """The class of the leases of connections like this one, with what the driver's has.

    Each attribute is one of the class. With a `__getattr__` for all of them, CPython would look
    for every attribute of a lease the long way, its own too: a lease took a fifth more time.
    """
    kind: Any = type(raw)
    if hasattr(kind, "__getattr__") or kind.__getattribute__ is not object.__getattribute__:
        base: type[LeaseConnection] = ForwardingConnection
        told: list[str] = []
    else:
        base = LeaseConnection
        told = [name for name in dir(raw) if not name.startswith("_")]
    forwarded = {name: DriverAttribute(name) for name in set(told).difference(dir(base))}
    exceptions = {name: DriverException(name) for name in _EXCEPTIONS}
    return type("LeaseConnection", (base,), {"__slots__": (), **forwarded, **exceptions})


_set = object.__setattr__  # the way past the cursor's own, which costs a function call


class LeaseCursor:
    """A driver's cursor that works as long as its lease does."""

    __slots__ = ("__weakref__", "_lease", "driver_cursor")

    def __init__(self, lease: LeaseConnection, driver_cursor: Any) -> None:
        _set(self, "_lease", lease)
        _set(self, "driver_cursor", driver_cursor)
        if lease.driver.has_to_close_cursors:
            lease.note_cursor(self)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set what is the driver's cursor's own: it ends with it."""
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
        function = self.driver_cursor.execute
        return self._lease.execute_on(self, function, operation, args, kwargs)

    def executemany(self, operation: Any, *args: Any, **kwargs: Any) -> Any:
        """Run a statement once for each set of parameters."""
        function = self.driver_cursor.executemany
        return self._lease.execute_on(self, function, operation, args, kwargs)

    def callproc(self, *args: Any, **kwargs: Any) -> Any:
        """Call a stored procedure."""
        return self._lease.statement(
            functools.partial(self.driver_cursor.callproc, **kwargs), *args
        )

    def fetchone(self) -> Any:
        """The next row, or None."""
        row = self._lease.call(self.driver_cursor.fetchone)
        if row is None:
            self._lease.has_read(self)
        return row

    def fetchmany(self, *args: Any, **kwargs: Any) -> Any:
        """The next rows."""
        rows = self._lease.call(functools.partial(self.driver_cursor.fetchmany, **kwargs), *args)
        if not rows:
            self._lease.has_read(self)
        return rows

    def fetchall(self) -> Any:
        """All rows that are left."""
        rows = self._lease.call(self.driver_cursor.fetchall)
        self._lease.has_read(self)
        return rows

    def close(self) -> None:
        """Close the cursor. Where its connection was released, or its transaction lost, there is
        nothing to close: in a `finally`, an error here would hide the one that says why.
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
        """How many rows `fetchmany` gets."""
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
