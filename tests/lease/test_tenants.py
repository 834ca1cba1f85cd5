"""SERVER and SCHEMA: tenants that share a pool, and no lease in another one's schema."""

from __future__ import annotations

import contextlib
import gc
import weakref
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from flask_pooled_db import PoolClosed, PoolTimeout, UsageError
from flask_pooled_db.lease.tenants import TenantPool
from harness.waiting import wait_until
from tests.support.pools import Caller, call
from tests.support.tenancy import (
    BINDS,
    DRIVERS,
    SERVER,
    TENANTS,
    Open,
    Tenancy,
    insert,
    opener,
    quoted,
)


@pytest.fixture(params=DRIVERS)
def open_tenancy(request: pytest.FixtureRequest) -> Open:
    """What opens tenants, with each driver in turn."""
    return opener(request, request.param)


@pytest.fixture
def tenancy(open_tenancy: Open) -> Iterator[Tenancy]:
    """Tenants whose server has a single connection."""
    with open_tenancy(maxconnections=1, acquire_timeout=2.0) as tenancy:
        yield tenancy


def test_p9_each_in_its_schema(tenancy: Tenancy) -> None:
    """Each lease of a tenant is in its schema, and one of the server in the connection's own,
    whoever had the connection before.
    """
    for first in BINDS:
        for second in BINDS:
            for bind in (first, second):
                assert tenancy.where(bind) == tenancy.schemas[bind]
                with tenancy.db.connection_context(bind) as conn:
                    insert(conn, bind)
    assert tenancy.committed() == {bind: [bind] * 8 for bind in BINDS}
    assert tenancy.db.stats(SERVER).connects == 1


def test_t9_tenant_inside_another(open_tenancy: Open) -> None:
    """A tenant's block in another's is a transaction of its own; one in its own block is a part of
    that.
    """
    with open_tenancy() as tenancy:
        context = tenancy.db.connection_context
        with contextlib.suppress(LookupError), context("red") as outer:
            insert(outer, "red")
            with context("blue") as other, context("red") as inner, context("blue") as again:
                assert other is not outer
                assert inner is outer
                assert again is other
                insert(other, "blue")
                insert(inner, "red")
            with context(SERVER) as own:
                insert(own, SERVER)
            raise LookupError
        assert tenancy.committed() == {"red": [], "blue": ["blue"], "green": [], SERVER: [SERVER]}


def test_t1_tenant_ends(tenancy: Tenancy) -> None:
    """After a ROLLBACK, a COMMIT in the middle and a failed statement a lease is where it was."""
    with tenancy.db.connection_context("red") as conn, conn.cursor() as cur:
        insert(conn, "lost")
        conn.rollback()
        insert(conn, "red")
        conn.commit()
        assert tenancy.current(cur) == tenancy.schemas["red"]
        conn.rollback()
        with contextlib.suppress(conn.Error):
            cur.execute("SELECT nothing FROM nowhere")
        conn.rollback()
        insert(conn, "red")
    assert tenancy.committed()["red"] == ["red", "red"]
    assert tenancy.where("blue") == tenancy.schemas["blue"]


def test_missing_schema(tenancy: Tenancy, open_tenancy: Open) -> None:
    """A schema that does not exist is the driver's error at each statement; the connection serves
    others.
    """
    gone = quoted(tenancy.driver, tenancy.schemas["green"])
    assert tenancy.where("green") == tenancy.schemas["green"]
    cascade = " CASCADE" if tenancy.driver == "psycopg" else ""
    tenancy.query(f"DROP SCHEMA {gone}{cascade}")
    for bind in ("red", SERVER, "blue"):
        tenancy.where(bind)
        with tenancy.db.connection_context("green") as conn, conn.cursor() as cur:
            for _ in range(2):
                with pytest.raises(conn.Error, match=r"[Uu]nknown database|does not exist"):
                    cur.execute("SELECT 1")
        assert tenancy.where(bind) == tenancy.schemas[bind]
    assert tenancy.db.stats(SERVER).connects == 1
    tenancy.query(f"CREATE SCHEMA {gone}")
    assert tenancy.where("green") == tenancy.schemas["green"]


# What a lease does to its session, and the next lease must not find

