"""Tenants of servers that are set up in other ways, and other ways to take their connections."""

from __future__ import annotations

import contextlib
import functools
import os
from typing import Any

import psycopg
import pymysql
import pytest

from flask_pooled_db import ConnectFailed, PooledDB, UsageError, get_db_connection
from harness.server import SCHEMES, MariaDBServer
from harness.sockets import free_port
from tests.support.apps import pooled_app
from tests.support.pools import call
from tests.support.tenancy import (
    BINDS,
    SERVER,
    Tenancy,
    insert,
    on_mariadb,
    on_postgresql,
    opener,
)
from tests.support.tenancy import DRIVERS as EVERY_DRIVER

DRIVERS = [pytest.param(name, marks=pytest.mark.shared_server) for name in SCHEMES]


def where(db: PooledDB, bind: str, sql: str) -> Any:
    """The answer to a statement of a bind's."""
    with db.connection_context(bind) as conn, conn.cursor() as cur:
        cur.execute(sql)
        return cur.fetchone()[0]


@pytest.mark.parametrize("driver", DRIVERS)
def test_server_without_database(mariadb: MariaDBServer, driver: str, database: str) -> None:
    """Where the server's connections have no database, nothing would lead them back to none: a
    tenant's statement is refused, and the server's own leases work.
    """
    url = mariadb.url(driver, database).replace(f"/{database}", "/")
    binds = {SERVER: url, "red": {"SERVER": SERVER, "SCHEMA": database}}
    with pooled_app(None, binds=binds) as (_, db):
        for _ in range(2):
            with db.connection_context("red") as conn, conn.cursor() as cur:
                with pytest.raises(UsageError, match="has to name a database"):
                    cur.execute("SELECT 1")
            assert where(db, SERVER, "SELECT DATABASE()") is None


@pytest.mark.shared_server
def test_p9_own_function_on_mariadb(mariadb: MariaDBServer, database: str) -> None:
    """What an application's own function, or SETSESSION, did is what the server's leases find."""
    other, tenant = mariadb.create_database(), mariadb.create_database()
    arguments = mariadb.connect_args(database)

    def connect() -> Any:
        return pymysql.connect(**{**arguments, "database": other})

    connect.dbapi = pymysql  # type: ignore[attr-defined]
    servers: tuple[dict[str, Any], ...] = (
        {"CREATOR": connect},
        {"URL": mariadb.url("pymysql", database), "SETSESSION": [f"USE `{other}`"]},
    )
    for server in servers:
        binds = {SERVER: {"MAXCONNECTIONS": 1, **server}}
        binds["red"] = {"SERVER": SERVER, "SCHEMA": tenant}
        with pooled_app(None, binds=binds) as (_, db):
            for _ in range(2):
                assert where(db, SERVER, "SELECT DATABASE()") == other
                assert where(db, "red", "SELECT DATABASE()") == tenant
                with db.connection_context("red") as conn:
                    conn.cursor().execute("SET @x = 1")  # it is reset, or closed
                assert where(db, "red", "SELECT DATABASE()") == tenant


def test_p9_own_function_on_postgresql(postgresql: str) -> None:
    """A search path that an application's own function or SETSESSION has set is the server's, and
    transactions are as the function wants them.
    """
    plain = postgresql.replace("+psycopg", "")

    def connect() -> Any:
        conn = psycopg.connect(plain)
        conn.execute("SET search_path TO blue, public")
        conn.commit()
        conn.read_only = True
        return conn

    connect.dbapi = psycopg  # type: ignore[attr-defined]
    path = "SELECT current_setting('search_path')"
    with on_postgresql(postgresql):
        for server in (
            {"CREATOR": connect},
            {"URL": postgresql, "SETSESSION": ["SET search_path TO blue, public"]},
        ):
            binds = {SERVER: {"MAXCONNECTIONS": 1, **server}}
            binds["red"] = {"SERVER": SERVER, "SCHEMA": "red"}
            with pooled_app(None, binds=binds) as (_, db):
                for _ in range(2):
                    assert where(db, SERVER, path) == "blue, public"
                    assert where(db, "red", path) == '"red"'
                    read_only = where(db, "red", "SHOW transaction_read_only")
                    assert read_only == ("on" if "CREATOR" in server else "off")
                assert db.stats(SERVER).connects == 1


NAMES = ["$user", "pg_temp", "pg_catalog, blue", "x" * 63 + "a", "RED", "red,blue"]


@pytest.mark.parametrize("name", NAMES)
def test_schema_of_another_name(postgresql: str, name: str) -> None:
    """A name that PostgreSQL would take for another schema's is a schema that does not exist."""
    with on_postgresql(postgresql) as tenancy:
        binds = {SERVER: postgresql, "odd": {"SERVER": SERVER, "SCHEMA": name}}
        with contextlib.ExitStack() as stack:
            for schema in ("postgres", "x" * 63):
                tenancy.query(f'CREATE SCHEMA "{schema}"')
                stack.callback(tenancy.query, f'DROP SCHEMA "{schema}"')
            _, db = stack.enter_context(pooled_app(None, binds=binds))
            with db.connection_context("odd") as conn:
                with pytest.raises(psycopg.errors.InvalidSchemaName):
                    conn.execute("CREATE TABLE t (v INT)")


