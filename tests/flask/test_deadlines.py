"""POOLED_DB_REQUEST_DEADLINE: what a request has for its databases."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

import pytest
from flask import Flask, abort, copy_current_request_context, request, stream_with_context

from flask_pooled_db import DeadlineExceeded, PooledDB, PooledDBError, db_connection_context
from harness.waiting import PATIENCE
from tests.support.clock import Clock
from tests.support.sites import bare_app, ids, insert, serve, warnings_in
from tests.support.stages import ENDLESS

TIME = 100
"""Seconds that a request has, by the clock of the test."""

Pair = tuple[Flask, PooledDB]


@pytest.fixture
def hurried(url: str) -> Iterator[Pair]:
    """An app whose requests have a deadline, with the table `t`."""
    with bare_app(url=url, request_deadline=TIME) as pair:
        yield pair


def endless(clock: Clock) -> Callable[[], str]:
    """A view that stores a row, and runs a statement that has no end when little time is left."""

    def view() -> str:
        with db_connection_context() as conn:
            insert(conn, 1)
            clock.now += TIME - 0.1
            conn.cursor().execute(ENDLESS)
        return "done"

    return view


def read(db: PooledDB, bind: str | None = None) -> Callable[[], str]:
    """A function that reads."""
    return lambda: str(db.fetch_value("SELECT 1", bind=bind))


def outcome(function: Callable[[], str]) -> str:
    """What a function returns, or the name of the class of what it raises."""
    try:
        return function()
    except DeadlineExceeded as error:
        return type(error).__name__


def test_answer(hurried: Pair, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """A statement that goes on is ended, its work is rolled back, and the client gets 503."""
    app, _ = hurried
    answer = serve(app, "/", endless(clock)).get("/")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "10")
    assert "busy or away" in answer.text
    assert "DEADLINE" not in answer.text
    assert any(
        "nothing is left of POOLED_DB_REQUEST_DEADLINE (100 s)" in line
        for line in warnings_in(caplog)
    )
    with app.app_context():
        assert ids() == []


@pytest.mark.parametrize("what", [503, PooledDBError, DeadlineExceeded])
def test_answer_of_the_app(hurried: Pair, clock: Clock, what: Any) -> None:
    """An app may answer by itself: by a handler of the error, of its root, or of 503."""
    app, _ = hurried
    app.register_error_handler(what, lambda error: (type(error).__name__, 418))
    assert serve(app, "/", endless(clock)).get("/").status_code == 418


def test_waits_and_blocks_together(hurried: Pair, clock: Clock) -> None:
    """All blocks of a request share its time, and what was done in time is committed."""
    app, db = hurried

    def view() -> str:
        with db_connection_context() as conn:
            insert(conn, 1)
            clock.now += TIME
        return read(db)()

    client = serve(app, "/", view)
    assert client.get("/").status_code == 503
    with app.app_context():
        assert ids() == [1]


def test_each_request_has_its_own(hurried: Pair, clock: Clock) -> None:
    """One request's deadline binds neither the next, nor what the thread does outside of one."""
    app, db = hurried

    def view() -> str:
        clock.now += request.args.get("seconds", 0, int)
        return read(db)()

    client = serve(app, "/", view)
    assert client.get("/?seconds=100").status_code == 503
    assert client.get("/").text == "1"
    with app.app_context():  # which the requests of a test may share
        assert client.get("/?seconds=100").status_code == 503
        assert client.get("/").text == "1"
        assert read(db)() == "1"


def test_errors_of_other_hooks(hurried: Pair, clock: Clock) -> None:
    """It ends with its request also when that was ended before its view."""
    app, db = hurried
    app.before_request(lambda: ("no", 403))
    client = serve(app, "/", read(db))
    assert client.get("/").status_code == 403
    clock.now += TIME
    with app.app_context():
        assert read(db)() == "1"


def test_async_views_and_threads(hurried: Pair, clock: Clock) -> None:
    """It binds an async view, and a thread that works in the request's context."""
    app, db = hurried
    pool = ThreadPoolExecutor(1)

    async def view() -> str:
        clock.now += TIME
        async with db.async_connection_context() as conn:
            await conn.cursor().execute("SELECT 1")
        return "done"

    def in_thread() -> str:
        clock.now += TIME
        told = pool.submit(copy_context().run, outcome, read(db)).result()
        plain = pool.submit(copy_current_request_context(read(db))).result()
        return f"{told} {plain}"

    client = serve(app, "/", view)
    serve(app, "/thread", in_thread)
    assert client.get("/").status_code == 503
    assert client.get("/thread").text == "DeadlineExceeded 1"
    pool.shutdown()


