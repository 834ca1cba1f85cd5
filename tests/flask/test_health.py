"""`/healthz/live` and `/healthz/ready`."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest
from asgiref.wsgi import WsgiToAsgi
from flask import Flask
from flask.testing import FlaskClient

from flask_pooled_db import PooledDB, UsageError, db_connection_context
from flask_pooled_db.pool import checkup
from harness.server import MariaDBServer
from harness.waiting import PATIENCE, wait_until
from tests.support.pools import call
from tests.support.sites import bare_app

READY = {"status": "ready", "binds": {"default": "ok"}}


@pytest.fixture(autouse=True)
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each question has a check of its own."""
    monkeypatch.setattr(checkup, "INTERVAL", 0.0)


def client_of(app: Flask, db: PooledDB, **options: Any) -> FlaskClient:
    app.register_blueprint(db.health_blueprint(**options))
    return app.test_client()


def test_live(site: tuple[Flask, PooledDB]) -> None:
    """The process answers, and uses no database, closed or not."""
    app, db = site
    client = client_of(app, db)
    before = db.stats()
    for _ in range(2):
        answer = client.get("/healthz/live")
        assert (answer.status_code, answer.get_json()) == (200, {"status": "alive"})
        assert answer.headers["Cache-Control"] == "no-store"
        assert db.stats().connects == before.connects
        db.close()


def test_ready(url: str) -> None:
    """A process that has not used its database opens a connection, and is ready. HEAD works too."""
    app = Flask("app_under_test")
    app.config.update(POOLED_DB_URL=url, POOLED_DB_MINCACHED=0)
    db = PooledDB(app)
    client = client_of(app, db)
    answer = client.get("/healthz/ready")
    assert (answer.status_code, answer.get_json()) == (200, READY)
    assert answer.mimetype == "application/json"
    assert answer.headers["Cache-Control"] == "no-store"
    assert "Retry-After" not in answer.headers
    assert db.stats().idle == 1
    head = client.head("/healthz/ready")
    assert (head.status_code, head.data) == (200, b"")
    db.close()


def test_ready_while_busy(site: tuple[Flask, PooledDB]) -> None:
    """All connections are in use: still ready."""
    app, db = site
    client = client_of(app, db)
    db.pool().resize(0, 0, 1)
    with db.connection_context():
        answer = client.get("/healthz/ready")
    assert answer.status_code == 200
    assert answer.get_json() == {"status": "ready", "binds": {"default": "busy"}}


def test_not_ready_after_close(site: tuple[Flask, PooledDB]) -> None:
    """A process whose pools were closed is not ready."""
    app, db = site
    client = client_of(app, db)
    assert client.get("/healthz/ready").status_code == 200
    db.close()
    answer = client.get("/healthz/ready")
    assert answer.status_code == 503
    assert answer.get_json() == {"status": "down", "binds": {"default": "closed"}}


