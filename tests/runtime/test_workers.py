"""The package's own threads, and how they make way for a fork."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from flask_pooled_db.runtime.workers import Workers, is_gone
from harness.server import MariaDBServer
from harness.waiting import wait_until
from tests.support.fake_driver import Gate
from tests.support.pools import call


@pytest.fixture
def workers() -> Workers:
    """Workers of the test's own."""
    return Workers()


def test_p6_fork_waits_for_connect(workers: Workers) -> None:
    """A fork waits until no thread is inside a driver's connect."""
    gate, order = Gate(), []

    def connect() -> None:
        with workers.connecting():
            gate.stop_here()
            order.append("connected")

    workers.start("opener", connect)
    gate.wait_for_arrivals()

    def fork() -> bool:
        workers.make_way("one")
        clear = workers.wait_for_the_rest(20)
        order.append("forks")
        return clear

    forking = call(fork)
    wait_until(lambda: workers.is_forking)
    gate.open()
    assert forking.result() is True
    assert order == ["connected", "forks"]


def test_p6_connect_waits_for_fork(workers: Workers) -> None:
    """A connect waits for a fork under way, and does not delay it."""
    order: list[str] = []
    workers.make_way("one")

    def connect() -> None:
        with workers.connecting():
            order.append("connects")

    caller = call(connect)
    workers.start("opener", connect)
    wait_until(lambda: len(workers._resting) == 2)
    workers.make_way("other")  # another thread forks as well
    assert workers.wait_for_the_rest(20)
    workers.go_on("one")
    workers.go_on("one")  # undone twice, by an interruption
    order.append("first fork")
    workers.go_on("other")
    caller.wait()
    wait_until(lambda: len(order) == 3)
    assert order == ["first fork", "connects", "connects"]


def test_p6_fork_wait_limit(workers: Workers) -> None:
    """A hung connect delays a fork only up to a limit."""
    gate = Gate()

    def connect() -> None:
        with workers.connecting():
            gate.stop_here()

    workers.start("opener", connect)
    gate.wait_for_arrivals()
    workers.make_way("one")
    assert not workers.wait_for_the_rest(0.05)
    (thread,) = workers._working
    workers.give_up_on(thread)
    assert workers.wait_for_the_rest(0.05)
    gate.open()
    thread.join(20)


def test_p6_fork_inside_connect(workers: Workers) -> None:
    """A fork inside a connect does not wait for that connect."""
    with workers.connecting():
        workers.make_way("one")
        assert workers.wait_for_the_rest(20)


def test_end_of_thread() -> None:
    """A thread counts as ended once the system's thread is gone, not when its Python code ends."""
    gate = Gate()
    thread = threading.Thread(target=gate.stop_here, daemon=True)
    thread.start()
    gate.wait_for_arrivals()
    assert not is_gone(thread)
    gate.open()
    wait_until(lambda: is_gone(thread))
    assert thread.native_id
    assert not Path(f"/proc/self/task/{thread.native_id}").exists()


PROGRAM = """
import os, pathlib, sys, threading
at_fork = []
# Hooks run in the reverse of their order: this is the last before the fork.
os.register_at_fork(before=lambda: at_fork.append(
    (len(list(pathlib.Path("/proc/self/task").iterdir())), [t.name for t in threading.enumerate()])
))
from flask import Flask
from flask_pooled_db import PooledDB, db_connection_context

app = Flask("preloaded")
app.config["POOLED_DB_URL"] = sys.argv[1]
db = PooledDB(app)

def count():
    with app.app_context(), db_connection_context() as conn, conn.cursor() as cur:
        cur.execute("SELECT 1")
        return cur.fetchone()[0]

for _ in range(int(sys.argv[2])):
    assert count() == 1  # as an app does that reads something from its database at the start
    pid = os.fork()
    if not pid:
        assert count() == 1
        db.close()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
assert count() == 1  # the parent's pool is at work again
print(at_fork)
db.close()
"""


@pytest.mark.parametrize("kind", ["sqlite", "pymysql", "mariadbconnector"])
def test_p6_threads_at_fork(request: pytest.FixtureRequest, tmp_path: Path, kind: str) -> None:
    """No thread of the package is alive at a fork, although the pool has connected and is being
    filled up to MINCACHED. From Python 3.12 on a fork beside threads is a warning.
    """
    if kind == "sqlite":
        url = f"sqlite:///{tmp_path}/db"
    else:
        server: MariaDBServer = request.getfixturevalue("mariadb")
        url = server.url(kind)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, url, "10"],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env={**os.environ, "PYTHONWARNINGS": "always::DeprecationWarning"},
    )
    assert done.returncode == 0, done.stderr
    assert "multi-threaded" not in done.stderr
    assert done.stdout.strip() == str([(1, ["MainThread"])] * 10)