def test_streams(hurried: Pair, clock: Clock) -> None:
    """A stream has any time, whether or not it keeps its request's context; one with a deadline of
    its own has that, which binds no request that comes amid it.
    """
    app, db = hurried

    def rows() -> Iterator[str]:
        yield "first "
        clock.now += TIME
        with app.app_context():
            yield outcome(read(db))
            with db.deadline(0):
                yield outcome(read(db))

    app.add_url_rule("/plain", "plain", lambda: app.response_class(rows()))
    app.add_url_rule("/kept", "kept", lambda: app.response_class(stream_with_context(rows())))
    client = serve(app, "/other", read(db))
    for path in ("/plain", "/kept"):
        stream: Any = client.get(path).response
        chunks = iter(stream)
        next(chunks)
        for expected in ("1", "DeadlineExceeded"):
            assert client.get("/other").text == "1"
            assert next(chunks).decode() == expected
        assert client.get("/other").text == "1"
        stream.close()


def test_answer_that_is_streamed(hurried: Pair, clock: Clock) -> None:
    """The deadline ends with the view if the answer is streamed, whenever its context ends."""
    app, db = hurried
    with app.test_request_context("/"):
        app.preprocess_request()
        clock.now += TIME
        assert outcome(read(db)) == "DeadlineExceeded"
        app.process_response(app.response_class("whole"))
        assert outcome(read(db)) == "DeadlineExceeded"
        app.process_response(app.response_class(iter(["in ", "parts"])))
        assert outcome(read(db)) == "1"


def test_sockets(hurried: Pair, clock: Clock) -> None:
    """A websocket, which goes on for as long as its client likes, has no deadline but its own."""
    app, db = hurried

    def view() -> str:
        clock.now += TIME
        told = read(db)()
        with db.deadline(0):
            return f"{told} {outcome(read(db))}"

    client = serve(app, "/", view, websocket=True)
    answer = client.get("/", headers={"Connection": "Upgrade", "Upgrade": "websocket"})
    assert answer.text == "1 DeadlineExceeded"


def test_header_of_sockets(hurried: Pair, clock: Clock) -> None:
    """No header of a client takes the deadline from a request."""
    app, db = hurried

    def view() -> str:
        clock.now += TIME
        return outcome(read(db))

    answer = serve(app, "/", view).get("/", headers={"Upgrade": "websocket"})
    assert answer.text == "DeadlineExceeded"


def test_all_binds(url: str, clock: Clock) -> None:
    """It bounds all databases of the app."""
    binds = {"a": url, "b": url.replace("shop", "other")}
    app = Flask("app_under_test")
    app.config.update(POOLED_DB_BINDS=binds, POOLED_DB_REQUEST_DEADLINE=TIME, POOLED_DB_MINCACHED=0)
    db = PooledDB(app)

    def view() -> dict[str, Any]:
        clock.now += TIME
        return {bind: outcome(read(db, bind)) for bind in binds}

    assert serve(app, "/", view).get("/").get_json() == dict.fromkeys(binds, "DeadlineExceeded")
    db.close()


def test_outside_of_a_context(url: str) -> None:
    """`db.deadline()` works in a job, without an app context, and when nobody has connected yet."""
    with bare_app(url=url) as (_, db):
        with db.deadline(PATIENCE):
            assert read(db)() == "1"
        with db.connection_context() as conn, db.deadline(0):
            with pytest.raises(DeadlineExceeded):
                conn.cursor().execute("SELECT 1")


@pytest.mark.parametrize("status", [400, 404, 500])
def test_teardown_after_an_error(hurried: Pair, clock: Clock, status: int) -> None:
    """The deadline binds what comes after an answer that tells of an error, too."""
    app, db = hurried
    told: list[str] = []

    @app.teardown_request
    def tear_down(_: BaseException | None) -> None:
        clock.now += TIME
        told.append(outcome(read(db)))

    def view() -> str:
        abort(status)

    assert serve(app, "/", view).get("/").status_code == status
    assert told == ["DeadlineExceeded"]