def test_schema_without_rights(postgresql: str) -> None:
    """A schema that the account may not use is an error, and not a search path without tables."""
    with on_postgresql(postgresql) as tenancy:
        tenancy.query("DROP ROLE IF EXISTS guest")
        tenancy.query("CREATE ROLE guest LOGIN")
        url = postgresql.replace("//postgres@", "//guest@")
        binds = {SERVER: url, "red": {"SERVER": SERVER, "SCHEMA": "red"}}
        with pooled_app(None, binds=binds) as (_, db):
            with db.connection_context("red") as conn:
                with pytest.raises(psycopg.errors.InvalidSchemaName, match="may not be used"):
                    conn.execute("SELECT 1")


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("fallback", [True, False])
def test_replica_of_tenants(mariadb: MariaDBServer, driver: str, fallback: bool) -> None:
    """Readonly leases of a tenant go to the server's replica, in the tenant's schema, and to the
    server if that is down.
    """
    with on_mariadb(mariadb, driver) as tenancy:
        away = mariadb.url(driver, tenancy.schemas[SERVER], port=free_port())
        near = mariadb.url(driver, tenancy.schemas["green"])
        for replica in (near, away) if fallback else (near,):
            binds = {
                SERVER: {
                    "URL": mariadb.url(driver, tenancy.schemas[SERVER]),
                    "REPLICA": "near",
                    "REPLICA_FALLBACK": fallback,
                },
                "near": replica,
                "red": {"SERVER": SERVER, "SCHEMA": tenancy.schemas["red"]},
                "blue": {"SERVER": SERVER, "SCHEMA": tenancy.schemas["blue"]},
            }
            with pooled_app(None, binds=binds) as (_, db):
                for bind in ("red", "blue", SERVER, "red"):
                    with db.connection_context(bind, readonly=True) as conn, conn.cursor() as cur:
                        expected = tenancy.schemas[bind]
                        if bind == SERVER and replica is near:
                            expected = tenancy.schemas["green"]
                        assert tenancy.current(cur) == expected
                    with db.connection_context(bind) as conn:
                        insert(conn, bind)
                engine: Any = db.pool("red").engine
                assert engine.is_unused
                assert (db.stats("near").checkouts > 0) == (replica is near)
        assert not tenancy.committed()["green"]


def test_shared_connections(postgresql: str) -> None:
    """Leases that share a connection are the server's own; a tenant's have theirs alone."""
    with on_postgresql(postgresql, maxshared=2, maxconnections=3) as tenancy:
        db = tenancy.db
        with contextlib.closing(get_db_connection("red", shareable=True)) as red:
            insert(red, "red")
            red.commit()
        shared = [db.pool(SERVER).lease(shareable=True) for _ in range(4)]
        with contextlib.closing(get_db_connection("red", shareable=True)) as red:
            for lease in shared:
                insert(lease, SERVER)
            insert(red, "red")
            for lease in (*shared, red):
                lease.commit()
        for lease in shared:
            lease.close()
        assert tenancy.committed() == {
            "red": ["red", "red"],
            "blue": [],
            "green": [],
            SERVER: [SERVER] * 4,
        }


@pytest.mark.parametrize("driver", DRIVERS)
def test_p9_database_to_be_quoted(mariadb: MariaDBServer, driver: str, database: str) -> None:
    """A session is reset whose database has a name that needs quotes; it is not closed for that."""
    name = f"{database}-1"
    mariadb.execute(f"CREATE DATABASE `{name}`")
    try:
        with pooled_app(mariadb.url(driver, name), maxconnections=1) as (_, db):
            for _ in range(2):
                with db.connection_context() as conn:
                    conn.cursor().execute("SET @x = 1")
            assert where(db, "default", "SELECT DATABASE()") == name
            assert where(db, "default", "SELECT @x") is None
            assert db.stats().connects == 1
    finally:
        mariadb.execute(f"DROP DATABASE `{name}`")


@pytest.mark.shared_server
def test_connect_failed_names_tenant(mariadb: MariaDBServer, database: str) -> None:
    """Where no connect can succeed, the error names the tenant and the server."""
    url = mariadb.url("pymysql", "no_such_database")
    binds = {SERVER: url, "red": {"SERVER": SERVER, "SCHEMA": database}}
    with pooled_app(None, binds=binds) as (_, db):
        with pytest.raises(ConnectFailed, match=r"^bind 'red': .* of bind 'server' failed"):
            db.fetch_all("SELECT 1", bind="red")


