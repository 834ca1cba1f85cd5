"""`flask pooled-db stress`."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import pty
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import Result
from flask import Flask
from psycopg import sql

from flask_pooled_db import PooledDB
from flask_pooled_db.flask.commands import ground, load, remains, sockets
from flask_pooled_db.flask.commands.stopping import Stopping
from flask_pooled_db.host import HostStats, ProcessStats
from harness.gunicorn import GunicornServer
from harness.processes import PROJECT
from harness.server import MariaDBServer
from harness.sockets import LOOPBACK
from harness.waiting import PATIENCE, wait_until
from tests.support.live_app import APP as LIVE_APP
from tests.support.live_app import create_app as create_live_app
from tests.support.pools import call
from tests.support.sites import bare_app

SHORT = ("--seconds=0.5", "--clients=4")
WEBSOCKETS = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455
SWITCH = (
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Accept: {}\r\n\r\n"
)
KINDS = {"transfer", "read", "raises", "nested"}
LISTED = re.compile(r"pooled_db_stress_[0-9a-f]{12}_(?:accounts|moves)")

Site = tuple[Flask, PooledDB]


def make(**settings: Any) -> Site:
    app = Flask("app_under_test")
    keys = {"mincached": 0, "runtime_dir": False, **settings}
    app.config.update({f"POOLED_DB_{name.upper()}": value for name, value in keys.items()})
    return app, PooledDB(app)


@pytest.fixture
def empty(url: str) -> Iterator[Site]:
    """An app whose database has no tables."""
    app, db = make(url=url, maxconnections=3)
    yield app, db
    db.close()


def stress(site: Site, *args: str) -> Result:
    """Run the command on a database, or what `args` say."""
    return site[0].test_cli_runner().invoke(args=["pooled-db", "stress", *args])


def told(result: Result) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def tables(file: Path) -> list[str]:
    """The tables of an SQLite file."""
    with contextlib.closing(sqlite3.connect(file)) as other:
        rows = other.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
        return [name for (name,) in rows]


def made(file: Path) -> bool:
    """Whether the command has made its tables, and filled them."""
    if not file.exists() or len(tables(file)) < 2:
        return False
    with contextlib.closing(sqlite3.connect(file)) as other:
        return bool(other.execute(f"SELECT COUNT(*) FROM {tables(file)[1]}").fetchone()[0])


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
        url = request.getfixturevalue("postgresql")
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


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_stress(signum: signal.Signals, url: str, tmp_path: Path) -> None:
    """Ctrl-C and SIGTERM end it early: it tells what it has, and removes its tables."""
    process = start(url, "--seconds=600", "--clients=4", "--json")
    file = tmp_path / "shop.db"
    wait_until(lambda: made(file), "its tables")
    process.send_signal(signum)
    output, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + signum, errors
    found = json.loads(output)
    assert found["interrupted"]
    assert found["seconds"] < PATIENCE
    assert found["sum"] == found["expected_sum"]
    assert tables(file) == []


def test_stress_interrupted_twice(url: str, tmp_path: Path) -> None:
    """Who does not want to wait interrupts again, and is told which tables were left."""
    file = tmp_path / "shop.db"
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


Disturb = Callable[[Site, Callable[[], None], Callable[[], object]], Result]


@pytest.fixture
def disturb(monkeypatch: pytest.MonkeyPatch) -> Disturb:
    """Run the command, do harm when it is at work, and end it."""
    may_end = threading.Event()
    monkeypatch.setattr(Stopping, "is_asked", lambda _: may_end.is_set())

    def run(site: Site, harm: Callable[[], None], is_at_work: Callable[[], object]) -> Result:
        may_end.clear()
        running = call(stress, site, "--seconds=600", "--clients=2", "--json")
        try:
            wait_until(is_at_work, "its first moves")
            harm()
        finally:
            may_end.set()
            result: Result = running.result()
        return result

    return run


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits long for the end of what was left behind."""
    monkeypatch.setattr(remains, "PATIENCE", 0.3)


def tables_on(server: MariaDBServer, database: str) -> list[str]:
    """The tables of a database."""
    listed = "SELECT table_name FROM information_schema.tables WHERE table_schema = %s"
    return sorted(table for (table,) in server.query(listed, database))


def has_moved(server: MariaDBServer, database: str) -> bool:
    """Whether the command is at work there."""
    found = tables_on(server, database)
    query = "SELECT 1 FROM `{}`.{} LIMIT 1"
    return len(found) == 2 and bool(server.query(query.format(database, found[1])))


