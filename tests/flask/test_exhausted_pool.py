"""A2: the answer of an exhausted pool."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Blueprint, Flask, abort
from flask.testing import FlaskClient
from werkzeug.exceptions import HTTPException, ServiceUnavailable

from flask_pooled_db import PooledDB, PooledDBError, PoolTimeout, db_connection_context
from harness.server import SCHEMES
from harness.waiting import PATIENCE
from tests.support.sites import bare_app, serve, warnings_in
from tests.support.stages import ON_PSYCOPG, own_server


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


def test_a2_answer(url: str) -> None:
    """An exhausted pool answers 503 with Retry-After, even to a debugger or a test client."""
    for settings in ({}, {"TESTING": True}, {"PROPAGATE_EXCEPTIONS": True}):
        with exhausted(url) as (app, client):
            app.config.update(settings)
            answer = client.get("/")
            assert answer.status_code == 503
            assert int(answer.headers["Retry-After"]) >= 1
        Path(url.removeprefix("sqlite:///")).unlink()


def test_a2_page(url: str) -> None:
    """The page does not show the state of the pool."""
    with exhausted(url) as (_, client):
        text = client.get("/").text
    assert "The database is busy or away" in text
    assert "in use" not in text
    assert "default" not in text


def test_a2_log(url: str, caplog: pytest.LogCaptureFixture) -> None:
    """The log shows the state of the pool."""
    with exhausted(url) as (_, client):
        client.get("/")
    (warning,) = warnings_in(caplog)
    assert "Answering 503" in warning
    assert "of 1, 1 are in use" in warning


def test_a2_retry_after(url: str) -> None:
    """Retry-After is as long as the wait was."""
    with exhausted(url, acquire_timeout=1.05) as (_, client):
        assert int(client.get("/").headers["Retry-After"]) >= 2


def test_a2_recovery(url: str) -> None:
    """A request is served as soon as a place is free again."""
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
def test_a2_app_handler(url: str, what: Any, comes_first: bool) -> None:
    """The app's own handler answers, whether it was registered before or after `init_app`, for this
    error, its root or the status.
    """

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
def test_a2_blueprint_handler(url: str, what: Any) -> None:
    """A blueprint's own handler answers its views; the others get the extension's 503."""
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


def test_a2_async_handler(url: str) -> None:
    """An async handler of the app is awaited."""

    async def own(error: Exception) -> tuple[str, int]:
        return "own", 599

    with exhausted(url) as (app, client):
        app.register_error_handler(PooledDBError, own)
        assert client.get("/").status_code == 599


def test_a2_other_errors(site: tuple[Flask, PooledDB]) -> None:
    """No other error is answered 503."""
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


@pytest.mark.parametrize("driver", [*SCHEMES, ON_PSYCOPG])
def test_a2_database_down(driver: str) -> None:
    """A database that is down answers 503 at the deadline."""
    with own_server(driver) as server:
        name = server.create_database()
        with bare_app(url=server.url(driver, name), acquire_timeout=1.0) as (app, _):

            def view() -> str:
                with db_connection_context():
                    return "done"

            client = serve(app, "/", view)
            assert client.get("/").status_code == 200
            server.kill()
            answer = client.get("/")
            assert (answer.status_code, "Retry-After" in answer.headers) == (503, True)
