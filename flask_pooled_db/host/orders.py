"""Orders: what a command asks all processes of an app to do, and what each of them answers.

An order is a file, and so is each answer. Whoever gives an order removes it, and the answers to it.
What was left by one that was killed is removed by any process that publishes.
"""

from __future__ import annotations

import contextlib
import re
import secrets
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from time import monotonic
from typing import Any

from flask_pooled_db.host.directory import Directory
from flask_pooled_db.host.records import Numbers, encode, numbers_of, read, time_of

_FILE = re.compile(r"(order-([0-9a-f]{16})|answer-([0-9a-f]{16})-[0-9a-f]{16})\.json(\.tmp)?")

LARGEST = 2**22
"""Bytes of the largest order or answer that is read."""

GRACE = 60.0
"""Seconds beyond its end for which an order stays, if nobody removes it."""

DRAFT_KEPT, UNREADABLE_KEPT = 60.0, 3600.0
"""Seconds for which a draft, and an order that can't be read, is left where it is. The latter may
be that of a later version of this package.
"""


@dataclass(frozen=True, slots=True)
class Order:
    """What all processes are asked to do. Times are those of the host's monotonic clock."""

    id: str
    giver: str
    """The token of the process that gave it, which does not ask itself."""
    kind: str
    arguments: Numbers
    given: float
    """A process that began later does not carry it out."""
    ends: float
    """When nobody waits for an answer any more. From then on nobody begins it."""
    to: tuple[str, ...]
    """The tokens of the processes that lived when it was given."""

    @property
    def name(self) -> str:
        """The name of its file."""
        return f"order-{self.id}.json"

    def name_of_answer(self, token: str) -> str:
        """Return the name of the file in which a process answers."""
        return f"answer-{self.id}-{token}.json"

    def offset_of(self, token: str) -> float:
        """Return a part of 1 by which processes differ that are to take turns."""
        count = max(len(self.to), 1)
        place = self.to.index(token) if token in self.to else int(token, 16) % count
        return (place + 0.5) / count

    def is_current(self, now: float) -> bool:
        """Return whether it may be begun. That of a time before the host was restarted may not."""
        return self.given <= now < self.ends


class Status(StrEnum):
    """How far a process has got with an order."""

    WORKING = "working"
    DONE = "done"
    REFUSED = "refused"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a process says of an order: `done` of `total` so far, and what has come of it."""

    pid: int
    status: Status = Status.WORKING
    done: int = 0
    total: int = 0
    result: Numbers = field(default_factory=dict)

    @property
    def is_final(self) -> bool:
        """Whether the process does nothing more."""
        return self.status is not Status.WORKING


def new_order(
    giver: str, kind: str, arguments: Numbers, seconds: float, to: Collection[str]
) -> Order:
    """Return an order that is given now, and for whose answers somebody waits so many seconds."""
    now = monotonic()
    return Order(
        secrets.token_hex(8), giver, kind, arguments, now, now + seconds, tuple(sorted(to))
    )


def ids_in(names: Collection[str]) -> list[str]:
    """Return the ids of the orders among these files."""
    return [match[2] for match in _matches(names) if match[2] and not match[4]]


def _matches(names: Collection[str]) -> Iterator[re.Match[str]]:
    found = (_FILE.fullmatch(name) for name in names if name[:1] in "oa")
    return (match for match in found if match is not None)


def write_order(directory: Directory, order: Order) -> None:
    """Give an order."""
    directory.replace(order.name, encode(**asdict(order)))


def order_of(directory: Directory, id_: str) -> Order | None:
    """Return an order, or None if there is none, or it is not to be read."""
    return read(directory, f"order-{id_}.json", _order, LARGEST)


def _order(content: Any) -> Order:
    return Order(
        id=str(content["id"]),
        giver=str(content["giver"]),
        kind=str(content["kind"]),
        arguments=numbers_of(content["arguments"]),
        given=time_of(content["given"]),
        ends=time_of(content["ends"]),
        to=tuple(map(str, content["to"])),
    )


def write_answer(directory: Directory, order: Order, token: str, answer: Answer) -> None:
    """Answer an order, if it stands."""
    name = order.name_of_answer(token)
    with contextlib.suppress(FileNotFoundError):  # who gave the order removes drafts as well
        directory.replace(name, encode(**asdict(answer)))
    # He removes the order first, and then what answers he sees: so one of the two sees the other.
    if directory.found(order.name) is None:
        directory.remove(name)


def answer_of(directory: Directory, order: Order, token: str) -> Answer | None:
    """Return what a process has answered; None if that is nothing, or is not to be read."""
    return read(directory, order.name_of_answer(token), _answer, LARGEST)


def _answer(content: Any) -> Answer:
    return Answer(
        pid=int(content["pid"]),
        status=Status(content["status"]),
        done=max(int(content["done"]), 0),
        total=max(int(content["total"]), 0),
        result=numbers_of(content["result"]),
    )


def remove(directory: Directory, id_: str) -> None:
    """Remove an order, and then all answers to it."""
    directory.remove(f"order-{id_}.json")
    for match in list(_matches(directory.names())):
        if id_ in (match[2], match[3]):
            _remove(directory, match[0])


def _remove(directory: Directory, name: str) -> None:
    with contextlib.suppress(OSError):  # a directory, say
        directory.remove(name)


class Leftovers:
    """What those have left that were killed, as one process has seen it."""

    def __init__(self) -> None:
        self._seen: dict[str, float] = {}  # when; of files that don't tell their age

    def sweep(self, directory: Directory) -> None:
        """Remove what is no order any more, and answers to what is none."""
        now, names = monotonic(), directory.names()
        kept = {id_ for id_ in ids_in(names) if not self._removes_order(directory, id_, now)}
        for match in list(_matches(names)):
            is_draft_of_order = bool(match[2] and match[4])
            is_orphan = bool(match[3]) and match[3] not in kept
            if is_orphan or (is_draft_of_order and self._is_older(match[0], now, DRAFT_KEPT)):
                _remove(directory, match[0])
        self._seen = {name: at for name, at in self._seen.items() if name in names}

    def _removes_order(self, directory: Directory, id_: str, now: float) -> bool:
        name = f"order-{id_}.json"
        order = None if name in self._seen else order_of(directory, id_)  # it is told once
        if order is None:
            is_over = self._is_older(name, now, UNREADABLE_KEPT)
        else:
            is_over = not order.given <= now < order.ends + GRACE
        if is_over:
            _remove(directory, name)
        return is_over

    def _is_older(self, name: str, now: float, seconds: float) -> bool:
        return now - self._seen.setdefault(name, now) >= seconds