def test_stress_of_server_that_dies(private_mariadb: MariaDBServer, disturb: Disturb) -> None:
    """The server goes away and comes back: scopes fail or start over, and in the end all is well.
    It goes away for good: then it is said that nothing was checked, and which tables were left.
    """
    server = private_mariadb
    name = server.create_database()
    settings = {"url": server.url("pymysql", name), "acquire_timeout": 0.5, "connect_timeout": 1}

    def restart() -> None:
        server.kill()
        server.start()
        with site[0].app_context():  # the pauses after failed connects are over then
            site[1].fetch_value("SELECT 1", bind=None)

    site = make(**settings)
    result = disturb(site, restart, lambda: has_moved(server, name))
    found = told(result)
    assert (found["problems"], found["sum"]) == ([], found["expected_sum"])
    assert found["failed"] or found["started_over"]
    assert tables_on(server, name) == []

    result = disturb(site, server.kill, lambda: has_moved(server, name))
    assert result.exit_code == 1
    assert "The sum could not be checked" in result.stderr
    left = told(result)["left"]
    assert (left["rows_wrong"], left["connections_in_use"]) == (None, 0)
    assert len(left["tables"]) == 2
    assert all(table in result.stderr for table in left["tables"])
    site[1].close()
    server.start()
    assert sorted(left["tables"]) == tables_on(server, name)


def test_stress_starts_over(mariadb: MariaDBServer, database: str, disturb: Disturb) -> None:
    """Transactions that the server ends are started over, which is shown, and no failure."""
    app, db = make(url=mariadb.url("pymysql", database), maxconnections=2)

    def kill() -> None:
        for _ in range(20):
            for connection in mariadb.connections(database=database):
                mariadb.kill_connection(connection)

    found = told(disturb((app, db), kill, lambda: has_moved(mariadb, database)))
    assert found["started_over"]
    assert (found["problems"], found["sum"]) == ([], found["expected_sum"])
    db.close()


# What is left behind is found


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("what", ["connections_in_use", "threads", "open_files"])
def test_something_left_behind(what: str, empty: Site, tmp_path: Path, disturb: Disturb) -> None:
    """A connection that stays out, a thread and a file that stay are found: the exit status is 1,
    and a line says what it is.
    """
    kept: list[Any] = []
    may_end = threading.Event()

    def harm() -> None:
        if what == "connections_in_use":
            kept.append(empty[1].pool().lease())
        elif what == "threads":
            kept.append(threading.Thread(target=may_end.wait))
            kept[0].start()
        else:
            kept.append((tmp_path / "left").open("w"))

    result = disturb(empty, harm, lambda: made(tmp_path / "shop.db"))
    may_end.set()
    kept[0].join() if what == "threads" else kept[0].close()
    assert result.exit_code == 1
    assert told(result)["left"][what] >= 1
    assert re.search(rf"Left behind: .*{what.replace('_', ' ')}: \d", result.stderr)


MOVES = "SELECT COUNT(*) FROM {1}"
ROLLED_BACK = """
    SELECT client, number + 1 FROM {1} AS one WHERE
    NOT EXISTS (SELECT 1 FROM {1} WHERE client = one.client AND number = one.number + 1)
    AND EXISTS (SELECT 1 FROM {1} WHERE client = one.client AND number > one.number + 1)
"""
"""The moves of which later ones are stored, so that they never will be."""


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (
            "UPDATE {0} SET amount = amount + 7 WHERE id = 1",
            "reads saw a wrong sum.\nThe sum is 100007",
        ),
        ("UPDATE {0} SET amount = amount + id WHERE id IN (0, 1)", "1 accounts do not hold what"),
        ("DELETE FROM {1} WHERE rowid IN (SELECT MIN(rowid) FROM {1})", "1 moves that were commit"),
        (
            f"INSERT INTO {{1}} SELECT *, 1, 2, 0 FROM ({ROLLED_BACK}) LIMIT 1",
            "1 that were rolled back",
        ),
    ],
)
def test_wrong_rows(harm: str, message: str, empty: Site, tmp_path: Path, disturb: Disturb) -> None:
    """Money that was made, a move that is lost and one that has come back are found: the exit
    status is 1.
    """
    file = tmp_path / "shop.db"

    def ask(text: str) -> list[Any]:
        with contextlib.closing(sqlite3.connect(file, timeout=PATIENCE)) as other, other:
            return other.execute(text.format(*tables(file))).fetchall()

    def spoil() -> None:
        ask(harm)
        ((before,),) = ask(MOVES)
        wait_until(lambda: ask(MOVES)[0][0] > before + 20, "reads, too")

    result = disturb(empty, spoil, lambda: made(file) and ask(ROLLED_BACK))
    assert result.exit_code == 1
    assert message in result.stderr
    assert told(result)["left"]["rows_wrong"] > 0


@pytest.mark.usefixtures("hasty")
def test_left_on_server(postgresql: str, disturb: Disturb) -> None:
    """A connection that the server still has, and its transaction, are found."""
    app, db = make(url=postgresql, maxconnections=2)
    kept: list[Any] = []

    def harm() -> None:
        conn = db.pool().lease(timeout=PATIENCE)
        conn.cursor().execute("SELECT 1")
        kept.append(conn)

    with psycopg.connect(postgresql.replace("+psycopg", ""), autocommit=True) as other:

        def has_moved() -> bool:
            ours = "SELECT tablename FROM pg_tables WHERE tablename LIKE 'pooled_db_stress_%moves'"
            found = other.execute(ours).fetchall()
            query = sql.SQL("SELECT 1 FROM {} LIMIT 1")
            tables = (sql.Identifier(name) for (name,) in found)
            return any(other.execute(query.format(table)).fetchone() for table in tables)

        result = disturb((app, db), harm, has_moved)
    kept[0].close()
    assert result.exit_code == 1
    left = told(result)["left"]
    assert (left["connections_on_the_server"], left["transactions_on_the_server"]) == (1, 1)
    assert left["connections_in_use"] == 1
    db.close()


