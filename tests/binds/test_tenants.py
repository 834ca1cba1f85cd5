"""Tenants by schema that are opened by their names: they share the pool of a bind."""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator
from typing import Any

import pytest

from flask_pooled_db import ConfigError, PoolClosed, PooledDB, UnknownBind, db_connection_context
from harness.server import MariaDBServer
from harness.waiting import wait_until
from tests.support.apps import pooled_app
from tests.support.pools import call

pytestmark = pytest.mark.shared_server


@pytest.fixture
def tenants(mariadb: MariaDBServer, mariadb_driver: str) -> Iterator[tuple[PooledDB, list[str]]]:
    """An app with a server of two connections, and databases on it for tenants t0 to t3."""
    schemas = [mariadb.create_database() for _ in range(4)]
    url = mariadb.url(mariadb_driver, mariadb.create_database())
    settings = {"binds": {"server": {"URL": url, "MAXCONNECTIONS": 2}}, "max_binds": 3}
    with pooled_app("sqlite://", **settings, acquire_timeout=5) as (_, db):

        @db.bind_loader
        def load(name: str) -> dict[str, str] | None:
            if name == "lost":
                return {"SERVER": "server", "SCHEMA": "no_such_schema"}
            if name[:1] != "t":
                return None
            return {"SERVER": "server", "SCHEMA": schemas[int(name[1:])]}

        for i in range(4):
            with db_connection_context(f"t{i}") as conn, conn.cursor() as cur:
                cur.execute("CREATE TABLE who (name VARCHAR(20))")
                cur.execute("INSERT INTO who VALUES (%s)", (f"t{i}",))
        yield db, schemas


def name_of(db: PooledDB, tenant: str) -> Any:
    with db.connection_context(tenant) as conn, conn.cursor() as cur:
        cur.execute("SELECT name FROM who")
        return cur.fetchall()


def test_share_a_pool(tenants: tuple[PooledDB, list[str]]) -> None:
    """Each tenant is in its schema, over the connections of one pool, also when opened anew."""
    db, _ = tenants
    for _ in range(3):
        for i in range(4):
            assert list(name_of(db, f"t{i}")) == [(f"t{i}",)]
    assert db.stats("server").open <= 2
    assert len(db.here()[0].registry.opened) == 3
    assert db.stats("t3") == db.stats("server")


def test_housekeeping(tenants: tuple[PooledDB, list[str]]) -> None:
    """A connection that a tenant uses is counted once, as its server's."""
    db, _ = tenants
    with db.connection_context("t1"), db.connection_context("t2"):
        assert db.housekeep().in_use == 2


def test_block_inside_a_block(tenants: tuple[PooledDB, list[str]]) -> None:
    """A block of one tenant inside another's is a transaction of its own, one of the same tenant is
    a part, also when it was closed in between.
    """
    db, _ = tenants
    with db_connection_context("t1") as outer:
        with db_connection_context("t2") as other:
            assert other is not outer
        db.close_bind("t1")
        with db_connection_context("t1") as inner:
            assert inner is outer


def test_closed_and_evicted(tenants: tuple[PooledDB, list[str]]) -> None:
    """A tenant that is closed refuses those who wait; one in use is not evicted; its place is free
    when its last lease has ended.
    """
    db, _ = tenants
    registry = db.here()[0].registry
    with db_connection_context("t1"), db_connection_context("t2"):
        waiter = call(name_of, db, "t3")
        wait_until(lambda: db.stats("server").waiting, "a tenant that waits")
        db.close_bind("t3")
        with pytest.raises(PoolClosed):
            waiter.result()
        assert {"t1", "t2"} <= set(registry.opened)
        db.close_bind("t1")
        assert set(registry.opened) == {"t2"}
    for i in range(4):
        assert list(name_of(db, f"t{i}")) == [(f"t{i}",)]


def test_wrong_settings(tenants: tuple[PooledDB, list[str]]) -> None:
    """A server that is none, and a schema that is missing, are clear errors."""
    db, _ = tenants
    with pytest.raises(UnknownBind):
        name_of(db, "x")
    with pytest.raises(Exception, match="no_such_schema"):
        name_of(db, "lost")
    assert list(name_of(db, "t0")) == [("t0",)]
    for settings in ({"SERVER": "t1", "SCHEMA": "x"}, {"SERVER": "default", "SCHEMA": "x"}):
        db.loader = lambda _, settings=settings: settings
        with pytest.raises(ConfigError, match="SERVER"):
            name_of(db, "other")


def test_random_tenants(tenants: tuple[PooledDB, list[str]]) -> None:
    """Threads that use tenants which are evicted, closed and replaced meanwhile find no row of
    another one.
    """
    db, _ = tenants

    def work(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(40):
            name = f"t{chance.randrange(4)}"
            if chance.random() < 0.1:
                chance.choice((db.close_bind, db.replace_bind))(name)
            try:
                assert list(name_of(db, name)) == [(name,)]
            except PoolClosed:
                continue

    callers = [call(work, seed) for seed in range(4)]
    for caller in callers:
        caller.result()


def test_replica_is_told(mariadb: MariaDBServer, mariadb_driver: str) -> None:
    """Readers that wait for the replica of a bind hear of its end at once: they get PoolClosed, or
    after `replace_bind` a connection with its new settings.
    """
    url = mariadb.url(mariadb_driver, mariadb.create_database())
    schemas = [mariadb.create_database() for _ in range(2)]
    binds: dict[str, dict[str, Any]] = {
        "replica": {"URL": url, "MAXCONNECTIONS": 1},
        "server": {"URL": url},
    }
    binds["server"]["REPLICA"] = "replica"
    now = [schemas[0]]
    with pooled_app("sqlite://", binds=binds, acquire_timeout=20) as (_, db):
        settings: dict[str, Any] = {
            "tenant": lambda: {"SERVER": "server", "SCHEMA": now[0]},
            "plain": lambda: {"URL": url, "REPLICA": "replica"},
        }
        db.bind_loader(lambda name: settings[name]())
        for name in settings:
            read = functools.partial(
                db.fetch_value, "SELECT DATABASE()", bind=name, readonly=True, timeout=20
            )
            db.pool(name)
            with db.connection_context("replica"):
                waiter = call(read)
                wait_until(lambda: db.stats("replica").waiting, "a reader that waits")
                assert db.close_bind(name)
                with pytest.raises(PoolClosed):
                    waiter.result()
                waiter = call(read)
                wait_until(lambda: db.stats("replica").waiting, "a reader that waits")
                now[0] = schemas[1]
                assert db.replace_bind(name)
            found = waiter.result()
            assert found == (schemas[1] if name == "tenant" else url.rpartition("/")[2])


def test_connector_tells_the_schema(tenants: tuple[PooledDB, list[str]]) -> None:
    """What a connection tells of its database before its first statement is true."""
    schemas = tenants[1]
    for _ in range(2):
        for i, schema in enumerate(schemas):
            with db_connection_context(f"t{i}") as conn:
                if conn.driver.tells_schema:
                    assert conn.database == schema


def test_closed_tenant_lends_nothing_outside(tenants: tuple[PooledDB, list[str]]) -> None:
    """The pool of a closed tenant opens no connection outside of the pool either."""
    db, _ = tenants
    pool = db.pool("t1")
    db.close_bind("t1")
    with pytest.raises(PoolClosed):
        pool.steady_connection()
