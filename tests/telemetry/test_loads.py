"""How full servers are, as the page tells: asked through idle connections, while it is open."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from flask import Flask

from flask_pooled_db import PooledDB, get_db_connection
from flask_pooled_db.flask.page import board
from flask_pooled_db.telemetry import loads
from harness.server import MariaDBServer
from harness.waiting import wait_until
from tests.support.apps import pooled_app
from tests.support.pools import check_counts, open_pool

Site = tuple[Flask, PooledDB]


@contextlib.contextmanager
def looked_at(url: str, **keys: Any) -> Iterator[Site]:
    """An app with a page, whose database was used. It asks again and again."""
    patched = pytest.MonkeyPatch.context()
    with pooled_app(url, runtime_dir=False, **keys) as (app, db), patched as on:
        # InnoDB makes its list of transactions anew once nobody has read it for 0.1 s.
        on.setattr(loads, "INTERVAL", 0.2)
        on.setattr(board, "FRESH", 0.0)
        app.register_blueprint(db.page_blueprint(authorize=lambda: True))
        db.fetch_value("SELECT 1")
        yield app, db


def server_of(site: Site) -> Any:
    """What the page is told of the server of the default database."""
    view: Any = site[0].test_client().get("/pooled-db/data").json
    return view["binds"][0]["server"]


def ask(site: Site) -> Any:
    """What it is told once the server has answered."""
    wait_until(lambda: server_of(site), "the answer")
    return server_of(site)


@pytest.fixture(params=["pymysql", "mariadbconnector", "psycopg"])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of an empty database, by each driver of a server, for an account that may see all."""
    if request.param == "psycopg":
        yield request.getfixturevalue("postgresql")
        return
    mariadb: MariaDBServer = request.getfixturevalue("mariadb")
    name = f"user_{uuid4().hex[:8]}"
    mariadb.execute(f"CREATE USER '{name}'@'%' IDENTIFIED BY 'x'")
    mariadb.execute(f"GRANT ALL ON `%`.* TO '{name}'@'%'")
    mariadb.execute(f"GRANT PROCESS ON *.* TO '{name}'@'%'")
    database = request.getfixturevalue("database")
    yield mariadb.url(request.param, database, user=name, password="x")
    mariadb.execute(f"DROP USER '{name}'@'%'")


def test_load(url: str) -> None:
    """A page is told how many connections the server has and may have, and what they do; asking
    takes no checkout, and leaves the pool as it was.
    """
    with looked_at(url) as site:
        held = get_db_connection()
        with held.cursor() as cur:
            cur.execute("CREATE TABLE held (id INT)")
            held.commit()
            cur.execute("INSERT INTO held VALUES (1)")
        site[1].fetch_value("SELECT 1")
        before = site[1].stats()
        answers: list[Any] = []

        def has_begun() -> bool:
            answers.append(ask(site))
            return bool(answers[-1]["in_transaction"])

        wait_until(has_begun, "the transaction")
        told = answers[-1]
        assert told["connections"] >= 2
        assert told["max_connections"] > told["connections"]
        assert told["in_transaction"] >= 1
        assert told["oldest"] >= 0
        assert told["active"] >= 1
        wait_until(lambda: site[1].stats().in_use == 1, "the end of a look that is under way")
        after = site[1].stats()
        assert (after.checkouts, after.idle) == (before.checkouts, before.idle)
        assert after.evictions == before.evictions
        held.rollback()
        held.close()
        check_counts(site[1].pool())


def test_without_privilege(mariadb: MariaDBServer, database: str) -> None:
    """An account that may not see what others do is told how many they are, and no more."""
    with looked_at(mariadb.url("pymysql", database)) as site:
        told = ask(site)
        assert told["connections"] >= 1
        assert (told["in_transaction"], told["oldest"]) == (None, None)


