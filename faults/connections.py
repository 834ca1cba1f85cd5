"""Faults of single connections: killed, timed out, refused, chosen as the victim of a deadlock."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import psycopg
import pymysql

from faults.databases import MARIADB, POSTGRESQL, RESERVED, Server, begin_to_kill
from faults.load import worker_name
from faults.runs import Effort, Outcome, Scene, Setting, run
from harness.postgres import PostgreSQLServer
from harness.server import APP_USER

KILLS_A_SECOND = 50
_TOO_MANY_CONNECTIONS = 1040
_MAX_CONNECTIONS = 16
_CROWDED = 3.0
_WAIT_TIMEOUT = 1.0
_POLL_INTERVAL = 0.01
DAWDLER = worker_name(0)


def kill_connections(kind: str, effort: Effort) -> Outcome:
    """KILL of random connections, 50 a second."""

    def strike(scene: Scene) -> None:
        with scene.outage():
            deadline = time.monotonic() + 5.0 * effort.scale
            while time.monotonic() < deadline:
                _kill_one(scene.server)
                time.sleep(1 / KILLS_A_SECOND)

    return run(kind, effort, strike)


def _kill_one(server: Server) -> None:
    connections = server.connections(APP_USER)
    if connections:
        with contextlib.suppress(pymysql.err.OperationalError):  # it has gone by itself
            begin_to_kill(server, random.choice(connections))


def wait_timeout(kind: str, effort: Effort) -> Outcome:
    """`wait_timeout` of 1 s: pauses between transfers, and now and then one in the middle."""

    def dawdle() -> None:
        # One thread alone: with all of them, the rate before would be a matter of luck.
        if threading.current_thread().name == DAWDLER and random.random() < 0.1:
            time.sleep(1.5 * _WAIT_TIMEOUT)

    def strike(scene: Scene) -> None:
        for _ in range(effort.times(3)):
            with scene.outage(), scene.load.paused():
                time.sleep(2 * _WAIT_TIMEOUT)

    options = {
        MARIADB: [f"--wait-timeout={_WAIT_TIMEOUT:.0f}"],
        POSTGRESQL: [
            f"{name}={_WAIT_TIMEOUT:.0f}s"
            for name in ("idle_session_timeout", "idle_in_transaction_session_timeout")
        ],
    }
    return run(kind, effort, strike, Setting(options, between=dawdle))


def max_connections(kind: str, effort: Effort) -> Outcome:
    """`max_connections` used up by others, who take every place that comes free."""

    def strike(scene: Scene) -> None:
        with scene.outage(), _crowd(scene.server):
            deadline = time.monotonic() + _CROWDED
            while time.monotonic() < deadline:  # until the others have every place
                _kill_one(scene.server)
                time.sleep(_POLL_INTERVAL)

    options = {
        MARIADB: [f"--max-connections={_MAX_CONNECTIONS}"],
        POSTGRESQL: [f"max_connections={_MAX_CONNECTIONS + RESERVED}"],
    }
    return run(kind, effort, strike, Setting(options))


@contextmanager
def _crowd(server: Server) -> Iterator[None]:
    """Others, who want all connections of a server for themselves."""
    push = _pushing_in(server)
    held: list[Any] = []
    leaving = threading.Event()

    def push_in() -> None:
        while not leaving.is_set():
            try:
                held.append(push())
            except (pymysql.err.OperationalError, psycopg.OperationalError):
                time.sleep(0.001)

    pushing = threading.Thread(target=push_in, name="faults crowd", daemon=True)
    pushing.start()
    try:
        yield
    finally:
        leaving.set()
        pushing.join()
        for connection in held:
            connection.close()


def _pushing_in(server: Server) -> Callable[[], Any]:
    """Make the user `other`, and return what connects as that."""
    if isinstance(server, PostgreSQLServer):
        server.execute("CREATE USER other")
        where = f"host={server.host} port={server.port} dbname=postgres user=other"
        return partial(psycopg.connect, where)
    server.execute("CREATE USER IF NOT EXISTS 'other'@'%'")
    return partial(
        pymysql.connect, host=server.host, port=server.port, user="other", ssl_disabled=True
    )


def deadlocks(kind: str, effort: Effort) -> Outcome:
    """Deadlocks on two hot rows."""

    def strike(scene: Scene) -> None:
        time.sleep(5.0 * effort.scale)

    return run(kind, effort, strike, Setting(accounts=2, ordered=False))
