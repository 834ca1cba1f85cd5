"""A DB-API 2 module that does nothing, so that what is measured is the pool alone."""

from __future__ import annotations

apilevel = "2.0"
threadsafety = 1
paramstyle = "format"


class Error(Exception):
    """The root of the errors that PEP 249 asks for."""


class InterfaceError(Error): ...


class DatabaseError(Error): ...


class OperationalError(DatabaseError): ...


class InternalError(DatabaseError): ...


class Cursor:
    """A cursor of no rows."""

    arraysize = 1
    description = None
    rowcount = -1

    def execute(self, operation: str, parameters: object = ()) -> None: ...

    def fetchone(self) -> None: ...

    def close(self) -> None: ...


class Connection:
    """A connection to nowhere."""

    def cursor(self) -> Cursor:
        return Cursor()

    def ping(self, reconnect: bool = False) -> None: ...

    def commit(self) -> None: ...

    def rollback(self) -> None: ...

    def close(self) -> None: ...


def connect() -> Connection:
    """A new connection."""
    return Connection()
