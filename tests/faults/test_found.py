"""What the fault suite found, each in its smallest form."""

from __future__ import annotations

import gc
from typing import Any

import pytest

from flask_pooled_db import db_connection_context, get_db_connection
from flask_pooled_db.drivers.servers import Servers
from harness.server import MariaDBServer
from tests.support.apps import pooled_app


class Injected(Exception):
    """An error of the application's own."""


def fail(error: BaseException | None) -> None:
    raise Injected


def test_a1_failing_teardown_function() -> None:
    """A forgotten connection is released even if a teardown function of the app raises first, and
    while that error is still held.
    """
    with pooled_app("sqlite:///:memory:") as (app, db):
        app.teardown_appcontext(fail)
        with pytest.raises(Injected) as raised:
            with app.app_context():
                get_db_connection()
        assert db.stats().in_use == 0, raised
        app.teardown_appcontext_funcs.remove(fail)


class Loop:
    """Garbage that only the cyclic collector finds."""

    def __init__(self, thing: Any) -> None:
        self.thing = thing
        self.itself = self


@pytest.mark.slow
def test_t3_garbage_cursor(mariadb: MariaDBServer, database: str, mariadb_driver: str) -> None:
    """Collecting a cursor in a cycle does not affect its connection, whether the cursor is closed
    or not.
    """
    with pooled_app(mariadb.url(mariadb_driver, database)):
        for is_closed in (True, False):
            with db_connection_context() as conn:
                for number in range(8):
                    cursor = conn.cursor()
                    cursor.execute("SELECT %s", (number,))
                    assert cursor.fetchone() == (number,)
                    if is_closed:
                        cursor.close()
                    Loop(cursor)
                    del cursor
                    gc.collect()


def test_p10_pausing_server() -> None:
    """A server that pauses after a failure is tried if no other one is left."""
    servers = Servers([{"host": "a"}, {"host": "b"}])
    first, second = servers.candidates()
    servers.failed(first)
    assert list(servers.attempts()) == [second, first]
