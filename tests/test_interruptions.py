"""T6 and T7 under interruption: signals, timeouts, cancelled tasks, streams nobody reads on."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Response, stream_with_context
from werkzeug.serving import make_server

from flask_pooled_db import UsageError
from tests.support import scenarios
from tests.support.scenarios import MOVED, Scenario, add, must_raise, run
from tests.support.server import MariaDBServer
from tests.support.sockets import LOOPBACK, free_port
from tests.support.stages import (
    UNTOUCHED,
    FileStage,
    ServerStage,
    Stage,
    eventually,
    join,
    on_file,
    on_server,
)
from tests.support.workloads import connection_id

PROJECT = Path(__file__).resolve().parent.parent
ON_EVERY_WIRE = [
    pytest.param(("mariadb", "pymysql"), id="plain-pymysql", marks=pytest.mark.shared_server),
    pytest.param(
        ("mariadb", "mariadbconnector"),
        id="plain-mariadbconnector",
        marks=pytest.mark.shared_server,
    ),
    pytest.param(("tls_mariadb", "pymysql"), id="tls-pymysql"),
    pytest.param(("tls_mariadb", "mariadbconnector"), id="tls-mariadbconnector"),
    pytest.param((None, "sqlite"), id="sqlite"),
]
DEADLINE = 30.0


@pytest.fixture(params=ON_EVERY_WIRE)
def direct_stage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stage]:
    """Our pool on each database in turn, without a proxy: rows can be read one by one."""
    server, driver = request.param
    if server is None:
        with on_file("ours", tmp_path / "file.sqlite") as stage:
            yield stage
    else:
        shared = request.getfixturevalue(server)
        with on_server("ours", shared, driver, is_direct=True) as stage:
            yield stage


# -- in the middle of a statement -----------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in scenarios.SCENARIOS if n.startswith("interrupted_by")])
def test_t6_an_interrupted_connection_is_discarded(stage: ServerStage, name: str) -> None:
    """What a signal raises inside a statement rolls back, and the connection is not used again."""
    scenarios.SCENARIOS[name](stage)
    stats = stage.db.stats()
    assert (stats.in_use, stats.discarded) == (0, 1)


def test_t6_an_interrupted_lease_can_not_go_on(stage: ServerStage) -> None:
    """A caller that swallows what interrupted a statement gets no further."""
    scenarios.interrupted_and_swallowed(stage)


def test_t6_an_interrupted_read_on_sqlite_rolls_back(sqlite_stage: FileStage) -> None:
    """A signal in the middle of an endless SELECT: rolled back, and the pool lends on."""
    scenarios.interrupted_while_reading(sqlite_stage)
    assert sqlite_stage.db.stats().in_use == 0


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt()], ids=repr)
def test_t6_a_commit_that_is_interrupted_is_not_hidden(
    stage: ServerStage, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    """What interrupts COMMIT is what the caller sees; the log tells of the doubt, and the
    connection is not used again.
    """
    with contextlib.ExitStack() as signals, must_raise(type(error)):
        with stage.db.connection_context() as connection:
            before = connection_id(connection)
            add(connection, 1, -10)
            add(connection, 2, 10)
            stage.proxy.delay = 0.3  # COMMIT is on record, and its answer far away
            commit_is_sent = functools.partial(stage.proxy.wait_for_command, b"COMMIT")
            signals.enter_context(scenarios.signalled(error, commit_is_sent))
    stage.proxy.delay = 0.0
    assert "COMMIT was interrupted" in caplog.text
    with stage.db.connection_context() as connection:
        assert connection_id(connection) != before
    assert stage.committed() in (UNTOUCHED, MOVED)
    assert stage.db.stats().in_use == 0


# -- between two statements -----------------------------------------------------------------------


def test_t6_a_generator_that_is_closed_rolls_back(direct_stage: Stage) -> None:
    """GeneratorExit leaves the block like any other exception."""

    def rows() -> Generator[int, None, None]:
        with direct_stage.db.connection_context() as connection:
            add(connection, 1, -10)
            yield 1
            add(connection, 2, 10)

    generator = rows()
    next(generator)
    generator.close()
    assert direct_stage.committed() == UNTOUCHED
    assert direct_stage.db.stats().in_use == 0
    scenarios.assert_fit(direct_stage)


def test_t6_a_task_that_is_cancelled_rolls_back(direct_stage: Stage) -> None:
    """CancelledError leaves the block like any other exception."""

    async def work(inside: asyncio.Event) -> None:
        with direct_stage.db.connection_context() as connection:
            add(connection, 1, -10)
            inside.set()
            await asyncio.Event().wait()

    async def main() -> None:
        inside = asyncio.Event()
        task = asyncio.ensure_future(work(inside))
        await inside.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with direct_stage.db.connection_context() as connection:
            add(connection, 3, 0)

    asyncio.run(main())
    assert direct_stage.committed() == UNTOUCHED
    assert direct_stage.db.stats().in_use == 0


# -- gevent, in a process of its own --------------------------------------------------------------

UNDER_GEVENT = """
from gevent import monkey; monkey.patch_all()
import contextvars, json, sys
import gevent
import gevent.event
from flask_pooled_db import TransactionAborted
from tests.support.apps import pooled_app
from tests.support.workloads import add, connection_id

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
        timeout=DEADLINE,
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
def test_t6_what_gevent_interrupts_is_discarded(gevent_stage: ServerStage, name: str) -> None:
    """A gevent timeout or kill inside a statement: rolled back, and not used again."""
    told = under_gevent(gevent_stage, name)
    assert told["raised"]
    assert told["after"] != told["before"]
    eventually(lambda: not locks(gevent_stage), "the server has rolled back", 0.2)
    assert gevent_stage.committed() == UNTOUCHED


