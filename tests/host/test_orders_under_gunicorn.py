"""Orders to the workers of a real gunicorn: under load, and with one stopped and one killed."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from flask import Flask

from flask_pooled_db import PooledDB
from harness.gunicorn import WAYS, GunicornServer
from harness.processes import PROJECT
from harness.server import MariaDBServer
from harness.waiting import PATIENCE, wait_until
from tests.support.pools import Caller, call

pytestmark = pytest.mark.slow

APP = "tests.support.counting_app"
WORKERS = 3


@contextlib.contextmanager
def served(folder: Path, url: str, way: str) -> Iterator[GunicornServer]:
    """The app on several workers, each of which has used its database."""
    env = {
        "FLASK_POOLED_DB_URL": url,
        "FLASK_POOLED_DB_RUNTIME_DIR": str(folder / "run"),
        "FLASK_POOLED_DB_MINCACHED": "1",
    }
    options = [f"--workers={WORKERS}", *WAYS[way], "--config", f"python:{APP}"]
    with GunicornServer(folder, options, env, ready="/all") as server:
        wait_for_workers(server)
        yield server


def wait_for_workers(server: GunicornServer) -> None:
    """Return when each of the workers there are now has used its database."""

    def have_all_begun() -> bool:
        ask(server, "/use")
        living = set(server.workers())
        return len(living) == WORKERS and living <= set(ask(server, "/all")["pids"])

    wait_until(have_all_begun, "the workers")


def ask(server: GunicornServer, path: str) -> dict[str, Any]:
    with closing(server.connect()) as connection:
        connection.request("GET", path)
        answer = connection.getresponse()
        text = answer.read()
    assert answer.status == 200, text
    found: dict[str, Any] = json.loads(text)
    return found


@contextlib.contextmanager
def load(server: GunicornServer) -> Iterator[None]:
    """Requests all the time in the block, none of which may fail."""
    over = threading.Event()

    def work() -> None:
        while not over.is_set():
            ask(server, "/use")

    clients: list[Caller[None]] = [call(work) for _ in range(3)]
    try:
        yield
    finally:
        over.set()
        for client in clients:
            client.result()


def run(folder: Path, *args: str) -> Result:
    """A command, as the app's command line runs it."""
    app = Flask(APP, root_path=str(PROJECT / "tests" / "support"))
    app.config.update(POOLED_DB_URL="sqlite://", POOLED_DB_RUNTIME_DIR=folder / "run")
    db = PooledDB(app)
    try:
        return app.test_cli_runner().invoke(args=["pooled-db", *args])
    finally:
        db.close()


def told(result: Result) -> dict[int, str]:
    """What was printed of each worker."""
    found = re.findall(r"^worker (\d+) (.*)$", result.stdout, re.MULTILINE)
    return {int(pid): text for pid, text in found}


def give(folder: Path, *args: str) -> Caller[Result]:
    """Have a command wait for the answers to its order, which is there for all to see."""
    assert not list(folder.glob("run/*/order-*"))
    caller = call(run, folder, *args)
    wait_until(lambda: list(folder.glob("run/*/order-*")), "the order")
    return caller


@pytest.mark.parametrize("way", list(WAYS))
def test_workers(tmp_path: Path, way: str) -> None:
    """All workers, and the arbiter where it has used a pool, replace their connections under load,
    and no request fails; so they do their pools' sizes. One that is stopped, and one that is
    killed, hold up nobody, and are told from each other; the one that takes the killed one's place
    is not asked.
    """
    with served(tmp_path, f"sqlite:///{tmp_path}/shop.sqlite", way) as server:
        arbiter = {server.pid} if way == "preload" else set()
        workers = set(server.workers())
        with load(server):
            result = run(tmp_path, "drain", "--over", "0.5")
            assert result.exit_code == 0, result.output
            replies = told(result)
            assert replies.keys() == workers | arbiter
            assert all(re.match(r"replaced [1-9]\d* conn\w+$", text) for text in replies.values())
            resized = told(run(tmp_path, "resize", "--maxconnections", "2"))
        assert resized.keys() == workers | arbiter
        assert all(text.startswith("has maxconnections 2,") for text in resized.values())
        stopped, killed, *_ = server.workers()
        os.kill(stopped, signal.SIGSTOP)
        caller = give(tmp_path, "drain", "--over", "1", "--wait", "5")
        os.kill(killed, signal.SIGKILL)
        replies = told(caller.result())
        assert caller.result().exit_code == 1
        assert replies.keys() == workers | arbiter
        assert replies.pop(stopped) == "did not answer within 5 s"
        assert replies.pop(killed) == "ended meanwhile, and its connections with it"
        assert all(text.startswith("replaced ") for text in replies.values())
        wait_for_workers(server)
        workers = set(server.workers())
        killed = max(workers - {stopped})
        os.kill(killed, signal.SIGSTOP)  # it would have answered before it is killed
        caller = give(tmp_path, "resize", "--maxconnections", "3", "--wait", "3")
        os.kill(killed, signal.SIGKILL)
        replies = told(caller.result())
        os.kill(stopped, signal.SIGCONT)
        assert caller.result().exit_code == 1
        assert replies.keys() == workers | arbiter
        assert replies.pop(stopped) == "did not answer within 3 s"
        assert replies.pop(killed) == "ended meanwhile, and its connections with it"
        assert all(text.startswith("has maxconnections 3,") for text in replies.values())
        for trouble in ("Traceback", "are not seen by others", "is ignored"):
            assert trouble not in server.log


def on_terminal(folder: Path, *args: str) -> str:
    """What a command prints on a terminal."""
    ours, theirs = pty.openpty()
    env = {**os.environ, "FLASK_APP": APP, "FLASK_POOLED_DB_RUNTIME_DIR": str(folder / "run")}
    env["FLASK_POOLED_DB_URL"] = f"sqlite:///{folder}/unused.sqlite"
    command = [sys.executable, "-m", "flask", "pooled-db", *args]
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, env=env, cwd=PROJECT) as process:
        os.close(theirs)
        text = b""
        with contextlib.suppress(OSError):  # the other side is closed
            while chunk := os.read(ours, 4096):
                text += chunk
        assert process.wait(PATIENCE) == 0, text
    os.close(ours)
    return text.decode()


def test_connections_of_server(mariadb: MariaDBServer, tmp_path: Path) -> None:
    """On MariaDB all connections that were open are gone when the command says so. A statement
    that runs comes to its end, and no request fails. On a terminal there is a bar.
    """
    database = mariadb.create_database()
    with served(tmp_path, mariadb.url("pymysql", database), "gthread") as server:
        with load(server):
            slow = call(ask, server, "/sleep")
            time.sleep(0.3)
            before = set(mariadb.connections(database=database))
            text = on_terminal(tmp_path, "drain", "--over", "0.5")
            after = set(mariadb.connections(database=database))
            assert slow.result()["id"] in before
        assert len(before) >= WORKERS
        assert not before & after
        assert "100%" in text
        assert f"{WORKERS} of {WORKERS} done" in text
        assert len(re.findall(r"^worker \d+ replaced", text, re.MULTILINE)) == WORKERS
