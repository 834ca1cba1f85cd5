"""The app's side: its loader, its guard, its signals, and what callers see."""

from __future__ import annotations

import asyncio
import functools
import gc
import logging
import sqlite3
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, current_app

from flask_pooled_db import (
    ConfigError,
    ConnectFailed,
    PoolClosed,
    PooledDB,
    PoolTimeout,
    UnknownBind,
    UsageError,
    db_connection_context,
    get_db_connection,
    signals,
)
from flask_pooled_db.lease.scope import Scope
from harness.waiting import wait_until
from tests.support.apps import pooled_app
from tests.support.pools import call

SECRET = "Kolibri7Geheim"


@pytest.fixture
def shops(tmp_path: Path) -> Iterator[tuple[Flask, PooledDB]]:
    """An app with a database for each shop, in its context; each has a table with its own name."""
    (tmp_path / "main").mkdir()
    with pooled_app(f"sqlite:///{tmp_path}/main/main.db", bind_idle_timeout=1000) as (app, db):

        @db.bind_loader
        def load(name: str) -> str | None:
            return f"sqlite:///{tmp_path}/{name}.db" if name.startswith("shop") else None

        yield app, db


def name_in(db: PooledDB, bind: str) -> str:
    """Write a bind's name into it, if nothing is there, and read what is there."""
    with db.connection_context(bind) as conn, conn.cursor() as cur:
        cur.execute("CREATE TABLE IF NOT EXISTS who (name TEXT)")
        cur.execute("SELECT name FROM who")
        if not cur.fetchone():
            cur.execute("INSERT INTO who VALUES (%s)", (bind,))
        cur.execute("SELECT name FROM who")
        (name,) = cur.fetchone()
        return str(name)


def enter(scope: Scope) -> None:
    """Enter a block and leave it."""
    with scope:
        pass


WAYS: dict[str, Callable[[PooledDB, str], Any]] = {
    "db_connection_context": lambda _, bind: enter(db_connection_context(bind)),
    "connection_context": lambda db, bind: enter(db.connection_context(bind)),
    "get_db_connection": lambda _, bind: get_db_connection(bind),
    "connection_of": lambda db, bind: db.connection_of(bind),
    "fetch_value": lambda db, bind: db.fetch_value("SELECT 1", bind=bind),
    "execute": lambda db, bind: db.execute("SELECT 1", bind=bind),
    "run_script": lambda db, bind: db.run_script("SELECT 1;", bind),
    "run_transaction": lambda db, bind: db.run_transaction(lambda _: None, bind=bind),
    "pool": lambda db, bind: db.pool(bind),
    "stats": lambda db, bind: db.stats(bind),
}
each_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


@each_way
def test_each_way_opens(shops: tuple[Flask, PooledDB], way: Any) -> None:
    """Every way to a connection opens a bind that was never seen."""
    app, db = shops
    found = way(db, "shop1")
    assert set(app.extensions["pooled_db"].registry.opened) == {"shop1"}
    if hasattr(found, "close"):
        found.close()


@each_way
@pytest.mark.parametrize("name", ["", "nowhere", "x" * 100_000, "a\nb", "../x", f"u:{SECRET}@h"])
def test_each_way_to_an_unknown_bind(shops: tuple[Flask, PooledDB], way: Any, name: str) -> None:
    """A name that the loader does not know is an UnknownBind, never another database; its message
    is short and shows no control characters, nor what may be a password.
    """
    app, db = shops
    with pytest.raises(UnknownBind, match="the bind_loader knows none") as caught:
        way(db, name)
    text = str(caught.value)
    assert len(text) < 200
    assert text.isprintable()
    assert SECRET not in text
    assert caught.value.bind == name
    assert not app.extensions["pooled_db"].registry.opened


def test_each_bind_is_its_own(shops: tuple[Flask, PooledDB]) -> None:
    """Each name is a database of its own, also after it was closed in between."""
    _, db = shops
    for _ in range(2):
        assert [name_in(db, f"shop{i}") for i in range(5)] == [f"shop{i}" for i in range(5)]
        for i in range(5):
            assert db.close_bind(f"shop{i}")


