"""The Flask side: apps and binds, what a view forgets, and what the client is answered."""

from __future__ import annotations

import contextlib
import contextvars
import gc
import logging
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mariadb as mariadb_connector
import pymysql
import pytest
from flask import (
    Blueprint,
    Flask,
    Response,
    abort,
    stream_with_context,
)
from flask.testing import FlaskClient
from werkzeug.exceptions import HTTPException, ServiceUnavailable

from flask_pooled_db import (
    PoolClosed,
    PooledDB,
    PooledDBError,
    PoolStats,
    PoolTimeout,
    UsageError,
    db_connection_context,
    get_db_connection,
)
from tests.support.apps import pooled_app
from tests.support.pools import PATIENCE, call, wait_until
from tests.support.server import MariaDBServer
from tests.support.stages import ON_SHARED_SERVER

MODULES = {"pymysql": pymysql, "mariadbconnector": mariadb_connector}
CREATE = "CREATE TABLE t (id INTEGER PRIMARY KEY, name VARCHAR(20))"


@pytest.fixture
def url(tmp_path: Path) -> str:
    """An SQLite file."""
    return f"sqlite:///{tmp_path / 'shop.db'}"


def insert(conn: Any, id_: int) -> None:
    """A row, in the connection's transaction."""
    with conn.cursor() as cur:
        cur.execute("INSERT INTO t VALUES (%s, %s)", (id_, "x"))


def ids(bind: str | None = None) -> list[int]:
    """What is committed."""
    with db_connection_context(bind, readonly=True) as conn, conn.cursor() as cur:
        cur.execute("SELECT id FROM t ORDER BY id")
        return [id_ for (id_,) in cur.fetchall()]


@contextlib.contextmanager
def bare_app(**settings: Any) -> Iterator[tuple[Flask, PooledDB]]:
    """An app with the table `t`, outside of its context; the pools are closed at the end."""
    app = Flask("app_under_test")
    keys = {"mincached": 0, **settings}
    app.config.update({f"POOLED_DB_{name.upper()}": value for name, value in keys.items()})
    db = PooledDB(app)
    try:
        # With patience, also where the settings give callers little time.
        with app.app_context(), db_connection_context(timeout=PATIENCE) as conn:
            conn.cursor().execute(CREATE)
        yield app, db
    finally:
        db.close()


@pytest.fixture
def site(url: str) -> Iterator[tuple[Flask, PooledDB]]:
    """One on the SQLite file."""
    with bare_app(url=url) as pair:
        yield pair


def pool_of(app: Flask, db: PooledDB) -> PoolStats:
    with app.app_context():
        return db.stats()


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the extension warned of."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == "flask_pooled_db" and record.levelno >= logging.WARNING
    ]


# Apps, binds and ways in


def test_an_extension_takes_its_app_at_once_or_later(tmp_path: Path) -> None:
    """`PooledDB(app)` and `PooledDB()` with `init_app` are the same."""
    for number, is_late in enumerate((False, True)):
        app = Flask("app_under_test")
        app.config["POOLED_DB_URL"] = f"sqlite:///{tmp_path / str(number)}"
        db = PooledDB() if is_late else PooledDB(app)
        if is_late:
            db.init_app(app)
        assert "pooled_db" in app.extensions
        with app.app_context(), db.connection_context() as conn:
            conn.cursor().execute(CREATE)
        db.close()


def test_several_apps_share_one_extension(tmp_path: Path) -> None:
    """Each app has its own pools; the current one's are used, and `close` ends all of them."""
    db = PooledDB()
    apps = []
    for name in "ab":
        app = Flask(name)
        app.config["POOLED_DB_URL"] = f"sqlite:///{tmp_path / name}"
        db.init_app(app)
        apps.append(app)
        with app.app_context(), db.connection_context() as conn:
            conn.cursor().execute(CREATE)
    with apps[0].app_context():
        with db_connection_context() as conn:
            insert(conn, 1)
        with apps[1].app_context():
            assert ids() == []
            with db_connection_context() as conn:
                insert(conn, 2)
        assert ids() == [1]
    db.close()
    for app in apps:
        with app.app_context(), pytest.raises(PoolClosed):
            get_db_connection()


