"""How many round trips a tenant's block costs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from psycopg.errors import InvalidSchemaName

from flask_pooled_db import PooledDB
from harness.proxy import Proxy
from harness.server import MariaDBServer
from tests.drivers.relay import counting_relay
from tests.support.tenancy import SERVER, Tenancy, insert, on_mariadb, on_postgresql


@pytest.fixture
def tenancy(mariadb: MariaDBServer, mariadb_driver: str) -> Iterator[tuple[Tenancy, Proxy]]:
    """Tenants of a MariaDB behind a proxy."""
    with (
        Proxy(mariadb.host, mariadb.port) as proxy,
        on_mariadb(mariadb, mariadb_driver, port=proxy.port) as tenancy,
    ):
        yield tenancy, proxy


def cost(proxy: Proxy, db: PooledDB, bind: str, *, readonly: bool = False) -> int:
    """The round trips of a block of one statement."""
    proxy.reset_counts()
    with db.connection_context(bind, readonly=readonly) as conn, conn.cursor() as cur:
        cur.execute("SELECT v FROM t")
        cur.fetchall()
    return proxy.round_trips


@pytest.mark.shared_server
def test_round_trips_tenant(tenancy: tuple[Tenancy, Proxy]) -> None:
    """On MariaDB a connection that is in the schema costs nothing more, another one costs one round
    trip, and an empty block none.
    """
    db, proxy = tenancy[0].db, tenancy[1]
    cost(proxy, db, "red")
    usual = cost(proxy, db, "red")
    assert usual == 2
    assert [cost(proxy, db, bind) for bind in ("blue", "blue", "red")] == [3, 2, 3]
    assert [cost(proxy, db, bind) for bind in (SERVER, SERVER, "red")] == [3, 2, 3]
    assert [cost(proxy, db, "red", readonly=True) for _ in range(2)] == [2, 1]
    assert cost(proxy, db, "blue", readonly=True) == 2
    proxy.reset_counts()
    with db.connection_context("green"):
        pass
    assert proxy.commands == []


@pytest.mark.shared_server
def test_round_trips_fitting_connection(tenancy: tuple[Tenancy, Proxy]) -> None:
    """Of several idle connections a tenant gets one that is in its schema."""
    db, proxy = tenancy[0].db, tenancy[1]
    with db.connection_context("red") as red, db.connection_context("blue") as blue:
        with db.connection_context(SERVER) as own:
            for conn in (red, blue, own):
                insert(conn, "v")
    for bind in ("red", "blue", SERVER, "red", "red", SERVER, "blue"):
        assert cost(proxy, db, bind) == 2
    assert db.stats(SERVER).connects == 3


@pytest.fixture
def relayed_tenancy(postgresql: str) -> Iterator[tuple[Tenancy, list[bytes]]]:
    """Tenants on a PostgreSQL, over a single connection, and what is sent over it."""
    port = urlsplit(postgresql).port or 0
    with contextlib.ExitStack() as stack:
        relayed, seen = stack.enter_context(counting_relay(port, b""))
        open_ = on_postgresql(postgresql, port=relayed, maxconnections=1)
        yield stack.enter_context(open_), seen


def test_round_trips_tenant_on_postgresql(relayed_tenancy: tuple[Tenancy, list[bytes]]) -> None:
    """On PostgreSQL the schema is set in the round trip that begins the transaction."""
    tenancy, seen = relayed_tenancy

    def trips(bind: str) -> int:
        del seen[:]
        with tenancy.db.connection_context(bind) as conn:
            insert(conn, bind)
        return len(seen)

    trips(SERVER)
    for bind in ("red", "red", "blue", SERVER, SERVER, "blue"):
        assert trips(bind) == 3  # BEGIN, the statement and COMMIT
    del seen[:]
    with tenancy.db.connection_context("green"):
        pass
    assert not seen


def test_round_trips_readonly_tenant_on_postgresql(
    relayed_tenancy: tuple[Tenancy, list[bytes]],
) -> None:
    """On PostgreSQL a readonly block of a tenant sets its schema in a round trip of its own, once
    for all its statements, and a change between readonly and not is one more. So does a lease of
    the server itself, on a connection that tenants have used.
    """
    tenancy, seen = relayed_tenancy

    def trips(bind: str, statements: int = 1) -> int:
        del seen[:]
        with tenancy.db.connection_context(bind, readonly=True) as conn:
            found = {tenancy.current(conn.cursor()) for _ in range(statements)}
        assert found == {tenancy.schemas[bind]}
        return len(seen)

    trips("red")
    for bind in ("red", "blue", "blue", SERVER, SERVER, "red"):
        assert trips(bind) == 2  # the schema, and the statement
    assert trips("red", statements=3) == 4
    with tenancy.db.connection_context("red") as conn:
        insert(conn, "v")
    assert trips("red") == 3
    del seen[:]
    with tenancy.db.connection_context("green", readonly=True):
        pass
    assert not seen
    tenancy.query("DROP SCHEMA green CASCADE")
    with pytest.raises(InvalidSchemaName, match="does not exist"):
        tenancy.db.fetch_value("SELECT 1", bind="green", readonly=True)
    assert not any(b"SELECT 1" in sent for sent in seen)