def test_404(shops: tuple[Flask, PooledDB]) -> None:
    """An app turns an unknown bind into a 404."""
    app, db = shops
    app.register_error_handler(UnknownBind, lambda _: ("no such shop", 404))
    app.add_url_rule("/<shop>", view_func=lambda shop: name_in(db, shop))
    client = app.test_client()
    assert client.get("/shop1").text == "shop1"
    answer = client.get("/nowhere")
    assert (answer.status_code, answer.text) == (404, "no such shop")


def test_name_as_text(shops: tuple[Flask, PooledDB]) -> None:
    """What is no text is no name."""
    _, db = shops
    for wrong in (1, b"shop1", ["shop1"], ("shop1",)):
        with pytest.raises(UsageError, match="bind must be the name of a bind"):
            db.pool(wrong)  # type: ignore[arg-type]


def test_default_is_no_name(tmp_path: Path) -> None:
    """Without a default database, None is not given to the loader."""
    asked: list[str] = []
    with pooled_app(binds={"main": f"sqlite:///{tmp_path}/main.db"}) as (_, db):
        db.bind_loader(asked.append)
        with pytest.raises(UsageError, match="there is no default database"):
            db_connection_context()
        assert not asked


# Settings


def test_mapping_of_keys(tmp_path: Path) -> None:
    """A loader may return the keys that a bind in POOLED_DB_BINDS has; it inherits the others."""
    settings = {"URL": f"sqlite:///{tmp_path}/x.db", "MAXCONNECTIONS": 2}
    with pooled_app("sqlite:///:memory:", acquire_timeout=3, maxconnections=7) as (_, db):
        db.bind_loader(lambda _: settings)
        config = db.pool("x").config
        assert (config.maxconnections, config.acquire_timeout) == (2, 3)
        assert db.pool("x") is db.pool("x")


def test_nothing_opened_ahead(tmp_path: Path) -> None:
    """A bind that is loaded opens no connection ahead, unless its own settings say so."""
    with pooled_app("sqlite:///:memory:", mincached=3) as (_, db):
        more = {"few": {}, "many": {"MINCACHED": 2}}
        db.bind_loader(lambda name: {"URL": f"sqlite:///{tmp_path}/{name}.db", **more[name]})
        assert db.pool("few").config.mincached == 0
        assert db.pool("many").config.mincached == 2


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        (7, "must be a URL or a mapping of keys, not 7"),
        ({"URL": "sqlite:///x", "NONSENSE": 1}, "NONSENSE is not a known key"),
        ({}, "URL is not set"),
        (f"nosuch://u:{SECRET}@h/db", "the scheme nosuch:// is not known"),
        (
            {"URL": "sqlite:///x", "MAX_BINDS": 3},
            "MAX_BINDS is not a key of a bind: set POOLED_DB_",
        ),
        (
            {"URL": "sqlite:///x", "REPLICA": "y"},
            "REPLICA names no bind that is in POOLED_DB_BINDS",
        ),
    ],
)
def test_wrong_settings(settings: Any, problem: str) -> None:
    """Settings that can't be used are one ConfigError, which names the bind, and no password."""
    with pooled_app("sqlite:///:memory:") as (_, db):
        db.bind_loader(lambda _: settings)
        with pytest.raises(ConfigError) as caught:
            enter(db_connection_context("x"))
        assert problem in str(caught.value)
        assert "bind_loader('x')" in str(caught.value)
        assert SECRET not in str(caught.value)


def test_replica_of_a_loaded_bind(tmp_path: Path) -> None:
    """A loaded bind may read from a bind that the configuration names."""
    replica = f"sqlite:///{tmp_path}/replica.db"
    with pooled_app("sqlite:///:memory:", binds={"replica": replica}) as (_, db):
        db.bind_loader(lambda _: {"URL": f"sqlite:///{tmp_path}/x.db", "REPLICA": "replica"})
        with db_connection_context("x", readonly=True):
            assert db.stats("replica").in_use == 1
            assert db.stats("x").in_use == 0


# The loader's surroundings


def test_loader_has_the_app(tmp_path: Path) -> None:
    """The loader runs in a context of its app, also for a caller without one."""
    seen = []
    with pooled_app("sqlite:///:memory:") as (app, db):

        @db.bind_loader
        def load(name: str) -> str:
            seen.append(current_app._get_current_object())  # type: ignore[attr-defined]
            return f"sqlite:///{tmp_path}/{name}.db"

        name_in(db, "a")
        call(name_in, db, "b").result()
        assert seen == [app, app]


