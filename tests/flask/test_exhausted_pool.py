"""A2: the answer of an exhausted pool."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import (
    Blueprint,
    Flask,
    abort,
)
from flask.testing import FlaskClient
from werkzeug.exceptions import HTTPException, ServiceUnavailable

from flask_pooled_db import (
    PooledDB,
    PooledDBError,
    PoolTimeout,
    db_connection_context,
)
from harness.server import MariaDBServer
from harness.waiting import PATIENCE
from tests.support.sites import bare_app, serve, warnings_in


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
