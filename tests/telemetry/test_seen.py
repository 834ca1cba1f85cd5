"""What people look at, beside numbers: who holds connections, slow statements, binds that come and
go.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from flask_pooled_db import PooledDB, get_db_connection
from flask_pooled_db.config import PoolConfig
from flask_pooled_db.drivers import make_driver
from flask_pooled_db.runtime import callers
from flask_pooled_db.telemetry.seen import MOST_EVENTS, MOST_LEASES, BindEvents
from flask_pooled_db.telemetry.site import Site
from flask_pooled_db.telemetry.slow import MOST_TEXTS, SlowStatements
from tests.support.apps import pooled_app


@pytest.fixture
def site(url: str) -> Iterator[tuple[Flask, PooledDB]]:
    with pooled_app(url, leak_threshold=60.0, maxconnections=30, slow_statement=1e-9) as pair:
        yield pair


def told(app: Flask) -> dict[str, Any]:
    """What a process tells of itself."""
    numbers: dict[str, Any] = app.extensions["pooled_db"].numbers.collect()
    return numbers


def test_leases(site: tuple[Flask, PooledDB]) -> None:
    """The leases that are out are told of, the longest first, and no more than twenty."""
    leases = [get_db_connection() for _ in range(MOST_LEASES + 2)]
    leases[0].execute("CREATE TABLE t (id INT)")
    leases[0].execute("INSERT INTO t VALUES (1)")
    found = told(site[0])["leases"]
    assert len(found) == MOST_LEASES
    assert [one["age"] for one in found] == sorted((one["age"] for one in found), reverse=True)
    assert found[0]["place"][0] == __file__
    assert (found[0]["bind"], found[0]["in_transaction"]) == ("default", True)
    assert not found[1]["in_transaction"]
    assert 0 <= found[0]["rests_for"] <= found[0]["age"]
    for lease in leases:
        lease.rollback()
        lease.close()
    numbers = told(site[0])
    assert (numbers["leases"], numbers["pools"]["default"]["tells_holders"]) == ([], True)


def test_holders_that_are_not_known(url: str) -> None:
    """Where nobody wants to know who holds connections, it is said that it is not known."""
    with pooled_app(url) as (app, _):
        lease = get_db_connection()
        numbers = told(app)
        assert (numbers["leases"], numbers["pools"]["default"]["tells_holders"]) == ([], False)
        lease.close()


def test_slow_statements(site: tuple[Flask, PooledDB]) -> None:
    """Slow statements are told of with who ran them, how often, and for how long."""
    for _ in range(3):
        site[1].fetch_value("SELECT 12")
    (one,) = [one for one in told(site[0])["slow"] if one["text"] == "SELECT 12"]
    assert (one["bind"], one["name"], one["count"]) == ("default", "thread", 3)
    assert 0 < one["longest"] <= one["seconds"]
    assert one["last"] >= 0


def test_slow_statements_are_bounded() -> None:
    """Of many statements those stay that took the most time; the last one is among them."""
    slow = SlowStatements()
    for number in range(2 * MOST_TEXTS):
        slow.count("a", "default", f"SELECT {number}", 1000.0 - number)
    texts = {one["text"] for one in slow.worst(1000)}
    assert len(texts) == MOST_TEXTS
    assert {"SELECT 0", f"SELECT {2 * MOST_TEXTS - 1}"} <= texts
    assert [one["text"] for one in slow.worst(2)] == ["SELECT 0", "SELECT 1"]


def test_binds_that_come_and_go(url: str, tmp_path: Path) -> None:
    """A bind that was opened or closed is told of, with the reason, the last one first."""
    with pooled_app(url) as (app, db):
        db.bind_loader(lambda name: f"sqlite:///{tmp_path / name}")
        db.fetch_value("SELECT 1", bind="branch")
        db.close_bind("branch")
        closed, opened = told(app)["events"]
        assert (opened["bind"], opened["what"], opened["reason"]) == (
            "branch",
            "opened",
            "first use",
        )
        assert (closed["bind"], closed["what"]) == ("branch", "closed")
        assert 0 <= closed["ago"] <= opened["ago"]


def test_events_are_bounded() -> None:
    """The last fifty are kept."""
    events = BindEvents()
    for number in range(MOST_EVENTS + 5):
        events.add(f"b{number}", "opened", "first use")
    assert [one["bind"] for one in events.told()] == [
        f"b{number}" for number in range(MOST_EVENTS + 4, 4, -1)
    ]


@pytest.mark.parametrize(
    ("url", "label"),
    [
        ("mysql+pymysql://me:secret@db.example:3307/shop", "mysql db.example:3307/shop"),
        ("mariadb+pymysql://me:secret@one,two:3307/shop", "mariadb one,two:3307/shop"),
        ("mysql+pymysql://me:secret@db.example", "mysql db.example"),
        ("postgresql://me:secret@db.example/shop?sslmode=disable", "postgresql db.example/shop"),
        ("sqlite:////srv/data/shop.db", "sqlite shop.db"),
        ("sqlite://", "sqlite"),
    ],
)
def test_label(url: str, label: str) -> None:
    """What a pool is said to be of is its system, servers and database, and no more."""
    config = PoolConfig.from_mapping({"URL": url})
    assert Site("default", config, make_driver(config, "/tmp", "default")).label == label


def test_database_away() -> None:
    """A database that is away is told of, since when, and why."""
    with pooled_app("sqlite:////nowhere/at/all.db") as (app, db):
        with pytest.raises(Exception, match="default"):
            db.fetch_value("SELECT 1")
        down = told(app)["pools"]["default"]["down"]
        assert down["since"] >= 0
        assert down["reason"] == "OperationalError: unable to open database file"
        assert told(app)["pools"]["default"]["label"] == "sqlite all.db"


@pytest.mark.parametrize(
    ("argv", "name"),
    [
        (["/usr/bin/gunicorn", "-w", "2"], "gunicorn"),
        (["/srv/venv/lib/gunicorn/__main__.py"], "gunicorn"),
        (["-c"], "-c"),
        ([""], "python"),
        ([], "python"),
    ],
)
def test_program(argv: list[str], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process says which program it is, also one that was started by `python -m`."""
    monkeypatch.setattr("sys.argv", argv)
    assert callers.program() == name
