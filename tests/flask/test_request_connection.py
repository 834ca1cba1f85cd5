"""The request's connection: `db.connection`, one for each app context and whoever works in it."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import greenlet
import pytest
from flask import Flask, Response, copy_current_request_context, stream_with_context

from flask_pooled_db import (
    PooledDB,
    TransactionAborted,
    UsageError,
    db_connection_context,
)
from harness.server import MariaDBServer
from harness.waiting import PATIENCE, wait_until
from harness.workloads import add
from tests.support.pools import call
from tests.support.scenarios.base import MOVED, rival
from tests.support.sites import CREATE, bare_app, ids, insert, pool_of, serve, warnings_in
from tests.support.stages import ServerStage

Site = tuple[Flask, PooledDB]


def test_request_connection_is_one(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """`db.connection` is the same one all through an app context, is opened at its first use, and
    is given back at the end, which is no leak.
    """
    app, db = site

    def view() -> str:
        assert db.stats().in_use == 0
        db.connection.cursor().execute("INSERT INTO t VALUES (1, 'x')")
        assert db.connection is db.connection
        assert db.connection_of("default") is db.connection_of(None) is db.connection
        db.connection.commit()
        return str(db.stats().in_use)

    assert serve(app, "/", view).get("/").text == "1"
    assert warnings_in(caplog) == []
    stats = pool_of(app, db)
    assert (stats.in_use, stats.leaked, stats.discarded) == (0, 0, 0)
    with app.app_context():
        assert ids() == [1]


def test_request_connection_uncommitted(site: Site) -> None:
    """What was not committed at the end of the app context is rolled back."""
    app, db = site
    with app.app_context():
        insert(db.connection, 1)
        db.connection.commit()
        insert(db.connection, 2)
        kept = db.connection
    with app.app_context():
        assert ids() == [1]
    with pytest.raises(UsageError, match="taken back when its app context ended"):
        kept.cursor()


def test_request_connection_on_commit(site: Site) -> None:
    """What is to be called after a COMMIT is called at the end of the context at the latest."""
    app, db = site
    called: list[int] = []
    with app.app_context():
        insert(db.connection, 1)
        db.connection.on_commit(lambda: called.append(1))
        db.connection.commit()
        db.connection.on_commit(lambda: called.append(2))
        insert(db.connection, 2)
    assert called == [1]


def test_request_connection_closed(site: Site) -> None:
    """`close()` gives it back and rolls back; the next one is new."""
    app, db = site
    with app.app_context():
        first = db.connection
        insert(first, 1)
        db.connection.close()
        assert db.stats().in_use == 0
        assert db.connection is not first
        insert(db.connection, 2)
        db.connection.commit()
        assert ids() == [2]


def test_request_connection_and_scope(site: Site) -> None:
    """A scope beside it is a transaction of its own."""
    app, db = site
    with app.app_context():
        with db_connection_context() as conn:
            assert conn is not db.connection
            insert(conn, 1)
        db.connection.rollback()
        assert ids() == [1]
        insert(db.connection, 2)
        db.connection.commit()
        insert(db.connection, 3)
        db.connection.rollback()
        with db_connection_context() as conn:
            insert(conn, 4)
        assert ids() == [1, 2, 4]


def test_request_connection_of_binds(tmp_path: Path) -> None:
    """Each database has one of its own; an unknown one is refused."""
    binds = {"log": f"sqlite:///{tmp_path / 'log'}"}
    with bare_app(url=f"sqlite:///{tmp_path / 'shop'}", binds=binds) as (app, db):
        with app.app_context():
            with db_connection_context("log") as conn:
                conn.cursor().execute(CREATE)
            insert(db.connection_of("log"), 7)
            db.connection_of("log").commit()
            assert db.connection_of("log") is not db.connection
            assert (ids(), ids("log")) == ([], [7])
            with pytest.raises(UsageError, match="no bind 'lgo'"):
                db.connection_of("lgo")


def test_request_connection_of_nested_contexts(site: Site) -> None:
    """An inner app context has one of its own, which ends with it."""
    app, db = site
    with app.app_context():
        outer = db.connection
        with app.app_context():
            assert db.connection is not outer
            assert db.stats().in_use == 2
        assert db.stats().in_use == 1
        assert db.connection is outer


def test_request_connection_of_threads(site: Site) -> None:
    """A thread that shares the context has one of its own."""
    app, db = site
    with app.app_context():
        mine = db.connection
        theirs: list[Any] = []
        run = contextvars.copy_context().run
        call(run, lambda: theirs.append(db.connection)).result()
        assert theirs[0] is not mine
        assert db.connection is mine
        # The next thread may have the number of one that has ended.
        for _ in range(30):
            call(run, lambda: theirs.append(db.connection)).result()
            assert theirs[-1] not in theirs[:-1]
    assert pool_of(app, db).in_use == 0


def test_request_connection_of_ended_threads(url: str) -> None:
    """More threads than there are connections may come one after the other, whatever numbers they
    have: that of one that has ended is given to the next.
    """
    with bare_app(url=url, maxconnections=2, acquire_timeout=5) as (app, db), app.app_context():
        run = contextvars.copy_context().run

        def work() -> None:
            db.connection.cursor()

        for _ in range(8):
            thread = threading.Thread(target=run, args=(work,))
            thread.start()
            thread.join()
        assert pool_of(app, db).connects <= 3


def test_request_connection_copied_request(site: Site) -> None:
    """A thread with a copy of the request context has one of its own, and its end ends that."""
    app, db = site

    def view() -> str:
        mine = db.connection
        insert(mine, 1)
        mine.commit()

        @copy_current_request_context
        def work() -> None:
            assert db.connection is not mine
            insert(db.connection, 2)
            db.connection.commit()

        call(work).result()
        insert(db.connection, 3)
        db.connection.commit()
        return str(db.stats().in_use)

    assert serve(app, "/", view).get("/").text == "1"
    with app.app_context():
        assert ids() == [1, 2, 3]


def test_request_connection_of_greenlets(site: Site) -> None:
    """A greenlet that shares the context has one of its own."""
    app, db = site
    with app.app_context():
        mine, theirs = db.connection, list[Any]()
        worker = greenlet.greenlet(lambda: theirs.extend([db.connection, db.connection]))
        worker.gr_context = contextvars.copy_context()
        worker.switch()
        assert theirs[0] is theirs[1]
        assert theirs[0] is not mine
        assert db.connection is mine
    assert pool_of(app, db).in_use == 0


def test_request_connection_of_tasks(url: str) -> None:
    """Each task has one of its own; those of tasks that have ended are given back, so that more of
    them may run than there are connections.
    """
    with bare_app(url=url, maxconnections=2, acquire_timeout=PATIENCE) as (app, db):

        async def work() -> Any:
            await asyncio.sleep(0)
            assert db.connection is db.connection
            return db.connection

        async def main() -> list[Any]:
            return [await asyncio.create_task(work()) for _ in range(6)]

        with app.app_context():
            found = asyncio.run(main())
            assert len({id(conn) for conn in found}) == 6
        assert (pool_of(app, db).in_use, pool_of(app, db).leaked) == (0, 0)


def test_request_connection_of_async_view(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """An async view has its own, which is given back at the end of the request."""
    app, db = site

    async def view() -> str:
        insert(db.connection, 1)
        await asyncio.sleep(0)
        db.connection.commit()
        return "done"

    assert serve(app, "/", view).get("/").text == "done"
    assert (warnings_in(caplog), pool_of(app, db).in_use) == ([], 0)
    with app.app_context():
        assert ids() == [1]


def test_request_connection_of_survivor(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """A thread that outlives the context loses the one that it had with it, and is told so."""
    app, db = site
    has_begun, may_go_on = threading.Event(), threading.Event()

    def work() -> None:
        conn = db.connection
        insert(conn, 1)
        has_begun.set()
        assert may_go_on.wait(PATIENCE)
        with pytest.raises(UsageError, match="taken back when its app context ended"):
            conn.commit()

    with app.app_context():
        thread = call(contextvars.copy_context().run, work)
        assert has_begun.wait(PATIENCE)
    assert (pool_of(app, db).in_use, pool_of(app, db).leaked) == (0, 0)
    may_go_on.set()
    thread.result()
    with app.app_context():
        assert ids() == []
    (warning,) = warnings_in(caplog)
    assert "INSERT INTO was rolled back" in warning


def test_request_connection_of_executor(url: str, caplog: pytest.LogCaptureFixture) -> None:
    """The thread of an executor, which never ends, keeps none from one context to the next."""
    with (
        bare_app(url=url, maxconnections=2, acquire_timeout=5.0) as (app, db),
        ThreadPoolExecutor(1) as executor,
    ):

        def job() -> None:
            insert(db.connection, db.fetch_value("SELECT COUNT(*) FROM t") + 1)
            db.connection.commit()

        for _ in range(6):
            with app.app_context():
                executor.submit(contextvars.copy_context().run, job).result()
            assert pool_of(app, db).in_use == 0
        with app.app_context():
            assert ids() == [1, 2, 3, 4, 5, 6]
        assert (pool_of(app, db).connects, warnings_in(caplog)) == (2, [])


def test_request_connection_amid_a_call(stage: ServerStage) -> None:
    """A call that is under way in another thread when the context ends is the last one."""
    with stage.app.app_context():

        def work() -> None:
            conn = stage.db.connection
            with pytest.raises(UsageError, match="app context ended"):
                sleep_and_go_on(conn)

        thread = call(contextvars.copy_context().run, work)
        wait_until(lambda: any("SLEEP" in sql for sql in statements_under_way(stage)))
    thread.result()
    assert (stage.db.stats().in_use, stage.db.stats().leaked) == (0, 0)
    with stage.app.app_context(), db_connection_context() as conn:
        add(conn, 1, 0)


def sleep_and_go_on(conn: Any) -> None:
    with conn.cursor() as cur:
        cur.execute("SELECT SLEEP(0.5)")
        cur.execute("SELECT 1")


def statements_under_way(stage: ServerStage) -> list[str]:
    sql = "SELECT info FROM information_schema.processlist WHERE command = 'Query' AND user = 'app'"
    return [info or "" for (info,) in stage.server.query(sql)]


@pytest.mark.parametrize("is_abandoned", [False, True])
def test_request_connection_of_stream(
    is_abandoned: bool, site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """A streamed answer that keeps the context has one until its end, or until it is abandoned."""
    app, db = site
    with app.app_context(), db_connection_context() as conn:
        conn.cursor().executemany("INSERT INTO t VALUES (%s, 'x')", [(i,) for i in range(5)])

    def view() -> Response:
        db.connection.cursor().execute("SELECT 1")

        def lines() -> Iterator[str]:
            mine = db.connection
            with mine.cursor() as cur:
                cur.execute("SELECT id FROM t ORDER BY id")
                for row in cur:
                    assert db.connection is mine
                    yield f"{row[0]},"

        return Response(stream_with_context(lines()))

    answer = serve(app, "/", view).get("/", buffered=False)
    if is_abandoned:
        next(iter(answer.iter_encoded()))
        assert pool_of(app, db).in_use == 1
    else:
        assert answer.text == "0,1,2,3,4,"
    answer.close()
    assert (pool_of(app, db).in_use, pool_of(app, db).leaked, warnings_in(caplog)) == (0, 0, [])


def test_request_connection_outside(site: Site) -> None:
    """Outside an app context nobody would end it: the error says what to add."""
    _, db = site
    with pytest.raises(UsageError, match=r"with app\.app_context\(\):"):
        db.connection.cursor()
    with pytest.raises(UsageError, match=r"with app\.app_context\(\):"):
        db.connection_of("default")


@pytest.mark.parametrize("is_swallowed", [False, True])
def test_t4_request_connection_lost(
    is_swallowed: bool, mariadb: MariaDBServer, mariadb_driver: str
) -> None:
    """A lost connection stays the context's and refuses all, so that nothing is committed in part;
    `close()` makes room for a new one, and the next context has one.
    """
    url = mariadb.url(mariadb_driver, mariadb.create_database())
    with bare_app(url=url) as (app, db):
        with app.app_context():
            insert(db.connection, 1)
            mariadb.kill_connection(_number_of(db.connection))
            lost = db.connection
            with pytest.raises((db.connection.Error, TransactionAborted)):
                insert(db.connection, 2)
            for use in (lost.commit, lost.rollback, lambda: insert(db.connection, 3)):
                with pytest.raises(TransactionAborted):
                    use()
            assert db.connection is lost
            if is_swallowed:
                db.connection.close()
                insert(db.connection, 4)
                db.connection.commit()
        with app.app_context():
            assert ids() == ([4] if is_swallowed else [])
            db.connection.cursor().execute("SELECT 1")


def _number_of(conn: Any) -> int:
    with conn.cursor() as cur:
        cur.execute("SELECT CONNECTION_ID()")
        return int(cur.fetchone()[0])


def test_t4_request_connection_deadlock(stage: ServerStage) -> None:
    """After the server has rolled its transaction back, `rollback()` leads on with it."""
    db = stage.db
    mine = db.connection
    add(mine, 1, -50)
    with rival(stage, holds=[2, 3], then=1), pytest.raises(mine.OperationalError):
        add(mine, 2, 50)
    assert db.connection is mine
    with pytest.raises(TransactionAborted):
        mine.commit()
    mine.rollback()
    add(db.connection, 1, -10)
    add(db.connection, 2, 10)
    db.connection.commit()
    assert stage.committed() == MOVED