def locks(stage: ServerStage) -> list[tuple[Any, ...]]:
    """The transactions that are open on the server."""
    return stage.server.query("SELECT trx_id FROM information_schema.innodb_trx")


def test_greenlets_have_their_own_connections(gevent_stage: ServerStage) -> None:
    """Greenlets spawned inside a block do not share its connection, nor one another's."""
    assert len(set(under_gevent(gevent_stage, "children")["ids"])) == 4


def test_greenlets_wait_for_one_another(gevent_stage: ServerStage) -> None:
    """A greenlet that waits for a connection lets the one that holds it run."""
    assert under_gevent(gevent_stage, "waiters", maxconnections=1)["ok"] == [True] * 10
    assert gevent_stage.committed() == MOVED


# -- rows that nobody read ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "scenario",
    [
        scenarios.half_read_on_commit,
        scenarios.half_read_on_rollback,
        scenarios.half_read_and_dropped,
    ],
    ids=lambda scenario: scenario.name,
)
def test_t6_rows_that_nobody_read_do_no_harm(
    direct_stage: Stage, scenario: Scenario[Stage]
) -> None:
    """A half-read cursor neither keeps a transaction from its end nor meets the next lease."""
    scenario(direct_stage)
    assert direct_stage.db.stats().in_use == 0


def test_t6_a_connection_with_unread_rows_is_discarded(
    server: MariaDBServer, mariadb_driver: str
) -> None:
    """Released with unread rows, a connection is closed, not read to the end."""
    with on_server("ours", server, mariadb_driver, is_direct=True) as stage:
        scenarios.half_read_is_not_read_on(stage)
        assert stage.db.stats().discarded == 1


def test_t6_a_stream_read_to_its_end_costs_nothing(
    server: MariaDBServer, mariadb_driver: str
) -> None:
    """A streaming cursor that was read to the end leaves a connection that is used again."""
    with on_server("ours", server, mariadb_driver, is_direct=True) as stage:
        for close in (True, False):
            with stage.db.connection_context() as connection:
                cursor = stage.streaming_cursor(connection)
                cursor.execute(f"{stage.many_rows} LIMIT 1000")
                assert len(cursor.fetchall()) == 1000
                if close:
                    cursor.close()
        assert stage.db.stats().discarded == 0


# -- streamed responses ---------------------------------------------------------------------------


def test_t6_an_abandoned_stream_gives_its_connection_back(direct_stage: Stage) -> None:
    """A streamed response closed half-way has rolled back and released."""
    scenarios.abandoned_stream(direct_stage)
    assert direct_stage.db.stats().in_use == 0


def test_t6_a_client_that_goes_away_gives_the_connection_back(direct_stage: Stage) -> None:
    """The same through a real server and a real socket that the client closes."""

    @direct_stage.app.get("/endless")
    def endless() -> Response:
        def rows() -> Iterator[bytes]:
            with direct_stage.db.connection_context() as connection:
                add(connection, 1, -10)
                cursor = direct_stage.streaming_cursor(connection)
                cursor.execute(direct_stage.many_rows)
                while cursor.fetchone() is not None:
                    yield b"x" * 100_000

        return Response(stream_with_context(rows()))

    server = make_server(LOOPBACK, free_port(), direct_stage.app)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        with socket.create_connection((LOOPBACK, server.port)) as client:
            client.sendall(b"GET /endless HTTP/1.0\r\n\r\n")
            assert client.recv(100)
            assert direct_stage.db.stats().in_use == 1
        eventually(lambda: direct_stage.db.stats().in_use == 0, "the connection is back")
    finally:
        server.shutdown()
        join(thread)
        server.server_close()
    assert direct_stage.committed() == UNTOUCHED
    scenarios.assert_fit(direct_stage)


def test_t7_a_block_cannot_be_used_by_what_streams_after_it(direct_stage: Stage) -> None:
    """A generator that reads rows after its view's block has ended is told so."""

    @direct_stage.app.get("/late")
    def late() -> Response:
        with direct_stage.db.connection_context() as connection:
            cursor = direct_stage.streaming_cursor(connection)
            cursor.execute(direct_stage.many_rows)

        def rows() -> Iterator[str]:
            with pytest.raises(UsageError, match="was released"):
                cursor.fetchone()
            yield "told"

        return Response(stream_with_context(rows()))

    assert direct_stage.app.test_client().get("/late").text == "told"
    with direct_stage.db.connection_context() as connection:
        assert run(connection, "SELECT 1") == [(1,)]
