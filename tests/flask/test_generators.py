"""T9 through Flask: generators that views leave behind, streamed responses, blocks of tests."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask, Response, stream_with_context

from flask_pooled_db import PooledDB, TransactionAborted, db_connection_context
from tests.support.scenarios.base import must_raise
from tests.support.sites import ids, insert, pool_of, serve, warnings_in

Site = tuple[Flask, PooledDB]


def rows() -> Iterator[str]:
    """What a view or a response reads from."""
    with db_connection_context() as conn, conn.cursor() as cur:
        cur.execute("SELECT id FROM t ORDER BY id")
        for (id_,) in cur.fetchall():
            yield f"{id_} "
        yield "end"


def saving_view(app: Flask) -> Any:
    """Return a client for `/save/<id>`, which answers what is committed."""

    def save(id_: int) -> str:
        with db_connection_context() as conn:
            insert(conn, id_)
        return str(ids())

    return serve(app, "/save/<int:id_>", save, endpoint="save", methods=["GET", "POST"])


@pytest.mark.parametrize("how", ["kept", "in a cycle", "in a traceback"])
def test_t9_generator_left_by_request(
    site: Site, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A request that leaves a generator behind does not disturb the next ones of its thread."""
    app, db = site
    kept: list[Any] = []

    def leave() -> str:
        it = rows()
        next(it)
        if how == "kept":
            kept.append(it)
        elif how == "in a cycle":
            cycle: list[Any] = [it]
            cycle.append(cycle)
        else:
            try:
                raise LookupError
            except LookupError as error:
                kept.append(error)
        return "left"

    client = saving_view(app)
    app.add_url_rule("/leave", view_func=leave)
    assert client.get("/leave").text == "left"
    for id_ in (1, 2):
        assert client.post(f"/save/{id_}").status_code == 200
    kept.clear()
    gc.collect()
    assert client.get("/save/3").text == "[1, 2, 3]"
    [message] = warnings_in(caplog)
    assert "was not given back by endpoint 'leave'" in message
    assert pool_of(app, db).in_use == 0


def test_t9_generator_resumed_by_next_request(site: Site) -> None:
    """A generator that outlives its request says so when it ends; blocks beside it do not care."""
    app, _ = site
    kept: list[Iterator[str]] = []

    def leave() -> str:
        kept.append(rows())
        return next(kept[0])

    def resume() -> str:
        with db_connection_context() as conn:
            insert(conn, 5)
            with pytest.raises(TransactionAborted, match="app context ended"):
                next(kept[0])
        return str(ids())

    client = serve(app, "/leave", leave)
    app.add_url_rule("/resume", view_func=resume)
    client.get("/leave")
    assert client.get("/resume").text == "[5]"


@pytest.mark.parametrize("is_read", [True, False])
def test_t9_streamed_response(site: Site, is_read: bool, caplog: pytest.LogCaptureFixture) -> None:
    """A response that is streamed from a block encloses nothing else, read to its end or not."""
    app, db = site

    def stream() -> Response:
        return Response(stream_with_context(rows()))

    client = saving_view(app)
    app.add_url_rule("/stream", view_func=stream)
    client.get("/save/1")
    response = client.get("/stream", buffered=False)
    parts = iter(response.response)
    assert next(parts) == b"1 "
    with app.app_context(), db_connection_context() as conn:
        insert(conn, 2)
    if is_read:
        assert list(parts) == [b"end"]
    response.close()
    assert client.get("/save/3").text == "[1, 2, 3]"
    assert warnings_in(caplog) == []
    assert pool_of(app, db).in_use == 0


def test_t9_save_between_streamed_rows(site: Site) -> None:
    """What a response saves between the rows of a generator is committed, though its client goes.

    The rows are read in one block, and each is saved in another.
    """
    app, db = site

    def work() -> Iterator[str]:
        for number, row in enumerate(rows()):
            with db_connection_context() as conn:
                insert(conn, 10 + number)
            yield row

    def stream() -> Response:
        return Response(stream_with_context(work()))

    client = saving_view(app)
    app.add_url_rule("/stream", view_func=stream)
    client.get("/save/1")
    response = client.get("/stream", buffered=False)
    assert next(iter(response.response)) == b"1 "
    response.close()
    with app.app_context():
        assert ids() == [1, 10]
    assert pool_of(app, db).in_use == 0


def test_t9_block_of_test_around_request(site: Site) -> None:
    """A test's block around a request takes the request into its transaction."""
    app, db = site
    client = saving_view(app)
    with app.app_context():
        with must_raise(LookupError), db_connection_context() as conn:
            with client:
                assert client.post("/save/1").status_code == 200
                assert db.stats().in_use == 1
                with conn.cursor() as cur:
                    cur.execute("SELECT id FROM t")
                    assert cur.fetchall() == [(1,)]
                raise LookupError
        assert ids() == []


def test_t9_block_of_hooks(site: Site) -> None:
    """A block that `before_request` enters encloses the view, until `after_request` leaves it."""
    app, db = site
    blocks: list[Any] = []

    @app.before_request
    def enter() -> None:
        blocks.append(db_connection_context())
        blocks[-1].__enter__()

    @app.after_request
    def leave(response: Response) -> Response:
        error = LookupError() if response.status_code >= 400 else None
        blocks.pop().__exit__(type(error) if error else None, error, None)
        return response

    def save(id_: int) -> tuple[str, int]:
        with db_connection_context() as conn:
            insert(conn, id_)
        assert db.stats().in_use == 1
        return "", 200 if id_ < 5 else 400

    client = serve(app, "/save/<int:id_>", save)
    for id_ in (1, 5, 2):
        client.get(f"/save/{id_}")
    with app.app_context():
        assert ids() == [1, 2]
