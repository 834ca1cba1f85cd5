"""What the commands tell behind a real pgbouncer, which hides the app's connections."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from flask_pooled_db import PooledDB
from flask_pooled_db.pool import checkup
from harness.pgbouncer import PgBouncer
from harness.postgres import PostgreSQLServer
from harness.waiting import wait_until
from tests.flask import stressing
from tests.flask.checking import check, found, site
from tests.flask.listing import read, run, site_of
from tests.support.apps import pooled_app

pytestmark = pytest.mark.usefixtures("surroundings")

PROXY = "transaction"


@contextlib.contextmanager
def altered(url: str, what: str, back: str) -> Iterator[None]:
    """A setting of the server's for all new sessions of a role, during the block."""
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(what.encode())
        try:
            yield
        finally:
            connection.execute(back.encode())


# check


@pytest.mark.parametrize("proxy", [None, PROXY])
def test_check_of_capacity(pgbouncer: PgBouncer, proxy: str | None, tmp_path: Path) -> None:
    """Clients of a proxy may exceed the connections of its server: they are not compared. What is
    to be compared with the proxy's own settings is told.
    """
    with site(pgbouncer.url, tmp_path, proxy=proxy, maxconnections=50) as app:
        told = check(app, "--workers", "3")
        db: PooledDB = app.extensions["pooled_db"].extension
        with app.app_context(), contextlib.ExitStack() as stack:
            if proxy:  # else it would leave something in the session of other tests
                stack.enter_context(db.connection_context())
            again = check(app, "--workers", "3")
    ((severity, text),) = found(told, "connections")
    assert severity == "ok"
    assert text.startswith("3 workers x 50 (MAXCONNECTIONS: 50 of 'default') = 150 connections")
    assert "max_client_conn has to be 150 at least" in text
    assert "default_pool_size" in text
    assert "max_connections (100)" in text
    assert "others use" not in text
    assert found(again, "connections") == [(severity, text)]
    ((severity, text),) = found(told, "others")
    assert severity == "ok"
    assert "nobody can tell whose they are" in text
    assert "known by the ids" not in text


def test_check_of_any_number(pgbouncer: PgBouncer, tmp_path: Path) -> None:
    """A pool without a limit has none at the proxy either, which is a warning."""
    with site(pgbouncer.url, tmp_path, proxy=PROXY, maxconnections=0) as app:
        ((severity, text),) = found(check(app), "connections")
    assert severity == "warning"
    assert "any number (MAXCONNECTIONS is 0)" in text
    assert "max_client_conn" in text


def test_check_of_binds(pgbouncer: PgBouncer, shared_postgresql: str, tmp_path: Path) -> None:
    """Binds behind one proxy count together; one that goes past it is compared with the server,
    on which what goes through the proxy is others'.
    """
    binds = {
        "log": {"URL": pgbouncer.url, "PROXY": PROXY, "MAXCONNECTIONS": 40},
        "past": {"URL": shared_postgresql, "MAXCONNECTIONS": 5},
        "many": {"URL": shared_postgresql, "MAXCONNECTIONS": 200},
    }
    settings = {"proxy": PROXY, "maxconnections": 60}
    with site(pgbouncer.url, tmp_path, binds=binds, **settings) as app:
        told = check(app, "--workers", "2")
    behind = [one for one in found(told, "connections") if "max_client_conn" in one[1]]
    past = [one for one in found(told, "connections") if "max_client_conn" not in one[1]]
    ((severity, text),) = behind
    assert severity == "ok"
    assert "2 workers x 100 (MAXCONNECTIONS: 60 of 'default', 40 of 'log') = 200" in text
    ((severity, text),) = past
    assert severity == "error"
    assert "2 workers x 205 (MAXCONNECTIONS: 200 of 'many', 5 of 'past') = 410" in text
    assert "raise max_connections" in text


@pytest.mark.parametrize("proxy", [None, PROXY])
def test_check_of_limit_of_role(
    pgbouncer: PgBouncer, shared_postgresql: str, proxy: str | None, tmp_path: Path
) -> None:
    """Nor is the database's limit of connections."""
    back = "ALTER DATABASE postgres CONNECTION LIMIT -1"
    what = "ALTER DATABASE postgres CONNECTION LIMIT 20"
    with altered(shared_postgresql, what, back):
        with site(pgbouncer.url, tmp_path, proxy=proxy, maxconnections=50) as app:
            told = check(app, "--workers", "3")
    assert [severity for severity, _ in found(told, "connections")] == ["ok"]


def test_check_of_idle_timeout(shared_postgresql: str, tmp_path: Path) -> None:
    """Idle sessions of the server's are the proxy's: that the server ends them loses no request."""
    what = "ALTER DATABASE postgres SET idle_session_timeout = '60s'"
    back = "ALTER DATABASE postgres RESET idle_session_timeout"
    with altered(shared_postgresql, what, back), PgBouncer(shared_postgresql) as proxy:
        with site(proxy.url, tmp_path, proxy=PROXY, ping_after=600) as app:
            told = check(app)
        assert told["binds"][0]["server"]["idle_timeout"] == {"idle_session_timeout": 60.0}
        assert found(told, "idle") == []


@pytest.mark.parametrize("proxy", [None, PROXY])
def test_check_of_proxy(pgbouncer: PgBouncer, proxy: str | None, tmp_path: Path) -> None:
    """A proxy that was declared is as it should be; one that was not is a warning."""
    with site(pgbouncer.url, tmp_path, proxy=proxy) as app:
        ((severity, text),) = found(check(app), "proxy")
    assert severity == ("warning" if proxy is None else "ok")
    assert ("set PROXY to 'transaction'" in text) == (proxy is None)


