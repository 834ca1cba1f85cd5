"""Who holds connections, for how long in all, and for how much of it in vain."""

from __future__ import annotations

import contextlib
import logging
import os

import pytest

from flask_pooled_db import get_db_connection
from flask_pooled_db.runtime import callers, reporter
from flask_pooled_db.telemetry.usage import MOST_NAMES, OTHER, Usage, label_of
from harness.waiting import PATIENCE, wait_until
from tests.support.apps import pooled_app
from tests.support.pools import call
from tests.support.sites import line_of, serve


def test_labels() -> None:
    """An endpoint is counted by its own name, all else by what messages call it."""
    assert label_of("endpoint 'shop.order'") == "shop.order"
    assert label_of('endpoint "it\'s"') == "it's"
    assert label_of("command 'flask import'") == "command 'flask import'"
    assert label_of("thread") == "thread"


def test_leases_of_an_endpoint(url: str) -> None:
    """The leases of an endpoint are added up when they have ended; a task or a thread without a
    name counts as such.
    """
    with pooled_app(url, leak_threshold=60) as (app, db):
        usage = app.extensions["pooled_db"].watch.seen.usage

        def order() -> str:
            for _ in range(2):
                with db.connection_context() as connection:
                    connection.execute("SELECT 1")
            return "done"

        serve(app, "/", order).get("/")
        call(db.fetch_value, "SELECT 1").result()
    uses = usage.by_name()
    assert {name: use.leases for name, use in uses.items()} == {"order": 2, "thread": 1}
    assert 0.0 < uses["order"].idle < uses["order"].seconds


def test_idle_in_a_lease(url: str) -> None:
    """A lease whose holder calls something slow inside it is idle for most of the time."""
    with pooled_app(url, leak_threshold=60) as (app, db):

        def calls_a_service() -> str:
            with db.connection_context() as connection:
                connection.execute("SELECT 1")
                wait_until(lambda: db.pool().engine.holders()[0].age > 0.1, "a slow answer")
            return "done"

        serve(app, "/", calls_a_service).get("/")
        (use,) = app.extensions["pooled_db"].watch.seen.usage.by_name().values()
    assert use.idle > 0.9 * use.seconds > 0.09


def test_names_are_bounded() -> None:
    """Beyond 200 names, all further ones are counted as one."""
    usage = Usage()
    for number in range(3 * MOST_NAMES):
        usage.add(f"endpoint 'e{number}'", 1.0, 0.5)
    uses = usage.by_name()
    assert len(uses) == MOST_NAMES + 1
    assert uses[OTHER] == (2 * MOST_NAMES, 2.0 * MOST_NAMES, 1.0 * MOST_NAMES)
    assert sum(use.leases for use in uses.values()) == 3 * MOST_NAMES


def test_p6_a_child_begins_with_nothing(url: str) -> None:
    """What a parent has counted is not counted again by its children."""
    with pooled_app(url, leak_threshold=60) as (app, db):
        db.fetch_value("SELECT 1")
        usage = app.extensions["pooled_db"].watch.seen.usage
        if (child := os.fork()) == 0:
            os._exit(len(usage.by_name()))
        assert os.waitpid(child, 0)[1] == 0
        assert len(usage.by_name()) == 1


def test_a_lease_that_was_reported_comes_back(url: str, caplog: pytest.LogCaptureFixture) -> None:
    """A lease that is out for too long is logged with what it does, and again when it is back."""
    with pooled_app(url, leak_threshold=0.05, idle_timeout=0.1) as (app, _):

        def slow() -> str:
            conn = get_db_connection()
            conn.execute("CREATE TABLE t (id INTEGER)")
            conn.execute("INSERT INTO t VALUES (1)")
            wait_until(lambda: "has been out for" in caplog.text, "the report")
            conn.commit()
            conn.close()
            return "done"

        serve(app, "/", slow).get("/")
    reporter.flush(PATIENCE)
    taken = f"taken at {line_of(slow, 1)}"
    first, second = (r.getMessage() for r in caplog.records if r.levelno == logging.WARNING)
    assert f"{taken} by endpoint 'slow', in thread 'MainThread'" in first
    assert "a transaction is open, and no statement has run for" in first
    assert "that had been out for too long is back after" in second
    assert taken in second


def test_callers_of_one_place(url: str, caplog: pytest.LogCaptureFixture) -> None:
    """Each endpoint that takes its leases by the same line has lines of its own, out and back."""
    with pooled_app(url, leak_threshold=0.05, idle_timeout=0.1) as (app, _):

        def hold() -> str:
            line = f"by {callers.named()}, in thread"
            with contextlib.closing(get_db_connection()):
                wait_until(lambda: line in caplog.text, "the report")
            return "done"

        for name in ("first", "second"):
            app.add_url_rule(f"/{name}", name, hold)
        for name in ("first", "second"):
            app.test_client().get(f"/{name}")
    reporter.flush(PATIENCE)
    told = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert ["is back" in text for text in told] == [False, True, False, True]
    assert ["'second'" in text for text in told] == [False, False, True, True]


def test_slow_acquire(url: str, caplog: pytest.LogCaptureFixture) -> None:
    """A wait that took too long is logged with who waited and who held connections; others not."""
    with pooled_app(url, slow_acquire=0.05, maxconnections=1) as (app, db):
        db.fetch_value("SELECT 1")  # which may wait for its connect
        caplog.clear()
        db.fetch_value("SELECT 1")
        assert "SLOW_ACQUIRE" not in caplog.text

        def order() -> str:
            return str(db.fetch_value("SELECT 1"))

        client = serve(app, "/", order)
        with db.connection_context() as connection:
            connection.execute("SELECT 1")
            caller = call(client.get, "/")
            wait_until(lambda: db.stats().waiting == 1, "a waiter")
            wait_until(lambda: db.pool().engine.holders()[0].age > 0.1, "a long wait")
        caller.result()
    (line,) = (r.getMessage() for r in caplog.records if "SLOW_ACQUIRE" in r.getMessage())
    assert line.startswith("endpoint 'order' waited 0.")
    assert "s for a connection of bind 'default' (POOLED_DB_SLOW_ACQUIRE is 0.05 s)" in line
