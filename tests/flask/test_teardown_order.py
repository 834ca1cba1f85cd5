"""A1: what an app context holds is taken back after everything the app does at its end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from flask import Blueprint, Flask, appcontext_tearing_down, g

from flask_pooled_db import PooledDB, get_db_connection
from tests.support.sites import CREATE, ids, insert, pool_of, warnings_in


@contextmanager
def app_with(prepare: Callable[[Flask], None], url: str) -> Iterator[tuple[Flask, PooledDB]]:
    """An app that was prepared before `init_app`, with a view that keeps its connection in `g`."""
    app = Flask("app_under_test")
    app.config.update(POOLED_DB_URL=url, POOLED_DB_MINCACHED=0, PROPAGATE_EXCEPTIONS=False)
    db = PooledDB()

    def view() -> str:
        g.conn = get_db_connection()
        insert(g.conn, 1)
        return "done"

    pages = Blueprint("pages", __name__)
    pages.add_url_rule("/", view_func=view)
    prepare(app)
    db.init_app(app)
    app.register_blueprint(pages)
    try:
        with app.app_context(), db.connection_context() as conn:
            conn.cursor().execute(CREATE)
        yield app, db
    finally:
        db.close()


def store(*_: Any, **__: Any) -> None:
    """What an app does with its connection at the end."""
    conn = g.pop("conn", None)
    if conn is not None:
        conn.commit()
        conn.close()


async def store_in_time(exc: BaseException | None) -> None:
    store()


PREPARATIONS: dict[str, Callable[[Flask], Any]] = {
    "app context": lambda app: app.teardown_appcontext(store),
    "asynchronous": lambda app: app.teardown_appcontext(store_in_time),
    "request": lambda app: app.teardown_request(store),
    "asynchronous of a request": lambda app: app.teardown_request(store_in_time),
    "signal": lambda app: appcontext_tearing_down.connect(store, app),
}


@pytest.mark.parametrize("how", PREPARATIONS)
def test_a1_teardown_registered_before(
    how: str, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A teardown function that was registered before `init_app` commits and closes what the view
    took, and nothing counts as a leak.
    """
    with app_with(PREPARATIONS[how], url) as (app, db):
        assert app.test_client().get("/").text == "done"
        assert warnings_in(caplog) == []
        assert (pool_of(app, db).in_use, pool_of(app, db).leaked) == (0, 0)
        with app.app_context():
            assert ids() == [1]


def test_a1_teardown_of_blueprint(url: str, caplog: pytest.LogCaptureFixture) -> None:
    """The same holds for a teardown function of a blueprint, whenever that is registered."""

    def prepare(app: Flask) -> None:
        early = Blueprint("early", __name__)
        early.add_url_rule("/early", view_func=take)
        early.teardown_request(store)
        app.register_blueprint(early)

    def take() -> str:
        g.conn = get_db_connection()
        insert(g.conn, 1)
        return "done"

    with app_with(prepare, url) as (app, db):
        assert app.test_client().get("/early").text == "done"
        assert (warnings_in(caplog), pool_of(app, db).leaked) == ([], 0)
        with app.app_context():
            assert ids() == [1]


@pytest.mark.parametrize("is_before", [False, True])
def test_a1_failing_teardown(is_before: bool, url: str, caplog: pytest.LogCaptureFixture) -> None:
    """When a teardown function raises, what is left is taken back all the same, and reported."""

    def fail(exc: BaseException | None) -> None:
        if "conn" in g:
            raise LookupError("of the test")

    def prepare(app: Flask) -> None:
        if is_before:
            app.teardown_appcontext(fail)

    with app_with(prepare, url) as (app, db):
        if not is_before:
            app.teardown_appcontext(fail)
        with pytest.raises((LookupError, ExceptionGroup)):  # Flask 3.2 calls the others as well
            app.test_client().get("/")
        assert len(warnings_in(caplog)) == 1
        assert (pool_of(app, db).in_use, pool_of(app, db).leaked) == (0, 1)


def test_a1_nested_app_contexts(url: str, caplog: pytest.LogCaptureFixture) -> None:
    """The end of an inner app context leaves what the outer one holds alone."""
    with app_with(PREPARATIONS["app context"], url) as (app, _):
        with app.app_context():
            g.conn = get_db_connection()
            with app.app_context():
                g.conn = get_db_connection()
                insert(g.conn, 1)
            insert(g.conn, 2)
        assert warnings_in(caplog) == []
        with app.app_context():
            assert ids() == [1, 2]


def test_a1_preserved_context(url: str, caplog: pytest.LogCaptureFixture) -> None:
    """A context that a client preserves has its teardown at the end of the request; what is taken
    in it later is given back at its second end.
    """
    with app_with(PREPARATIONS["app context"], url) as (app, db):
        with app.test_client() as client:
            client.get("/")
            assert pool_of(app, db).in_use == 0
            g.conn = get_db_connection()
            insert(g.conn, 2)
        assert (pool_of(app, db).in_use, warnings_in(caplog)) == (0, [])
        with app.app_context():
            assert ids() == [1, 2]
