"""POOLED_DB_TAG_STATEMENTS: each statement of a request says which one it is of."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from flask import Flask

from flask_pooled_db import PooledDB, db_connection_context
from flask_pooled_db.drivers import Driver
from flask_pooled_db.drivers.effects import of_mariadb
from flask_pooled_db.lease.tagging import TaggingLease
from harness.server import MariaDBServer
from tests.support.fake_driver import FakeDriver
from tests.support.pools import open_pool
from tests.support.sites import serve

TRACE = "00-5bd66ef5095369c7b0d1f8f4bd33716a-c532cb4098ac3dd2-01"
TAG = "/*method='GET',route='%2Fitems%2F%3Cint%3Aid%3E'*/"
TRACED = f"/*method='GET',route='%2Fitems%2F%3Cint%3Aid%3E',traceparent='{TRACE}'*/"

Run = Callable[[Any, list[str]], object]


@contextmanager
def tagged_app(**settings: Any) -> Iterator[tuple[Flask, PooledDB]]:
    """An app whose statements are tagged, outside of its context."""
    app = Flask("app_under_test")
    keys = {"mincached": 0, "tag_statements": True, **settings}
    app.config.update({f"POOLED_DB_{name.upper()}": value for name, value in keys.items()})
    db = PooledDB(app)
    try:
        yield app, db
    finally:
        db.close()


def request(app: Flask, work: Callable[[Any], object], **options: Any) -> None:
    """Do work on a connection in a request of an item."""

    def item(id: int) -> str:  # noqa: A002  as in the rule
        with db_connection_context() as conn:
            work(conn)
        return ""

    client = serve(app, "/items/<int:id>", item)
    assert client.get("/items/3", **options).status_code == 200


def sent_to_sqlite(work: Callable[[Any], object], **options: Any) -> list[str]:
    """What SQLite is given when a request does some work."""
    sent: list[str] = []

    def watch(conn: Any) -> None:
        conn.set_trace_callback(sent.append)
        work(conn)

    with tagged_app(url="sqlite://") as (app, _):
        request(app, watch, **options)
    return [text for text in sent if text not in ("BEGIN IMMEDIATE", "COMMIT")]


def test_route_and_method() -> None:
    """A statement ends in the route and the method of its request; the values of the route are not
    in it.
    """
    assert sent_to_sqlite(lambda conn: conn.execute("SELECT 1;")) == [f"SELECT 1 {TAG};"]
    assert sent_to_sqlite(lambda conn: conn.cursor().execute("SELECT %s", (7,))) == [
        f"SELECT 7 {TAG}"
    ]


def test_off_and_outside(url: str) -> None:
    """It is off by default, and outside of a request there is nothing to say."""
    for tags in (False, True):
        sent: list[str] = []
        with tagged_app(url=url, tag_statements=tags) as (app, _), app.app_context():
            with db_connection_context() as conn:
                assert isinstance(conn, TaggingLease) == tags
                conn.set_trace_callback(sent.append)
                conn.execute("SELECT 1")
        assert sent == ["SELECT 1"]


def test_own_comment() -> None:
    """A statement that has such a comment keeps it, and gets no other; other comments stay."""
    own = "SELECT 1 /*controller='index'*/"
    hint = "SELECT /* all */ 1"
    assert sent_to_sqlite(lambda conn: (conn.execute(own), conn.execute(hint))) == [
        own,
        f"{hint} {TAG}",
    ]


def test_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    """The trace of the request's header, or else of OpenTelemetry's current span, is in it, unless
    the connection keeps prepared statements by their text.
    """

    def sent(headers: dict[str, str], *, keeps: bool = False) -> str:
        driver = FakeDriver()
        monkeypatch.setattr(Driver, "keeps_texts", lambda self, raw: keeps)
        with tagged_app(creator=driver) as (app, _):
            request(app, lambda conn: conn.cursor().execute("SELECT 1"), headers=headers)
        return next(text for text, _ in driver.record if text.startswith("SELECT"))

    header = {"traceparent": TRACE}
    assert sent(header) == f"SELECT 1 {TRACED}"
    assert sent(header, keeps=True) == sent({}) == sent({"traceparent": "x"}) == f"SELECT 1 {TAG}"
    spans = iter(range(1, 9))

    def current() -> Any:
        context = SimpleNamespace(is_valid=True, trace_id=10, span_id=next(spans), trace_flags=0)
        return SimpleNamespace(get_span_context=lambda: context)

    trace: Any = ModuleType("opentelemetry.trace")
    trace.get_current_span = current
    monkeypatch.setitem(sys.modules, "opentelemetry.trace", trace)
    assert f"traceparent='00-{10:032x}-{1:016x}-00'" in sent({})
    assert sent(header) == f"SELECT 1 {TRACED}"


def test_async_block() -> None:
    """So do the statements of an asynchronous block, which a worker thread sends."""
    driver = FakeDriver()
    with tagged_app(creator=driver) as (app, db):

        def item(id: int) -> str:  # noqa: A002  as in the rule
            async def work() -> None:
                async with db.async_connection_context() as conn:
                    await conn.cursor().execute("SELECT 1")

            asyncio.run(work())
            return ""

        serve(app, "/items/<int:id>", item).get("/items/3")
    assert f"SELECT 1 {TAG}" in [text for text, _ in driver.record]


def test_hostile_request() -> None:
    """What a client sends can't end the comment."""
    driver = FakeDriver()
    with tagged_app(creator=driver) as (app, db):

        @app.errorhandler(405)
        def refused(error: Any) -> str:
            with db.connection_context() as conn:
                conn.cursor().execute("SELECT 1")
            return ""

        app.add_url_rule("/", view_func=lambda: "")
        app.test_client().open("/", method="*/; DROP TABLE t -- '%s")
    [sent] = [text for text, _ in driver.record if text.startswith("SELECT")]
    assert sent.startswith("SELECT 1 /*method='%2A%2F%3B%20DROP")
    assert sent.count("*/") == sent.count("/*") == 1
    assert sent.endswith("*/")


