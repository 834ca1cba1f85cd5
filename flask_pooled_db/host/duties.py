"""Orders as a process carries them out: each once, and in a thread of its own."""

from __future__ import annotations

import functools
import logging
import os
import threading
import traceback
from collections.abc import Callable
from time import monotonic

from flask_pooled_db.host import orders
from flask_pooled_db.host.directory import Directory
from flask_pooled_db.host.orders import Answer, Order, Status
from flask_pooled_db.host.records import Numbers
from flask_pooled_db.runtime import reporter, workers

logger = logging.getLogger("flask_pooled_db")

MOST_KNOWN = 1000
"""How many orders are remembered, so that none is carried out twice."""


class Refused(Exception):
    """The order can't be carried out in this process. The text says why."""


class Withdrawn(Exception):
    """Nobody waits for it any more."""


class Duty:
    """An order that this process carries out. The thread that does so tells how far it has got."""

    def __init__(self, order: Order, offset: float) -> None:
        self.order = order
        self.offset = offset
        """A part of 1, by which the processes differ: so they take turns."""
        self.answer = Answer(os.getpid())
        self.written: Answer | None = None
        self._withdrawn = threading.Event()

    def tell(self, done: int, total: int) -> None:
        """Have others see how much of all is done."""
        self.answer = Answer(self.answer.pid, Status.WORKING, done, total)

    def end(self, status: Status, result: Numbers) -> None:
        """Have others see that it is over, and what has come of it."""
        before = self.answer
        self.answer = Answer(before.pid, status, before.done, before.total, result)

    def pause(self, seconds: float) -> None:
        """Wait, without holding up a fork. Raises `Withdrawn` if nobody waits for it any more."""
        with workers.resting():
            is_withdrawn = self._withdrawn.wait(seconds)
        if is_withdrawn or monotonic() >= self.order.ends:
            raise Withdrawn

    def withdraw(self) -> None:
        """Have it end, as soon as its thread looks."""
        self._withdrawn.set()


CarryOut = Callable[[Duty], Numbers]
"""Carries out an order, in a thread of its own, and returns what has come of it. Raises `Refused`.
"""


def refuse(duty: Duty) -> Numbers:
    """Carry out no order."""
    raise Refused("it takes no orders")


class Duties:
    """The orders to this process. One thread at a time may use it."""

    def __init__(self, carry_out: CarryOut = refuse) -> None:
        self._carry_out = carry_out
        self.after_fork()

    def after_fork(self) -> None:
        """In a forked child, forget what the parent does."""
        self._duties: dict[str, Duty] = {}  # those whose order stands
        self._known: dict[str, None] = {}  # in the order of their coming

    @property
    def is_busy(self) -> bool:
        """Whether there is something to be answered soon."""
        return any(not (duty.written or duty.answer).is_final for duty in self._all())

    def _all(self) -> list[Duty]:
        return list(self._duties.values())

    def attend(self, directory: Directory, token: str, started: float) -> None:
        """Begin what is new in the directory, and answer what is under way. This process is called
        `token`, and began at `started`.
        """
        ids = orders.ids_in(directory.names())
        if not ids and not self._duties:  # as most often
            return
        for id_ in self._duties.keys() - ids:
            self._duties.pop(id_).withdraw()
        for id_ in ids:
            if id_ not in self._known:
                self._consider(directory, id_, token, started)
        for duty in self._all():
            answer = duty.answer
            if answer != duty.written:
                orders.write_answer(directory, duty.order, token, answer)
                duty.written = answer

    def _consider(self, directory: Directory, id_: str, token: str, started: float) -> None:
        order = orders.order_of(directory, id_)
        self._know(id_)
        is_for_us = (
            order is not None
            and order.id == id_
            and order.giver != token
            and order.given >= started
            and order.is_current(monotonic())
        )
        if order is None or not is_for_us:
            return
        duty = self._duties[id_] = Duty(order, order.offset_of(token))
        try:
            workers.start("order", functools.partial(self._run, duty))
        except RuntimeError:  # the system has no more threads: the next time it may
            del self._duties[id_], self._known[id_]

    def _know(self, id_: str) -> None:
        self._known[id_] = None
        while len(self._known) > MOST_KNOWN:
            del self._known[next(iter(self._known))]

    def _run(self, duty: Duty) -> None:
        try:
            duty.end(Status.DONE, self._carry_out(duty))
        except Withdrawn:  # nothing has come of it
            pass
        except Refused as error:
            duty.end(Status.REFUSED, {"why": str(error)})
        except Exception as error:  # noqa: BLE001  others are told, and the log has it all
            text = "Carrying out an order (%s) failed:\n%s"
            kind = duty.order.kind[:100]
            reporter.tell(logger.error, text, kind, traceback.format_exc())
            duty.end(Status.FAILED, {"why": type(error).__name__})

    def withdraw(self) -> None:
        """End all: this process takes no part any more."""
        for duty in self._all():
            duty.withdraw()
