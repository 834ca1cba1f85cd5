"""`flask pooled-db stress`: what it runs and tells, how it asks, and how it is ended."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from flask_pooled_db.flask.commands.stopping import Stopping
from flask_pooled_db.flask.commands.stress import ground, load
from harness.processes import PROJECT
from harness.server import MariaDBServer
from harness.signals import handled
from harness.waiting import PATIENCE, wait_until
from tests.flask.stressing import (
    SHORT,
    Site,
    made,
    make,
    stress,
    tables,
    told,
)
from tests.support.sites import bare_app

KINDS = {"transfer", "read", "raises", "nested"}
LISTED = re.compile(r"pooled_db_stress_[0-9a-f]{12}_(?:accounts|moves)")


@pytest.mark.parametrize("database", ["sqlite", "pymysql", "mariadbconnector", "psycopg"])
def test_stress(
    database: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scopes of each kind are run, more of them at once than there are connections; the sum is
    right, nothing is left behind, in the database either, and the pool has the size that it had.
    """
    if database == "sqlite":
        url = request.getfixturevalue("url")
    elif database == "psycopg":
        url = request.getfixturevalue("empty_postgresql")
    else:
        server = request.getfixturevalue("mariadb")
        url = server.url(database, server.create_database())
    app, db = make(url=url, maxconnections=2, mincached=1)
    with monkeypatch.context() as patch:
        patch.setattr(Stopping, "is_asked", lambda _: db.stats().commits > 100)
        found = told(stress((app, db), "--seconds=600", "--clients=4", "--json"))
    assert (found["clients"], found["maxconnections"], found["problems"]) == (4, 2, [])
    assert found["sum"] == found["expected_sum"]
    times = found["times"]
    assert times.keys() == {*KINDS, "all", "wait for a connection"}
    assert all(times[kind]["count"] for kind in KINDS)
    assert times["all"]["per_second"] > 0
    assert times["wait for a connection"]["p99_ms"] > 0
    on_server = None if database == "sqlite" else 0
    assert found["left"] == {
        "connections_in_use": 0,
        "threads": 0,
        "open_files": 0,
        "rows_wrong": 0,
        "tables": [],
        "connections_on_the_server": on_server,
        "transactions_on_the_server": on_server,
    }
    with app.app_context():
        stats = db.stats()
        assert (stats.in_use, stats.mincached, stats.maxconnections) == (0, 1, 2)
        assert stats.waits > 0
        assert stress((app, db), *SHORT).exit_code == 0  # it is empty still
    db.close()


def test_stress_for_people(empty: Site) -> None:
    """People get tables, without a bar where no terminal is."""
    result = stress(empty, *SHORT)
    assert result.exit_code == 0, result.output
    first, *_, last = result.stdout.splitlines()
    assert first.split() == ["SCOPES", "COUNT", "PER", "SECOND", "P50", "MS", "P99", "MS"]
    assert last.split() == ["tables", "0"]
    assert result.stderr == ""


def test_stress_with_failures(url: str) -> None:
    """Scopes that get no connection are counted by their error, and are no reason to fail."""
    site = make(url=url, maxconnections=1, blocking=False)
    result = stress(site, *SHORT)
    assert result.exit_code == 0, result.output
    titles = [line.split()[0] for line in result.stdout.splitlines() if line]
    assert titles[titles.index("FAILED") + 1] == "PoolTimeout"
    site[1].close()