LEAVES: dict[str, list[str]] = {
    "mariadb": [
        "USE {other}",
        "/* */ use {other}",
        "EXECUTE IMMEDIATE 'USE {other}'",
        "PREPARE s FROM 'USE {other}'; EXECUTE s",
        "DROP DATABASE {own}; CREATE DATABASE {own}",
        "SET SESSION session_track_schema = OFF; USE {other}",
        "SET SESSION session_track_state_change = OFF; EXECUTE IMMEDIATE 'USE {other}'",
        "CREATE TEMPORARY TABLE {other}.t (v INT)",
        "PREPARE s FROM 'INSERT INTO t VALUES (1)'",
    ],
    "psycopg": [
        "SET search_path TO {other}",
        "SET LOCAL search_path TO {other}",
        "SET SESSION SCHEMA 'blue'",
        "SELECT set_config('search_path', 'blue', false)",
        "SELECT away()",
        "SELECT away(); SELECT 1",
        "UPDATE pg_settings SET setting = 'blue' WHERE name = 'search_path'",
        "SELECT * FROM leading_away",
        "DO $$ BEGIN PERFORM set_config('search_path', 'blue', false); END $$",
        "RESET search_path",
        "DISCARD PLANS",
        "CREATE TEMP TABLE t (v VARCHAR(20))",
        "SELECT shadow()",
        "COMMIT AND CHAIN",
        "SET ROLE pg_monitor",
    ],
}

AWAY = """
CREATE OR REPLACE FUNCTION red.away() RETURNS text LANGUAGE plpgsql AS
  $$ BEGIN RETURN set_config('search_path', 'blue', false); END $$;
CREATE OR REPLACE VIEW red.leading_away AS SELECT red.away();
CREATE OR REPLACE FUNCTION red.shadow() RETURNS void LANGUAGE plpgsql AS
  $$ BEGIN CREATE TEMP TABLE t (v VARCHAR(20)); END $$;
"""


def _leaves() -> Iterator[Any]:
    for name in ("pymysql", "mariadbconnector", "psycopg"):
        kind = "psycopg" if name == "psycopg" else "mariadb"
        marks = () if name == "psycopg" else (pytest.mark.shared_server,)
        for sql in LEAVES[kind]:
            yield pytest.param(name, sql, marks=marks)


@pytest.mark.parametrize("ending", ["commit", "rollback"])
@pytest.mark.parametrize(("driver", "sql"), [*_leaves()])
def test_p9_tenant_leaves_its_schema(
    request: pytest.FixtureRequest, driver: str, sql: str, ending: str
) -> None:
    """Whatever a lease does to its session by SQL text or by functions, the next one, whose ever it
    is, is in its own schema and finds its own tables.
    """
    with opener(request, driver)(maxconnections=1) as tenancy:
        if driver == "psycopg":
            tenancy.query(AWAY)
        for following in BINDS:
            names = {
                "own": quoted(driver, tenancy.schemas["red"]),
                "other": quoted(driver, tenancy.schemas["blue"]),
            }
            with contextlib.suppress(LookupError), tenancy.db.connection_context("red") as conn:
                for part in [sql] if driver == "psycopg" else sql.split("; "):
                    conn.cursor().execute(part.format(**names))
                if ending == "rollback":
                    raise LookupError
            tenancy.query(f"CREATE TABLE IF NOT EXISTS {names['own']}.t (v VARCHAR(20))")
            with tenancy.db.connection_context(following) as conn:
                insert(conn, following)
                with conn.cursor() as cur:
                    assert tenancy.current(cur) == tenancy.schemas[following]
            committed = tenancy.committed()
            assert committed.pop(following) == [following]
            assert not any(committed.values())
            tenancy.clear()


HOSTILE = ["x`y", 'x"y', "it's", "a b", "Ünï", "%s", "a?b", "a%(v)sb", "back\\slash", "-- c", "x;y"]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_schema_name(open_tenancy: Open, name: str) -> None:
    """A schema may have any name that its server lets it have."""
    with open_tenancy(maxconnections=1) as tenancy:
        mark = quoted(tenancy.driver, name)
        tenancy.query(f"CREATE SCHEMA {mark}")
        try:
            config = replace(tenancy.db.pool("red").config, schema=name)
            pool = TenantPool(config, tenancy.db.pool(SERVER), "odd")
            for before in BINDS:
                tenancy.where(before)
                with contextlib.closing(pool.lease()) as conn, conn.cursor() as cur:
                    assert tenancy.current(cur) == name
        finally:
            tenancy.query(f"DROP SCHEMA {mark}")