def test_text_that_others_see() -> None:
    """Whatever looks at a statement's text sees the application's: a route can't make a SELECT take
    the write lock, nor be taken for a change of the session.
    """
    tag = "/*method='DELETE',route='%2Foptimize%2Ftemp-pragma'*/"
    texts = ["WITH a AS (SELECT 1) SELECT * FROM a", "SELECT 1", "PRAGMA foreign_keys = on"]
    with open_pool(url="sqlite://", tags=lambda _: tag) as pool, pool.connection() as conn:
        sent: list[str] = []
        conn.set_trace_callback(sent.append)
        for text in texts:
            conn.execute(text).fetchall()
            assert not conn.in_transaction
        assert not conn.usable().raw.is_changed
        conn.execute("CREATE TABLE t (a)")
        assert conn.execute("INSERT INTO t VALUES (%s)", (1,)).rowcount == 1
        conn.commit()
    assert sent[0] == f"{texts[0]} {tag}"
    assert of_mariadb(f"SELECT 1 {TAG}") is of_mariadb("SELECT 1")


def test_unknown_driver() -> None:
    """A module that is not known may read percent signs where there are parameters: they are
    doubled. An INSERT of many rows has the comment where nothing looks for what follows VALUES.
    """
    driver = FakeDriver()
    with open_pool(driver, tags=lambda _: TAG) as pool:
        conn = pool.lease()
        conn.cursor().execute("SELECT %s", (1,))
        conn.close()
    doubled = TAG.replace("%", "%%")
    assert f"SELECT %s {doubled}" in [text for text, _ in driver.record]
    assert f"SELECT %s {doubled}" % 1 == f"SELECT 1 {TAG}"
    insert = "INSERT INTO t VALUES (%s)"
    assert driver.with_comment(insert, TAG, many=True) == f"INSERT {TAG} INTO t VALUES (%s)"
    assert driver.with_comment(b"SELECT '\xff'", TAG, many=False).startswith(b"SELECT '\xff' /*")
    assert driver.with_comment(None, TAG, many=False) is None
    assert driver.with_comment(" ; ", TAG, many=False) == " ; "


