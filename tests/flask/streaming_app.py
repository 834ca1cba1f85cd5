"""An app whose answers are streamed from a block, or made in other threads than the request's."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

from asgiref.wsgi import WsgiToAsgi
from flask import Flask, Response, copy_current_request_context, request, stream_with_context
from flask.typing import ResponseReturnValue

from flask_pooled_db import PooledDB, db_connection_context, get_db_connection

TOKENS = "CREATE TABLE `{}`.tokens (token VARCHAR(40) NOT NULL PRIMARY KEY)"

_INSERT = "INSERT INTO tokens (token) VALUES (%s)"
CHUNK = 8192  # bytes

db = PooledDB()
executor = ThreadPoolExecutor(4)


def create_app() -> Flask:
    """Make the app from `FLASK_<KEY>` in the environment."""
    app = Flask(__name__)
    app.config.from_prefixed_env()
    db.init_app(app)
    for rule, view in VIEWS.items():
        app.add_url_rule(rule, view_func=view)
    return app


def create_asgi_app() -> Any:
    """Make the same app for an ASGI server."""
    adapter: Any = WsgiToAsgi
    return adapter(create_app())


def stats() -> ResponseReturnValue:
    now = db.stats()
    return {"in_use": now.in_use, "open": now.open}


def save(token: str) -> str:
    """Store a token in a block, which takes as long as the client says."""
    with db_connection_context() as conn, conn.cursor() as cur:
        cur.execute(_INSERT, (token,))
        time.sleep(request.args.get("seconds", 0.0, float))
    return token


async def save_async(token: str) -> str:
    """Store a token in a block, and two more in tasks that are started in it."""
    with db_connection_context() as conn, conn.cursor() as cur:
        cur.execute(_INSERT, (token,))
        await asyncio.gather(*(_store_later(f"{token}-{number}") for number in range(2)))
    return token


async def _store_later(token: str) -> None:
    with db_connection_context() as conn, conn.cursor() as cur:
        cur.execute(_INSERT, (token,))
        await asyncio.sleep(0.01)


async def save_awaited(token: str) -> str:
    """Store a token in an asynchronous block, and two more in those of tasks started in it."""
    async with db.async_connection_context() as conn, conn.cursor() as cur:
        await cur.execute(_INSERT, (token,))
        await asyncio.gather(*(_store_awaited(f"{token}-{number}") for number in range(2)))
    return token


async def _store_awaited(token: str) -> None:
    async with db.async_connection_context() as conn, conn.cursor() as cur:
        await cur.execute(_INSERT, (token,))
        await asyncio.sleep(0.01)


def stream(token: str) -> Response:
    """Store a token in a block that lasts as long as the answer, within the request's context."""
    return Response(stream_with_context(_chunks(token, db_connection_context)))


def stream_alone(token: str) -> Response:
    """The same, after the context has ended."""
    return Response(_chunks(token, db.connection_context, *_chunk_count()))


def _chunk_count() -> tuple[int, bool]:
    return request.args.get("chunks", 1, int), "fails" in request.args


def _chunks(
    token: str, scope: Callable[[], Any], count: int | None = None, fails: bool | None = None
) -> Iterator[bytes]:
    if count is None or fails is None:
        count, fails = _chunk_count()
    with scope() as conn, conn.cursor() as cur:
        cur.execute(_INSERT, (token,))
        for _ in range(count):
            yield b"x" * CHUNK
            time.sleep(0.001)
        if fails:
            raise LookupError(token)


def threads(token: str) -> str:
    """Store tokens in threads that have a copy of the context: one of the view's own, and those of
    an executor, one of which forgets its connection.
    """

    @copy_current_request_context
    def in_request() -> None:
        _store(f"{token}-request-{request.endpoint}")

    thread = threading.Thread(target=in_request)
    thread.start()
    jobs = [executor.submit(copy_context().run, _store, f"{token}-{n}") for n in range(4)]
    jobs.append(executor.submit(copy_context().run, _forget, f"{token}-forgotten"))
    for job in jobs:
        job.result()
    thread.join()
    return token


def _store(token: str) -> None:
    with db_connection_context() as conn, conn.cursor() as cur:
        cur.execute(_INSERT, (token,))


def _forget(token: str) -> None:
    get_db_connection().cursor().execute(_INSERT, (token,))


VIEWS: dict[str, Any] = {
    "/": stats,
    "/save/<token>": save,
    "/save-async/<token>": save_async,
    "/save-awaited/<token>": save_awaited,
    "/stream/<token>": stream,
    "/stream-alone/<token>": stream_alone,
    "/threads/<token>": threads,
}