def test_prepared_statements(open_tenancy: Open) -> None:
    """A statement that a driver has prepared for one tenant does not run in another's schema, and
    works where the columns are others.
    """
    with open_tenancy(maxconnections=1) as tenancy:
        tenancy.query(f"ALTER TABLE {quoted(tenancy.driver, tenancy.schemas['blue'])}.t ADD w INT")
        options = {"binary": True} if tenancy.driver == "mariadbconnector" else {}
        for _ in range(8):
            for bind, width in (("red", 1), ("blue", 2), (SERVER, 1)):
                with tenancy.db.connection_context(bind) as conn:
                    cur = conn.cursor(**options)
                    cur.execute("INSERT INTO t (v) VALUES (%s)", (bind,))
                    cur.execute("SELECT * FROM t WHERE v = %s", (bind,))
                    assert {len(row) for row in cur.fetchall()} == {width}
        assert tenancy.committed() == {
            "red": ["red"] * 8,
            "blue": ["blue"] * 8,
            "green": [],
            SERVER: [SERVER] * 8,
        }


# The pool of a tenant


def test_p2_timeout_names_tenant(tenancy: Tenancy) -> None:
    """Who gets no connection for a tenant is told which tenant it is, and what it holds of others'
    tenants of the pool.
    """
    with tenancy.db.connection_context("red"):
        with pytest.raises(PoolTimeout, match=r"^bind 'blue': no connection .* holds 1") as caught:
            with tenancy.db.connection_context("blue", timeout=0.05):
                pass
    assert caught.value.bind == "blue"


def _current(tenancy: Tenancy, caller: Caller[Any]) -> str:
    with contextlib.closing(caller.result()) as lease:
        return tenancy.current(lease.cursor())


def test_closed_tenant(tenancy: Tenancy) -> None:
    """A tenant that is closed lends nothing, and whoever waits for it is told; its leases and its
    server's pool go on.
    """
    red, blue = tenancy.db.pool("red"), tenancy.db.pool("blue")
    twin = TenantPool(red.config, tenancy.db.pool(SERVER), "twin")  # of the same schema
    lease = red.lease()
    waiting = [call(pool.lease, timeout=10.0) for pool in (red, blue, twin)]
    wait_until(lambda: red.stats().waiting == 3, "three that wait")
    red.close()
    with pytest.raises(PoolClosed, match="'red'"):
        waiting[0].result()
    with pytest.raises(PoolClosed, match="'red'"):
        red.lease()
    with pytest.raises(PoolClosed, match="'red'"), tenancy.db.connection_context("red"):
        pass
    insert(lease, "red")
    lease.commit()
    lease.close()
    served = [call(_current, tenancy, one) for one in waiting[1:]]
    assert [one.result() for one in served] == [tenancy.schemas["blue"], tenancy.schemas["red"]]
    assert tenancy.committed()["red"] == ["red"]


def test_tenants_pool_is_its_servers(tenancy: Tenancy) -> None:
    """A tenant's numbers are its server's; what changes the pool is refused."""
    red, server = tenancy.db.pool("red"), tenancy.db.pool(SERVER)
    with contextlib.closing(red.connection()):
        assert red.stats().in_use == server.stats().in_use == 1
    for change in (red.drain, lambda: red.resize(1, 1, 1)):
        with pytest.raises(UsageError, match="tenant 'red'"):
            change()
    with contextlib.closing(red.steady_connection()) as lease:
        assert tenancy.current(lease.cursor()) == tenancy.schemas["red"]
    with contextlib.closing(tenancy.db.pool("red").lease(shareable=True)) as lease:
        assert tenancy.current(lease.cursor()) == tenancy.schemas["red"]


def test_unused_tenant(open_tenancy: Open) -> None:
    """A tenant knows whether a lease or a caller is in it, and keeps none of them alive."""
    with open_tenancy(maxconnections=2) as tenancy:
        engines: Any = {bind: tenancy.db.pool(bind).engine for bind in TENANTS}

        def used() -> set[str]:
            with tenancy.db.pool(SERVER).engine.state.lock:
                return {bind for bind, one in engines.items() if not one.is_unused}

        assert used() == set()
        first, second = tenancy.db.pool("red").lease(), tenancy.db.pool("red").lease()
        assert used() == {"red"}
        waiting = call(tenancy.db.pool("blue").lease, timeout=10.0)
        wait_until(lambda: used() == {"red", "blue"}, "a caller that waits")
        first.close()
        third = waiting.result()
        assert used() == {"red", "blue"}
        second.close()
        assert used() == {"blue"}
        third.close()
        assert used() == set()
        lost = tenancy.db.pool("red").lease()
        lent = weakref.ref(lost.usable())
        assert used() == {"red"}
        del lost
        gc.collect()
        assert used() == set()
        assert lent() is None
        engines["red"].close()
        with pytest.raises(PoolClosed):
            engines["red"].acquire()
        assert used() == set()
