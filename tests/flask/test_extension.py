"""The extension: apps, binds, and the ways in."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from flask_pooled_db import (
    PoolClosed,
    PooledDB,
    PoolStats,
    UsageError,
    db_connection_context,
    get_db_connection,
)
from tests.support.apps import pooled_app
from tests.support.sites import CREATE, bare_app, ids, insert, pool_of, serve


def test_init_app(tmp_path: Path) -> None:
    """`PooledDB(app)` and `PooledDB()` with `init_app` do the same."""
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


def test_several_apps(tmp_path: Path) -> None:
    """Each app of an extension has its own pools; the current app's are used, and `close` closes
    all.
    """
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


def test_nested_apps(tmp_path: Path) -> None:
    """A scope in the context of another app is a transaction on that app's database."""
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


def test_init_app_twice(site: tuple[Flask, PooledDB]) -> None:
    """A second `init_app` on the same app is refused."""
    app, db = site
    for extension in (db, PooledDB()):
        with pytest.raises(UsageError, match="already"):
            extension.init_app(app)


def test_p7_init_app_connects_nothing(tmp_path: Path) -> None:
    """An app starts while its database is down, and creates no file."""
    app = Flask("app_under_test")
    app.config["POOLED_DB_URL"] = f"sqlite:///{tmp_path / 'shop.db'}"
    app.config["POOLED_DB_BINDS"] = {"far": "mysql://127.0.0.1:1/nowhere"}
    db = PooledDB(app)
    with app.app_context():
        assert db.stats().connects == db.stats("far").connects == 0
    assert not list(tmp_path.iterdir())
    db.close()


def test_binds(tmp_path: Path) -> None:
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


def test_unknown_bind(tmp_path: Path) -> None:
    """The error about an unknown bind lists the known ones."""
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
def test_outside_app_context(use: Callable[[], object]) -> None:
    """Outside an app context the error is that of Flask's `current_app`."""
    with pytest.raises(RuntimeError, match="application context"):
        use()


@pytest.mark.parametrize("use", [db_connection_context, get_db_connection, PooledDB().stats])
def test_app_without_extension(use: Callable[[], object]) -> None:
    """The error about an app without the extension names the remedy."""
    app = Flask("forgotten")
    with app.app_context(), pytest.raises(UsageError, match=r"forgotten.*call init_app\(app\)"):
        use()


@pytest.mark.parametrize("is_method", [False, True])
def test_options_of_function_and_method(site: tuple[Flask, PooledDB], is_method: bool) -> None:
    """`db.connection_context()` takes the same options as `db_connection_context()`."""
    app, db = site
    context: Any = db.connection_context if is_method else db_connection_context
    options = {
        "bind": None,
        "readonly": True,
        "timeout": 1.0,
        "statement_timeout": 2.0,
        "savepoint": False,
        "independent": True,
        "rows": "dict",
    }
    with app.app_context():
        scope = context(**options)
        assert scope.options._asdict() == {
            "readonly": True,
            "timeout": 1.0,
            "statement_timeout": 2.0,
            "isolation_level": None,
            "savepoint": False,
            "independent": True,
            "rows": "dict",
        }
        assert context(isolation_level="SERIALIZABLE").options.isolation_level == "SERIALIZABLE"
        with pytest.raises(TypeError):
            context(None, True)


def test_stats(site: tuple[Flask, PooledDB]) -> None:
    """`db.stats()` is a frozen snapshot of the pool."""
    app, db = site
    with app.app_context(), db_connection_context():
        stats = db.stats()
    assert isinstance(stats, PoolStats)
    assert (stats.open, stats.in_use, stats.idle, stats.waiting) == (1, 1, 0, 0)
    assert (stats.maxconnections, stats.checkouts, stats.timeouts, stats.leaked) == (20, 2, 0, 0)
    with pytest.raises(AttributeError):
        stats.open = 5  # type: ignore[misc]


def test_close(site: tuple[Flask, PooledDB]) -> None:
    """close() closes every connection and refuses new ones; a second call does nothing."""
    app, db = site
    db.close()
    db.close()
    assert pool_of(app, db).open == 0
    with app.app_context(), pytest.raises(PoolClosed, match="closed"), db_connection_context():
        pass


def test_close_during_scope(site: tuple[Flask, PooledDB]) -> None:
    """A scope that is open at close() commits, and its connection is closed on return."""
    app, db = site
    with app.app_context():
        with db_connection_context() as conn:
            insert(conn, 1)
            db.close()
            insert(conn, 2)
        assert db.stats().open == 0
    with contextlib.closing(app.extensions["pooled_db"].pool(None).steady_connection()) as con:
        assert con.execute("SELECT COUNT(*) FROM t").fetchone() == (2,)


def test_async_view(site: tuple[Flask, PooledDB]) -> None:
    """A scope in an async view commits."""
    app, db = site

    async def view() -> str:
        with db_connection_context() as conn:
            insert(conn, 1)
        return "done"

    assert serve(app, "/", view).get("/").text == "done"
    with app.app_context():
        assert ids() == [1]
        assert db.stats().in_use == 0
