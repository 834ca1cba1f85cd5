"""What all workers of an app have done, as each of them tells it."""

from __future__ import annotations

import functools
import gc
import itertools
import os
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from flask_pooled_db import HostStats, PooledDB, db_connection_context
from flask_pooled_db.flask.numbers import OTHER_BINDS, AppNumbers, merge
from flask_pooled_db.telemetry.seen import Seen
from flask_pooled_db.telemetry.usage import MOST_NAMES
from harness.server import MariaDBServer
from harness.waiting import PATIENCE, wait_until
from harness.workloads import connection_id
from tests.config.configs import problems_of
from tests.support.apps import pooled_app


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "run"
    path.mkdir(mode=0o700)
    return path


@pytest.fixture
def shop(url: str, folder: Path) -> Iterator[tuple[Flask, PooledDB]]:
    with pooled_app(url, runtime_dir=folder) as pair:
        yield pair


Shop = tuple[Flask, PooledDB]


def use(times: int = 1, bind: str | None = None) -> None:
    for _ in range(times):
        with db_connection_context(bind) as conn:
            conn.cursor().execute("SELECT 1")


def checkouts(stats: HostStats, bind: str = "default") -> int:
    return int(stats.totals.get("pools", {}).get(bind, {}).get("checkouts", 0))


def published(folder: Path) -> list[Path]:
    """The files of processes that live, or were killed."""
    return [path for path in folder.glob("*/*") if not path.name.startswith("ended")]


def test_own_numbers(shop: Shop) -> None:
    """A process that has used its pool is among those that are seen, with what `stats()` tells."""
    use(3)
    (process,) = shop[1].host_stats().processes
    assert process.pid == os.getpid()
    numbers = process.numbers["pools"]["default"]
    beside = {"label", "down", "tells_holders", "server", "server_ids"}
    assert numbers.keys() == asdict(shop[1].stats()).keys() | beside
    assert sum(numbers["use_time"]["counts"]) == 3
    assert (numbers["checkouts"], numbers["open"]) == (3, 1)


def test_published_by_itself(shop: Shop, folder: Path) -> None:
    """What a process has done is seen without its being asked."""
    use()
    wait_until(lambda: len(published(folder)) == 2, "its two files")


def test_p7_nothing_is_made_before_the_first_use(shop: Shop, folder: Path) -> None:
    """An app that is made, and asked for its numbers and those of all, makes no file."""
    shop[1].stats()
    assert shop[1].host_stats() == HostStats()
    assert list(folder.iterdir()) == []


def test_closed_app(url: str, folder: Path) -> None:
    """`close()` removes the files, and what was done stays in the totals."""
    for times in (2, 3):
        with pooled_app(url, runtime_dir=folder) as (_, db):
            use(times)
            db.host_stats()
        assert published(folder) == []
    assert checkouts(db.host_stats()) == 5


def test_short_life(url: str, folder: Path) -> None:
    """An app that is used and closed at once, as in most tests, leaves nothing."""
    with pooled_app(url, runtime_dir=folder):
        use()
    assert list(folder.iterdir()) == []


def test_garbage_app(url: str, folder: Path) -> None:
    """An app that is garbage leaves no file behind."""
    app = Flask("app_under_test")
    app.config.update(POOLED_DB_URL=url, POOLED_DB_RUNTIME_DIR=str(folder), POOLED_DB_MINCACHED=0)
    db = PooledDB(app)
    with app.app_context():
        use()
        db.host_stats()
    assert len(published(folder)) == 2
    del app, db
    gc.collect()
    wait_until(lambda: published(folder) == [], "the end of its files")


def test_binds_that_come_and_go(shop: Shop, tmp_path: Path) -> None:
    """What a bind has counted that was closed since stays in the totals, however often it is
    opened and closed.
    """
    shop[1].bind_loader(lambda name: f"sqlite:///{tmp_path / name}.db")
    for turn in (1, 2, 3):
        use(2, "north")
        assert checkouts(shop[1].host_stats(), "north") == 2 * turn
        shop[1].close_bind("north")
        assert checkouts(shop[1].host_stats(), "north") == 2 * turn
    use(1, "north")
    shop[1].close(PATIENCE)
    assert checkouts(shop[1].host_stats(), "north") == 7