def test_a_scope_of_one_app_is_not_joined_by_another_app_s(tmp_path: Path) -> None:
    """An app context inside another one leads to another database."""
    with bare_app(url=f"sqlite:///{tmp_path / 'a'}") as (first, _):
        with bare_app(url=f"sqlite:///{tmp_path / 'b'}") as (second, _):
            with first.app_context(), contextlib.suppress(LookupError):
                with db_connection_context() as conn:
                    insert(conn, 1)
                    with second.app_context(), db_connection_context() as other:
                        assert other is not conn
                        insert(other, 2)
                    raise LookupError
            with second.app_context():
                assert ids() == [2]
        with first.app_context():
            assert ids() == []


def test_an_app_is_initialised_once(site: tuple[Flask, PooledDB]) -> None:
    """A second `init_app` would make second pools: it is refused, whoever calls it."""
    app, db = site
    for extension in (db, PooledDB()):
        with pytest.raises(UsageError, match="already"):
            extension.init_app(app)


def test_p7_nothing_connects_at_init_app(tmp_path: Path) -> None:
    """An app starts while its database is away, and makes no file."""
    app = Flask("app_under_test")
    app.config["POOLED_DB_URL"] = f"sqlite:///{tmp_path / 'shop.db'}"
    app.config["POOLED_DB_BINDS"] = {"far": "mysql://127.0.0.1:1/nowhere"}
    db = PooledDB(app)
    with app.app_context():
        assert db.stats().connects == db.stats("far").connects == 0
    assert not list(tmp_path.iterdir())
    db.close()


def test_binds_by_name(tmp_path: Path) -> None:
    """Every way in takes a bind, and None is the default one."""
    log = f"sqlite:///{tmp_path / 'log'}"
    with pooled_app(f"sqlite:///{tmp_path / 'shop'}", binds={"log": log}) as (_, db):
        for bind in (None, "log"):
            with db_connection_context(bind) as conn:
                conn.cursor().execute(CREATE)
        with db.connection_context("log") as conn:
            insert(conn, 1)
        db.run_transaction(insert, 2, bind="log")
        with contextlib.closing(get_db_connection("log")) as conn:
            insert(conn, 3)
            conn.commit()
        assert (ids("log"), ids()) == ([1, 2, 3], [])
        assert db.stats("log").checkouts == 5
        assert db.pool("log") is not db.pool()
        assert db.pool("default") is db.pool()


def test_an_unknown_bind_is_refused_with_those_that_are_known(tmp_path: Path) -> None:
    """The error lists the names."""
    url = f"sqlite:///{tmp_path / 'log'}"
    with pooled_app(binds={"log": url, "shop": url}) as (_, db):
        for use in (db_connection_context, get_db_connection, db.pool, db.stats):
            with pytest.raises(UsageError, match=r"no bind 'lgo' .*'log', 'shop'"):
                use("lgo")
            with pytest.raises(UsageError, match=r"no default database.*'log', 'shop'"):
                use()


@pytest.mark.parametrize(
    "use", [db_connection_context, get_db_connection, PooledDB().stats, PooledDB().pool]
)
def test_outside_an_app_context_flask_says_so(use: Callable[[], object]) -> None:
    """It is the error that Flask's own `current_app` gives."""
    with pytest.raises(RuntimeError, match="application context"):
        use()


@pytest.mark.parametrize("use", [db_connection_context, get_db_connection, PooledDB().stats])
def test_without_the_extension_the_remedy_is_told(use: Callable[[], object]) -> None:
    """An app that was forgotten in the factory is named."""
    app = Flask("forgotten")
    with app.app_context(), pytest.raises(UsageError, match=r"forgotten.*call init_app\(app\)"):
        use()


@pytest.mark.parametrize("is_method", [False, True])
def test_every_option_of_a_scope_is_had_by_function_and_method(
    site: tuple[Flask, PooledDB], is_method: bool
) -> None:
    """`db.connection_context()` is `db_connection_context()`."""
    app, db = site
    context: Any = db.connection_context if is_method else db_connection_context
    options = {
        "bind": None,
        "readonly": True,
        "timeout": 1.0,
        "statement_timeout": 2.0,
        "savepoint": False,
        "independent": True,
    }
    with app.app_context():
        scope = context(**options)
        assert {name: getattr(scope, f"_{name}") for name in ("readonly", "timeout")} == {
            "readonly": True,
            "timeout": 1.0,
        }
        assert (scope._statement_timeout, scope._with_savepoint, scope._independent) == (
            2.0,
            False,
            True,
        )
        assert context(isolation_level="SERIALIZABLE")._isolation_level == "SERIALIZABLE"
        with pytest.raises(TypeError):
            context(None, True)


