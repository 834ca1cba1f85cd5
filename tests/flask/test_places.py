"""What warnings and errors say of the place where a connection was taken, and of who took it."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import threading
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask, g, request
from werkzeug.local import LocalProxy

from flask_pooled_db import PooledDB, PoolTimeout, db_connection_context, get_db_connection
from flask_pooled_db.lease.dbutils import Pool
from harness.waiting import PATIENCE, wait_until
from tests.support.apps import pooled_app
from tests.support.pools import call
from tests.support.sites import insert, line_of, serve, warnings_in

Site = tuple[Flask, PooledDB]


def forget() -> Any:
    return get_db_connection()


def lose() -> None:
    conn = forget()
    insert(conn, 1)
    conn.close()


def test_a1_place_of_leak(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """A leak names the endpoint, the file and the line, and what was lost."""

    def forgetful() -> str:
        insert(forget(), 1)
        return "done"

    serve(site[0], "/", forgetful).get("/")
    (warning,) = warnings_in(caplog)
    assert "by endpoint 'forgetful', which took it at " + line_of(forget, 1) in warning
    assert "(INSERT INTO)" in warning


def test_a1_place_of_rollback(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """So does work that `close()` has lost."""

    def losing() -> str:
        lose()
        return "done"

    serve(site[0], "/", losing).get("/")
    (warning,) = warnings_in(caplog)
    assert f"INSERT INTO was rolled back: the connection taken at {line_of(forget, 1)}" in warning
    assert "by endpoint 'losing'" in warning


@pytest.mark.parametrize("way", [lambda db: db.connection, lambda db: closed_at_end()])
def test_a1_rollback_of_failed_request(
    site: Site, caplog: pytest.LogCaptureFixture, way: Callable[[PooledDB], Any]
) -> None:
    """Nothing is said of the work of a request that ends by an error, which nobody wants kept."""
    app, db = site
    app.config["PROPAGATE_EXCEPTIONS"] = False

    def failing() -> str:
        insert(way(db), 1)
        raise LookupError

    app.teardown_appcontext(lambda _: g.conn.close() if "conn" in g else None)
    assert serve(app, "/", failing).get("/").status_code == 500
    assert warnings_in(caplog) == []


def closed_at_end() -> Any:
    g.conn = get_db_connection()
    return g.conn


def test_a1_place_beyond_flask(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """The place is the application's, also where Flask or Werkzeug makes the call."""
    conn: Any = LocalProxy(get_db_connection)

    def forgetful() -> str:
        conn.cursor()
        return "done"

    serve(site[0], "/", forgetful).get("/")
    (warning,) = warnings_in(caplog)
    assert f"at {line_of(forgetful, 1)};" in warning


