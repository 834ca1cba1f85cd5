"""What errors mean if their driver gives no more than their class."""

from __future__ import annotations

import sqlite3
import types
from pathlib import Path
from types import ModuleType

import pytest

from flask_pooled_db.config import PoolConfig
from flask_pooled_db.drivers import Driver, Failure, make_driver

CLASSES = {
    "Error": Failure.LOST,
    "DatabaseError": Failure.LOST,
    "InterfaceError": Failure.LOST,
    "OperationalError": Failure.LOST,
    "InternalError": Failure.LOST,
    "ProgrammingError": Failure.DOOMED,
    "IntegrityError": Failure.DOOMED,
    "DataError": Failure.DOOMED,
    "NotSupportedError": Failure.DOOMED,
}


@pytest.mark.parametrize(("name", "failure"), CLASSES.items(), ids=CLASSES)
def test_t5_error_of_unknown_module(name: str, failure: Failure) -> None:
    """A module that is not known has to say by an error's class that only the statement is wrong,
    which dooms its transaction: of a COMMIT it says that nothing was committed.
    """
    driver = Driver(sqlite3, sqlite3, {}, 5.0)
    assert driver.classify(None, getattr(sqlite3, name)("no")) is failure
    assert not driver.never_sent(None, getattr(sqlite3, name)("no"))


class OfMySQL:
    """A connection with the names of MySQL's functions, as mysqlclient's."""

    def get_server_info(self) -> str:
        return "10.11"


@pytest.mark.parametrize(("name", "failure"), CLASSES.items(), ids=CLASSES)
def test_t4_error_of_unknown_mysql_module(name: str, failure: Failure) -> None:
    """MySQL undoes the failed statement alone."""
    expected = Failure.STATEMENT if failure is Failure.DOOMED else failure
    driver = Driver(sqlite3, sqlite3, {}, 5.0)
    assert driver.classify(OfMySQL(), getattr(sqlite3, name)("no")) is expected


@pytest.mark.parametrize("state", ["57P01", "08006", "40003"])
def test_t5_lost_by_sqlstate(state: str) -> None:
    """An SQLSTATE that does not say what the server did counts as a lost connection."""
    raw = types.SimpleNamespace(get_transaction_status=lambda: 3)
    error = sqlite3.ProgrammingError("no")
    assert Driver(sqlite3, sqlite3, {}, 5.0).classify(raw, error) is Failure.DOOMED
    error.pgcode = state  # type: ignore[attr-defined]
    assert Driver(sqlite3, sqlite3, {}, 5.0).classify(raw, error) is Failure.LOST


def test_t5_error_of_poor_module() -> None:
    """The errors of a module that has no classes for them are all of unknown meaning."""
    poor = ModuleType("poor")
    poor.Error = ValueError  # type: ignore[attr-defined]
    assert Driver(lambda: None, poor, {}, 5.0).classify(None, ValueError()) is Failure.LOST
    assert Driver(lambda: None, None, {}, 5.0).classify(None, ValueError()) is Failure.LOST


def test_sqlite_locked_by_code(tmp_path: Path) -> None:
    """An SQLite error is worth another attempt if its code says so, whatever the names in it."""
    url = f"sqlite:///{tmp_path}/db?timeout=0"
    driver = make_driver(PoolConfig.from_mapping({"URL": url}))
    first, second = driver.connect(), driver.connect()
    with pytest.raises(sqlite3.OperationalError) as missing:
        first.execute("SELECT * FROM locked")
    first.execute("BEGIN IMMEDIATE")
    with pytest.raises(sqlite3.OperationalError) as locked:
        second.execute("BEGIN IMMEDIATE")
    for raw in (first, second):
        driver.close(raw)
    assert "locked" in str(missing.value)
    assert not driver.is_retryable(missing.value)
    assert not driver.is_transient(missing.value)
    assert driver.is_retryable(locked.value)