# Over websockets


def test_sockets_without_library(empty: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without what opens websockets, it names what to install; a URL of no server is refused."""
    result = stress(empty, "--sockets=1", "--url=nowhere")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "--url must be like" in result.stderr
    monkeypatch.setitem(sys.modules, "simple_websocket", None)
    result = stress(empty, "--sockets=1")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "pip install simple-websocket" in result.stderr


@pytest.mark.usefixtures("hasty")
def test_sockets_to_nobody(empty: Site) -> None:
    """If nobody serves, no message is answered: the exit status is 1."""
    result = stress(empty, "--sockets=2", "--seconds=0.2", "--url=http://127.0.0.1:1", "--json")
    assert result.exit_code == 1
    assert "No message was answered" in result.stderr
    assert told(result)["failed"].keys() == {"ConnectionRefusedError 111"}


def test_sockets_to_silent_server(empty: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that opens sockets and then says nothing, no goodbye either, leaves no thread and no
    file in the command.
    """
    monkeypatch.setattr(sockets, "ANSWER_PATIENCE", 0.1)
    monkeypatch.setattr(remains, "PATIENCE", 0.5)
    opened: list[socket.socket] = []

    def serve() -> None:
        with contextlib.suppress(OSError):  # it is closed
            while True:
                client, _ = listener.accept()
                asked = client.recv(4096).decode()
                if found := re.search(r"Sec-WebSocket-Key: (\S+)", asked, re.IGNORECASE):
                    digest = hashlib.sha1(f"{found[1]}{WEBSOCKETS}".encode()).digest()
                    client.sendall(SWITCH.format(base64.b64encode(digest).decode()).encode())
                opened.append(client)

    with socket.create_server((LOOPBACK, 0)) as listener:
        serving = call(serve)
        url = f"http://{LOOPBACK}:{listener.getsockname()[1]}"
        result = stress(empty, "--sockets=2", "--seconds=0.5", f"--url={url}", "--json")
        for client in opened:
            client.close()
        listener.shutdown(socket.SHUT_RDWR)
        serving.wait()
    found = told(result)
    assert (found["sent"] > 0, found["times"]["answered"]["count"]) == (True, 0)
    # The other ends of its sockets, which the server had in this process, are not the command's.
    assert (found["left"]["threads"], found["left"]["open_files"]) == (0, len(opened))


def test_what_workers_have_published() -> None:
    """Workers are told once each of them has published something since the end; the process that
    asks is none.
    """

    def one(pid: int, age: float, in_use: int) -> ProcessStats:
        numbers = {"pools": {"a": {"in_use": in_use}, "b": {"in_use": 0}}}
        return ProcessStats(str(pid), pid, 9.0, age, numbers)

    stats = HostStats((one(1, 0.1, 2), one(2, 5.0, 3), one(os.getpid(), 0.1, 4)))
    now = time.monotonic()
    assert sockets.look(stats, now - 1.0) == (2, 5, None, False)
    assert sockets.look(stats, now - 9.0) == (2, 5, None, True)
    assert not sockets.look(HostStats((one(os.getpid(), 0.0, 0),)), now - 9.0).are_all_told
    alone = HostStats((ProcessStats("", 1, 9.0, 0.1, {}),), problem="none")
    assert sockets.look(alone, now - 9.0) == (0, 0, "none", False)


@pytest.mark.slow
def test_sockets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages are answered, and no worker keeps a connection; one that leaks is found."""
    env = {
        "FLASK_POOLED_DB_URL": f"sqlite:///{tmp_path}/shop.db",
        "FLASK_POOLED_DB_RUNTIME_DIR": str(tmp_path / "run"),
        "FLASK_POOLED_DB_MINCACHED": "0",
    }
    keys = {name.removeprefix("FLASK_"): value for name, value in env.items()}
    app = create_live_app(**{**keys, "POOLED_DB_MINCACHED": 0})
    options = [LIVE_APP, "--workers=2", "--worker-class=gthread", "--threads=8"]
    db: PooledDB = app.extensions["pooled_db"].extension
    with GunicornServer(tmp_path, options, env) as server:
        args = ["--sockets=4", "--seconds=0.5", f"--url=http://{LOOPBACK}:{server.port}", "--json"]
        result = stress((app, db), *args)
        assert result.exit_code == 0, result.output
        found = told(result)
        assert found["times"]["answered"]["count"] >= 4
        assert found["left"] == {"connections_in_use": 0, "threads": 0, "open_files": 0}
        assert found["workers"] > 0
        monkeypatch.setattr(remains, "PATIENCE", 2.5)  # each worker publishes once a second
        result = stress((app, db), *args, "--message=leak")
        assert result.exit_code == 1
        assert "connections in use" in result.stderr
        assert told(result)["left"]["connections_in_use"] > 0
    db.close()