def test_a1_places_are_counted(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """The leaks of a place and an endpoint are logged once. A helper that several endpoints use has
    a line for each of them.
    """
    app, db = site

    def one() -> str:
        forget()
        return "done"

    def other() -> str:
        forget()
        return "done"

    serve(app, "/1", one)
    client = serve(app, "/2", other)
    for path in ("/1", "/2", "/1", "/2", "/1"):
        client.get(path)
    assert len(warnings_in(caplog)) == 2
    with app.app_context():
        assert db.stats().leaked == 5


def test_a1_socket_event(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """An event of Socket.IO is named, which is in the request as Flask-SocketIO has it."""
    with site[0].test_request_context("/socket.io/"):
        request.event = {"message": "say", "args": ()}  # type: ignore[attr-defined]
        lose()
        forget()
    lost, leaked = warnings_in(caplog)
    assert "by Socket.IO event 'say'" in lost
    assert "by Socket.IO event 'say'" in leaked


def test_a1_command(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """A command is named."""
    app, _ = site

    @app.cli.command("import-all")
    def import_all() -> None:
        lose()
        forget()

    assert app.test_cli_runner().invoke(args=["import-all"]).exit_code == 0
    lost, leaked = warnings_in(caplog)
    for warning in (lost, leaked):
        assert "command " in warning
        assert "import-all'" in warning


def test_a1_thread(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """A thread is named."""

    def work() -> None:
        with site[0].app_context():
            lose()
            forget()

    thread = threading.Thread(target=work, name="nightly")
    thread.start()
    thread.join()
    lost, leaked = warnings_in(caplog)
    assert "by thread 'nightly'" in lost
    assert "by thread 'nightly'" in leaked


def test_a1_task(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """A task is named."""

    async def work() -> None:
        with site[0].app_context():
            lose()
            forget()

    async def main() -> None:
        await asyncio.create_task(work(), name="feed")

    asyncio.run(main())
    lost, leaked = warnings_in(caplog)
    assert "by task 'feed'" in lost
    assert "by task 'feed'" in leaked


def test_a1_place_of_garbage(url: str, caplog: pytest.LogCaptureFixture) -> None:
    """A connection that is garbage is reported with the place where it was taken, and one that a
    scope took later is not reported with that.
    """
    with pooled_app(url, maxconnections=1) as (_, db):
        db.pool().lease().close()
        with db_connection_context():
            pass
        forget_all(db)
        gc.collect()
        db.pool().lease(timeout=PATIENCE).close()
        wait_until(lambda: "never given back" in caplog.text)
    assert f"of bind 'default', taken at {line_of(forget_all, 1)}, was never" in caplog.text


def forget_all(db: PooledDB) -> None:
    db.pool().lease()


def test_a1_place_of_long_lease(url: str, caplog: pytest.LogCaptureFixture) -> None:
    """A lease that is out for too long is reported with its place, its endpoint and its thread; a
    scope with its thread, and where that is at work.
    """

    def slow() -> str:
        conn = get_db_connection()
        wait_until(lambda: "taken at" in caplog.text)
        conn.close()
        return "done"

    with pooled_app(url, leak_threshold=0.05, idle_timeout=0.1) as (app, _):
        serve(app, "/", slow).get("/")
        assert f"taken at {line_of(slow, 1)} by endpoint 'slow', in thread 'Main" in caplog.text
        caplog.clear()
        with db_connection_context():
            wait_until(lambda: "has been out" in caplog.text)
        assert "in thread 'MainThread', which is at " in caplog.text


def test_a1_place_of_waiting_lease(url: str, caplog: pytest.LogCaptureFixture) -> None:
    """The place of a scope is the application's, though its thread waits in a library."""
    may_end = threading.Event()

    def wait() -> None:
        with db_connection_context():
            assert may_end.wait(PATIENCE)

    with pooled_app(url, leak_threshold=0.05, idle_timeout=0.1):
        waiting = call(contextvars.copy_context().run, wait)
        wait_until(lambda: "has been out" in caplog.text)
        may_end.set()
        waiting.result()
    assert f"which is at {line_of(wait, 2)} now" in caplog.text


def fill(db: PooledDB) -> Pool:
    """Have the pool open its two connections, however long that takes."""
    pool = db.pool()
    leases = [pool.lease(timeout=PATIENCE) for _ in range(2)]
    for lease in leases:
        lease.close()
    return pool


TIMES_OUT: dict[str, Callable[[], Any]] = {
    "a connection": lambda: get_db_connection(timeout=0.01),
    "a block": lambda: db_connection_context(independent=True).__enter__(),
    "one that reads": lambda: db_connection_context(readonly=True, independent=True).__enter__(),
}


@pytest.mark.parametrize("take", TIMES_OUT.values(), ids=TIMES_OUT)
def test_p2_timeout_tells_holdings(url: str, take: Callable[[], Any]) -> None:
    """`PoolTimeout` says what its request holds already, where that was taken, and what it means
    for others.
    """

    def greedy() -> str:
        first = forget()
        with db_connection_context(), pytest.raises(PoolTimeout) as caught:
            take()
        first.close()
        return str(caught.value)

    with pooled_app(url, maxconnections=2, acquire_timeout=0.05) as (app, db):
        fill(db)
        text = serve(app, "/", greedy).get("/").text
        assert "endpoint 'greedy' holds 2 of them already" in text
        assert f"(taken at {line_of(forget, 1)}, by a db_connection_context())" in text
        assert "can wait for each other" in text
        assert db.stats().in_use == 0


def test_p2_timeout_tells_holdings_of_thread(url: str) -> None:
    """Without an app context, what the thread holds is told; what others hold is not."""
    with pooled_app(url, maxconnections=2, acquire_timeout=0.05) as (_, db):
        pool = fill(db)
        other = call(pool.lease).result()
        own = pool.lease()
        with pytest.raises(PoolTimeout, match="code outside a request holds 1 of them already"):
            pool.lease()
        own.close()
        third = call(pool.lease).result()
        with pytest.raises(PoolTimeout) as caught:
            pool.lease()
        assert "already" not in str(caught.value)
        other.close()
        third.close()


def test_p2_timeout_tells_holdings_of_other_binds(url: str) -> None:
    """Where the common limit is in the way, what the request holds of other binds is told."""
    binds = {"other": {"URL": "sqlite://"}}

    def greedy() -> str:
        with db_connection_context():
            with pytest.raises(PoolTimeout) as nested, db_connection_context("other"):
                pass
        conn = get_db_connection("other")
        with pytest.raises(PoolTimeout) as borrowed:
            get_db_connection()
        conn.close()
        with db_connection_context():
            pass
        return f"{nested.value}\n{borrowed.value}"

    limits = {"binds_maxconnections": 1, "acquire_timeout": 0.5, "mincached": 0}
    with pooled_app(url, binds=binds, **limits) as (app, db):
        db.pool("other").lease(timeout=PATIENCE).close()
        db.pool().lease(timeout=PATIENCE).close()
        first, second = serve(app, "/", greedy).get("/").text.splitlines()
    what = "all binds together have 1 of 1 connections open (POOLED_DB_BINDS_MAXCONNECTIONS)"
    who = "endpoint 'greedy' holds 1 of them already"
    assert what in first
    assert f"{who} (by a db_connection_context() of bind 'default')" in first
    assert "give POOLED_DB_BINDS_MAXCONNECTIONS room" in first
    assert f"{who} (taken at {line_of(greedy, 4)} of bind 'other')" in second


def test_a1_garbage_of_task(url: str, caplog: pytest.LogCaptureFixture) -> None:
    """What a task has lost with its frames is found: the pool keeps neither it nor its frames."""

    async def fail(db: PooledDB) -> None:
        conn = db.pool().lease()
        conn.cursor().execute("SELECT 1")
        raise LookupError

    async def main(db: PooledDB) -> None:
        with contextlib.suppress(LookupError):
            await asyncio.create_task(fail(db))

    with pooled_app(url, maxconnections=1) as (_, db):
        asyncio.run(main(db))
        gc.collect()
        db.pool().lease(timeout=PATIENCE).close()
        wait_until(lambda: "never given back" in caplog.text)


def test_a1_broken_namer(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """A request whose endpoint can't be told, as when it raises, stops no warning."""

    class Event:
        @property
        def event(self) -> None:
            raise LookupError

    with site[0].test_request_context("/"):
        app_ctx_request: Any = request._get_current_object()  # type: ignore[attr-defined]
        app_ctx_request.__class__ = type("Broken", (Event, app_ctx_request.__class__), {})
        lose()
    (warning,) = warnings_in(caplog)
    assert "code outside a request" in warning
