"""A compliance suite for PEP 249, written from its text: https://peps.python.org/pep-0249/

Each check takes a `Subject` and asserts one sentence of the standard. They are run on the drivers
as they are and through a lease.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import pytest

Check = Callable[["Subject"], None]


@dataclass
class Subject:
    """A driver's module, and how to get connections to one database that has no tables."""

    module: ModuleType
    new: Callable[[], Any]
    placeholder: str
    table_type: str = ""
    opened: list[Any] = field(default_factory=list)

    def connect(self) -> Any:
        """Return a new connection, which is closed after the check."""
        connection = self.new()
        self.opened.append(connection)
        return connection

    def table(self, rows: int = 0) -> Any:
        """Return a connection to a database with a committed table of so many rows."""
        connection = self.connect()
        cursor = connection.cursor()
        cursor.execute("DROP TABLE IF EXISTS pep249")
        columns = "id INTEGER PRIMARY KEY, name VARCHAR(40)"
        cursor.execute(f"CREATE TABLE pep249 ({columns}){self.table_type}")
        for number in range(1, rows + 1):
            cursor.execute(f"INSERT INTO pep249 VALUES ({number}, 'name {number}')")
        cursor.close()
        connection.commit()
        return connection

    def rows(self, count: int = 5) -> Any:
        """Return a cursor that has selected so many rows, in order."""
        cursor = self.table(count).cursor()
        cursor.execute("SELECT id, name FROM pep249 ORDER BY id")
        return cursor

    def count(self) -> int:
        """Return how many rows another connection sees."""
        cursor = self.connect().cursor()
        cursor.execute("SELECT COUNT(*) FROM pep249")
        number = int(cursor.fetchone()[0])
        cursor.close()
        return number


# The module


def has_globals(subject: Subject) -> None:
    """apilevel, threadsafety and paramstyle have the values that the standard allows."""
    module: Any = subject.module
    assert module.apilevel in ("1.0", "2.0")
    assert module.threadsafety in (0, 1, 2, 3)
    assert module.paramstyle in ("qmark", "numeric", "named", "format", "pyformat")
    assert callable(module.connect)


def has_exceptions(subject: Subject) -> None:
    """The exceptions inherit as the standard draws it."""
    module: Any = subject.module
    assert issubclass(module.Warning, Exception)
    assert issubclass(module.Error, Exception)
    assert issubclass(module.InterfaceError, module.Error)
    assert issubclass(module.DatabaseError, module.Error)
    for name in (
        *("DataError", "OperationalError", "IntegrityError", "InternalError"),
        *("ProgrammingError", "NotSupportedError"),
    ):
        assert issubclass(getattr(module, name), module.DatabaseError)


def has_constructors(subject: Subject) -> None:
    """The constructors make values for dates, times and binary strings."""
    module: Any = subject.module
    assert module.Date(2026, 11, 26) == datetime.date(2026, 11, 26)
    assert module.Time(5, 28, 14) == datetime.time(5, 28, 14)
    stamp = module.Timestamp(2026, 11, 26, 5, 28, 14)
    assert stamp.isoformat() == "2026-11-26T05:28:14"
    assert module.DateFromTicks(0.0).year in (1969, 1970)
    assert module.TimeFromTicks(0.0) is not None
    assert module.TimestampFromTicks(0.0).year in (1969, 1970)
    assert bytes(module.Binary(b"\x00\x01")) == b"\x00\x01"


def has_type_objects(subject: Subject) -> None:
    """There are type objects to compare the type codes of a description with."""
    for name in ("STRING", "BINARY", "NUMBER", "DATETIME", "ROWID"):
        assert hasattr(subject.module, name)


# Connections


def commits(subject: Subject) -> None:
    """What was committed is seen by others."""
    connection = subject.table()
    connection.cursor().execute("INSERT INTO pep249 VALUES (1, 'x')")
    connection.commit()
    assert subject.count() == 1


