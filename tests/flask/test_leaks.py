"""A1: what a view forgets is taken back, and reported."""

from __future__ import annotations

import contextvars
import gc
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from flask import (
    Flask,
    Response,
    stream_with_context,
)

from flask_pooled_db import (
    PooledDB,
    PooledDBError,
    UsageError,
    db_connection_context,
    get_db_connection,
)
from harness.waiting import PATIENCE
from tests.support.apps import pooled_app
from tests.support.pools import call
from tests.support.sites import ids, insert, pool_of, serve, warnings_in


def test_a1_a_forgotten_connection_is_taken_back_with_one_warning(
    site: tuple[Flask, PooledDB], caplog: pytest.LogCaptureFixture
) -> None:
    """The warning names the endpoint; what was not committed is rolled back."""
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


def test_a1_each_forgotten_connection_is_reported(
    site: tuple[Flask, PooledDB], caplog: pytest.LogCaptureFixture
) -> None:
    """Two of them are two leaks; the one that was closed is none."""
    app, db = site

    def forgetful() -> str:
        kept.extend([get_db_connection(), get_db_connection(), get_db_connection()])
        kept[1].close()
        return "done"

    kept: list[Any] = []
    serve(app, "/", forgetful).get("/")
    assert len(warnings_in(caplog)) == 2
    assert (pool_of(app, db).in_use, pool_of(app, db).leaked) == (0, 2)


def test_a1_a_view_that_forgets_nothing_is_not_warned_of(
    site: tuple[Flask, PooledDB], caplog: pytest.LogCaptureFixture
) -> None:
    """Neither is one that fails: the scope has given its connection back by then."""
    app, db = site

    def tidy() -> str:
        with db_connection_context() as conn:
            insert(conn, 1)
            raise LookupError

    app.config["PROPAGATE_EXCEPTIONS"] = False
    assert serve(app, "/", tidy).get("/").status_code == 500
    assert warnings_in(caplog) == []
    assert (pool_of(app, db).in_use, pool_of(app, db).leaked) == (0, 0)


def test_a1_a_view_that_fails_with_a_connection_is_warned_of(
    site: tuple[Flask, PooledDB], caplog: pytest.LogCaptureFixture
) -> None:
    """A connection that no `finally` closed is taken back as well."""
    app, db = site

    def failing() -> str:
        conn = get_db_connection()
        insert(conn, 1)
        raise LookupError

    app.config["PROPAGATE_EXCEPTIONS"] = False
    assert serve(app, "/", failing).get("/").status_code == 500
    assert "endpoint 'failing'" in warnings_in(caplog)[0]
    assert pool_of(app, db).in_use == 0


def test_a1_outside_a_request_there_is_no_endpoint_to_name(
    site: tuple[Flask, PooledDB], caplog: pytest.LogCaptureFixture
) -> None:
    """A command's app context takes back what it held, too."""
    app, db = site
    with app.app_context():
        conn = get_db_connection()
        insert(conn, 1)
    (warning,) = warnings_in(caplog)
    assert "by code outside a request" in warning
    assert pool_of(app, db).in_use == 0
    del conn


def test_a1_a_scope_abandoned_in_a_generator_is_taken_back(
    site: tuple[Flask, PooledDB], caplog: pytest.LogCaptureFixture
) -> None:
    """Who stops in the middle of a generator that holds a scope holds up nobody."""
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
    assert "endpoint 'half'" in warning
    assert pool_of(app, db).in_use == 0
    with pytest.raises(PooledDBError):
        list(generators[0])
    with app.app_context():
        assert ids() == []


def test_a1_a_streamed_answer_holds_its_connection_to_its_end(
    site: tuple[Flask, PooledDB], caplog: pytest.LogCaptureFixture
) -> None:
    """The app context of a stream ends with it, and so does its scope: nothing is taken back."""
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


def test_a1_an_abandoned_stream_gives_its_connection_back(site: tuple[Flask, PooledDB]) -> None:
    """The client went away: the server closes the answer, and the scope rolls back."""
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


def test_a1_a_thread_that_still_works_is_left_alone(
    site: tuple[Flask, PooledDB], caplog: pytest.LogCaptureFixture
) -> None:
    """A connection that a running thread of the request uses is not taken away from it."""
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


def test_a1_what_a_finished_thread_left_is_taken_back(
    site: tuple[Flask, PooledDB], caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody else will give it back any more."""
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


def test_a1_an_async_view_that_forgets_one_is_warned_of(
    site: tuple[Flask, PooledDB], caplog: pytest.LogCaptureFixture
) -> None:
    """It ran in a task of another thread; when it has ended, its connection is taken back."""
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


def test_a1_a_failing_teardown_function_of_the_app_changes_nothing(
    site: tuple[Flask, PooledDB], caplog: pytest.LogCaptureFixture
) -> None:
    """What is held is taken back although another function that runs before raises."""
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


def test_a_lease_that_was_dropped_is_reclaimed(url: str) -> None:
    """A connection that is garbage without having been given back takes up no place for ever."""
    with pooled_app(url, maxconnections=1) as (_, db):
        pool = db.pool()
        leases = [pool.lease()]

        def drop() -> None:
            leases.clear()
            gc.collect()

        with pytest.warns(ResourceWarning, match="never given back"):
            drop()
        pool.lease(timeout=PATIENCE).close()
        assert db.stats().leaked == 1
