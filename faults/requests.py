"""Faults of the application: errors at random points of its requests."""

from __future__ import annotations

import contextlib
import itertools
import random
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

from flask import Flask, g

from faults.bank import Transfer, open_bank, random_transfer
from faults.databases import Place, Server, make_proxy, running_server
from faults.load import ACCOUNTS, JOIN_TIMEOUT, THREADS, Tally
from faults.runs import Effort, Outcome, open_files, open_ledger, take_stock
from faults.systems import SYSTEMS, System
from harness.proxy import Proxy

REQUESTS = 10_000
_LEAST = 1_000
_TIME_LIMIT = 120.0
_TIME_LIMIT_OF_PEERS = 20.0


class Injected(Exception):
    """An error of the application's own."""


Accident = Callable[[Any, Transfer], object]
"""What a view does with its connection instead of the plain transfer."""


def _nothing(connection: Any, transfer: Transfer) -> None:
    transfer(connection)


def _in_the_view(connection: Any, transfer: Transfer) -> None:
    transfer(connection, between=_fail)


def _at_the_end_of_the_view(connection: Any, transfer: Transfer) -> None:
    transfer(connection)
    raise Injected


def _in_the_cursor(connection: Any, transfer: Transfer) -> None:
    transfer(connection, between=partial(_fail_in_cursor, connection))


def _fail() -> None:
    raise Injected


def _fail_in_cursor(connection: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO transfers (id) VALUES (1), (1), ('no number')")


class Application:
    """A Flask application whose requests fail at random points."""

    def __init__(self, system: System, tally: Tally, server: Server, proxy: Proxy) -> None:
        self._system = system
        self._tally = tally
        self._server = server
        self._proxy = proxy
        self._numbers = itertools.count(1)
        self._accidents: list[Accident] = [
            *[_nothing] * 6,
            _in_the_view,
            _at_the_end_of_the_view,
            _in_the_cursor,
            self._swallowed,
            self._at_commit,
            self._killed,
        ]
        app: Flask = system.app
        app.add_url_rule("/transfer", view_func=self._transfer, methods=["POST"])
        app.add_url_rule("/forget", view_func=self._forget, methods=["POST"])
        app.teardown_request(self._tear_down)
        app.teardown_appcontext(self._tear_down)

    def call(self) -> None:
        """One request; its answer, or what got past Flask, is of no interest."""
        path = "/forget" if random.random() < 0.05 else "/transfer"
        with contextlib.suppress(Injected):  # of a teardown function: Flask lets it through
            self._system.app.test_client().post(path)

    def _transfer(self) -> str:
        transfer = random_transfer(next(self._numbers), ACCOUNTS)
        accident = random.choice(self._accidents)
        self._tally.attempt(
            transfer.number,
            lambda: self._system.transact(lambda connection: accident(connection, transfer)),
        )
        if random.random() < 0.05:
            raise Injected
        return "done"

    def _forget(self) -> str:
        """Take a connection, do half of something, and forget it."""
        g.connection = self._system.borrow()
        with g.connection.cursor() as cursor:
            cursor.execute("UPDATE accounts SET balance = balance + 1 WHERE id = 1")
        if random.random() < 0.5:
            raise Injected
        return "done"

    def _tear_down(self, error: BaseException | None) -> None:
        if random.random() < 0.02:
            raise Injected

    def _swallowed(self, connection: Any, transfer: Transfer) -> None:
        """The connection is lost half-way, and the view does not care."""

        def lose() -> None:
            self._kill(connection)
            try:
                with connection.cursor() as cursor:
                    cursor.execute("SELECT 1")
            except Exception:
                pass

        transfer(connection, between=lose)

    def _killed(self, connection: Any, transfer: Transfer) -> None:
        """The connection is lost before COMMIT."""
        transfer(connection)
        self._kill(connection)

    def _at_commit(self, connection: Any, transfer: Transfer) -> None:
        """The answer to COMMIT, or COMMIT itself, is lost: this one's or that of another."""
        transfer(connection)
        lose = random.choice((self._proxy.hold_replies_to, self._proxy.cut_before))
        lose(b"COMMIT")

    def _kill(self, connection: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute(self._server.sql("SELECT CONNECTION_ID()"))
            (id_,) = cursor.fetchone()
        self._server.kill_connection(id_)


def random_errors(kind: str, effort: Effort) -> Outcome:
    """10,000 requests with errors at random points: in the view, the cursor, the commit, the
    teardown; some requests forget to give their connection back. The others' pools stop after 20 s.
    """
    requests = max(_LEAST, effort.times(REQUESTS))
    with ExitStack() as stack:
        server = stack.enter_context(running_server(SYSTEMS[kind].database))
        database = open_bank(server, ACCOUNTS)
        proxy = stack.enter_context(make_proxy(server))
        ledger = stack.enter_context(open_ledger())
        files = open_files()
        system = SYSTEMS[kind](Place([(proxy.host, proxy.port)], database))
        tally = Tally(ledger, system.is_ours, own=(Injected,))
        application = Application(system, tally, server, proxy)
        limit = _TIME_LIMIT if system.is_ours else _TIME_LIMIT_OF_PEERS
        stuck = _call(application, requests, limit)
        outcome = take_stock([server], database, system, tally, files)
        outcome.stuck = stuck
        return outcome


def _call(application: Application, requests: int, seconds: float) -> int:
    """Make so many requests, or those that there is time for, from several threads; the number of
    threads that never end.
    """
    left = iter(range(requests))
    lock = threading.Lock()  # guards the iterator
    end = time.monotonic() + seconds

    def work() -> None:
        while time.monotonic() < end:
            with lock:
                if next(left, None) is None:
                    return
            application.call()

    threads = [
        threading.Thread(target=work, name=f"faults client {number}", daemon=True)
        for number in range(THREADS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, end + JOIN_TIMEOUT - time.monotonic()))
    return sum(thread.is_alive() for thread in threads)