def begins_without_autocommit(subject: Subject) -> None:
    """What was not committed is not seen by others."""
    connection = subject.table()
    connection.cursor().execute("INSERT INTO pep249 VALUES (1, 'x')")
    assert subject.count() == 0
    connection.rollback()


def rolls_back(subject: Subject) -> None:
    """`rollback()` undoes what came since the last commit, and the connection goes on."""
    connection = subject.table(1)
    connection.cursor().execute("INSERT INTO pep249 VALUES (2, 'x')")
    connection.rollback()
    connection.cursor().execute("INSERT INTO pep249 VALUES (3, 'x')")
    connection.commit()
    assert subject.count() == 2


def closes_with_rollback(subject: Subject) -> None:
    """Closing without a commit rolls back."""
    connection = subject.table()
    connection.cursor().execute("INSERT INTO pep249 VALUES (1, 'x')")
    connection.close()
    assert subject.count() == 0


def refuses_when_closed(subject: Subject) -> None:
    """A closed connection and its cursors raise an Error."""
    connection: Any = subject.table()
    cursor = connection.cursor()
    connection.close()
    uses: list[Callable[[], object]] = [
        connection.commit,
        connection.rollback,
        lambda: connection.cursor().execute("SELECT 1"),
        lambda: cursor.execute("SELECT 1"),
    ]
    for use in uses:
        with pytest.raises(subject.module.Error):
            use()


def may_end_nothing(subject: Subject) -> None:
    """`commit()` and `rollback()` with nothing to end do no harm."""
    connection = subject.connect()
    connection.commit()
    connection.rollback()
    connection.commit()


def has_exception_attributes(subject: Subject) -> None:
    """The exceptions are attributes of the connection (an optional extension)."""
    connection = subject.connect()
    for name in (
        *("Warning", "Error", "InterfaceError", "DatabaseError", "DataError", "OperationalError"),
        *("IntegrityError", "InternalError", "ProgrammingError", "NotSupportedError"),
    ):
        assert getattr(connection, name) is getattr(subject.module, name)


# What a cursor knows of a result


def describes_nothing_before(subject: Subject) -> None:
    """Before the first statement `description` is None and `rowcount` is -1."""
    cursor = subject.connect().cursor()
    assert cursor.description is None
    assert cursor.rowcount == -1


def describes_columns(subject: Subject) -> None:
    """`description` has seven items for each column, the name and the type first."""
    cursor = subject.rows()
    assert [column[0] for column in cursor.description] == ["id", "name"]
    assert [len(column) for column in cursor.description] == [7, 7]


def describes_no_columns(subject: Subject) -> None:
    """After a statement without rows `description` is None."""
    cursor = subject.rows()
    cursor.fetchall()
    cursor.execute("INSERT INTO pep249 VALUES (99, 'x')")
    assert cursor.description is None


def describes_types(subject: Subject) -> None:
    """The type codes are equal to the module's type objects."""
    module: Any = subject.module
    number, text = (column[1] for column in subject.rows().description)
    assert number == module.NUMBER
    assert text == module.STRING
    assert number != module.STRING


def counts_rows_changed(subject: Subject) -> None:
    """`rowcount` is the number of rows that the last statement has changed."""
    cursor = subject.table(5).cursor()
    cursor.execute("UPDATE pep249 SET name = 'y' WHERE id > 2")
    assert cursor.rowcount == 3
    cursor.execute("DELETE FROM pep249 WHERE id = 1")
    assert cursor.rowcount == 1


def counts_rows_of_many(subject: Subject) -> None:
    """`rowcount` after `executemany()` is that of all parameters together, or -1."""
    cursor = subject.table().cursor()
    p = subject.placeholder
    cursor.executemany(f"INSERT INTO pep249 VALUES ({p}, {p})", [(1, "a"), (2, "b")])
    assert cursor.rowcount in (2, -1)


def counts_rows_selected(subject: Subject) -> None:
    """`rowcount` after a SELECT is the number of rows, or -1 if it is not known."""
    assert subject.rows(5).rowcount in (5, -1)


# What a cursor does with parameters


