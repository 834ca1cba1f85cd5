"""P3, P4 and P5 on PostgreSQL: limits, liveness, and who waits for whom."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import psycopg
import pytest

from flask_pooled_db.lease.dbutils import Pool
from harness.postgres import PostgreSQLServer
from harness.waiting import wait_until
from harness.workloads import connection_id, run
from tests.pool.on_server import fill, use
from tests.support.apps import pooled_app
from tests.support.pools import call, open_pool
from tests.support.scenarios.base import assert_fit, assert_untouched, must_raise
from tests.support.stages import ServerStage, on_server


def count(server: PostgreSQLServer, name: str) -> int:
    asked = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s"
    return int(server.query(asked, name)[0][0])


def test_p3_connections_on_postgresql(postgresql_server: PostgreSQLServer) -> None:
    """Twelve threads on four connections are four connections on the server."""
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            use(pool)

    url = postgresql_server.url(application_name="p3")
    with open_pool(url=url, maxconnections=4) as pool:
        callers = [call(work) for _ in range(12)]
        wait_until(lambda: pool.stats().open == 4)
        seen = [count(postgresql_server, "p3") for _ in range(30)]
        stop.set()
        for caller in callers:
            caller.result()
    assert max(seen) == 4
    wait_until(lambda: count(postgresql_server, "p3") == 0, "the goodbyes")


def test_p4_dead_connections_on_postgresql(postgresql_server: PostgreSQLServer) -> None:
    """Connections that the server has ended are replaced before they are lent."""
    with open_pool(url=postgresql_server.url(), mincached=0) as pool:
        for number in fill(pool, 3):
            postgresql_server.kill_connection(number)
        for _ in range(3):
            use(pool)
        assert pool.stats().discarded == 3


def test_p4_ping_on_postgresql(psycopg_stage: ServerStage) -> None:
    """After PING_AFTER a connection is pinged, in one round trip."""
    url = psycopg_stage.server.url(port=psycopg_stage.proxy.port)
    passed = 0.0
    with open_pool(url=url, ping_after=5, clock=lambda: time.monotonic() + passed) as pool:
        use(pool)
        wait_until(lambda: pool.stats().idle == 1)
        passed = 6.0
        psycopg_stage.proxy.reset_counts()
        pool.lease().close()
        assert psycopg_stage.proxy.round_trips == 1


def test_p5_hung_bind_on_postgresql(psycopg_stage: ServerStage) -> None:
    """While the server of one bind hangs, the other bind serves its callers."""
    server, proxy = psycopg_stage.server, psycopg_stage.proxy
    binds = {"reports": server.url(port=proxy.port)}
    with pooled_app(server.url(), connect_timeout=30, binds=binds) as (_app, db):
        proxy.deaf()
        hung = call(db.pool("reports").lease, timeout=60)
        wait_until(lambda: proxy.connections)
        for _ in range(5):
            with db.connection_context() as conn:
                assert run(conn, "SELECT 1") == [(1,)]
        assert hung.is_alive()
        proxy.hear()
        hung.result().close()


@pytest.fixture
def impatient(postgresql_server: PostgreSQLServer) -> Iterator[ServerStage]:
    """A stage whose pool waits a second for its server."""
    with on_server("ours", postgresql_server, "psycopg", connect_timeout=1) as stage:
        yield stage


def test_p5_server_that_hangs_while_a_statement_is_ended(
    impatient: ServerStage, postgresql_server: PostgreSQLServer
) -> None:
    """Where the server hangs as a statement is to be ended, another thread goes on with another
    pool, and its caller hears in time.
    """
    with open_pool(url=postgresql_server.url()) as pool:
        check_hanging_end(impatient, pool)
    impatient.proxy.hear()
    assert_untouched(impatient)
    assert_fit(impatient)


def check_hanging_end(impatient: ServerStage, pool: Pool) -> None:
    is_at_work, stop, others = threading.Event(), threading.Event(), []

    def go_on() -> None:
        is_at_work.wait()
        while not stop.wait(0.05):
            others.append(use(pool))

    going_on = call(go_on)
    with must_raise(psycopg.Error):
        with impatient.db.connection_context(statement_timeout=0.2) as conn:
            number = connection_id(conn)
            run(conn, "UPDATE accounts SET balance = 1")
            impatient.proxy.deaf()
            is_at_work.set()
            run(conn, impatient.sleep(77))
    stop.set()
    going_on.result()
    assert others
    impatient.server.kill_connection(number)  # it would sleep on
