"""T6 under gevent, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from harness.processes import PROJECT
from harness.server import MariaDBServer
from harness.waiting import PATIENCE, wait_until
from tests.support.scenarios.base import MOVED
from tests.support.stages import UNTOUCHED, ServerStage, on_server

UNDER_GEVENT = """
from gevent import monkey; monkey.patch_all()
import contextvars, json, sys
import gevent
import gevent.event
from flask_pooled_db import TransactionAborted
from tests.support.apps import pooled_app
from harness.workloads import add, connection_id

def timeout_inside_a_statement(db):
    told = {}
    try:
        with db.connection_context() as connection:
            told["before"] = connection_id(connection)
            add(connection, 1, -10)
            with gevent.Timeout(0.5):
                with connection.cursor() as cursor:
                    cursor.execute("SELECT SLEEP(20)")
    except gevent.Timeout:
        told["raised"] = True
    with db.connection_context() as connection:
        told["after"] = connection_id(connection)
    return told

def killed_inside_a_statement(db):
    told = {}
    def work():
        with app.app_context(), db.connection_context() as connection:
            told["before"] = connection_id(connection)
            add(connection, 1, -10)
            with connection.cursor() as cursor:
                cursor.execute("SELECT SLEEP(20)")
    greenlet = gevent.spawn(work)
    while "before" not in told:
        gevent.sleep(0.01)
    gevent.sleep(0.3)
    greenlet.kill()
    told["raised"] = greenlet.dead
    with db.connection_context() as connection:
        told["after"] = connection_id(connection)
    return told

def swallowed_timeout(db):
    told = {}
    try:
        with db.connection_context() as connection:
            told["before"] = connection_id(connection)
            add(connection, 1, -10)
            with gevent.Timeout(0.5, False):
                with connection.cursor() as cursor:
                    cursor.execute("SELECT SLEEP(20)")
            add(connection, 2, 10)
    except TransactionAborted:
        told["raised"] = True
    with db.connection_context() as connection:
        told["after"] = connection_id(connection)
    return told

def children(db):
    held, all_held = [], gevent.event.Event()
    def child():
        with db.connection_context() as connection:
            held.append(connection)
            if len(held) == 3:
                all_held.set()
            assert all_held.wait(20), "the others got no connection"
            return connection_id(connection)
    with db.connection_context() as connection:
        greenlets = [gevent.spawn(contextvars.copy_context().run, child) for _ in range(3)]
        gevent.joinall(greenlets)
        with db.connection_context() as inner:
            assert inner is connection
        ids = [connection_id(connection)] + [greenlet.get() for greenlet in greenlets]
    return {"ids": ids}

def waiters(db):
    # One connection for many greenlets: whoever waits lets the others run.
    def child():
        with app.app_context(), db.connection_context() as connection:
            add(connection, 1, -1)
            gevent.sleep(0.005)
            add(connection, 2, 1)
    greenlets = [gevent.spawn(child) for _ in range(10)]
    gevent.joinall(greenlets)
    return {"ok": [greenlet.successful() for greenlet in greenlets]}

with pooled_app(sys.argv[2], maxconnections=int(sys.argv[3])) as (app, db):
    told = globals()[sys.argv[1]](db)
    told["in_use"] = db.stats().in_use
print(json.dumps(told))
"""


def under_gevent(stage: ServerStage, name: str, maxconnections: int = 10) -> dict[str, Any]:
    """What a function of the script above tells, run under gevent with our pool."""
    url = stage.server.url("pymysql", stage.database)
    done = subprocess.run(
        [sys.executable, "-c", UNDER_GEVENT, name, url, str(maxconnections)],
        cwd=PROJECT,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert told["in_use"] == 0
    return told


@pytest.fixture
def gevent_stage(server: MariaDBServer) -> Iterator[ServerStage]:
    """A stage whose database the processes under gevent use."""
    with on_server("ours", server, "pymysql") as stage:
        yield stage


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["timeout_inside_a_statement", "killed_inside_a_statement", "swallowed_timeout"]
)
def test_t6_gevent_interrupts_statement(gevent_stage: ServerStage, name: str) -> None:
    """A gevent timeout or kill inside a statement rolls back, and the
    connection is not used again.
    """
    told = under_gevent(gevent_stage, name)
    assert told["raised"]
    assert told["after"] != told["before"]
    wait_until(lambda: not locks(gevent_stage), "the server has rolled back", 0.2)
    assert gevent_stage.committed() == UNTOUCHED


def locks(stage: ServerStage) -> list[tuple[Any, ...]]:
    """The transactions that are open on the server."""
    return list(stage.server.query("SELECT trx_id FROM information_schema.innodb_trx"))


def test_greenlets_own_connections(gevent_stage: ServerStage) -> None:
    """Greenlets spawned inside a block share neither its connection nor each other's."""
    assert len(set(under_gevent(gevent_stage, "children")["ids"])) == 4


def test_greenlets_wait(gevent_stage: ServerStage) -> None:
    """A greenlet that waits for a connection lets the greenlet that holds it run."""
    assert under_gevent(gevent_stage, "waiters", maxconnections=1)["ok"] == [True] * 10
    assert gevent_stage.committed() == MOVED