def test_loader_reads_the_default_database(shops: tuple[Flask, PooledDB], tmp_path: Path) -> None:
    """The loader may look its settings up in the app's own database."""
    app, _ = shops
    db = app.extensions["pooled_db"].extension
    db.execute("CREATE TABLE shops (name TEXT, url TEXT)")
    db.execute("INSERT INTO shops VALUES ('new', %s)", (f"sqlite:///{tmp_path}/new.db",))
    db.loader = lambda name: db.fetch_value("SELECT url FROM shops WHERE name=%s", (name,))
    assert name_in(db, "new") == "new"
    with pytest.raises(UnknownBind):
        name_in(db, "other")
    with db_connection_context():
        assert name_in(db, "new") == "new"


def test_loader_is_one(shops: tuple[Flask, PooledDB]) -> None:
    """There is one loader and one guard, and they are functions."""
    _, db = shops
    with pytest.raises(UsageError, match="bind_loader has a function already"):
        db.bind_loader(lambda _: None)
    with pytest.raises(UsageError, match="bind_guard must be given a function"):
        db.bind_guard(None)  # type: ignore[type-var]


def test_async_loader(tmp_path: Path) -> None:
    """The loader, the guard and receivers may be coroutine functions, as Flask's own may."""
    heard = []
    with pooled_app("sqlite:///:memory:", max_binds=1) as (app, db):

        @db.bind_loader
        async def load(name: str) -> str:
            return f"sqlite:///{tmp_path}/{name}.db"

        @db.bind_guard
        async def guard() -> list[str]:
            return []

        async def hear(_app: Flask, bind: str, reason: str) -> None:
            heard.append((bind, reason))

        with signals.bind_closed.connected_to(hear, app):
            name_in(db, "a")
            name_in(db, "b")
        assert heard == [("a", "another bind needs its place")]


# The guard


def test_guard(shops: tuple[Flask, PooledDB]) -> None:
    """The guard runs in a context of the app, in the background too, and names what stays open."""
    app, db = shops
    asked, keep = [], ["shop1"]

    @db.bind_guard
    def guard() -> list[str]:
        asked.append(current_app._get_current_object())  # type: ignore[attr-defined]
        return keep

    registry = app.extensions["pooled_db"].registry
    for name in ("shop1", "shop2"):
        name_in(db, name)
        registry.opened[name].at = registry.opened[name].engine.state.used_at = -1e9
        for entry in registry.opened[name].engine.state.idle:
            entry.since = -1e9
    done = call(db.housekeep).result()
    assert (done.evicted, done.kept, done.binds_open) == (1, 1, 1)
    assert set(asked) == {app}
    keep.clear()
    assert db.housekeep().evicted == 1


@pytest.mark.parametrize("answer", [None, "shop1", 7, ValueError("no sessions")])
def test_failing_guard(
    shops: tuple[Flask, PooledDB], caplog: pytest.LogCaptureFixture, answer: Any
) -> None:
    """A guard that fails, or returns what are no names, protects everything and is logged."""
    app, db = shops

    @db.bind_guard
    def guard() -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    registry = app.extensions["pooled_db"].registry
    name_in(db, "shop1")
    registry.opened["shop1"].at = registry.opened["shop1"].engine.state.used_at = -1e9
    for entry in registry.opened["shop1"].engine.state.idle:
        entry.since = -1e9
    done = db.housekeep()
    assert (done.evicted, done.kept) == (0, 1)
    wait_until(lambda: "The bind_guard failed" in caplog.text, "a line in the log")


# Signals


def test_signals(shops: tuple[Flask, PooledDB]) -> None:
    """The app hears of each bind that is opened and closed, and why."""
    app, db = shops
    heard: list[Any] = []

    def hear_opened(sender: Flask, bind: str, reason: str) -> None:
        heard.append((sender, "opened", bind, reason, current_app.name))

    def hear_closed(sender: Flask, bind: str, reason: str) -> None:
        heard.append((sender, "closed", bind, reason, current_app.name))

    with (
        signals.bind_opened.connected_to(hear_opened, app),
        signals.bind_closed.connected_to(hear_closed, app),
    ):
        name_in(db, "shop1")
        call(db.close_bind, "shop1").result()
    name = app.name
    assert heard == [
        (app, "opened", "shop1", "first use", name),
        (app, "closed", "shop1", "closed by its name", name),
    ]


