"""SQLite files that are named relatively are in the app's instance folder."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from flask_pooled_db import ConfigError, PooledDB, db_connection_context


@contextmanager
def site(folder: Path, **keys: Any) -> Iterator[None]:
    """An app with this instance folder, inside its context."""
    app = Flask("shop", instance_path=str(folder))
    app.config.update({f"POOLED_DB_{name.upper()}": value for name, value in keys.items()})
    app.config["POOLED_DB_MINCACHED"] = 0
    db = PooledDB(app)
    try:
        with app.app_context():
            yield
    finally:
        db.close()


def file_of(bind: str | None = None) -> str:
    with db_connection_context(bind) as conn:
        ((_, _, path),) = conn.execute("PRAGMA database_list").fetchall()
        return str(path)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An instance folder that does not exist yet, far from the current directory."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path / "app" / "instance"


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("sqlite:///shop.db", "shop.db"),
        ("sqlite+pysqlite:///shop.db", "shop.db"),
        ("sqlite:///shop.db?timeout=1&foreign_keys=off", "shop.db"),
        ("sqlite:///data/sub/shop.db", "data/sub/shop.db"),
        ("sqlite:///../shop.db", "../shop.db"),
        ("sqlite:///a%20b%3F.db", "a b?.db"),
        ("sqlite:///file:shop.db", "file:shop.db"),
        ("sqlite:///shop.db?uri=true", "shop.db"),
    ],
)
def test_relative_file(folder: Path, url: str, name: str) -> None:
    """`sqlite:///name` is in the instance folder, which is made when it is needed."""
    with site(folder, url=url):
        assert not folder.exists()
        assert file_of() == str((folder / name).resolve())
    assert not list(Path.cwd().iterdir())


def test_default_file(folder: Path) -> None:
    """Without a URL the data is in a file of the app's name."""
    with site(folder):
        assert not folder.exists()
        assert file_of() == str(folder / "shop.sqlite")


def test_relative_files_of_binds(folder: Path) -> None:
    """So it is for binds, by a URL or by keys."""
    binds = {"a": "sqlite:///a.db", "b": {"URL": "sqlite:///b.db?timeout=1"}}
    with site(folder, url="sqlite:///shop.db", binds=binds):
        names = {bind: file_of(bind) for bind in (None, "a", "b")}
    assert names == {None: f"{folder}/shop.db", "a": f"{folder}/a.db", "b": f"{folder}/b.db"}


def test_absolute_file(folder: Path, tmp_path: Path) -> None:
    """`sqlite:////path/name` is that file, and a folder that is missing there is an error."""
    with site(folder, url=f"sqlite:///{tmp_path}/shop.db"):
        assert file_of() == f"{tmp_path}/shop.db"
    with site(folder, url=f"sqlite:///{tmp_path}/missing/shop.db"):
        with pytest.raises(Exception, match="won't help"):
            file_of()
    assert not folder.exists()
    assert not (tmp_path / "missing").exists()


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "sqlite:///?foreign_keys=off"])
def test_no_file(folder: Path, url: str) -> None:
    """A database in memory needs no folder."""
    with site(folder, url=url):
        file_of()
    assert not folder.exists()


IN_PARTS = {"drivername": "sqlite", "query": {"uri": "true"}}
MODE = {"uri": "true", "mode": "rwc"}


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("sqlite:///file:shop.db?uri=true", "shop.db"),
        ("sqlite:///file:data/sub/shop.db?uri=true", "data/sub/shop.db"),
        ("sqlite:///file:../shop.db?uri=true", "../shop.db"),
        ("sqlite:///file:a%2520b%253F.db?uri=true", "a b?.db"),
        ("sqlite:///file:shop.db?mode=rwc&uri=true", "shop.db"),
        ("sqlite:///file:shop.db?uri=true&psow=0&timeout=1&nolock=0&vfs=unix", "shop.db"),
        ("sqlite:///file:shop.db%3Fcache=private%23here?mode=rwc&uri=true", "shop.db"),
        ({**IN_PARTS, "database": "file:shop.db?mode=rwc"}, "shop.db"),
        (
            {**IN_PARTS, "database": "file:shop.db", "query": {"uri": "true", "psow": "1"}},
            "shop.db",
        ),
    ],
)
def test_relative_sqlite_uris(tmp_path: Path, folder: Path, url: Any, name: str) -> None:
    """The file of a relative `file:` URI is in the instance folder too, whatever its name."""
    for instance in (folder, tmp_path / "100% mine?"):
        with site(instance, url=url):
            assert file_of() == str((instance / name).resolve())
    with site(folder, url="sqlite:///file:added.db", connect_args={"uri": True}):
        assert file_of() == str(folder / "added.db")
    assert not list(Path.cwd().iterdir())


@pytest.mark.parametrize("start", ["file:", "file://", "file://localhost"])
def test_absolute_sqlite_uris(folder: Path, tmp_path: Path, start: str) -> None:
    """An absolute `file:` URI is that file."""
    with site(folder, url={**IN_PARTS, "database": f"{start}{tmp_path}/shop.db"}):
        assert file_of() == f"{tmp_path}/shop.db"
    assert not folder.exists()


@pytest.mark.parametrize(
    "name", ["file::memory:?cache=shared", "file:a?mode=memory&cache=shared", "file:/a?vfs=memdb"]
)
def test_sqlite_uris_in_memory(folder: Path, name: str) -> None:
    """A `file:` URI in memory needs no folder."""
    with site(folder, url={**IN_PARTS, "database": name}):
        file_of()
    assert not folder.exists()
    assert not list(Path.cwd().iterdir())


@pytest.mark.parametrize(
    "name", ["file:shop.db?mode=ro&uri=true", "file:shop.db%3Fmode=ro?uri=true"]
)
def test_parameters_of_sqlite_uris(folder: Path, name: str) -> None:
    """What SQLite's URIs take is SQLite's, from the URI or from the URL's query."""
    with site(folder, url="sqlite:///shop.db"), db_connection_context() as conn:
        conn.execute("CREATE TABLE t (a)")
    with site(folder, url=f"sqlite:///{name}"), db_connection_context() as conn:
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            conn.execute("INSERT INTO t VALUES (1)")


@pytest.mark.parametrize(
    "name",
    ["file:shop.db?uri=true&mood=ro", "file:shop.db?mode=ro", "shop.db?mode=ro&uri=true"],
)
def test_unknown_parameters_of_sqlite_uris(folder: Path, name: str) -> None:
    """What neither sqlite3 takes nor, in a URI, SQLite, is refused."""
    with pytest.raises(ConfigError, match=r"mode|mood"), site(folder, url=f"sqlite:///{name}"):
        pass


def test_file_of_creator(folder: Path) -> None:
    """A file that is named for a module is the driver's to find."""
    with site(folder, creator=sqlite3, connect_args={"database": "own.db"}):
        assert file_of() == str(Path.cwd() / "own.db")
    assert not folder.exists()


def test_folder_that_cant_be_made(folder: Path) -> None:
    """Where the folder can't be made, connecting says what is wrong."""
    folder.parent.mkdir()
    folder.write_text("a file")
    with site(folder, url="sqlite:///shop.db"):
        with pytest.raises(Exception, match="won't help") as caught:
            file_of()
    assert "unable to open database file" in str(caught.value.__cause__)
