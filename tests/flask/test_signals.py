"""What an app is told of its pools by signals."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask, current_app

from flask_pooled_db import PooledDB, PoolTimeout, TransactionAborted, signals
from flask_pooled_db.runtime import announcer
from harness.waiting import wait_until
from harness.workloads import add
from tests.support.apps import pooled_app
from tests.support.fake_driver import FakeDriver, OperationalError
from tests.support.pools import call
from tests.support.scenarios.base import must_raise
from tests.support.stages import ServerStage

NAMES = [
    "connection_opened",
    "connection_evicted",
    "checkout_timed_out",
    "leak_found",
    "transaction_aborted",
    "database_down",
    "database_back",
]


class Heard:
    """Receives all signals of an app, and keeps their keywords."""

    def __init__(self) -> None:
        self.news: list[tuple[str, dict[str, Any]]] = []

    def receive(self, name: str, app: Flask, **news: Any) -> None:
        assert app is current_app._get_current_object()  # type: ignore[attr-defined]
        self.news.append((name, news))

    def of(self, name: str) -> list[dict[str, Any]]:
        return [news for told, news in self.news if told == name]

    def wait_for(self, name: str) -> dict[str, Any]:
        """Return what the first signal of this name has told."""
        wait_until(lambda: bool(self.of(name)), f"the signal {name}")
        return self.of(name)[0]


@contextlib.contextmanager
def heard_from(app: Flask) -> Iterator[Heard]:
    heard = Heard()
    with contextlib.ExitStack() as stack:
        for name in NAMES:

            def receive(sender: Flask, name: str = name, **news: Any) -> None:
                heard.receive(name, sender, **news)

            stack.enter_context(getattr(signals, name).connected_to(receive, app))
        yield heard


def test_a_pool_is_told_of() -> None:
    """An app hears of connections that come and go, of callers who get none, and of leaks."""
    with pooled_app(None, creator=FakeDriver(), mincached=0, maxconnections=1) as (app, db):
        with heard_from(app) as heard:
            lease = db.pool().lease()
            opened = heard.wait_for("connection_opened")
            assert opened["bind"] == "default"
            assert opened["seconds"] >= 0.0
            with pytest.raises(PoolTimeout):
                db.pool().lease(timeout=0)
            assert heard.wait_for("checkout_timed_out").keys() == {"bind", "seconds"}
            lease.revoke("was forgotten")
            place = heard.wait_for("leak_found")["place"]
            assert place[0] == __file__
            db.pool().drain()
            evicted = heard.wait_for("connection_evicted")
    assert evicted == {
        "bind": "default",
        "reason": "drained",
        "detail": "the pool was drained",
    }


def test_a_database_is_down_and_back() -> None:
    """An app hears once that connecting fails, and once that it succeeds again; no password."""
    fake = FakeDriver()
    fake.fail("connect", *(OperationalError(2003, "secret") for _ in range(3)))
    with pooled_app(None, creator=fake, mincached=0) as (app, db), heard_from(app) as heard:
        db.pool().lease().close()
        assert heard.wait_for("database_down") == {
            "bind": "default",
            "reason": "OperationalError 2003",
        }
        assert heard.wait_for("database_back") == {"bind": "default"}
    assert len(heard.of("database_down")) == len(heard.of("database_back")) == 1


def test_t4_a_transaction_is_aborted(stage: ServerStage) -> None:
    """An app hears of a transaction that was killed, with the error's class and number."""
    with heard_from(stage.app) as heard:
        with must_raise(TransactionAborted), stage.db.connection_context() as connection:
            add(connection, 1, 1)
            stage.kill(connection)
            with contextlib.suppress(Exception):
                add(connection, 2, 1)
        told = heard.wait_for("transaction_aborted")
    assert told["bind"] == "default"
    assert "Error" in told["reason"]


def test_p12_receivers_harm_no_checkout(
    site: tuple[Flask, PooledDB], caplog: pytest.LogCaptureFixture
) -> None:
    """A receiver that blocks, and one that raises, hold up no caller; each is told all the same."""
    app, db = site
    goes_on, told = threading.Event(), []

    def block(_: Flask, **news: Any) -> None:
        told.append("blocked")
        goes_on.wait(20)

    def fail(_: Flask, **news: Any) -> None:
        told.append("failed")
        raise LookupError("the receiver's own")

    with (
        signals.connection_evicted.connected_to(block, app),
        signals.connection_evicted.connected_to(fail, app),
    ):
        for _ in range(3):
            with db.connection_context() as connection:
                connection.execute("SELECT 1")
            db.pool().drain()
        wait_until(lambda: bool(told), "the first receiver")
        assert db.stats().evictions == {"drained": 3}
        goes_on.set()
        wait_until(lambda: len(told) == 6, "all receivers")
    wait_until(lambda: caplog.text.count("LookupError: the receiver's own") == 3, "the log lines")


def test_p12_a_receiver_uses_the_database(site: tuple[Flask, PooledDB]) -> None:
    """A receiver may use the very pool that it is told of, even if that is full at the moment."""
    app, db = site
    db.pool().resize(0, 1, 1)
    answers: list[int] = []

    def ask(_: Flask, **news: Any) -> None:
        answers.append(db.fetch_value("SELECT 7"))

    with signals.checkout_timed_out.connected_to(ask, app):
        with db.connection_context() as connection:
            connection.execute("SELECT 1")
            caller = call(db.pool().lease, timeout=0)
            with pytest.raises(PoolTimeout):
                caller.result()
        wait_until(lambda: answers == [7], "the receiver's answer")


def test_another_app(site: tuple[Flask, PooledDB]) -> None:
    """Nothing is told to who subscribes to another app alone."""
    _, db = site
    heard: list[str] = []

    def hear(_: Flask, **news: Any) -> None:
        heard.append("another's")

    with signals.connection_opened.connected_to(hear, Flask("another")):
        with db.connection_context() as connection:
            connection.execute("SELECT 1")
        assert db.stats().connects == 1
    announcer.flush(20)
    assert not heard