# server


def test_server(pgbouncer: PgBouncer, tmp_path: Path) -> None:
    """The server's list is the proxy's connections: it is said why the app's can't be told."""
    with site_of(pgbouncer.url, "", tmp_path, proxy=PROXY) as place:
        result, told = run(place), read(place)
    assert result.exit_code == 0
    head, why = result.stdout.splitlines()
    assert head.startswith("'default' at PostgreSQL ")
    assert head.endswith(" of 100 connections in all")
    assert "()" not in result.stdout
    assert why.startswith("Which of them are those of 'default' is not known: a proxy is in")
    assert told["sessions"] == []
    assert told["totals"] is None
    assert "a proxy is in between" in told["not_known"]["default"]


def test_server_of_binds(pgbouncer: PgBouncer, shared_postgresql: str, tmp_path: Path) -> None:
    """The connections of a bind that goes past the proxy are listed beside that."""
    binds = {"past": shared_postgresql}
    with site_of(pgbouncer.url, "", tmp_path, proxy=PROXY, binds=binds) as place:
        result, told = run(place), read(place)
    assert "1 connection of the app (1 active)" in result.stdout
    assert "Which of them are those of 'default' is not known" in result.stdout
    assert "those of 'past'" not in result.stdout
    assert told["totals"]["total"] == 1
    assert list(told["not_known"]) == ["default"]


def test_kill_orphans(pgbouncer: PgBouncer, tmp_path: Path) -> None:
    """Nothing is ended there."""
    with site_of(pgbouncer.url, "", tmp_path, proxy=PROXY) as place:
        result = run(place, "--kill-orphans", "--yes", "--idle", "0")
    assert result.exit_code == 1
    assert "no orphan of 'default' is ended: a proxy is in between" in result.stderr


# stress


@pytest.mark.parametrize(("mode", "proxy"), [("session", None), ("transaction", PROXY)])
def test_stress(shared_postgresql: str, mode: str, proxy: str | None) -> None:
    """What the server has left is not told there, and why is."""
    with PgBouncer(shared_postgresql, {"pool_mode": mode}) as between:
        place = stressing.make(url=between.url, proxy=proxy)
        result = stressing.stress(place, *stressing.SHORT, "--yes")
        told = stressing.told(stressing.stress(place, *stressing.SHORT, "--yes", "--json"))
        place[1].close()
    assert result.exit_code == 0, result.output
    left = told["left"]
    assert left["connections_on_the_server"] is None
    assert left["transactions_on_the_server"] is None
    assert (left["connections_in_use"], left["rows_wrong"]) == (0, 0)
    assert "a proxy is in between" in told["server_not_known"]
    lines = result.stdout.splitlines()
    assert next(one for one in lines if "connections on" in one).split()[-2:] == ["not", "told"]
    assert lines[-1].startswith("What the server has left is not known: a proxy is in between")


# /healthz/ready


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each question has a check of its own."""
    monkeypatch.setattr(checkup, "INTERVAL", 0.0)


@pytest.mark.usefixtures("always")
def test_ready_while_all_sessions_are_in_use(shared_postgresql: str) -> None:
    """The pool of pgbouncer is full: the bind is busy, and the worker ready. What is idle in the
    worker stays, but for the connection that was asked.
    """
    with (
        PgBouncer(shared_postgresql, {"default_pool_size": "1"}) as between,
        pooled_app(between.url, proxy=PROXY, acquire_timeout=60) as (app, db),
        psycopg.connect(between.url.replace("+psycopg", "")) as holder,
    ):
        app.register_blueprint(db.health_blueprint(timeout=2.5))
        client = app.test_client()
        with db.connection_context(), db.connection_context(independent=True):
            pass
        idle = db.stats().idle
        assert idle >= 2
        assert client.get("/healthz/ready").get_json()["binds"] == {"default": "ok"}
        holder.execute("SELECT 1")
        for connects in (1, 2):
            before = db.stats()
            answer = client.get("/healthz/ready")
            assert (answer.status_code, answer.get_json()["binds"]) == (200, {"default": "busy"})
            assert (db.stats().idle, db.stats().connects) == (idle, before.connects + 1), connects
        holder.rollback()
        assert client.get("/healthz/ready").get_json()["binds"] == {"default": "ok"}


@pytest.mark.usefixtures("always")
def test_not_ready_without_server() -> None:
    """The server behind pgbouncer is away: the bind is down, though pgbouncer takes connections;
    and so it is when pgbouncer is away.
    """
    settings = {"proxy": PROXY, "acquire_timeout": 0.5}
    with PostgreSQLServer() as server, PgBouncer(server.url()) as between:
        with pooled_app(between.url, **settings) as (app, db):
            app.register_blueprint(db.health_blueprint())
            client = app.test_client()

            def is_ready() -> bool:
                return client.get("/healthz/ready").status_code == 200

            assert is_ready()
            server.kill()
            wait_until(lambda: not is_ready(), "the outage")
            assert not any(is_ready() for _ in range(5))
            server.start()
            wait_until(is_ready, "the server")
            server.pause()
            wait_until(lambda: not is_ready(), "callers would be turned away")
            assert not is_ready()
            server.resume()
            wait_until(is_ready, "the server")
            between.kill()
            assert not is_ready()