def test_failing_receiver(shops: tuple[Flask, PooledDB], caplog: pytest.LogCaptureFixture) -> None:
    """A receiver that raises stops neither what is told nor the other receivers."""
    app, db = shops
    heard = []

    def fail(_app: Flask, **_: Any) -> None:
        raise ValueError("not today")

    def hear(_app: Flask, bind: str, reason: str) -> None:
        heard.append(bind)

    others: list[Callable[..., Any]] = [fail, hear, fail]
    for signal in (signals.bind_opened, signals.bind_closed):
        for receiver in others:
            signal.connect(receiver, app)
    try:
        name_in(db, "shop1")
        assert db.close_bind("shop1")
    finally:
        for signal in (signals.bind_opened, signals.bind_closed):
            for receiver in others:
                signal.disconnect(receiver, app)
    assert heard == ["shop1", "shop1"]
    wait_until(lambda: "A receiver of the signal bind-closed failed" in caplog.text, "a line")
    assert not app.extensions["pooled_db"].registry.opened


# Closing, replacing, housekeeping


def test_close_bind_of_the_configuration(shops: tuple[Flask, PooledDB]) -> None:
    """A bind that the configuration names is not closed by its name; names are texts."""
    _, db = shops
    with pytest.raises(UsageError, match="'default' is in the configuration"):
        db.close_bind("default")
    with pytest.raises(UsageError, match=r"close_bind\(\) takes the name of a bind"):
        db.close_bind(None)  # type: ignore[arg-type]
    assert not db.close_bind("shop9")
    assert not db.replace_bind("shop9")


def test_replace_bind_of_the_configuration(shops: tuple[Flask, PooledDB]) -> None:
    """Replacing a bind of the configuration gives it new connections."""
    _, db = shops
    for bind in (None, "default"):
        before = db.fetch_value("SELECT 1") and db.stats().connects
        assert db.replace_bind(bind)
        db.fetch_value("SELECT 1")
        assert db.stats().connects == before + 1


def test_replace_with_new_settings(tmp_path: Path) -> None:
    """After a bind was replaced, its next use has its new settings."""
    files = {"x": "old"}
    with pooled_app("sqlite:///:memory:") as (_, db):
        db.bind_loader(lambda name: f"sqlite:///{tmp_path}/{files[name]}.db")
        with db_connection_context("x") as conn, conn.cursor() as cur:
            cur.execute("CREATE TABLE of_old (n INT)")
        files["x"] = "new"
        assert db.replace_bind("x")
        tables = db.fetch_value("SELECT COUNT(*) FROM sqlite_master", bind="x")
        assert tables == 0


def test_pool_of_a_closed_bind(shops: tuple[Flask, PooledDB]) -> None:
    """A pool that was kept beyond its bind's end says what to do."""
    _, db = shops
    pool = db.pool("shop1")
    name_in(db, "shop1")
    db.close_bind("shop1")
    with pytest.raises(PoolClosed, match="bind 'shop1' is not open any more: ask for it by its"):
        pool.connection()
    assert db.pool("shop1") is not pool


def test_request_connection_survives_a_close(shops: tuple[Flask, PooledDB]) -> None:
    """The app context's connection to a bind stays the same when the bind is closed meanwhile."""
    _, db = shops
    conn = db.connection_of("shop1")
    conn.cursor().execute("CREATE TABLE t (n INT)")
    db.close_bind("shop1")
    assert db.connection_of("shop1") is conn
    conn.close()
    assert db.connection_of("shop1") is not conn


def test_on_commit_does_not_open(shops: tuple[Flask, PooledDB]) -> None:
    """`on_commit()` finds the block around it, and opens nothing for that."""
    app, db = shops
    done = []
    with db_connection_context("shop1"):
        db.close_bind("shop1")
        db.on_commit(lambda: done.append(1), "shop1")
        assert not done
    assert done
    assert not app.extensions["pooled_db"].registry.opened


