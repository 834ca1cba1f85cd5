"""`flask pooled-db status` and `top`: what is seen of all processes from outside."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from flask_pooled_db import PooledDB, get_db_connection
from flask_pooled_db.flask.commands import group
from flask_pooled_db.flask.context import AppState
from tests.support.apps import pooled_app
from tests.support.page_scenes import host, lease, process


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "run"
    path.mkdir(mode=0o700)
    return path


@pytest.fixture
def site(url: str, folder: Path) -> Iterator[tuple[Flask, PooledDB]]:
    with pooled_app(url, runtime_dir=folder, leak_threshold=60.0) as pair:
        yield pair


def run(app: Flask, *args: str) -> str:
    """What a command prints."""
    result = app.test_cli_runner().invoke(args=["pooled-db", *args])
    assert result.exit_code == 0, result.output
    return result.stdout


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.split("  ") if cell.strip()]


def test_status(site: tuple[Flask, PooledDB]) -> None:
    """A line tells what the pool of a process does."""
    conn = get_db_connection()
    conn.execute("SELECT 1")
    head, line = run(site[0], "status").splitlines()
    conn.close()
    told = dict(zip(cells(head), cells(line), strict=True))
    assert (told["BIND"], told["PID"]) == ("'default'", str(os.getpid()))
    assert (told["IN USE"], told["WAITING"], told["CHECKOUTS"]) == ("1", "0", "1")


def test_status_of_bind(url: str, folder: Path, tmp_path: Path) -> None:
    """`--bind` leaves nothing of the other binds, as a table and as JSON; the shape of the latter
    is that of the whole.
    """
    settings: dict[str, Any] = {"runtime_dir": folder, "leak_threshold": 60, "slow_statement": 1e-9}
    with pooled_app(url, binds={"log": f"sqlite:///{tmp_path / 'log'}"}, **settings) as (app, db):
        db.bind_loader(lambda name: f"sqlite:///{tmp_path / name}")
        for bind in ("default", "log", "north", "south"):
            db.fetch_value("SELECT 1", bind=bind)
        db.close_bind("south")
        with app.app_context(), db.connection_context("log"), db.connection_context("north"):
            whole = json.loads(run(app, "status", "--json"))
            for bind in ("default", "log", "north", "south"):
                _, *lines = run(app, "status", "--bind", bind).splitlines()
                assert [cells(line)[0] for line in lines] == [repr(bind)] * (bind != "south")
                told = json.loads(run(app, "status", "--bind", bind, "--json"))
                assert _binds_in(told) == {bind}
                assert _without_content(told) == _without_content(whole)
            gone = json.loads(run(app, "status", "--bind", "south", "--json"))
        assert _binds_in(whole) == {"default", "log", "north", "south"}
        assert gone["totals"]["pools"]["south"] == whole["totals"]["pools"]["south"]


def _binds_in(value: Any) -> set[str]:
    """The binds that JSON tells of anywhere."""
    if isinstance(value, list):
        return set().union(*map(_binds_in, value))
    if not isinstance(value, dict):
        return set()
    names = {"default", "log", "north", "south"} & {*value.keys(), value.get("bind")}
    return names.union(*map(_binds_in, value.values()))


def _without_content(told: dict[str, Any]) -> Any:
    """The names of the fields."""
    (process,) = told["processes"]
    parts = (told, process, process["numbers"], told["totals"], told["ended"])
    return [sorted(part) for part in parts]


def test_nothing_to_see(site: tuple[Flask, PooledDB]) -> None:
    """Where no process uses a pool, or none of that bind, and where nobody holds a connection, it
    is said.
    """
    hint = "run the command as the workers' user, with the same POOLED_DB_RUNTIME_DIR.\n"
    nobody = "No process of this app uses a pool at the moment. If one should be seen: "
    for command in ("status", "binds"):
        assert run(site[0], command) == nobody + hint
    site[1].fetch_value("SELECT 1")
    for command in ("status", "binds"):
        told = run(site[0], command, "--bind", "lgo")
        assert told.startswith("No process of this app uses a pool of bind 'lgo' at the moment. ")
    assert run(site[0], "top") == "Nobody holds a connection at the moment.\n"


def test_top(site: tuple[Flask, PooledDB]) -> None:
    """The one first that holds its connection for longest, with where it was taken."""
    first, second = get_db_connection(), get_db_connection()
    first.execute("CREATE TABLE t (id INT)")
    first.execute("INSERT INTO t VALUES (1)")
    head, *lines = run(site[0], "top").splitlines()
    assert cells(head)[-2:] == ["WHO", "TAKEN AT"]
    assert len(lines) == 2
    assert f"{__file__}:" in lines[0]
    assert "open, idle for" in lines[0]
    assert "none, idle for" in lines[1]
    assert len(run(site[0], "top", "--limit", "1").splitlines()) == 2
    found = json.loads(run(site[0], "top", "--json"))
    assert [one["in_transaction"] for one in found] == [True, False]
    assert found[0]["age"] >= found[1]["age"]
    for conn in (first, second):
        conn.rollback()
        conn.close()


def test_top_of_what_is_old(site: tuple[Flask, PooledDB], monkeypatch: pytest.MonkeyPatch) -> None:
    """What a process has told a while ago is as it is now: a lease at rest has been idle since."""
    resting = lease(age=10.0, idle=10.0, rests_for=10.0)
    busy = lease(age=6.0, idle=3.0, rests_for=0.0)
    stopped = process(7, age=30.0, leases=[resting, busy])
    monkeypatch.setattr(AppState, "read_host", lambda self: host(stopped))
    found = json.loads(run(site[0], "top", "--json"))
    times = [[one[name] for name in ("age", "idle", "rests_for")] for one in found]
    assert times == [[40.0, 40.0, 40.0], [36.0, 3.0, 0.0]]
    _, _, *lines = run(site[0], "top").splitlines()
    assert [cells(line)[1] for line in lines] == ["100%", "8%"]


def test_top_of_what_is_not_known(url: str, folder: Path) -> None:
    """Where it is not known who holds connections, it says what to set."""
    with pooled_app(url, runtime_dir=folder) as (app, db):
        db.fetch_value("SELECT 1")
        (line,) = run(app, "top").splitlines()
        assert line.startswith("It is not known who holds connections: set POOLED_DB_LEAK_THRESH")


def test_watch(site: tuple[Flask, PooledDB], monkeypatch: pytest.MonkeyPatch) -> None:
    """It is printed again and again until it is interrupted, which is no error."""
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr("flask_pooled_db.flask.commands.live.sleep", pause)
    site[1].fetch_value("SELECT 1")
    lines = run(site[0], "status", "--watch", "--interval", "0.5").splitlines()
    assert [line.startswith("BIND") for line in lines] == [True, False] * 3
    assert pauses == [0.5] * 3


def test_hostile_names(url: str, folder: Path, tmp_path: Path) -> None:
    """Nothing that comes from outside reaches the terminal as a control character."""
    with pooled_app(url, runtime_dir=folder, leak_threshold=60.0) as (app, db):
        db.bind_loader(lambda name: f"sqlite:///{tmp_path / 'other'}")
        name = "a\x1b[2J\u202eb"
        with app.test_request_context(), db.connection_context(name) as conn:
            conn.cursor().execute("SELECT 1")
            printed = run(app, "status") + run(app, "top")
        assert printed.replace("\n", "").isprintable()
        assert "\\x1b[2J\\u202eb" in printed


def test_database_away(folder: Path) -> None:
    """A database that is away is told of, with its bind and for how long."""
    with pooled_app("sqlite:////nowhere/x.db", runtime_dir=folder) as (app, db):
        with pytest.raises(Exception, match="default"):
            db.fetch_value("SELECT 1")
        (line, *_) = run(app, "status").splitlines()
        assert line.startswith(f"The database of bind 'default' is away for process {os.getpid()}")
        assert line.endswith("OperationalError: unable to open database file")


def test_without_directory(url: str, tmp_path: Path) -> None:
    """Without a usable directory it says why other processes can't be seen."""
    (tmp_path / "file").write_text("")
    with pooled_app(url, runtime_dir=tmp_path / "file") as (app, db):
        db.fetch_value("SELECT 1")
        (line, *_) = run(app, "status").splitlines()
        assert line.startswith("Other processes can't be seen: ")
        assert "no directory" in line


def test_app_without_extension() -> None:
    """In an app without the extension it is one line."""
    app = Flask("app_under_test")
    app.cli.add_command(group)
    result = app.test_cli_runner().invoke(args=["pooled-db", "status"])
    assert (result.exit_code, result.stdout) == (1, "")
    assert len(result.stderr.splitlines()) == 1
