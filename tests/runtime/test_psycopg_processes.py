"""P6, P12 and T6 with psycopg: forks, the end of the process, and gevent."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from harness.postgres import PostgreSQLServer
from harness.postgres_protocol import PostgreSQLSplitter
from harness.processes import PROJECT, without_coverage
from harness.proxy import Proxy
from tests.runtime.forking import CHILDREN, FORKING, run_program

WARMS_UP = """
pools = open_pool(url=url, mincached=5)  # nobody closes it
with pools.__enter__().connection() as conn:
    ask(conn, "SELECT 1")
"""


@pytest.fixture
def proxy(postgresql_server: PostgreSQLServer) -> Iterator[Proxy]:
    """A network in front of PostgreSQL that can read what passes."""
    server = postgresql_server
    with Proxy(server.host, server.port, splitter=PostgreSQLSplitter) as proxy:
        yield proxy


@pytest.mark.parametrize("child", CHILDREN)
def test_p6_parents_connections_of_psycopg(
    postgresql_server: PostgreSQLServer, proxy: Proxy, child: str
) -> None:
    """A child, whatever it does, sends nothing on its parent's connections."""
    run_program(CHILDREN[child] + FORKING, postgresql_server.url(port=proxy.port))
    for connection in (1, 2, 3):
        texts = [c.payload for c in proxy.commands if c.connection == connection]
        before = max(i for i, text in enumerate(texts) if b"before the fork" in text)
        assert not any(b"'child'" in text for text in texts[before:])
    assert not [c for c in proxy.commands if b"'child'" in c.payload]


def test_p12_exit_during_connects_of_psycopg(
    postgresql_server: PostgreSQLServer, proxy: Proxy
) -> None:
    """What is being connected when the process ends is finished, and ends with a goodbye."""
    proxy.delay = 0.01
    run_program(WARMS_UP, postgresql_server.url(port=proxy.port))
    ends = {command.connection: command.code for command in proxy.commands}
    assert ends == dict.fromkeys(range(1, proxy.connections + 1), ord("X"))
    assert len(ends) > 1


UNDER_GEVENT = """
from gevent import monkey; monkey.patch_all()
import sys, gevent
from harness.workloads import connection_id
from tests.support.apps import pooled_app

def wait(readonly):
    with app.app_context(), db.connection_context(readonly=readonly) as conn:
        conn.execute("SELECT pg_advisory_xact_lock_shared(5)")

with pooled_app(sys.argv[1]) as (app, db):
    with db.connection_context() as conn:
        conn.execute("CREATE TABLE t (id INT)")
        before = connection_id(conn)
    with db.connection_context() as conn:
        conn.execute("SELECT pg_advisory_xact_lock(5)")
        waiting = [gevent.spawn(wait, n % 2 == 0) for n in range(4)]
        gevent.sleep(0.1)
        assert conn.execute("SELECT 1").fetchone() == (1,), "they hold up the others"
    gevent.joinall(waiting, raise_error=True)
    for sql in ("SELECT 1", "INSERT INTO t VALUES (1)"):
        discarded = db.stats().discarded
        try:
            with db.connection_context() as conn:
                conn.execute(sql)
                with gevent.Timeout(0.2):
                    conn.execute("SELECT pg_sleep(77)")
        except gevent.Timeout:
            pass
        else:
            raise AssertionError("it was not interrupted")
        assert db.stats().discarded == discarded + 1
    try:
        with gevent.Timeout(0.2), db.connection_context() as conn:
            conn.execute("SELECT pg_sleep(77)")
    except gevent.Timeout:
        pass
    with db.connection_context() as conn:
        assert conn.execute("SELECT * FROM t").fetchall() == []
    assert db.stats().in_use == 0
"""


def test_t6_psycopg_under_gevent(postgresql_server: PostgreSQLServer) -> None:
    """Under gevent statements run side by side, and a timeout inside of one costs its connection,
    also if it is the first of its block.
    """
    url = postgresql_server.url(database=postgresql_server.create_database())
    done = subprocess.run(
        [sys.executable, "-c", UNDER_GEVENT, url],
        cwd=PROJECT,
        env=without_coverage(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
