"""The methods of a `PooledDB` without an app context, and in that of an app it does not serve."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from flask_pooled_db import PooledDB, UsageError, db_connection_context, get_db_connection
from tests.support.pools import call
from tests.support.sites import CREATE, insert

Use = Callable[[PooledDB], Any]

USES: dict[str, Use] = {
    "connection_context": lambda db: db.connection_context(),
    "run_transaction": lambda db: db.run_transaction(lambda conn: None),
    "on_commit": lambda db: db.on_commit(lambda: None),
    "fetch_all": lambda db: db.fetch_all("SELECT 1"),
    "fetch_one": lambda db: db.fetch_one("SELECT 1"),
    "fetch_value": lambda db: db.fetch_value("SELECT 1"),
    "execute": lambda db: db.execute("DELETE FROM t"),
    "run_script": lambda db: db.run_script("DELETE FROM t"),
    "pool": lambda db: db.pool(),
    "stats": lambda db: db.stats(),
}
each_use = pytest.mark.parametrize("use", USES.values(), ids=USES)


def make_app(db: PooledDB, tmp_path: Path, name: str) -> Flask:
    """An app on a file of its own, with the table `t`."""
    app = Flask(name)
    app.config["POOLED_DB_URL"] = f"sqlite:///{tmp_path / name}"
    db.init_app(app)
    with app.app_context(), db_connection_context() as conn:
        conn.cursor().execute(CREATE)
    return app


@each_use
def test_only_app(use: Use, tmp_path: Path) -> None:
    """A method works without an app context if its object serves one app, in any thread."""
    db = PooledDB()
    app = make_app(db, tmp_path, "only")
    use(db)
    call(use, db).result()
    assert db.stats().in_use == 0
    db.close()
    del app


def test_t1_only_app(tmp_path: Path) -> None:
    """What is done without an app context is a transaction as any other."""
    db, called = PooledDB(), list[int]()
    app = make_app(db, tmp_path, "only")
    with db.connection_context() as conn:
        insert(conn, 1)
        db.on_commit(lambda: called.append(1))
        with db.connection_context() as inner:
            assert inner is conn
        with app.app_context(), db_connection_context() as inner:
            assert inner is conn
    with pytest.raises(LookupError):
        db.run_transaction(fail)
    assert (db.fetch_all("SELECT id FROM t"), called) == ([(1,)], [1])
    db.close()


def fail(conn: Any) -> None:
    insert(conn, 2)
    raise LookupError


@each_use
def test_several_apps(use: Use, tmp_path: Path) -> None:
    """With several apps the error says which line to add; one that is gone does not count."""
    db = PooledDB()
    apps = [make_app(db, tmp_path, "one"), make_app(db, tmp_path, "two")]
    with pytest.raises(UsageError, match=r"serves 2 apps: .*with app\.app_context\(\):"):
        use(db)
    del apps[1]
    use(db)
    db.close()


def test_apps_are_not_kept(tmp_path: Path) -> None:
    """The extension does not keep its apps alive."""
    db = PooledDB()
    app = make_app(db, tmp_path, "short")
    db.close()
    is_there = weakref.ref(app)
    del app
    gc.collect()
    assert is_there() is None
    with pytest.raises(UsageError, match=r"serves no app: call init_app\(app\)"):
        db.stats()


@each_use
def test_app_of_another(use: Use, tmp_path: Path) -> None:
    """In the context of an app that another `PooledDB` serves, a method is refused."""
    db, other = PooledDB(), PooledDB()
    apps = [make_app(db, tmp_path, "mine"), make_app(other, tmp_path, "theirs")]
    with apps[1].app_context():
        with pytest.raises(UsageError, match=r"does not serve the current app, <Flask 'theirs'>"):
            use(db)
        with pytest.raises(UsageError, match="does not serve the current app"):
            _ = db.connection
        use(other)
        with apps[0].app_context():
            use(db)
        with db_connection_context() as conn:
            assert conn.dbapi_connection.execute("SELECT * FROM t").fetchall() == []
    db.close()
    other.close()


@pytest.mark.parametrize("use", [db_connection_context, get_db_connection])
def test_functions_outside(use: Callable[[], Any], tmp_path: Path) -> None:
    """The functions of the module name the line to add, and the method that needs none."""
    db = PooledDB()
    app = make_app(db, tmp_path, "only")
    with pytest.raises(UsageError, match=r"with app\.app_context\(\):.*db\.connection_context\(\)"):
        use()
    with pytest.raises(RuntimeError):  # as Flask has it
        use()
    db.close()
    del app