def test_stats_are_frozen_and_count(site: tuple[Flask, PooledDB]) -> None:
    """`db.stats()` is one look at the pool."""
    app, db = site
    with app.app_context(), db_connection_context():
        stats = db.stats()
    assert isinstance(stats, PoolStats)
    assert (stats.open, stats.in_use, stats.idle, stats.waiting) == (1, 1, 0, 0)
    assert (stats.maxconnections, stats.checkouts, stats.timeouts, stats.leaked) == (20, 2, 0, 0)
    with pytest.raises(AttributeError):
        stats.open = 5  # type: ignore[misc]


def test_close_ends_everything(site: tuple[Flask, PooledDB]) -> None:
    """No connection stays open, and no other can be had; again is no error."""
    app, db = site
    db.close()
    db.close()
    assert pool_of(app, db).open == 0
    with app.app_context(), pytest.raises(PoolClosed, match="closed"), db_connection_context():
        pass


def test_close_lets_leases_end(site: tuple[Flask, PooledDB]) -> None:
    """A scope that is under way commits; its connection is closed when it comes back."""
    app, db = site
    with app.app_context():
        with db_connection_context() as conn:
            insert(conn, 1)
            db.close()
            insert(conn, 2)
        assert db.stats().open == 0
    with contextlib.closing(app.extensions["pooled_db"].pool(None).steady_connection()) as con:
        assert con.raw.execute("SELECT COUNT(*) FROM t").fetchone() == (2,)


# get_db_connection


@pytest.fixture
def app_context(site: tuple[Flask, PooledDB]) -> Iterator[PooledDB]:
    """The extension, inside the app's context."""
    with site[0].app_context():
        yield site[1]


def test_close_rolls_back_what_was_not_committed(app_context: PooledDB) -> None:
    """As PEP 249 says."""
    conn = get_db_connection()
    insert(conn, 1)
    conn.commit()
    insert(conn, 2)
    conn.close()
    assert ids() == [1]
    assert app_context.stats().in_use == 0


def test_closing_twice_is_harmless(app_context: PooledDB) -> None:
    """The connection is given back once, whoever has it by then."""
    conn = get_db_connection()
    conn.close()
    other = get_db_connection()
    conn.close()
    assert app_context.stats().in_use == 1
    insert(other, 1)
    other.close()


def test_with_closes_and_does_not_commit(app_context: PooledDB) -> None:
    """`with get_db_connection() as conn` gives it back; committing is the code's own affair."""
    with get_db_connection() as conn:
        insert(conn, 1)
    assert ids() == []
    with contextlib.suppress(LookupError), get_db_connection() as conn:
        insert(conn, 2)
        conn.commit()
        raise LookupError
    assert ids() == [2]
    assert app_context.stats().in_use == 0


def test_rollback_goes_on_with_the_same_connection(app_context: PooledDB) -> None:
    """A connection serves one transaction after the other."""
    with get_db_connection() as conn:
        insert(conn, 1)
        conn.rollback()
        insert(conn, 2)
        conn.commit()
    assert ids() == [2]
    assert app_context.stats().connects == 1


def test_each_call_is_a_connection_of_its_own(app_context: PooledDB) -> None:
    """It is no scope: it joins none, and none joins it."""
    with db_connection_context() as outer, get_db_connection() as conn:
        assert conn is not outer
        with get_db_connection() as other:
            assert other is not conn
            assert app_context.stats().in_use == 3


def test_begin_is_taken_where_no_transaction_is_open(app_context: PooledDB) -> None:
    """Code that begins explicitly runs as it is; in the middle of a transaction it is refused."""
    with get_db_connection() as conn:
        conn.begin()
        insert(conn, 1)
        with pytest.raises(UsageError, match="open transaction"):
            conn.begin()
        conn.commit()
        conn.begin()
        conn.rollback()
    assert ids() == [1]


