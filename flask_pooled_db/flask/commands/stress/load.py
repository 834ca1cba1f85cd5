"""The load of `flask pooled-db stress`: clients that enter scopes, one after the other."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable
from threading import Event
from typing import Any

from flask import Flask

from flask_pooled_db.errors import CommitOutcomeUnknown
from flask_pooled_db.flask.commands.stopping import Stopping
from flask_pooled_db.flask.commands.stress.clients import Clients
from flask_pooled_db.flask.commands.stress.ground import ACCOUNTS, EXPECTED, Ground
from flask_pooled_db.flask.commands.stress.tally import Tally
from flask_pooled_db.pool.reports import describe

PAUSE = 0.05
"""Seconds after a scope that failed."""

MOST_MOVED = 20


_READ = "SELECT SUM(amount), COUNT(*) FROM {accounts}"
_ADD = "UPDATE {accounts} SET amount = amount + ({amount}) WHERE id = {account}"
_NOTE = "INSERT INTO {moves} (client, number, source, target, amount) VALUES {values}"


class Undone(Exception):
    """What a scope raises that is to be rolled back."""


class Client:
    """One of those who enter scopes, and what it has done."""

    def __init__(self, load: Load, client: int) -> None:
        self.client = client
        self.moves = 0
        self.failed: set[int] = set()
        self.unknown: set[int] = set()
        self.tally = Tally()
        self.has_ended = Event()
        self._load = load
        self._random = random.Random()
        self._waits_since = 0.0  # for a connection
        self._lost: str | None = None  # by which error the last attempt failed

    def work(self) -> None:
        """Enter scopes until the time is over."""
        kinds = {"transfer": self._transfer, "read": self._read}
        kinds |= {"raises": self._raise, "nested": self._nest}
        names, weights = list(kinds), (40, 35, 10, 15)
        following = list(names)  # each of them once, also in a short time
        try:
            with self._load.app.app_context():
                while not self._load.clients.is_over:
                    following = following or self._random.choices(names, weights)
                    kind = following.pop()
                    self._enter(kind, kinds[kind])
        finally:
            self.has_ended.set()

    def _enter(self, kind: str, scope: Callable[[], None]) -> None:
        self._waits_since, self._lost = time.monotonic(), None
        began = self._waits_since
        try:
            scope()
        except Exception as error:  # noqa: BLE001  whatever it is, it is counted
            self.tally.failed[describe(error)] += 1
            time.sleep(PAUSE)
        else:
            self.tally.add(kind, time.monotonic() - began)

    # The kinds of scopes

    def _read(self) -> None:
        load = self._load
        with load.db.connection_context(load.bind, readonly=load.reads_only, rows="tuple") as conn:
            self._entered(conn)
            cur = conn.cursor()
            cur.execute(load.ground.sql(_READ))
            amount, count = cur.fetchone()
            cur.close()
        self.tally.wrong_reads += (int(amount or 0), count) != (EXPECTED, ACCOUNTS)

    def _transfer(self) -> None:
        self._move_with(lambda conn: None)

    def _nest(self) -> None:
        """Have a block inside of the transfer's undone."""
        load = self._load

        def undo(_: Any) -> None:
            with contextlib.suppress(Undone), load.db.connection_context(load.bind) as conn:
                self._add(conn, self._random.randrange(ACCOUNTS), 1)
                raise Undone

        self._move_with(undo)

    def _raise(self) -> None:
        def undo(_: Any) -> None:
            raise Undone

        with contextlib.suppress(Undone):
            self._move_with(undo)

    def _move_with(self, more: Callable[[Any], None]) -> None:
        """Move an amount from one account to another, and do more, in one transaction."""
        number, self.moves = self.moves, self.moves + 1
        source, target = self._random.sample(range(ACCOUNTS), 2)
        amount = self._random.randint(1, MOST_MOVED)

        def attempt(conn: Any) -> None:
            self._entered(conn)
            try:
                self._add(conn, source, -amount)
                self._add(conn, target, amount)
                values = (self.client, number, source, target, amount)
                self._run(conn, _NOTE, values=values)
                more(conn)
            except Exception as error:
                self._lost = describe(error)
                raise
            self._lost = "at its COMMIT"

        try:
            self._load.db.run_transaction(attempt, bind=self._load.bind)
        except CommitOutcomeUnknown:
            self.unknown.add(number)
            raise
        except BaseException:
            self.failed.add(number)
            raise

    # What they are made of

    def _entered(self, conn: Any) -> None:
        """Note an attempt that has its connection now, and the one before it, which failed."""
        if self._lost is not None:
            self.tally.started_over[self._lost] += 1
            self._lost = None
        else:
            self.tally.waits.add(time.monotonic() - self._waits_since)
        server_id = conn.usable().link.server_id
        if server_id is not None:
            self.tally.connections.add(server_id)

    def _add(self, conn: Any, account: int, amount: int) -> None:
        self._run(conn, _ADD, account=account, amount=amount)

    def _run(self, conn: Any, text: str, **values: object) -> None:
        cur = conn.cursor()
        cur.execute(self._load.ground.sql(text, **values))
        cur.close()


class Load:
    """What clients are at work on, and what they have to know."""

    def __init__(self, app: Flask, db: Any, bind: str, ground: Ground) -> None:
        self.app = app
        self.db = db
        self.bind = bind
        self.ground = ground
        self.reads_only: bool = db.pool(bind).driver.has_readonly
        self.clients: Clients[Client] = Clients()

    def run(self, count: int, seconds: float, stopping: Stopping) -> None:
        """Have `count` clients at work for so many seconds, or until the command is to end."""
        clients = (Client(self, number) for number in range(count))
        self.clients.run(clients, seconds, stopping)

    def wait_for_end(self) -> int:
        """Wait until all clients have ended, with patience. Returns how many have not."""
        config = self.db.pool(self.bind).config
        return self.clients.wait_for_end(2 * (config.acquire_timeout + config.connect_timeout))