def test_housekeep(shops: tuple[Flask, PooledDB], caplog: pytest.LogCaptureFixture) -> None:
    """Housekeeping returns what it found, and logs that at DEBUG."""
    _, db = shops
    with caplog.at_level(logging.DEBUG, "flask_pooled_db"):
        with db_connection_context("shop1"), db_connection_context():
            done = db.housekeep()
        wait_until(lambda: "Housekeeping of the binds" in caplog.text, "a line in the log")
    assert (done.binds_open, done.in_use, done.evicted, done.kept) == (1, 2, 0, 0)
    assert done.open_files is None or done.open_files > 3


def test_housekeep_ages_connections(tmp_path: Path) -> None:
    """By hand, connections that were idle for too long are closed as well."""
    with pooled_app(f"sqlite:///{tmp_path}/x.db", idle_timeout=1000) as (_, db):
        db.fetch_value("SELECT 1")
        for entry in db.pool().engine.state.idle:
            entry.since = -1e9
        db.housekeep()
        wait_until(lambda: db.stats().open == 0, "the end of an idle connection")


def test_app_is_not_kept(tmp_path: Path) -> None:
    """An app that nobody holds is collected, although binds of it are open and swept."""

    def make() -> weakref.ref[Flask]:
        app = Flask("short-lived")
        app.config.update(POOLED_DB_URL="sqlite:///:memory:", POOLED_DB_BIND_IDLE_TIMEOUT=0.1)
        db = PooledDB(app)
        db.bind_loader(lambda name: f"sqlite:///{tmp_path}/{name}.db")
        with app.app_context():
            name_in(db, "a")
        return weakref.ref(app)

    reference = make()
    gc.collect()
    assert reference() is None


def test_run_transaction_joins_after_a_close(shops: tuple[Flask, PooledDB]) -> None:
    """T9: `run_transaction` in a block whose bind was closed is a part of the block, and opens
    nothing.
    """
    app, db = shops
    with db_connection_context("shop1") as conn:
        db.close_bind("shop1")
        assert db.run_transaction(lambda inner: inner is conn, bind="shop1")
        assert not app.extensions["pooled_db"].registry.opened


def test_in_an_async_view(shops: tuple[Flask, PooledDB], tmp_path: Path) -> None:
    """Coroutine functions of the app work where a loop runs already."""
    app, db = shops
    heard = []

    async def load(name: str) -> str:
        await asyncio.sleep(0)
        return f"sqlite:///{tmp_path}/{name}.db"

    async def guard() -> list[str]:
        return ["kept"]

    async def hear(_app: Flask, bind: str, reason: str) -> None:
        heard.append(bind)

    async def view() -> str:
        return name_in(db, "fromview")

    db.loader, db.guard = load, guard
    app.add_url_rule("/", view_func=view)
    with signals.bind_opened.connected_to(hear, app):
        assert app.test_client().get("/").text == "fromview"
    assert heard == ["fromview"]


def test_interrupting_receiver(shops: tuple[Flask, PooledDB]) -> None:
    """A receiver that is interrupted stops neither the end nor the other receivers, and what
    interrupted it is not lost.
    """
    app, db = shops
    heard = []

    def interrupt(_app: Flask, **_: Any) -> None:
        raise SystemExit(3)

    def hear(_app: Flask, bind: str, reason: str) -> None:
        heard.append(bind)

    name_in(db, "shop1")
    with (
        signals.bind_closed.connected_to(interrupt, app),
        signals.bind_closed.connected_to(hear, app),
        pytest.raises(SystemExit),
    ):
        db.close_bind("shop1")
    assert heard == ["shop1"]
    assert not app.extensions["pooled_db"].registry.opened
    assert name_in(db, "shop1") == "shop1"


def test_failing_end_of_the_context(
    shops: tuple[Flask, PooledDB], caplog: pytest.LogCaptureFixture
) -> None:
    """A teardown function of the app's that raises after a receiver does not stop the pool."""
    app, db = shops
    failing = [True]

    @app.teardown_appcontext
    def fail(_: BaseException | None) -> None:
        if failing:
            raise LookupError("teardown")

    def hear(_app: Flask, **_: Any) -> None:
        pass

    with signals.bind_closed.connected_to(hear, app):
        name_in(db, "shop1")
        assert call(db.close_bind, "shop1").result()
    wait_until(lambda: "A receiver of the signal bind-closed failed" in caplog.text, "a line")
    failing.clear()