def test_asked_rarely(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often the page asks, the server is asked now and then, and never if nobody looks."""
    asked: list[int] = []
    with looked_at(url) as site:
        monkeypatch.setattr(loads, "INTERVAL", 60.0)
        engine = site[1].pool().engine
        monkeypatch.setattr(engine, "ask_idle", lambda *_: asked.append(1))
        site[1].fetch_value("SELECT 1")
        assert asked == []
        for _ in range(5):
            server_of(site)
        wait_until(lambda: asked)
        assert asked == [1]


def test_full_pool(url: str) -> None:
    """Where no connection is idle nobody is asked: callers need all there are."""
    with looked_at(url, maxconnections=1) as site:
        held = get_db_connection()
        site[0].extensions["pooled_db"].watch.seen.loads._ask([[site[1].pool()]])
        assert server_of(site) is None
        held.close()


def test_sqlite() -> None:
    """A database without a server has no such numbers."""
    with looked_at("sqlite://") as site:
        site[0].extensions["pooled_db"].watch.seen.loads._ask([[site[1].pool()]])
        assert server_of(site) is None


def test_silent_server(url: str) -> None:
    """A question that fails costs its connection, and nothing else."""
    with open_pool(url=url) as pool:
        pool.lease().close()

        def question(entry: Any) -> None:
            entry.raw.close()
            entry.raw.cursor().execute("SELECT 1")

        with pytest.raises(Exception, match=r".*"):
            pool.engine.ask_idle(question, 1.0)
        with pool.lease() as conn:
            conn.cursor().execute("SELECT 1")
        assert check_counts(pool).discarded == 1


def test_old_answers(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a server has answered is told for a while."""
    with looked_at(url) as site:
        assert ask(site)["connections"] >= 1
        monkeypatch.setattr(loads, "KEPT", 0.0)
        numbers = site[0].extensions["pooled_db"].numbers.collect()
        assert numbers["pools"]["default"]["server"] is None


def test_many_binds(
    mariadb: MariaDBServer, postgresql: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many binds a server has, it is asked through one of them, one that has an idle
    connection, and all are told; so no server is left out.
    """
    monkeypatch.setattr(loads, "MOST_SERVERS", 2)
    url = mariadb.url("pymysql", mariadb.create_database())
    binds = {f"b{number:02}": url for number in range(25)}
    with pooled_app(url, runtime_dir=False, binds={**binds, "other": postgresql}) as (app, db):
        for name in ("b07", "other"):
            db.fetch_value("SELECT 1", bind=name)
        seen = app.extensions["pooled_db"].watch.seen.loads
        pools = [db.pool(name) for name in (*binds, "other")]
        seen._ask(seen._next(pools, 1.0))
        told = {name: seen.of(name) for name in (*binds, "other")}
        assert all(told.values())
        assert len({one["at"] for one in told.values()}) == 2
        assert told["b00"]["max_connections"] == told["b24"]["max_connections"]


def test_turns(monkeypatch: pytest.MonkeyPatch, mariadb: MariaDBServer, database: str) -> None:
    """Where there are more servers than are asked at a time, they take turns; files have none."""
    monkeypatch.setattr(loads, "MOST_SERVERS", 2)
    urls = {f"b{number}": f"mysql://app@127.0.0.1:{number + 1}/shop" for number in range(5)}
    binds = {"file": "sqlite://", "function": lambda: "sqlite://", **urls}
    with pooled_app(mariadb.url("pymysql", database), runtime_dir=False, binds=binds) as (app, db):
        seen = app.extensions["pooled_db"].watch.seen.loads
        pools = [db.pool(name) for name in (*urls, "file", "default")]
        turns = [[one.bind for (one,) in seen._next(pools, 1.0 + turn)] for turn in range(4)]
        assert turns == [["b0", "b1"], ["b2", "b3"], ["b4", "default"], ["b0", "b1"]]
        assert [one.bind for (one,) in seen._next([db.pool("function")], 9.0)] == ["function"]