def binds_parameters(subject: Subject) -> None:
    """Parameters reach the database as they are."""
    cursor = subject.table().cursor()
    p = subject.placeholder
    values = ["plain", "it's", '"quoted"', "100%", "%s", "back\\slash", "ünïcödé €", "", None]
    for number, value in enumerate(values):
        cursor.execute(f"INSERT INTO pep249 VALUES ({p}, {p})", (number, value))
    cursor.execute("SELECT name FROM pep249 ORDER BY id")
    assert [row[0] for row in cursor.fetchall()] == values


def binds_lists(subject: Subject) -> None:
    """Parameters may be any sequence."""
    cursor = subject.table().cursor()
    p = subject.placeholder
    cursor.execute(f"INSERT INTO pep249 VALUES ({p}, {p})", [7, "x"])
    cursor.execute(f"SELECT name FROM pep249 WHERE id = {p}", [7])
    assert tuple(cursor.fetchone()) == ("x",)


def binds_many(subject: Subject) -> None:
    """`executemany()` runs for each of the parameters."""
    cursor = subject.table().cursor()
    p = subject.placeholder
    rows = [(number, f"name {number}") for number in range(20)]
    cursor.executemany(f"INSERT INTO pep249 VALUES ({p}, {p})", rows)
    cursor.execute("SELECT id, name FROM pep249 ORDER BY id")
    assert [tuple(row) for row in cursor.fetchall()] == rows


def binds_binary(subject: Subject) -> None:
    """A binary string made by `Binary` comes back byte by byte."""
    module: Any = subject.module
    data = bytes(range(256))
    cursor = subject.connect().cursor()
    cursor.execute(f"SELECT {subject.placeholder}", (module.Binary(data),))
    answer = cursor.fetchone()[0]
    assert bytes(answer) == data


def leaves_percent_alone(subject: Subject) -> None:
    """Without parameters a statement is sent as it is."""
    cursor = subject.rows(3)
    cursor.fetchall()
    cursor.execute("SELECT COUNT(*) FROM pep249 WHERE name LIKE 'name%'")
    assert cursor.fetchone()[0] == 3


# What a cursor does with rows


def fetches_one(subject: Subject) -> None:
    """`fetchone()` returns the next row, a sequence, and None after the last."""
    cursor = subject.rows(2)
    assert tuple(cursor.fetchone()) == (1, "name 1")
    assert cursor.fetchone()[0] == 2
    assert cursor.fetchone() is None
    assert cursor.fetchone() is None


def fetches_many(subject: Subject) -> None:
    """`fetchmany()` returns so many rows, fewer at the end, and then none."""
    cursor = subject.rows(5)
    assert [row[0] for row in cursor.fetchmany(2)] == [1, 2]
    assert [row[0] for row in cursor.fetchmany(10)] == [3, 4, 5]
    assert len(cursor.fetchmany(10)) == 0


def fetches_arraysize(subject: Subject) -> None:
    """`fetchmany()` without a size takes that of `arraysize`, which is 1 at first."""
    cursor = subject.rows(5)
    assert cursor.arraysize == 1
    assert len(cursor.fetchmany()) == 1
    cursor.arraysize = 3
    assert len(cursor.fetchmany()) == 3
    assert len(cursor.fetchmany()) == 1


def fetches_all(subject: Subject) -> None:
    """`fetchall()` returns what is left, and then none."""
    cursor = subject.rows(5)
    cursor.fetchone()
    assert [row[0] for row in cursor.fetchall()] == [2, 3, 4, 5]
    assert len(cursor.fetchall()) == 0


def iterates(subject: Subject) -> None:
    """A cursor is its own iterator (an optional extension)."""
    cursor = subject.rows(4)
    assert iter(cursor) is cursor
    assert next(cursor)[0] == 1
    assert [row[0] for row in cursor] == [2, 3, 4]
    with pytest.raises(StopIteration):
        next(cursor)


