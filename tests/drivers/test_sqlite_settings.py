"""SQLite: what an application may choose of its connections."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from flask_pooled_db import PoolTimeout, db_connection_context
from tests.config.configs import problems_of
from tests.drivers.sqlite_app import query
from tests.support.apps import pooled_app

ON = ["on", "ON", "1", "true", "True", True, 1]
OFF = ["off", "Off", "0", "false", "FALSE", False, 0]
MODES = ["wal", "WAL", "delete", "Delete", "truncate", "persist", "memory"]


def settings(how: str, path: Path, name: str, value: Any) -> dict[str, Any]:
    if how == "query":
        return {"url": f"sqlite:///{path}?{name}={value}"}
    if how == "CONNECT_ARGS":
        return {"url": f"sqlite:///{path}", "connect_args": {name: value}}
    return {"creator": sqlite3, "connect_args": {"database": str(path), name: value}}


HOW = pytest.mark.parametrize("how", ["query", "CONNECT_ARGS", "module"])


@HOW
@pytest.mark.parametrize("value", [*ON, *OFF])
def test_foreign_keys_setting(tmp_path: Path, how: str, value: Any) -> None:
    """`foreign_keys` decides whether SQLite enforces them."""
    with pooled_app(**settings(how, tmp_path / "db", "foreign_keys", value)):
        assert query("PRAGMA foreign_keys") == [(value in ON,)]


@HOW
@pytest.mark.parametrize("mode", MODES)
def test_journal_mode_setting(tmp_path: Path, how: str, mode: str) -> None:
    """`journal_mode` is that of each connection; the other defaults stay."""
    with pooled_app(**settings(how, tmp_path / "db", "journal_mode", mode), maxconnections=2):
        with db_connection_context() as conn, db_connection_context(independent=True) as other:
            for each in (conn, other):
                assert each.execute("PRAGMA journal_mode").fetchall() == [(mode.lower(),)]
                assert each.execute("PRAGMA foreign_keys").fetchall() == [(1,)]
        with db_connection_context() as conn:
            conn.execute("CREATE TABLE t (a)")
            conn.execute("INSERT INTO t VALUES (1)")
        assert query("SELECT a FROM t") == [(1,)]


def test_journal_mode_of_a_file_in_wal_mode(tmp_path: Path) -> None:
    """A file that is in WAL mode is switched to another one that is asked for."""
    path = tmp_path / "db"
    with pooled_app(f"sqlite:///{path}"):
        assert query("PRAGMA journal_mode") == [("wal",)]
    with pooled_app(f"sqlite:///{path}?journal_mode=delete"):
        assert query("PRAGMA journal_mode") == [("delete",)]


def test_journal_mode_that_others_keep(tmp_path: Path) -> None:
    """A file that another program keeps in WAL mode can't be switched, and the error says so."""
    path = tmp_path / "db"
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.executescript("PRAGMA journal_mode=WAL; CREATE TABLE t (a); SELECT * FROM t")
        url = f"sqlite:///{path}?journal_mode=delete&timeout=0.1"
        with pooled_app(url, acquire_timeout=0.5):
            with pytest.raises(PoolTimeout) as caught, db_connection_context():
                pass
    assert "locked" in str(caught.value.__cause__)


@pytest.mark.parametrize("mode", ["", "&journal_mode=delete", "&journal_mode=wal"])
@pytest.mark.parametrize("open_as", ["mode=ro", "immutable=1"])
def test_read_only_file_is_not_forced(tmp_path: Path, mode: str, open_as: str) -> None:
    """A file that is opened for reading alone stays in the mode that it is in."""
    path = tmp_path / "db"
    with contextlib.closing(sqlite3.connect(path)) as bare:
        bare.execute("CREATE TABLE t (a)")
    database = f"file:{path}?{open_as}"
    arguments = {"database": database, "uri": True}
    arguments |= {"journal_mode": mode.partition("=")[2]} if mode else {}
    with pooled_app(creator=sqlite3, connect_args=arguments):
        assert query("PRAGMA journal_mode") == [("delete",)]
        assert query("SELECT COUNT(*) FROM t") == [(0,)]


def test_settings_in_memory(tmp_path: Path) -> None:
    """A database in memory has its foreign keys set, and no journal to choose."""
    with pooled_app("sqlite://?foreign_keys=off&journal_mode=delete"):
        assert query("PRAGMA foreign_keys") == [(0,)]


@HOW
@pytest.mark.parametrize("value", ["", "yes", "2", "maybe", "-1"])
def test_wrong_foreign_keys(tmp_path: Path, how: str, value: str) -> None:
    """A wrong value is an error at `init_app` that lists what is allowed."""
    keys = settings(how, tmp_path / "db", "foreign_keys", value)
    (problem,) = problems_of({f"POOLED_DB_{name.upper()}": given for name, given in keys.items()})
    assert problem == (
        "POOLED_DB: the connect argument 'foreign_keys' must be on or off (also true, false, 1, "
        "0), in any case"
    )


@HOW
@pytest.mark.parametrize("value", ["", "wal2", "off", "0", "true", "drop table"])
def test_wrong_journal_mode(tmp_path: Path, how: str, value: str) -> None:
    """A wrong value is an error at `init_app` that lists what is allowed."""
    keys = settings(how, tmp_path / "db", "journal_mode", value)
    (problem,) = problems_of({f"POOLED_DB_{name.upper()}": given for name, given in keys.items()})
    assert problem == (
        "POOLED_DB: the connect argument 'journal_mode' must be one of wal, delete, truncate, "
        "persist, memory, in any case"
    )


def test_several_wrong_settings() -> None:
    """All that is wrong is told at once."""
    problems = problems_of({"POOLED_DB_URL": "sqlite:///f?foreign_keys=x&journal_mode=y&factory=z"})
    assert ["factory" in problems[0], "foreign_keys" in problems[1]] == [True, True]
    assert "journal_mode" in problems[2]
