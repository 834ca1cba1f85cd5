"""Giving an order to all processes of an app, and waiting for what they answer.

No method waits for another process, and each waits for the disk for a limited time.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from flask_pooled_db.host import ledger, orders
from flask_pooled_db.host.directory import Directory, Location, Unusable, silence
from flask_pooled_db.host.orders import Answer, Order
from flask_pooled_db.host.presence import ALIVE
from flask_pooled_db.host.records import NUMBERS, Numbers, Record, record_of
from flask_pooled_db.runtime import Errand

PATIENCE = 2.0
"""Seconds that the disk is waited for."""

UNREADABLE = Record(0, 0.0, 0.0, {})
"""What stands for the numbers of a process that can't be read: it may be of another version."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Reply:
    """What is known of a process that was given an order."""

    token: str
    pid: int
    """Its process id, as it sees it itself; 0 if its numbers can't be read."""
    is_alive: bool
    answer: Answer | None
    """What it has answered; None if that is nothing so far."""

    @property
    def is_over(self) -> bool:
        """Whether no more is to come from it."""
        return not self.is_alive or (self.answer is not None and self.answer.is_final)


class Giving:
    """An order that is given, its answers, and its end."""

    def __init__(self, location: Location, token: str) -> None:
        """`token` is what the process is called that gives the order."""
        self._location = location
        self._token = token
        self._order: Order | None = None
        self._asked: dict[str, int] = {}  # the processes that are to answer, and their ids
        self._later: set[str] = set()  # those that began later

    def give(self, kind: str, arguments: Numbers, seconds: float) -> bool:
        """Order all processes that live to do something, and have `seconds` for it. Returns False,
        and gives no order, if there are none. Raises `Unusable`.
        """
        give = functools.partial(self._give, kind, arguments, seconds)
        try:
            return _bounded(give, lambda _: self._remove())
        except FileNotFoundError:  # nobody has published anything
            return False

    def _give(self, kind: str, arguments: Numbers, seconds: float) -> bool:
        with self._location.opened(make=False) as directory:
            self._asked = {token: record.pid for token, record in self._found(directory)}
            if self._asked:
                order = orders.new_order(self._token, kind, arguments, seconds, self._asked)
                self._order = order  # first: an interruption may come before each line
                orders.write_order(directory, order)
            return bool(self._asked)

    def replies(self) -> list[Reply]:
        """Return what is known of all processes that were given the order: those that lived then.

        Raises `Unusable`.
        """
        order = self._order
        if order is None:
            return []
        try:
            return _bounded(functools.partial(self._read, order), lambda _: None)
        except FileNotFoundError:
            text = f"{self._location.path} was removed meanwhile, and the order with it"
            raise Unusable("removed", text) from None

    def _read(self, order: Order) -> list[Reply]:
        with self._location.opened(make=False) as directory:
            for token, record in self._found(directory):
                if record.started <= order.given:  # it had published nothing yet
                    self._asked[token] = record.pid
                else:
                    self._later.add(token)
            # Whether it lives comes first: else it may answer and end in between.
            lives = {token: ledger.is_alive(directory, token) for token in self._asked}
            return [
                Reply(token, pid, lives[token], orders.answer_of(directory, order, token))
                for token, pid in list(self._asked.items())
            ]

    def _found(self, directory: Directory) -> Iterator[tuple[str, Record]]:
        """Yield the processes that live, as far as they are not known yet."""
        tokens = ledger.tokens_in(directory.names(), ALIVE, NUMBERS)
        for token in sorted(tokens - {self._token, *self._asked, *self._later}):
            if ledger.is_alive(directory, token):
                record = record_of(directory, token)
                if record is not None:
                    yield token, record
                elif directory.found(f"{token}{NUMBERS}") is not None:
                    yield token, UNREADABLE

    def withdraw(self) -> None:
        """Take the order back, and remove all answers. Who has begun it is told within a second.

        Raises `Unusable`: then the order stands until its end.
        """
        _bounded(self._remove, lambda _: None)

    def _remove(self) -> None:
        order = self._order
        if order is not None:
            with (
                contextlib.suppress(FileNotFoundError),
                self._location.opened(make=False) as directory,
            ):
                orders.remove(directory, order.id)


def _bounded(call: Callable[[], T], tidy: Callable[[T | None], object]) -> T:
    try:
        return Errand("orders", call, tidy).run(PATIENCE)
    except TimeoutError:
        raise silence() from None
    except RuntimeError as error:
        raise Unusable("threads", f"no thread can be started ({error})") from error
