"""A1: what a view forgets is taken back, and reported."""

from __future__ import annotations

import contextvars
import gc
import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flask import Flask, Response, stream_with_context

from flask_pooled_db import (
    PooledDB,
    PooledDBError,
    UsageError,
    db_connection_context,
    get_db_connection,
)
from harness.waiting import PATIENCE, wait_until
from tests.support.apps import pooled_app
from tests.support.pools import call
from tests.support.sites import ids, insert, pool_of, serve, warnings_in


def test_a1_forgotten_connection(
    site: tuple[Flask, PooledDB], caplog: pytest.LogCaptureFixture
) -> None:
    """A forgotten connection is rolled back and released, with one warning that
    names the endpoint.
    """
    app, db = site

    def forgetful() -> str:
        conn = get_db_connection()
        insert(conn, 1)
        kept.append(conn)
        return "done"

    kept: list[Any] = []
    assert serve(app, "/", forgetful).get("/").status_code == 200
    (warning,) = warnings_in(caplog)
    assert "was not given back by endpoint 'forgetful'" in warning
    with app.app_context():
        assert ids() == []
        stats = db.stats()
    assert (stats.in_use, stats.leaked, stats.discarded) == (0, 1, 0)
    with pytest.raises(UsageError, match="taken back when its app context ended"):
        kept[0].cursor()
    kept[0].close()


def test_a1_two_forgotten_connections(
    site: tuple[Flask, PooledDB], caplog: pytest.LogCaptureFixture
) -> None:
    """Each place that forgets a connection is reported, one that closes it is not."""
    app, db = site

    def forgetful() -> str:
        kept.append(get_db_connection())
        kept.append(get_db_connection())
        kept.append(get_db_connection())
        kept[1].close()
        return "done"

    kept: list[Any] = []
    serve(app, "/", forgetful).get("/")
    assert len(warnings_in(caplog)) == 2
    assert (pool_of(app, db).in_use, pool_of(app, db).leaked) == (0, 2)


def test_a1_no_leak(site: tuple[Flask, PooledDB], caplog: pytest.LogCaptureFixture) -> None:
    """A view that forgets nothing causes no warning, even if it fails."""
    app, db = site

    def tidy() -> str:
        with db_connection_context() as conn:
            insert(conn, 1)
            raise LookupError

    app.config["PROPAGATE_EXCEPTIONS"] = False
    assert serve(app, "/", tidy).get("/").status_code == 500
    assert warnings_in(caplog) == []
    assert (pool_of(app, db).in_use, pool_of(app, db).leaked) == (0, 0)


def test_a1_failing_view(site: tuple[Flask, PooledDB], caplog: pytest.LogCaptureFixture) -> None:
    """A failing view that does not close its connection causes a warning."""
    app, db = site

    def failing() -> str:
        conn = get_db_connection()
        insert(conn, 1)
        raise LookupError

    app.config["PROPAGATE_EXCEPTIONS"] = False
    assert serve(app, "/", failing).get("/").status_code == 500
    assert "endpoint 'failing'" in warnings_in(caplog)[0]
    assert pool_of(app, db).in_use == 0


def test_a1_outside_request(site: tuple[Flask, PooledDB], caplog: pytest.LogCaptureFixture) -> None:
    """An app context outside a request releases its connection, too, and names no endpoint."""
    app, db = site
    with app.app_context():
        conn = get_db_connection()
        insert(conn, 1)
    (warning,) = warnings_in(caplog)
    assert "by code outside a request" in warning
    assert pool_of(app, db).in_use == 0
    del conn


def test_a1_abandoned_generator(
    site: tuple[Flask, PooledDB], caplog: pytest.LogCaptureFixture
) -> None:
    """A scope in a generator that is not run to its end is released."""
    app, db = site

    def rows() -> Iterator[int]:
        with db_connection_context() as conn:
            insert(conn, 1)
            yield 1
            yield 2

    def half() -> str:
        generators.append(rows())
        return str(next(generators[0]))

    generators: list[Iterator[int]] = []
    assert serve(app, "/", half).get("/").text == "1"
    (warning,) = warnings_in(caplog)
    assert "endpoint 'half', which took it at " in warning
    assert f"{__file__}:{rows.__code__.co_firstlineno + 1};" in warning
    assert pool_of(app, db).in_use == 0
    with pytest.raises(PooledDBError):
        list(generators[0])
    with app.app_context():
        assert ids() == []


def test_a1_streamed_answer(site: tuple[Flask, PooledDB], caplog: pytest.LogCaptureFixture) -> None:
    """A streamed answer keeps its connection until its end, without a warning."""
    app, db = site
    with app.app_context(), db_connection_context() as conn:
        conn.cursor().executemany("INSERT INTO t VALUES (%s, 'x')", [(i,) for i in range(5)])

    def stream() -> Response:
        def lines() -> Iterator[str]:
            with db_connection_context(readonly=True) as conn, conn.cursor() as cur:
                cur.execute("SELECT id FROM t ORDER BY id")
                for (id_,) in cur:
                    yield f"{id_},"

        return Response(stream_with_context(lines()))

    assert serve(app, "/", stream).get("/").text == "0,1,2,3,4,"
    assert warnings_in(caplog) == []
    assert (pool_of(app, db).in_use, pool_of(app, db).leaked) == (0, 0)


