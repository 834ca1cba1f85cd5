"""Asynchronous scopes in Flask's views: each request has a loop of its own."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, request

from flask_pooled_db import PooledDB, UnknownBind
from tests.support.aio import run, until, value
from tests.support.scenarios.base import must_raise
from tests.support.sites import bare_app, ids, pool_of, serve, warnings_in


async def insert(conn: Any, id_: int) -> None:
    async with conn.cursor() as cur:
        await cur.execute("INSERT INTO t VALUES (%s, %s)", (id_, "x"))


def test_view(site: tuple[Flask, PooledDB]) -> None:
    """Asynchronous views commit, roll back, and wait for each other's connections, request by
    request.
    """
    app, db = site
    committed = []

    async def view(id_: int) -> str:
        async with db.async_connection_context() as conn:
            await insert(conn, id_)
            conn.on_commit(lambda: committed.append(request.path))
            if id_ > 2:
                raise LookupError
        async with db.async_connection_context(readonly=True) as conn:
            return str(await value(conn, "SELECT COUNT(*) FROM t"))

    client = serve(app, "/<int:id_>", view)
    assert [client.get(f"/{id_}").text for id_ in (1, 2)] == ["1", "2"]
    with must_raise(LookupError):
        app.testing = True
        client.get("/3")
    assert committed == ["/1", "/2"]
    with app.app_context():
        assert ids() == [1, 2]
    assert pool_of(app, db).in_use == 0


def test_exhausted_pool(url: str) -> None:
    """A2: an exhausted pool answers 503."""
    with bare_app(url=url, maxconnections=1, acquire_timeout=1.0) as (app, db):

        async def view() -> str:
            async with db.async_connection_context() as conn:
                await value(conn, "SELECT 1")
            return "done"

        client = serve(app, "/", view)
        assert client.get("/").text == "done"
        with app.app_context(), db.connection_context():
            assert client.get("/").status_code == 503
        assert client.get("/").text == "done"


def test_a1_task_of_a_view(site: tuple[Flask, PooledDB], caplog: pytest.LogCaptureFixture) -> None:
    """A task that a view has started, and not awaited, ends with its loop; its block rolls back."""
    app, db = site
    is_inside = []

    async def forget() -> None:
        async with db.async_connection_context() as conn:
            await insert(conn, 1)
            is_inside.append(True)
            await asyncio.sleep(60)

    async def view() -> str:
        task = asyncio.create_task(forget())
        await until(lambda: is_inside)
        return task.get_name()

    assert serve(app, "/", view).get("/").status_code == 200
    assert pool_of(app, db).in_use == 0
    with app.app_context():
        assert ids() == []
    assert warnings_in(caplog) == []


def test_a1_entered_and_never_left(
    site: tuple[Flask, PooledDB], caplog: pytest.LogCaptureFixture
) -> None:
    """A block that a view enters by hand, and never leaves, is taken back at the end of its
    context, and reported.
    """
    app, db = site
    kept = []

    async def view() -> str:
        block = db.async_connection_context()
        kept.append(block)
        await insert(await block.__aenter__(), 1)
        return "done"

    assert serve(app, "/", view).get("/").text == "done"
    assert pool_of(app, db).in_use == 0
    with app.app_context():
        assert ids() == []
    assert "was not given back" in warnings_in(caplog)[0]


def test_bind_by_name(site: tuple[Flask, PooledDB], tmp_path: Path) -> None:
    """A bind that is not open is opened by a worker, in the app's context; the loop goes on."""
    app, db = site
    loads = []

    @db.bind_loader
    def load(name: str) -> str | None:
        loop = asyncio._get_running_loop()
        loads.append((name, loop))
        return f"sqlite:///{tmp_path / name}.db" if name != "none" else None

    async def main() -> None:
        for _ in range(2):
            async with db.async_connection_context("one") as conn:
                async with db.async_connection_context("one") as inner:
                    assert inner is conn
                    assert await value(conn, "SELECT 1") == 1
        with must_raise(UnknownBind):
            async with db.async_connection_context("none"):
                pass

        async def work(conn: Any, number: int) -> int:
            return int(await value(conn, f"SELECT {number}"))

        assert await db.run_transaction_async(work, 7, bind="two") == 7

    with app.app_context():
        run(main)
    assert loads == [("one", None), ("none", None), ("two", None)]
