"""What a connection or a cursor does not have is refused in the driver's name, with a remedy."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from flask_pooled_db import ConfigError, UsageError, db_connection_context, get_db_connection
from flask_pooled_db.lease.fate import verb_of
from flask_pooled_db.lease.lease import Lease
from tests.support.apps import pooled_app
from tests.support.stages import ON_FILES, ServerStage, Stage

TITLES = {
    "pymysql": "PyMySQL",
    "mariadbconnector": "MariaDB Connector/Python",
    "sqlite": "sqlite3",
    "sqlcipher": "sqlcipher3",
    "psycopg": "psycopg",
}


def refusal(thing: Any, name: str) -> str:
    """What is said of an attribute that is not there."""
    assert not hasattr(thing, name)
    assert getattr(thing, name, "else") == "else"
    with pytest.raises(AttributeError) as caught:
        getattr(thing, name)
    return str(caught.value)


@pytest.mark.parametrize("name", ["execute", "executemany", "fetchall", "callproc"])
def test_absent_method(stage: ServerStage, name: str) -> None:
    """`conn.execute()` on a driver that has none names the driver and the remedy."""
    told = f"a {TITLES[stage.driver]} connection has no {name}(): use a cursor, "
    for conn in (get_db_connection(), db_connection_context().__enter__()):
        assert refusal(conn, name) == f"{told}conn.cursor().{name}(...)"
        assert not hasattr(type(conn), name)


def test_absent_attribute(any_stage: Stage) -> None:
    """Any other names the driver, of a connection and of its cursors."""
    title = TITLES[any_stage.driver]
    with (
        get_db_connection() as conn,
        conn.cursor() if any_stage.driver not in ON_FILES else conn as _,
    ):
        cur = conn.cursor()
        told = refusal(conn, "foo")
        assert f"{title} connection" in told
        assert "has no attribute 'foo'" in told
        assert refusal(cur, "foo") == f"a {title} cursor has no attribute 'foo'"
        assert f"a {title} connection has no attribute 'rowcount'" in refusal(conn, "rowcount")
    assert "foo" in refusal(cur, "foo")


def test_absent_on_sqlite(sqlite_stage: Stage) -> None:
    """What sqlite3's connections have works."""
    with get_db_connection() as conn:
        assert conn.execute("SELECT 1").fetchone() == (1,)


class Guarded(sqlite3.Connection):
    """A connection that does not tell which attributes it has."""

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)


def test_absent_on_forwarding(tmp_path: Path) -> None:
    """A connection with a `__getattr__` of its own is asked, and named as well."""

    def connect() -> sqlite3.Connection:
        path = tmp_path / "file.sqlite"
        return sqlite3.connect(path, factory=Guarded, check_same_thread=False)

    connect.dbapi = sqlite3  # type: ignore[attr-defined]
    connect.threadsafety = 1  # type: ignore[attr-defined]
    with pooled_app(creator=connect), get_db_connection() as conn:
        assert refusal(conn, "foo") == "a sqlite3 connection has no attribute 'foo'"


def test_absent_costs_nothing(stage: ServerStage) -> None:
    """No class of leases has a `__getattr__`, with which CPython looks up all attributes slowly."""
    for conn in (get_db_connection(), db_connection_context().__enter__()):
        assert isinstance(conn, Lease)
        assert not hasattr(type(conn), "__getattr__")


def test_autocommit_remedies(any_stage: Stage) -> None:
    """Whoever sets or asks for autocommit hears of both remedies."""
    remedies = r"db_connection_context\(\) for writes.*readonly=True for reads"
    with get_db_connection() as conn:
        with pytest.raises(UsageError, match=remedies):
            conn.autocommit = True
        with pytest.raises(UsageError, match=remedies):
            conn.autocommit(True)
        with pytest.raises(UsageError, match=r"db_connection_context\(\).*readonly=True"):
            conn.isolation_level = None


@pytest.mark.parametrize(
    "config",
    [
        {"url": "mysql+pymysql://u@h/d?autocommit=true"},
        {"url": "mariadb://u@h/d?autocommit=true"},
        {"url": "sqlite:///f?autocommit=true"},
        {"url": "postgresql+psycopg://u@h/d?autocommit=true"},
        {"creator": "mysql.connector", "connect_args": {"autocommit": True}},
    ],
    ids=lambda config: next(iter(config.values())),
)
def test_autocommit_as_connect_argument(config: dict[str, Any]) -> None:
    """So does whoever has it among the connect arguments, of any driver."""
    if "creator" in config:
        config["creator"] = pytest.importorskip(config["creator"])
    remedies = r"db_connection_context\(\) for writes.*readonly=True for reads"
    with pytest.raises(ConfigError, match=remedies), pooled_app(**config):
        pass


def test_absent_script(stage: ServerStage) -> None:
    """`executescript()` on a driver that has none names the method that runs scripts."""
    with get_db_connection() as conn:
        for thing in (conn, conn.cursor()):
            assert refusal(thing, "executescript").endswith(
                "executescript(): use db.run_script(...)"
            )


def test_late_row_number(any_stage: Stage) -> None:
    """Cursors that have a `lastrowid` have it before their first statement too, as nothing."""
    with get_db_connection() as conn:
        assert getattr(conn.cursor(), "lastrowid", None) in (None, 0)


@pytest.mark.parametrize(
    ("text", "verb"),
    [
        ("CALL p_late()", "CALL p_late"),
        ("call Shop.P2(5)", "CALL Shop.P2"),
        ("CALL `my db`.`p q`(5)", "CALL `my db`.`p q`"),
        ('CALL "p q"(5)', 'CALL "p q"'),
        ("CALL größe()", "CALL größe"),
        ("CALL 'x'", "CALL"),
        ("create  table MADE (a INT)", "CREATE TABLE"),
        ("-- c\ndrop\ttable t", "DROP TABLE"),
        ("update t_2 SET a = 1", "UPDATE t_2"),
        ("UPDATE `t 2` SET a = 1", "UPDATE `t 2`"),
        ("SELECT a_b.c_d", "SELECT a_b.c_d"),
        ('SELECT "data"', "SELECT"),
        ("SELECT 'data'", "SELECT"),
        ("SELECT 5", "SELECT"),
        ("SELECT @x", "SELECT"),
        ("(SELECT 1)", "SELECT"),
        ("COMMIT;", "COMMIT"),
        ("execute immediate 'COMMIT'", "EXECUTE IMMEDIATE"),
        ("p_late()", "a statement"),
        ("", "a statement"),
        (b"SELECT", "a statement"),
    ],
)
def test_a3_verb(text: object, verb: str) -> None:
    """A message calls a statement by its keyword, and by a whole name, and shows no data."""
    assert verb_of(text) == verb