def test_a1_abandoned_stream(site: tuple[Flask, PooledDB]) -> None:
    """If the client disconnects, the server closes the stream and its scope rolls back."""
    app, db = site

    def stream() -> Response:
        def lines() -> Iterator[str]:
            with db_connection_context() as conn:
                insert(conn, 1)
                yield "a"
                yield "b"

        return Response(stream_with_context(lines()))

    answer = serve(app, "/", stream).get("/", buffered=False)
    chunks = answer.iter_encoded()
    next(iter(chunks))
    with app.app_context():
        assert db.stats().in_use == 1
    answer.close()
    with app.app_context():
        assert db.stats().in_use == 0
        assert ids() == []


def test_a1_running_thread(site: tuple[Flask, PooledDB], caplog: pytest.LogCaptureFixture) -> None:
    """The teardown does not release a connection that a running thread of the request uses."""
    app, db = site
    began, may_end = threading.Event(), threading.Event()
    workers = []

    def work() -> None:
        with db_connection_context() as conn:
            insert(conn, 1)
            began.set()
            assert may_end.wait(PATIENCE)
            insert(conn, 2)

    def with_thread() -> str:
        workers.append(call(contextvars.copy_context().run, work))
        assert began.wait(PATIENCE)
        return "done"

    serve(app, "/", with_thread).get("/")
    assert warnings_in(caplog) == []
    may_end.set()
    workers[0].result()
    with app.app_context():
        assert ids() == [1, 2]
        assert db.stats().in_use == 0


def test_a1_finished_thread(site: tuple[Flask, PooledDB], caplog: pytest.LogCaptureFixture) -> None:
    """The teardown releases what a finished thread of the request left behind."""
    app, db = site

    def work() -> None:
        kept.append(get_db_connection())
        insert(kept[0], 1)

    def with_thread() -> str:
        call(contextvars.copy_context().run, work).result()
        return "done"

    kept: list[Any] = []
    serve(app, "/", with_thread).get("/")
    assert len(warnings_in(caplog)) == 1
    assert (pool_of(app, db).in_use, pool_of(app, db).leaked) == (0, 1)


def test_a1_forgotten_by_executor(
    site: tuple[Flask, PooledDB], caplog: pytest.LogCaptureFixture
) -> None:
    """What a job has forgotten is taken back when its request has ended, though the thread of its
    executor goes on, and without waiting for the garbage collector.
    """
    app, db = site

    def job() -> None:
        insert(get_db_connection(), 1)

    def with_executor() -> str:
        executor.submit(contextvars.copy_context().run, job).result()
        return "done"

    gc.collect()
    gc.disable()
    try:
        with ThreadPoolExecutor(1) as executor:
            assert serve(app, "/", with_executor).get("/").text == "done"
            wait_until(lambda: "never given back" in caplog.text)
            wait_until(lambda: pool_of(app, db).in_use == 0)
    finally:
        gc.enable()
    with app.app_context():
        assert ids() == []


def test_a1_async_view(site: tuple[Flask, PooledDB], caplog: pytest.LogCaptureFixture) -> None:
    """The connection that an async view forgets is released with a warning."""
    app, db = site

    async def forgetful() -> str:
        kept.append(get_db_connection())
        insert(kept[0], 1)
        return "done"

    kept: list[Any] = []
    assert serve(app, "/", forgetful).get("/").text == "done"
    (warning,) = warnings_in(caplog)
    assert "endpoint 'forgetful'" in warning
    assert pool_of(app, db).in_use == 0


def test_a1_failing_teardown_function(
    site: tuple[Flask, PooledDB], caplog: pytest.LogCaptureFixture
) -> None:
    """Connections are released even if another teardown function fails before."""
    app, db = site

    @app.teardown_appcontext
    def failing(exc: BaseException | None) -> None:
        if has_failed:
            return
        has_failed.append(True)
        raise LookupError

    has_failed: list[bool] = []

    def forgetful() -> str:
        kept.append(get_db_connection())
        return "done"

    kept: list[Any] = []
    with pytest.raises(LookupError):
        serve(app, "/", forgetful).get("/")
    assert pool_of(app, db).in_use == 0


def test_dropped_lease(url: str, caplog: pytest.LogCaptureFixture) -> None:
    """A connection that is garbage collected without close() does not keep its place."""
    with pooled_app(url, maxconnections=1) as (_, db):
        pool = db.pool()
        pool.lease()
        gc.collect()
        pool.lease(timeout=PATIENCE).close()
        assert db.stats().leaked == 1
    wait_until(lambda: "never given back" in caplog.text)


class Raising(logging.Handler):
    """A log handler that is broken."""

    def emit(self, record: logging.LogRecord) -> None:
        raise LookupError


def test_a1_raising_log_handler(site: tuple[Flask, PooledDB]) -> None:
    """All that a request has kept is taken back, though the warning can't be logged."""
    app, db = site
    handler = Raising()
    kept: list[Any] = []

    def forgetful() -> str:
        kept.extend(get_db_connection() for _ in range(2))
        return "done"

    logger = logging.getLogger("flask_pooled_db")
    logger.addHandler(handler)
    try:
        assert serve(app, "/", forgetful).get("/").status_code == 200
    finally:
        logger.removeHandler(handler)
    assert pool_of(app, db).in_use == 0