@pytest.mark.parametrize("driver", DRIVERS)
def test_p6_fork(mariadb: MariaDBServer, driver: str) -> None:
    """In a forked child a tenant has no leases and no callers of its parent's."""
    with on_mariadb(mariadb, driver, maxconnections=1) as tenancy:
        engine: Any = tenancy.db.pool("red").engine
        lease = tenancy.db.pool("red").lease()
        insert(lease, "red")
        waiting = call(tenancy.db.pool("red").lease, timeout=20.0)
        while not tenancy.db.stats("red").waiting:
            pass
        child = os.fork()
        if not child:
            code = 1
            try:
                assert engine.is_unused
                assert tenancy.where("blue") == tenancy.schemas["blue"]
                assert tenancy.where("red") == tenancy.schemas["red"]
                assert engine.is_unused
                code = 0
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
        lease.commit()
        lease.close()
        with contextlib.closing(waiting.result()) as other:
            assert tenancy.current(other.cursor()) == tenancy.schemas["red"]


class Interruption(BaseException):
    """What a signal handler raises."""


def fail_to_enter(tenancy: Tenancy, error: BaseException, *, is_late: bool) -> None:
    """Have a lease fail before or after its connection was brought to its schema."""
    adapter: Any = tenancy.db.pool(SERVER).driver
    enter = adapter.enter_schema

    def fail(*args: Any) -> None:
        if is_late:
            enter(*args)
        raise error

    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(type(error)):
        patch.setattr(adapter, "enter_schema", fail)
        with tenancy.db.connection_context("blue") as conn:
            insert(conn, "blue")


@pytest.mark.parametrize("is_late", [False, True])
@pytest.mark.parametrize("kind", ["interruption", "error"])
@pytest.mark.parametrize("driver", EVERY_DRIVER)
def test_t6_failure_on_the_way(
    request: pytest.FixtureRequest, driver: str, kind: str, is_late: bool
) -> None:
    """A lease that is interrupted, or fails, on its way to its schema leaves nothing behind for
    others.
    """
    with opener(request, driver)(maxconnections=1) as tenancy:
        adapter: Any = tenancy.db.pool(SERVER).driver
        error: BaseException = Interruption()
        if kind == "error":
            error = adapter.dbapi.ProgrammingError(1064, "refused")
            error.errno = 1064  # type: ignore[attr-defined]
        for following in BINDS:
            tenancy.where("red")
            fail_to_enter(tenancy, error, is_late=is_late)
            assert tenancy.where(following) == tenancy.schemas[following]
        assert not tenancy.committed()["blue"]


def test_nothing_sent_after_entering(postgresql: str) -> None:
    """A connection whose lease has sent nothing but what brought it to its schema is kept."""
    with on_postgresql(postgresql, maxconnections=1) as tenancy:
        with contextlib.closing(get_db_connection("red")) as conn:
            with pytest.raises(UsageError, match="distributed"):
                conn.execute("PREPARE TRANSACTION 'x'")
        assert tenancy.where("blue") == "blue"
        assert tenancy.db.stats(SERVER).connects == 1


def test_t10_nothing_was_before(postgresql: str) -> None:
    """The transaction that a lease is brought to its schema with counts as no work before its first
    statement.
    """
    with on_postgresql(postgresql, implicit_commit="error") as tenancy:
        for bind in BINDS:
            with tenancy.db.connection_context(bind) as conn:
                conn.execute("COMMIT")
                insert(conn, bind)
        assert tenancy.committed() == {bind: [bind] for bind in BINDS}


@pytest.mark.parametrize("driver", EVERY_DRIVER)
def test_ways_of_the_app(request: pytest.FixtureRequest, driver: str) -> None:
    """Single statements, the context's own connections, retries and what follows a commit are a
    tenant's as they are any bind's.
    """
    with opener(request, driver)(maxconnections=3) as tenancy:
        db, called = tenancy.db, list[str]()
        for bind in BINDS:
            db.execute("INSERT INTO t VALUES (%s)", [bind], bind=bind)
            own = db.connection_of(bind)
            insert(own, bind)
            own.commit()
            assert db.connection_of(bind) is own
            own.close()
            db.run_transaction(insert, bind, bind=bind)
            with db.connection_context(bind, statement_timeout=5) as conn:
                insert(conn, bind)
                db.on_commit(functools.partial(called.append, bind), bind)
                assert db.fetch_value("SELECT COUNT(*) FROM t", bind=bind) == 4
                other = "red" if bind != "red" else "blue"
                before = 5 if other == "red" else 0
                assert db.fetch_value("SELECT COUNT(*) FROM t", bind=other) == before
                with db.connection_context(bind, statement_timeout=9) as inner:
                    insert(inner, bind)
        assert called == [*BINDS]
        assert tenancy.committed() == {bind: [bind] * 5 for bind in BINDS}