def run_ways(conn: Any, cur: Any) -> None:
    """Run statements in the ways that MariaDB's drivers have."""
    cur.execute("CREATE TABLE t (a INTEGER, b VARCHAR(20));")
    cur.executemany("INSERT INTO t (a, b) VALUES (%s, %s)", [(1, "a%s"), (2, "b"), (3, "c")])
    cur.execute("INSERT INTO t VALUES (%(a)s, %(b)s)", {"a": 4, "b": "%d"})
    cur.execute("SELECT a FROM t WHERE b LIKE %s -- no more", ("a%",))
    assert list(cur.fetchall()) == [(1,)]
    cur.execute("SELECT a FROM t WHERE b LIKE 'b%'")
    assert list(cur.fetchall()) == [(2,)]
    cur.executemany("UPDATE t SET b = 'x' WHERE a = %s", [(1,), (2,)])


def test_on_mariadb(mariadb: MariaDBServer, mariadb_driver: str) -> None:
    """MariaDB's list of processes names the endpoint; statements mean what they meant, and many
    rows are still inserted in one statement.
    """
    url = mariadb.url(mariadb_driver, mariadb.create_database())
    with open_pool(url=url, tags=lambda may: TRACED if may else TAG) as pool:
        with pool.connection() as conn, conn.cursor() as cur:
            run_ways(conn, cur)
            # One statement has made all of them.
            cur.executemany("INSERT INTO t (a, b) VALUES (%s, %s)", [(5, "d"), (6, "e")])
            cur.execute(
                "SELECT VARIABLE_VALUE FROM information_schema.SESSION_STATUS "
                "WHERE VARIABLE_NAME = 'COM_INSERT'"
            )
            assert mariadb_driver != "pymysql" or cur.fetchone() == ("3",)
            sql = "SELECT info FROM information_schema.PROCESSLIST WHERE id = %s"
            cur.execute(sql, (pool.driver.connection_id(conn.usable().raw),))  # type: ignore[attr-defined]
            assert cur.fetchall()[0][0].endswith(TRACED)
            if mariadb_driver == "mariadbconnector":
                prepared = conn.cursor(prepared=True)
                for number in (1, 2):
                    prepared.execute("SELECT a FROM t WHERE a = ?", (number,))
                    assert prepared.fetchall() == [(number,)]
                prepared.close()


def test_on_postgresql(shared_postgresql: str) -> None:
    """So does PostgreSQL's view of activity. A statement that was prepared is found again in other
    requests, as there is no trace in it.
    """
    from psycopg import sql

    traces = iter(range(1, 99))

    def tags(may_change: bool) -> str:
        return TRACED.replace("c532", f"{next(traces):04x}") if may_change else TAG

    with open_pool(url=shared_postgresql, tags=tags) as pool:
        with pool.connection() as conn, conn.cursor() as cur:
            cur.execute("SELECT query FROM pg_stat_activity WHERE pid = pg_backend_pid()")
            assert cur.fetchone()[0].endswith(TAG)
            cur.execute("SELECT %s -- no more", ("a%",))
            assert cur.fetchone() == ("a%",)
            cur.execute(sql.SQL("SELECT {}").format(sql.Placeholder()), (1,))
            assert cur.fetchone() == (1,)
            conn.execute("CREATE TEMPORARY TABLE t (a INTEGER)")
            cur.executemany("INSERT INTO t VALUES (%s)", [(1,), (2,)])
            with cur.copy("COPY t TO STDOUT;") as copy:
                assert b"".join(copy) == b"1\n2\n"
            for _ in range(7):
                conn.execute("SELECT a FROM t WHERE a = %s", (1,))
            cur.execute(
                "SELECT statement FROM pg_prepared_statements WHERE statement LIKE '%WHERE a%'"
            )
            assert [text for (text,) in cur] == [f"SELECT a FROM t WHERE a = $1 {TAG}"]
        assert pool.driver.reads_percent(None)