def test_timeout_is_how_long_it_waits(url: str) -> None:
    """An exhausted pool is told after `timeout` seconds."""
    with pooled_app(url, maxconnections=1, acquire_timeout=60), get_db_connection():
        with pytest.raises(PoolTimeout) as caught:
            get_db_connection(timeout=0.01)
    assert caught.value.waited < 30


# A1: what is forgotten is taken back


def serve(app: Flask, path: str, view: Callable[[], Any], **options: Any) -> FlaskClient:
    """The client of an app with this view."""
    app.add_url_rule(path, view_func=view, **options)
    return app.test_client()


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


def test_an_async_view_commits(site: tuple[Flask, PooledDB]) -> None:
    """A scope in an async view is a scope."""
    app, db = site

    async def view() -> str:
        with db_connection_context() as conn:
            insert(conn, 1)
        return "done"

    assert serve(app, "/", view).get("/").text == "done"
    with app.app_context():
        assert ids() == [1]
        assert db.stats().in_use == 0


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


# A2: the answer of an exhausted pool


@contextlib.contextmanager
def exhausted(url: str, **settings: Any) -> Iterator[tuple[Flask, FlaskClient]]:
    """An app with a view that needs a connection, and none to be had."""
    keys = {"maxconnections": 1, "acquire_timeout": 0.05, **settings}
    with bare_app(url=url, **keys) as (app, _):

        def view() -> str:
            with db_connection_context():
                return "done"

        app.add_url_rule("/", view_func=view)
        held = app.extensions["pooled_db"].pool(None).lease(timeout=PATIENCE)
        try:
            yield app, app.test_client()
        finally:
            held.close()


def test_a2_an_exhausted_pool_answers_503_with_retry_after(url: str) -> None:
    """The client is told to come back later; a debugger or a test client sees it as well."""
    for settings in ({}, {"TESTING": True}, {"PROPAGATE_EXCEPTIONS": True}):
        with exhausted(url) as (app, client):
            app.config.update(settings)
            answer = client.get("/")
            assert answer.status_code == 503
            assert int(answer.headers["Retry-After"]) >= 1
        Path(url.removeprefix("sqlite:///")).unlink()


def test_a2_the_page_says_nothing_of_the_pool(url: str) -> None:
    """What the pool's state is stands in the log, not in the page."""
    with exhausted(url) as (_, client):
        text = client.get("/").text
    assert "The database is busy or away" in text
    assert "in use" not in text
    assert "default" not in text