def test_not_ready(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It says which bind is down, when to ask again, and no word of why: that is in the log."""
    binds = {"lo\ng": f"sqlite:///{tmp_path}/missing/secret.db"}
    with bare_app(url=f"sqlite:///{tmp_path}/shop.db", binds=binds) as (app, db):
        client = client_of(app, db)
        answer = client.get("/healthz/ready")
        assert answer.status_code == 503
        assert int(answer.headers["Retry-After"]) > 0
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.get_json() == {"status": "down", "binds": {"default": "ok", "lo\ng": "down"}}
        assert "secret" not in answer.text
        assert client.head("/healthz/ready").status_code == 503
    wait_until(lambda: "Bind 'lo\\ng' is not ready: connecting failed" in caplog.text)


def test_ready_without_a_bind(tmp_path: Path) -> None:
    """`binds` names those that count; the others are not asked."""
    binds = {"log": f"sqlite:///{tmp_path}/missing/log.db"}
    with bare_app(url=f"sqlite:///{tmp_path}/shop.db", binds=binds) as (app, db):
        assert client_of(app, db, binds=["default"]).get("/healthz/ready").get_json() == READY
        assert db.stats("log").connect_errors == 0


def test_tenants(mariadb: MariaDBServer, database: str) -> None:
    """A tenant's connections are its server's: only that is asked, unless the tenant is named."""
    binds = {"acme": {"SERVER": "default", "SCHEMA": database}}
    with bare_app(url=mariadb.url("pymysql", database), binds=binds) as (app, db):
        app.register_blueprint(db.health_blueprint(binds=["acme"]), name="own", url_prefix="/own")
        client = client_of(app, db)
        assert client.get("/healthz/ready").get_json() == READY
        answer = client.get("/own/healthz/ready")
        assert answer.get_json() == {"status": "ready", "binds": {"acme": "ok"}}


def test_blueprint_of_several_apps(tmp_path: Path) -> None:
    """One blueprint serves several apps, each with its own databases."""
    db = PooledDB()
    blueprint = db.health_blueprint()
    found = []
    for place in ("here", "missing/there"):
        app = Flask(place)
        app.config.update(POOLED_DB_URL=f"sqlite:///{tmp_path}/{place}.db", POOLED_DB_MINCACHED=0)
        app.register_blueprint(blueprint)  # before `init_app`
        db.init_app(app)
        found.append((app, app.test_client().get("/healthz/ready").status_code))
    assert [status for _, status in found] == [200, 503]
    db.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timeout": 0}, "timeout must be more than 0"),
        ({"timeout": "1"}, "timeout must be a number"),
        ({"binds": "default"}, "binds must be names of binds"),
        ({"binds": []}, "binds must be names of binds"),
        ({"binds": [None]}, "binds must be names of binds"),
        ({"binds": 1}, "binds must be names of binds"),
        ({"binds": ["lgo"]}, "there is no bind 'lgo' in POOLED_DB_BINDS"),
    ],
)
def test_wrong_options(site: tuple[Flask, PooledDB], options: dict[str, Any], message: str) -> None:
    """What can't be meant is refused when the blueprint is made, or registered."""
    with pytest.raises(UsageError, match=message):
        client_of(*site, **options)


def test_p5_hung_server(private_mariadb: MariaDBServer) -> None:
    """A server that is frozen is down within the limit for all who ask, whichever way it is asked,
    while another database of the app answers; once it goes on, so does the app.
    """
    server = private_mariadb
    settings = {"url": server.url("pymysql", server.create_database()), "connect_timeout": 0.5}
    with bare_app(**settings, binds={"log": "sqlite://"}, maxconnections=1) as (app, db):
        client = client_of(app, db, timeout=0.4)
        assert client.get("/healthz/ready").status_code == 200
        server.pause()
        for _ in range(3):  # a ping, and then a connect
            began = time.monotonic()
            asked = [call(client_of_its_own, app) for _ in range(3)]
            answers = [asker.result() for asker in asked]
            assert answers == [(503, {"default": "down", "log": "ok"})] * 3
            assert time.monotonic() - began < PATIENCE / 3
        server.resume()
        wait_until(lambda: client.get("/healthz/ready").status_code == 200, "the server to be back")
        with app.app_context(), db_connection_context() as conn:
            conn.cursor().execute("SELECT 1")


def client_of_its_own(app: Flask) -> tuple[int, Any]:
    answer = app.test_client().get("/healthz/ready")
    return answer.status_code, answer.get_json()["binds"]


def test_ready_under_asgi(site: tuple[Flask, PooledDB]) -> None:
    """The adapter for ASGI servers has the same answers."""
    app, db = site
    client_of(app, db)
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "GET",
        "path": "/healthz/ready",
        "query_string": b"",
        "headers": [],
        "http_version": "1.1",
        "scheme": "http",
    }
    adapted: Any = WsgiToAsgi(app)  # type: ignore[no-untyped-call]
    asyncio.run(adapted(scope, receive, send))
    assert sent[0]["status"] == 200
    assert json.loads(b"".join(message.get("body", b"") for message in sent)) == READY