def test_kept_error_keeps_nothing_open(tmp_path: Path) -> None:
    """An error that somebody keeps does not keep its bind open."""
    with pooled_app("sqlite://", max_binds=1, acquire_timeout=0.3) as (_, db):
        db.bind_loader(lambda name: f"sqlite:///{tmp_path}/{name}.db")
        errors = []
        conn = get_db_connection("one")
        for way in (get_db_connection, lambda bind: enter(db_connection_context(bind))):
            with pytest.raises(PoolTimeout) as caught:
                way("two")
            errors.append(caught.value)
        conn.close()
        assert name_in(db, "two") == "two"
        assert errors


@pytest.mark.parametrize("timeout", ["abc", -1, float("nan"), True])
def test_wrong_timeout(shops: tuple[Flask, PooledDB], timeout: Any) -> None:
    """A timeout that is none is refused at the first use as well."""
    for bind in ("shop1", "shop1", "default"):
        with pytest.raises(UsageError, match="timeout"):
            get_db_connection(bind, timeout=timeout)


@pytest.mark.parametrize("answer", [[1, 2], [b"shop1"], [None]])
def test_guard_with_wrong_names(shops: tuple[Flask, PooledDB], answer: Any) -> None:
    """What a guard returns beside texts protects everything, and is logged."""
    app, db = shops
    db.bind_guard(lambda: answer)
    keeper = app.extensions["pooled_db"].registry.keeper
    assert keeper.kept() is None


def test_replica_keeps_its_bind_open(tmp_path: Path) -> None:
    """A bind is in use while a lease that was asked of it reads from its replica."""
    for name in ("x", "replica"):
        sqlite3.connect(tmp_path / name).close()
    replica = {"replica": f"sqlite:///{tmp_path}/replica"}
    with pooled_app("sqlite://", binds=replica, bind_idle_timeout=1000) as (app, db):
        db.bind_loader(lambda _: {"URL": f"sqlite:///{tmp_path}/x", "REPLICA": "replica"})
        registry = app.extensions["pooled_db"].registry
        with db_connection_context("x", readonly=True):
            opened = registry.opened["x"]
            opened.at = opened.engine.state.used_at = -1e9
            assert not opened.is_idle
            assert db.housekeep().evicted == 0
        assert opened.is_idle
        assert db.housekeep().evicted == 0  # it was used a moment ago
        db.close_bind("x")
        with db_connection_context("x", readonly=True):
            assert registry.opened["x"] is not opened


def test_right_settings_after_wrong_ones(tmp_path: Path) -> None:
    """When connecting has failed for good, the loader is asked again: settings may be right now."""
    missing = tmp_path / "missing"
    with pooled_app("sqlite://") as (app, db):
        db.bind_loader(lambda name: f"sqlite:///file:{missing}/{name}?mode=rw&uri=true")
        for _ in range(2):
            with pytest.raises(ConnectFailed):
                enter(db_connection_context("x"))
        db.loader = lambda name: f"sqlite:///{tmp_path}/x.db"
        wait_until(functools.partial(_works, db, "x"), "a bind with its new settings")
        assert set(app.extensions["pooled_db"].registry.opened) == {"x"}


def _works(db: PooledDB, bind: str) -> bool:
    try:
        return bool(db.fetch_value("SELECT 1", bind=bind))
    except ConnectFailed:
        return False


def test_request_connection_with_wrong_settings(tmp_path: Path) -> None:
    """So it is for the other ways to a connection, and the failed bind takes no place."""
    with pooled_app("sqlite://", max_binds=1) as (app, db):
        db.bind_loader(lambda name: f"sqlite:///file:{tmp_path}/no/{name}?mode=rw&uri=true")
        registry = app.extensions["pooled_db"].registry
        for name in "abc":
            with pytest.raises(ConnectFailed):
                get_db_connection(name)
            assert len(registry.opened) == 1