@pytest.mark.parametrize("end", ["close_bind", "replace_bind"])
def test_leases_of_closed_binds(shop: Shop, tmp_path: Path, end: str) -> None:
    """What leases do whose bind was closed meanwhile is counted, and that they end."""
    db = shop[1]
    db.bind_loader(lambda name: f"sqlite:///{tmp_path / name}.db")
    for turn in range(1, 4):
        with db.connection_context("north") as conn:
            conn.execute(f"CREATE TABLE t{turn} (id INTEGER)")
            conn.execute(f"INSERT INTO t{turn} VALUES (1)")
            assert getattr(db, end)("north")
            told = db.host_stats().totals["pools"]["north"]
            assert (told["commits"], sum(told["use_time"]["counts"])) == (turn - 1, turn - 1)
        for _ in range(3):
            told = db.host_stats().totals["pools"]["north"]
            assert (told["commits"], sum(told["use_time"]["counts"])) == (turn, turn)
            assert sum(told["evictions"].values()) == turn


def test_names_that_come_and_go(shop: Shop, tmp_path: Path) -> None:
    """A name that is used no more takes no memory, however many there were: those beyond 200 are
    counted as one, and nothing that was counted is lost.
    """
    db, count = shop[1], 3 * MOST_NAMES
    db.bind_loader(lambda name: f"sqlite:///{tmp_path / 'all'}.db")
    use(1)
    for number in range(count):
        use(1, f"n{number:04}")
        db.close_bind(f"n{number:04}")
        if not number % 50:
            db.host_stats()
    stats = db.host_stats()
    pools = stats.totals["pools"]
    assert len(pools) == MOST_NAMES + 2
    assert pools["default"]["checkouts"] == 1
    assert pools[OTHER_BINDS]["checkouts"] == count - MOST_NAMES
    assert sum(one["checkouts"] for one in pools.values()) == count + 1
    assert len(stats.processes[0].numbers["closed"]) == MOST_NAMES + 1
    use(2, f"n{count - 1:04}")  # which has no numbers of its own any more
    assert checkouts(db.host_stats(), OTHER_BINDS) == count - MOST_NAMES + 2
    assert f"n{count - 1:04}" not in db.host_stats().totals["pools"]


def test_names_of_several_processes() -> None:
    """Which names have counters of their own does not depend on the order of the processes, and a
    bind of the configuration always has.
    """
    names = [f"n{number:04}" for number in range(2 * MOST_NAMES)]
    processes: list[dict[str, Any]] = [
        {
            "pools": {name: {"checkouts": 1} for name in ["default", *names[start::3]]},
            "opened": dict.fromkeys(names[start::3]),
        }
        for start in range(3)
    ]
    nothing: dict[str, Any] = {}
    found = [functools.reduce(merge, order, nothing) for order in itertools.permutations(processes)]
    assert all(one == found[0] for one in found)
    assert found[0]["pools"].keys() == {"default", OTHER_BINDS, *names[:MOST_NAMES]}
    assert found[0]["pools"]["default"] == {"checkouts": 3}
    assert found[0]["pools"][OTHER_BINDS] == {"checkouts": MOST_NAMES}
    again = merge(found[0], processes[0])
    total = sum(one["checkouts"] for one in again["pools"].values())
    assert total == 3 + len(names) + 1 + len(names[0::3])


def test_server_ids(mariadb: MariaDBServer, folder: Path) -> None:
    """The server's ids of all connections are published by their bind: of those in the pool, those
    outside of it, and those that leases keep open whose bind is closed.
    """
    url = mariadb.url("pymysql", mariadb.create_database())
    with pooled_app(url, runtime_dir=folder, mincached=0) as (_, db):
        db.bind_loader(lambda name: url)

        def told() -> Any:
            (process,) = db.host_stats().processes
            pools = process.numbers["pools"]
            left = process.numbers["server_ids"]
            return {bind: set(pool["server_ids"]) for bind, pool in pools.items()}, left

        with db.connection_context() as one, db.connection_context(independent=True) as two:
            outside = db.pool().steady_connection()
            ids = {connection_id(conn) for conn in (one, two, outside)}
            assert told() == ({"default": ids}, {})
            outside.close()
        lease = db.pool("north").lease()
        number = connection_id(lease)
        assert told()[0]["north"] == {number}
        db.close_bind("north")
        assert told() == ({"default": ids - {max(ids)}}, {"north": [number]})
        lease.close()
        assert told()[1] == {}


