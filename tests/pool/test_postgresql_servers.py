"""A PostgreSQL primary and its standby: which of them serves, and what becomes of a failover."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from flask_pooled_db import PoolTimeout, db_connection_context
from harness.postgres import PostgreSQLServer
from harness.waiting import wait_until
from harness.workloads import run
from tests.support.apps import pooled_app

Pair = tuple[PostgreSQLServer, PostgreSQLServer]


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    """A primary with a table, and a standby that follows it."""
    with PostgreSQLServer() as primary:
        primary.execute("CREATE TABLE t (id INT)")
        with primary.standby() as standby:
            yield primary, standby


def url_of(*servers: PostgreSQLServer, **query: str) -> str:
    """A URL that names all of these."""
    first = servers[0]
    places = ",".join(f"{server.host}:{server.port}" for server in servers)
    options: dict[str, Any] = query
    return first.url(**options).replace(f"{first.host}:{first.port}", places)


def port_of(conn: Any) -> int:
    return int(conn.info.port)


def test_target_primary(pair: Pair) -> None:
    """With TARGET="primary" the primary serves, wherever it stands; else the first one does."""
    primary, standby = pair
    url = url_of(standby, primary)
    with pooled_app(url), db_connection_context(readonly=True) as conn:
        assert port_of(conn) == standby.port
    with pooled_app(url, target="primary", ping_after=0) as (_, db):
        for _ in range(2):  # the second time it is pinged
            with db_connection_context() as conn:
                assert port_of(conn) == primary.port
                run(conn, "INSERT INTO t VALUES (1)")
        assert db.stats().connects == 1
    with pooled_app(url_of(standby), target="primary", acquire_timeout=0.3):
        with (
            pytest.raises(PoolTimeout, match="ReadOnlySqlTransaction"),
            db_connection_context() as conn,
        ):
            run(conn, "SELECT 1")


def test_targets_of_libpq(pair: Pair) -> None:
    """What libpq has for it works as well: each server is asked for by itself."""
    primary, standby = pair
    with pooled_app(url_of(standby, primary, target_session_attrs="read-write")):
        with db_connection_context() as conn:
            assert port_of(conn) == primary.port


def test_target_primary_that_only_reads(pair: Pair) -> None:
    """A primary that was told to take no writes is none."""
    primary, _ = pair
    url = url_of(primary, options="-cdefault_transaction_read_only=on")
    with pooled_app(url, target="primary", acquire_timeout=0.3):
        with (
            pytest.raises(PoolTimeout, match="ReadOnlySqlTransaction"),
            db_connection_context() as conn,
        ):
            run(conn, "SELECT 1")


def test_replica(pair: Pair) -> None:
    """Readonly blocks go to the replica, and nothing else does; a write in one fails."""
    primary, standby = pair
    binds = {"near": {"URL": url_of(standby)}}
    with pooled_app(url_of(primary), replica="near", binds=binds):
        with db_connection_context() as conn:
            assert port_of(conn) == primary.port
            run(conn, "INSERT INTO t VALUES (2)")
        with db_connection_context(readonly=True) as conn:
            assert port_of(conn) == standby.port
            with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
                run(conn, "INSERT INTO t VALUES (3)")
            assert run(conn, "SELECT 1") == [(1,)]


def test_connection_that_is_not_to_the_primary_any_more(pair: Pair) -> None:
    """A connection that turns out to be to a server which takes no writes is not used again: what
    stands in between may have led it there.
    """
    primary, _ = pair
    with pooled_app(url_of(primary), target="primary", maxconnections=1) as (_app, db):
        with db_connection_context(readonly=True) as conn:
            with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
                run(conn, "INSERT INTO t VALUES (3)")
        assert db.stats().discarded == 0

        def work() -> None:
            with db_connection_context() as conn:
                run(conn, "SET TRANSACTION READ ONLY")  # as on a standby, where it is the server's
                run(conn, "INSERT INTO t VALUES (3)")

        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            work()
        assert db.stats().discarded == 1
        with db_connection_context() as conn:
            run(conn, "INSERT INTO t VALUES (4)")


def test_failover() -> None:
    """After a failover the pool goes to the new primary, and what was under way is lost."""
    with PostgreSQLServer() as primary, primary.standby() as standby:
        primary.execute("CREATE TABLE t (id INT)")
        with pooled_app(url_of(primary, standby), target="primary") as (_, db):

            def work(conn: Any) -> None:
                run(conn, "INSERT INTO t VALUES (1)")
                if port_of(conn) == primary.port:
                    wait_until(lambda: standby.query("SELECT to_regclass('t')") == [("t",)])
                    primary.kill()
                    standby.promote()
                run(conn, "INSERT INTO t VALUES (2)")

            db.run_transaction(work)
            with db_connection_context() as conn:
                assert port_of(conn) == standby.port
        assert standby.query("SELECT id FROM t ORDER BY id") == [(1,), (2,)]