def refuses_fetch_before_execute(subject: Subject) -> None:
    """Fetching raises an Error if no statement was run yet."""
    cursor = subject.connect().cursor()
    for fetch in (cursor.fetchone, cursor.fetchmany, cursor.fetchall):
        with pytest.raises(subject.module.Error):
            fetch()


def refuses_fetch_without_result(subject: Subject) -> None:
    """Fetching raises an Error if the last statement has no result set."""
    cursor = subject.table().cursor()
    cursor.execute("INSERT INTO pep249 VALUES (1, 'x')")
    for fetch in (cursor.fetchone, cursor.fetchmany, cursor.fetchall):
        with pytest.raises(subject.module.Error):
            fetch()


def refuses_closed_cursor(subject: Subject) -> None:
    """A closed cursor raises an Error; its connection and other cursors go on."""
    connection = subject.table()
    cursor, other = connection.cursor(), connection.cursor()
    cursor.close()
    with pytest.raises(subject.module.Error):
        cursor.execute("SELECT 1")
    other.execute("SELECT 1")
    assert other.fetchone()[0] == 1


def takes_sizes(subject: Subject) -> None:
    """`setinputsizes()` and `setoutputsize()` may do nothing, and are there."""
    cursor = subject.connect().cursor()
    cursor.setinputsizes([25, None])
    cursor.setoutputsize(1000)
    cursor.setoutputsize(1000, 0)
    cursor.execute("SELECT 1")
    assert cursor.fetchone()[0] == 1


def knows_its_connection(subject: Subject) -> None:
    """`cursor.connection` is the connection (an optional extension)."""
    connection = subject.connect()
    assert connection.cursor().connection is connection


def tells_last_row_id(subject: Subject) -> None:
    """`lastrowid` is that of the last row inserted, or None (an optional extension)."""
    cursor = subject.connect().cursor()
    cursor.execute("SELECT 1")
    cursor.fetchall()
    assert not cursor.lastrowid


# Errors


def tells_integrity_errors(subject: Subject) -> None:
    """A key that is there already raises an IntegrityError, and the next transaction goes on."""
    connection = subject.table(1)
    with pytest.raises(subject.module.IntegrityError):
        connection.cursor().execute("INSERT INTO pep249 VALUES (1, 'again')")
    connection.rollback()
    connection.cursor().execute("INSERT INTO pep249 VALUES (2, 'x')")
    connection.commit()
    assert subject.count() == 2


def tells_wrong_sql(subject: Subject) -> None:
    """SQL that is wrong raises a ProgrammingError, or another DatabaseError."""
    connection = subject.table()
    for sql in ("SELECT FROM WHERE", "SELECT * FROM pep249_is_not_there"):
        with pytest.raises(subject.module.DatabaseError):
            connection.cursor().execute(sql)
        connection.rollback()


def tells_wrong_parameters(subject: Subject) -> None:
    """A number of parameters that is not that of the placeholders raises an Error."""
    cursor = subject.table().cursor()
    p = subject.placeholder
    with pytest.raises(subject.module.Error):
        cursor.execute(f"SELECT {p}, {p}", (1,))


OF_MODULE: list[Check] = [has_globals, has_exceptions, has_constructors, has_type_objects]
OF_CONNECTION: list[Check] = [
    commits,
    begins_without_autocommit,
    rolls_back,
    closes_with_rollback,
    refuses_when_closed,
    may_end_nothing,
    has_exception_attributes,
    describes_nothing_before,
    describes_columns,
    describes_no_columns,
    describes_types,
    counts_rows_changed,
    counts_rows_of_many,
    counts_rows_selected,
    binds_parameters,
    binds_lists,
    binds_many,
    binds_binary,
    leaves_percent_alone,
    fetches_one,
    fetches_many,
    fetches_arraysize,
    fetches_all,
    iterates,
    refuses_fetch_before_execute,
    refuses_fetch_without_result,
    refuses_closed_cursor,
    takes_sizes,
    knows_its_connection,
    tells_last_row_id,
    tells_integrity_errors,
    tells_wrong_sql,
    tells_wrong_parameters,
]