def test_a2_it_is_logged_with_the_state_of_the_pool(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Who runs the site learns why."""
    with exhausted(url) as (_, client):
        client.get("/")
    (warning,) = warnings_in(caplog)
    assert "Answering 503" in warning
    assert "of 1, 1 are in use" in warning


def test_a2_retry_after_is_as_long_as_the_wait_was(url: str) -> None:
    """A client that comes back sooner would meet the same queue."""
    with exhausted(url, acquire_timeout=1.05) as (_, client):
        assert int(client.get("/").headers["Retry-After"]) >= 2


def test_a2_when_a_place_is_free_again_it_is_served(url: str) -> None:
    """A refused request leaves nothing behind."""
    with bare_app(url=url, maxconnections=1, acquire_timeout=0.05) as (app, _):

        def view() -> str:
            with db_connection_context():
                return "done"

        client = serve(app, "/", view)
        held = app.extensions["pooled_db"].pool(None).lease(timeout=PATIENCE)
        assert client.get("/").status_code == 503
        held.close()
        assert client.get("/").text == "done"


@pytest.mark.parametrize("comes_first", [True, False])
@pytest.mark.parametrize("what", [PoolTimeout, PooledDBError, 503, ServiceUnavailable])
def test_a2_the_app_s_own_handler_answers(url: str, what: Any, comes_first: bool) -> None:
    """Registered before `init_app` or after it, for this error, its root or the status."""

    def own(error: Exception) -> tuple[str, int]:
        kinds = (PooledDBError,) if what in (PoolTimeout, PooledDBError) else (HTTPException,)
        assert isinstance(error, kinds)
        return "own", 599

    app = Flask("app_under_test")
    app.config.update(POOLED_DB_URL=url, POOLED_DB_MAXCONNECTIONS=1, POOLED_DB_ACQUIRE_TIMEOUT=0.01)
    if comes_first:
        app.register_error_handler(what, own)
    db = PooledDB(app)
    if not comes_first:
        app.register_error_handler(what, own)

    def view() -> str:
        with db_connection_context(timeout=PATIENCE), db_connection_context(independent=True):
            return "done"

    answer = serve(app, "/", view).get("/")
    db.close()
    assert (answer.status_code, answer.text) == (599, "own")


@pytest.mark.parametrize("what", [PoolTimeout, PooledDBError, 503])
def test_a2_a_blueprint_s_own_handler_answers_its_views(url: str, what: Any) -> None:
    """The others get the 503 of the extension."""
    blueprint = Blueprint("shop", __name__)
    blueprint.register_error_handler(what, lambda error: ("own", 599))

    @blueprint.route("/shop")
    def view() -> str:
        with db_connection_context():
            return "done"

    with exhausted(url) as (app, client):
        app.register_blueprint(blueprint)
        assert client.get("/shop").status_code == 599
        assert client.get("/").status_code == 503


def test_a2_an_async_handler_of_the_app_s_own_answers(url: str) -> None:
    """An async one is awaited."""

    async def own(error: Exception) -> tuple[str, int]:
        return "own", 599

    with exhausted(url) as (app, client):
        app.register_error_handler(PooledDBError, own)
        assert client.get("/").status_code == 599


def test_a2_other_errors_are_not_answered_503(site: tuple[Flask, PooledDB]) -> None:
    """Only an exhausted pool is a matter of coming back later."""
    app, db = site
    app.config["PROPAGATE_EXCEPTIONS"] = False
    db.close()

    def view() -> str:
        with db_connection_context():
            return "done"

    def unavailable() -> str:
        abort(404)

    assert serve(app, "/", view).get("/").status_code == 500
    app = Flask("app_under_test")
    assert serve(app, "/", unavailable).get("/").status_code == 404


def test_a2_a_database_that_is_away_answers_503(mariadb_driver: str) -> None:
    """At the deadline the client is told to come back."""
    with MariaDBServer() as server:
        name = server.create_database()
        with bare_app(url=server.url(mariadb_driver, name), acquire_timeout=0.3) as (app, _):

            def view() -> str:
                with db_connection_context():
                    return "done"

            client = serve(app, "/", view)
            assert client.get("/").status_code == 200
            server.kill()
            answer = client.get("/")
            assert (answer.status_code, "Retry-After" in answer.headers) == (503, True)


# What a lease is: PEP 249, and no more than a transaction


@pytest.fixture(params=["sqlite", *ON_SHARED_SERVER])
def any_app(request: pytest.FixtureRequest, url: str) -> Iterator[PooledDB]:
    """The extension on each driver in turn, inside the context of its app, with the table `t`."""
    if request.param != "sqlite":
        server: MariaDBServer = request.getfixturevalue("mariadb")
        url = server.url(request.param, server.create_database())
    with pooled_app(url) as (_, db):
        with db_connection_context() as conn:
            conn.cursor().execute(CREATE)
        yield db


EXCEPTIONS = [
    "Warning",
    "Error",
    "InterfaceError",
    "DatabaseError",
    "DataError",
    "OperationalError",
    "IntegrityError",
    "InternalError",
    "ProgrammingError",
    "NotSupportedError",
]


def test_pep249_the_exception_classes_are_attributes(any_app: PooledDB) -> None:
    """They are the driver's own, also after the connection was released."""
    with db_connection_context() as conn:
        module: Any = any_app.pool().driver.dbapi
        before = [getattr(conn, name) for name in EXCEPTIONS]
    assert before == [getattr(module, name) for name in EXCEPTIONS]
    assert [getattr(conn, name) for name in EXCEPTIONS] == before


def test_pep249_errors_are_caught_by_the_attribute(any_app: PooledDB) -> None:
    """`except conn.IntegrityError` is the same code for every driver."""
    try:
        with db_connection_context() as conn:
            insert(conn, 1)
            insert(conn, 1)
    except conn.IntegrityError:
        pass
    assert ids() == []


def test_pep249_a_cursor(any_app: PooledDB) -> None:
    """A cursor has the standard's attributes and ways to fetch."""
    with db_connection_context() as conn:
        cur = conn.cursor()
        assert cur.connection is conn
        described = cur.description
        assert described is None
        cur.executemany("INSERT INTO t VALUES (%s, %s)", [(i, str(i)) for i in range(1, 8)])
        assert cur.rowcount == 7
        cur.execute("UPDATE t SET name = %s WHERE id < %s", ("y", 3))
        assert cur.rowcount == 2
        cur.execute("SELECT id, name FROM t ORDER BY id")
        assert [column[0] for column in cur.description] == ["id", "name"]
        assert cur.fetchone()[0] == 1
        assert [id_ for id_, _ in cur.fetchmany(2)] == [2, 3]
        cur.arraysize = 2
        assert cur.arraysize == 2
        assert [id_ for id_, _ in cur.fetchmany()] == [4, 5]
        assert next(cur)[0] == 6
        assert [id_ for id_, _ in cur] == [7]
        assert cur.fetchone() is None
        assert list(cur.fetchall()) == []
        with pytest.raises(StopIteration):
            next(cur)
        cur.close()


def test_pep249_lastrowid(any_app: PooledDB) -> None:
    """The number that the database gave a row."""
    kind = any_app.pool().driver.name
    auto = "INTEGER PRIMARY KEY" if kind == "sqlite3" else "INT PRIMARY KEY AUTO_INCREMENT"
    with db_connection_context() as conn, conn.cursor() as cur:
        cur.execute(f"CREATE TABLE numbered (id {auto}, a INT)")
        cur.execute("INSERT INTO numbered (a) VALUES (%s)", (5,))
        assert cur.lastrowid == 1
        cur.execute("INSERT INTO numbered (a) VALUES (%s)", (5,))
        assert cur.lastrowid == 2


def test_pep249_two_cursors_of_one_connection(any_app: PooledDB) -> None:
    """They are in the same transaction."""
    with db_connection_context() as conn, conn.cursor() as one, conn.cursor() as other:
        one.execute("INSERT INTO t VALUES (1, 'x')")
        other.execute("SELECT COUNT(*) FROM t")
        assert other.fetchone()[0] == 1


def test_pep249_callproc(mariadb: MariaDBServer, database: str, mariadb_driver: str) -> None:
    """A stored procedure is a part of the transaction."""
    mariadb.execute(f"CREATE TABLE `{database}`.t (id INT PRIMARY KEY, name VARCHAR(20))")
    mariadb.execute(
        f"CREATE PROCEDURE `{database}`.put(IN a INT) INSERT INTO `{database}`.t VALUES (a, 'p')"
    )
    with pooled_app(mariadb.url(mariadb_driver, database)):
        with (
            contextlib.suppress(LookupError),
            db_connection_context() as conn,
            conn.cursor() as cur,
        ):
            cur.callproc("put", (1,))
            raise LookupError
        with db_connection_context() as conn, conn.cursor() as cur:
            cur.callproc("put", (2,))
        assert ids() == [2]


def test_t6_results_nobody_asked_for_are_read_before_commit(
    mariadb: MariaDBServer, database: str
) -> None:
    """With PyMySQL, which leaves them to be read: a procedure with several results, of which none
    was fetched. Its work is committed, and the connection is not used again.
    """
    mariadb.execute(f"CREATE TABLE `{database}`.t (id INT PRIMARY KEY, name VARCHAR(20))")
    mariadb.execute(
        f"CREATE PROCEDURE `{database}`.put(IN a INT) BEGIN"
        f" SELECT 1; INSERT INTO `{database}`.t VALUES (a, 'p'); SELECT 2; END"
    )
    with pooled_app(mariadb.url("pymysql", database)) as (_, db):
        with db_connection_context() as conn:
            cur = conn.cursor()
            cur.execute("CALL put(1)")
        assert ids() == [1]
        assert db.stats().discarded == 1


FORBIDDEN = ["autocommit", "isolation_level", "connect", "reconnect", "auto_reconnect"]


@pytest.mark.parametrize("name", FORBIDDEN)
def test_what_would_work_against_the_scope_is_forbidden(any_app: PooledDB, name: str) -> None:
    """Neither read, nor called, nor set: the error names it and the way to go."""
    with db_connection_context() as conn:
        with pytest.raises(UsageError, match=name):
            getattr(conn, name)
        with pytest.raises(UsageError, match=name):
            setattr(conn, name, True)
        insert(conn, 1)
    assert ids() == [1]


@pytest.mark.parametrize("name", ["database", "row_factory", "warnings", "anything"])
def test_no_attribute_of_the_connection_can_be_set(any_app: PooledDB, name: str) -> None:
    """What is set would stay for the next one who borrows the connection: it is refused, and not
    silently kept from the driver.
    """
    with db_connection_context() as conn:
        with pytest.raises(AttributeError):
            setattr(conn, name, 5)


def test_the_drivers_own_attributes_can_be_listed(any_app: PooledDB) -> None:
    """`dir()` tells of what the driver's connection has beside the standard's; what it has not is
    missed in the way of every object.
    """
    with db_connection_context() as conn:
        assert {"cursor", "commit", "IntegrityError", "rollback"} <= set(dir(conn))
        raw = any_app.pool().driver.connect()
        assert {name for name in dir(raw) if not name.startswith("_")} <= set(dir(conn))
        raw.close()
        assert not hasattr(conn, "anything")


class Wrapped:
    """A driver's connection in an object that passes everything on, as tracing tools make them."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)


def test_a_wrapped_connection_passes_its_attributes_on(tmp_path: Path) -> None:
    """Also where they can't be listed."""

    def connect() -> Wrapped:
        return Wrapped(sqlite3.connect(tmp_path / "db", check_same_thread=False))

    app = Flask("wrapped")
    app.config["POOLED_DB_CREATOR"] = connect
    db = PooledDB(app)
    with app.app_context():
        with db_connection_context() as conn:
            assert conn.execute("SELECT 1").fetchone() == (1,)
            assert conn.total_changes == 0
            assert not hasattr(conn, "anything")
            assert not hasattr(conn, "_raw")
        with pytest.raises(UsageError, match="was released"):
            conn.execute("SELECT 1")
    db.close()


def test_what_is_set_on_a_cursor_has_its_effect(site: tuple[Flask, PooledDB]) -> None:
    """A driver's own setting of a cursor is its own, and ends with it."""
    with site[0].app_context():
        with db_connection_context() as conn, conn.cursor() as cur:
            cur.row_factory = sqlite3.Row
            cur.execute("SELECT 1 AS a")
            assert cur.fetchone()["a"] == 1
        with pytest.raises(UsageError, match="was released"):
            cur.row_factory = None
        with db_connection_context() as conn, conn.cursor() as cur:
            cur.execute("SELECT 1 AS a")
            assert cur.fetchone() == (1,)


def test_what_a_cursor_is_made_from_is_not_set(any_app: PooledDB) -> None:
    """`cursor.connection` is read alone."""
    with db_connection_context() as conn, conn.cursor() as cur:
        with pytest.raises(AttributeError):
            cur.connection = conn  # type: ignore[misc]
        assert cur.connection is conn


def test_ping_does_not_reconnect(any_app: PooledDB) -> None:
    """Code that pings before it works runs as it is."""
    with get_db_connection() as conn:
        conn.ping()
        conn.ping(True)
        conn.ping(reconnect=True)
    assert any_app.stats().connects == 1


def test_the_repr_is_a_line_of_state(any_app: PooledDB) -> None:
    """It says of which driver the connection is, and how it is."""
    with db_connection_context() as conn:
        assert repr(conn) == f"<Lease of a {any_app.pool().driver.name} connection, in use>"
    assert repr(conn).endswith("released>")


def test_two_threads_at_once_are_refused(
    mariadb: MariaDBServer, database: str, mariadb_driver: str
) -> None:
    """Who uses a connection that is in use by another thread is told, and harms nobody."""
    with pooled_app(mariadb.url(mariadb_driver, database)), get_db_connection() as conn:
        lock = f"{database}_lock"
        assert mariadb.query("SELECT GET_LOCK(%s, 0)", lock) == [(1,)]
        caller = call(conn.cursor().execute, "SELECT GET_LOCK(%s, 30)", (lock,))
        waiting = "SELECT 1 FROM information_schema.processlist WHERE state = 'User lock'"
        try:
            wait_until(lambda: mariadb.query(waiting), "the statement runs")
            for use in (conn.cursor, conn.commit, conn.rollback, conn.ping, conn.begin):
                with pytest.raises(UsageError, match="in use by another thread"):
                    use()
        finally:
            mariadb.query("SELECT RELEASE_LOCK(%s)", lock)
        caller.result()
        conn.commit()