def test_two_apps_of_one_directory(url: str, folder: Path) -> None:
    """Different apps may be given one directory: each sees its own processes."""
    with pooled_app(url, runtime_dir=folder) as (_, db):
        use()
        other = Flask("another_app")
        other.config.update(POOLED_DB_URL=url, POOLED_DB_RUNTIME_DIR=folder)
        others = PooledDB(other)
        with other.app_context():
            assert others.host_stats() == HostStats()
        assert checkouts(db.host_stats()) == 1


@pytest.mark.parametrize("setting", [None, ""])
def test_default(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: Any) -> None:
    """By default the directory is in the one for temporary files, whatever the session is."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/nonexistent")
    with pooled_app(url, runtime_dir=setting) as (_, db):
        use()
        assert len(db.host_stats().processes) == 1
        assert (tmp_path / f"flask-pooled-db-{os.geteuid()}").is_dir()


def test_off(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With False nothing is published: each process tells its own numbers, and says why."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pooled_app(url, runtime_dir=False) as (_, db):
        use(2)
        stats = db.host_stats()
        assert stats.problem == "POOLED_DB_RUNTIME_DIR is False"
        assert [process.pid for process in stats.processes] == [os.getpid()]
        assert checkouts(stats) == 2
        assert not list(tmp_path.glob("flask-pooled-db*"))


def test_unusable_directory(url: str, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """No request fails for a directory that can't be used: the log has an error with the remedy,
    and each process tells its own numbers.
    """
    (folder.parent / "link").symlink_to(folder)
    with pooled_app(url, runtime_dir=folder.parent / "link") as (_, db):
        use(2)
        stats = db.host_stats()
        assert checkouts(stats) == 2
        assert "is a link, which is never followed" in str(stats.problem)
        wait_until(lambda: "is a link" in caplog.text, "the log")
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    "value", [1, True, [], b"/run", "run", "./run", "mysql://u:p@h/d", "/a\0b"]
)
def test_wrong_setting(value: Any) -> None:
    """What is no absolute path is refused, and not shown."""
    (problem,) = problems_of({"POOLED_DB_RUNTIME_DIR": value})
    assert problem.startswith("POOLED_DB_RUNTIME_DIR must be ")
    assert "mysql" not in problem


def test_key_of_the_app() -> None:
    """It is a key of the app: no bind has one."""
    settings = {"URL": "sqlite://", "RUNTIME_DIR": "/run"}
    (problem,) = problems_of({"POOLED_DB_BINDS": {"a": settings}})
    assert "POOLED_DB_BINDS['a'].RUNTIME_DIR is not a key of a bind" in problem


def test_merge(shop: Shop) -> None:
    """Totals are sums of counters, by bind; what is no counter is not summed."""
    use(2)
    numbers = AppNumbers("x", Seen())
    numbers.registry = shop[0].extensions["pooled_db"].registry
    one = numbers.collect()
    totals = merge(merge({}, one), one)
    assert merge(totals, {}) == totals
    assert totals["pools"]["default"]["checkouts"] == 4
    assert "open" not in totals["pools"]["default"]


def test_binds_of_a_moment(shop: Shop, tmp_path: Path) -> None:
    """What binds have counted that lived between two looks alone is in the totals, once."""
    shop[1].bind_loader(lambda name: f"sqlite:///{tmp_path / name}")
    use(1)
    for turn in range(3):
        for _ in range(5):
            use(2, "branch")
            shop[1].close_bind("branch")
        use(1, "branch")
        shop[1].host_stats()
        shop[1].close_bind("branch")
        assert checkouts(shop[1].host_stats(), "branch") == 11 * (turn + 1)
    gc.collect()
    assert checkouts(shop[1].host_stats(), "branch") == 33