def test_stress_without_success(empty: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """If no scope has come to its end, nothing was shown: the exit status is 1."""
    for name in ("_ADD", "_READ"):
        monkeypatch.setattr(load, name, "SELECT nothing FROM nowhere")
    result = stress(empty, *SHORT)
    assert result.exit_code == 1
    assert "No scope has come to its end." in result.stderr


def test_stress_that_fails_to_begin(
    empty: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was made is removed if the rest can't be made; the reason is one line."""
    monkeypatch.setattr(ground, "_FILL", "INSERT INTO nowhere VALUES (1)")
    result = stress(empty, *SHORT)
    assert (result.exit_code, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    assert "nowhere" in line
    assert tables(tmp_path / "shop.db") == []


def test_stress_of_bind(tmp_path: Path) -> None:
    """`--bind` names the database; an unknown one is one line."""
    binds = {"log": f"sqlite:///{tmp_path / 'log'}"}
    app, db = make(url=f"sqlite:///{tmp_path / 'shop'}", binds=binds)
    assert told(stress((app, db), *SHORT, "--bind=log", "--json"))["bind"] == "log"
    assert not (tmp_path / "shop").exists()
    result = stress((app, db), "--bind=lgo")
    assert (result.exit_code, result.stdout) == (1, "")
    assert len(result.stderr.splitlines()) == 1
    assert "no bind 'lgo'" in result.stderr
    db.close()


def test_a3_stress_without_database(mariadb: MariaDBServer) -> None:
    """Without a connection it is one line, and no password is in it."""
    site = make(url=mariadb.url("pymysql", "nothing", password="Wrong7Geheim"))
    result = stress(site, *SHORT)
    assert (result.exit_code, result.stdout) == (1, "")
    assert len(result.stderr.splitlines()) == 1
    assert "Wrong7Geheim" not in result.stderr
    site[1].close()


def test_stress_of_database_in_use(url: str, tmp_path: Path) -> None:
    """A database that has tables is not touched unless `--yes` says so, if nobody can be asked; and
    its own tables stay.
    """
    with bare_app(url=url) as (app, db):
        db.execute("INSERT INTO t VALUES (1, 'x')")
        result = stress((app, db), *SHORT)
        assert (result.exit_code, result.stdout) == (2, "")
        assert "has 1 table, and nobody can be asked here: pass --yes" in result.stderr
        assert stress((app, db), *SHORT, "--yes").exit_code == 0
        assert db.fetch_all("SELECT * FROM t") == [(1, "x")]
        assert tables(tmp_path / "shop.db") == ["t"]


def start(url: str, *args: str, terminal: int | None = None) -> subprocess.Popen[str]:
    """Run the command in a process of its own, whose terminal may be this one."""
    module = "tests.support.health_app:create_app"
    command = [sys.executable, "-m", "flask", "--app", module, "pooled-db", "stress", *args]
    keys = {"FLASK_POOLED_DB_URL": url, "FLASK_POOLED_DB_RUNTIME_DIR": "false"}
    return subprocess.Popen(
        command,
        cwd=PROJECT,
        env={**os.environ, **keys},
        stdin=terminal,
        stdout=subprocess.PIPE,
        stderr=terminal or subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(("answer", "status"), [("y", 0), ("n", 1)])
def test_stress_at_terminal(answer: str, status: int, url: str, tmp_path: Path) -> None:
    """At a terminal it asks before it touches a database that has tables, and shows how far it is;
    what it prints in the end has nothing of that.
    """
    with contextlib.closing(sqlite3.connect(tmp_path / "shop.db")) as other:
        other.execute("CREATE TABLE t (a)")
    ours, theirs = pty.openpty()
    try:
        process = start(url, *SHORT, "--json", terminal=theirs)
        os.close(theirs)
        os.write(ours, f"{answer}\n".encode())
        seen = b""
        with contextlib.suppress(OSError):  # its end
            while more := os.read(ours, 4096):
                seen += more
        output, _ = process.communicate(timeout=PATIENCE)
    finally:
        os.close(ours)
    assert process.returncode == status
    assert b"has 1 table. Make two more, and put it under load? [y/N]" in seen
    assert (b"100%" in seen) == (status == 0)
    assert bool(output) == (status == 0)
    assert status or json.loads(output)["problems"] == []


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted_stress(signum: signal.Signals, url: str, tmp_path: Path) -> None:
    """Ctrl-C, SIGTERM and SIGHUP end it early: it tells what it has, and removes its tables."""
    file = tmp_path / "shop.db"
    with handled(signum, signal.SIG_DFL):
        process = start(url, "--seconds=600", "--clients=4", "--json")
    wait_until(lambda: made(file), "its tables")
    process.send_signal(signum)
    output, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + signum, errors
    found = json.loads(output)
    assert found["interrupted"]
    assert found["seconds"] < PATIENCE
    assert found["sum"] == found["expected_sum"]
    assert tables(file) == []


def test_stress_without_its_terminal(url: str, tmp_path: Path) -> None:
    """Where the terminal is closed, which then takes nothing, it ends in the same way."""
    file = tmp_path / "shop.db"
    ours, theirs = pty.openpty()
    with handled(signal.SIGHUP, signal.SIG_DFL):
        process = start(url, "--seconds=600", "--clients=4", "--json", terminal=theirs)
    os.close(theirs)
    wait_until(lambda: made(file), "its tables")
    os.close(ours)
    process.send_signal(signal.SIGHUP)
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + signal.SIGHUP
    assert json.loads(output)["problems"] == []
    assert tables(file) == []


def test_stress_under_nohup(url: str, tmp_path: Path) -> None:
    """Where SIGHUP is ignored it does nothing: it is the other signal that ends it."""
    file = tmp_path / "shop.db"
    with handled(signal.SIGHUP, signal.SIG_IGN):
        process = start(url, "--seconds=600", "--clients=4", "--json")
    wait_until(lambda: made(file), "its tables")
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + signal.SIGTERM, errors
    assert json.loads(output)["interrupted"]


def test_end_of_a_session() -> None:
    """The end of a terminal comes more than once, and with SIGTERM: nobody is impatient."""
    with handled(signal.SIGHUP, signal.SIG_DFL), handled(signal.SIGTERM, signal.SIG_DFL):
        stopping = Stopping()
        with stopping.noting():
            for signum in (signal.SIGHUP, signal.SIGHUP, signal.SIGTERM, signal.SIGHUP):
                signal.raise_signal(signum)
            assert (stopping.is_asked(), stopping.signum) == (True, signal.SIGHUP)
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGTERM)


def test_stress_interrupted_twice(url: str, tmp_path: Path) -> None:
    """Who does not want to wait interrupts again, and is told which tables were left."""
    file = tmp_path / "shop.db"
    with handled(signal.SIGINT, signal.SIG_DFL):
        process = start(f"{url}?timeout=60", "--seconds=600", "--clients=1", "--json")
    wait_until(lambda: made(file), "its tables")
    with contextlib.closing(sqlite3.connect(file, timeout=PATIENCE)) as other:
        other.isolation_level = None
        other.execute("BEGIN IMMEDIATE")  # for which its clients wait
        process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.3)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=PATIENCE)
        other.execute("ROLLBACK")
    assert (process.returncode, output) == (1, "")
    assert "Aborted!" in errors
    assert sorted(LISTED.findall(errors)) == tables(file)
