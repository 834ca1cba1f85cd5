"""The extension: apps, binds, and the ways in."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask import (
    Flask,
)

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
        assert scope.options._asdict() == {
            "readonly": True,
            "timeout": 1.0,
            "statement_timeout": 2.0,
            "isolation_level": None,
            "savepoint": False,
            "independent": True,
        }
        assert context(isolation_level="SERIALIZABLE").options.isolation_level == "SERIALIZABLE"
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
        assert con.execute("SELECT COUNT(*) FROM t").fetchone() == (2,)


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
