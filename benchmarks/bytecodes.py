"""Python instructions of one transaction, the driver's own included: what depends on no machine.

A transaction is one UPDATE on a warm connection of PyMySQL. The interpreter reports each
instruction to a trace function, which counts them. Calls of C functions count as one.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from types import FrameType
from typing import Any

from benchmarks.contenders import PRIVATE, Contender, Place, pools_on, private
from benchmarks.effort import Effort
from benchmarks.measure import OURS, Bar, Row, compare
from harness.server import MariaDBServer
from harness.workloads import add, create_accounts

WARM_UP = 20
MOST = 2_100


def run(effort: Effort) -> list[Row]:
    """The same for any effort: nothing here depends on chance or time."""
    with MariaDBServer() as server, ExitStack() as stack:
        database = server.create_database()
        create_accounts(server, database, 1, 0)
        place = Place.of(server, database)
        contenders = stack.enter_context(pools_on(place, 1))
        contenders += [stack.enter_context(private(place))]
        assert contenders[0].name == OURS
        samples = {contender.name: [count(contender)] for contender in contenders}
    bars = {PRIVATE: Bar(MOST, at_most=True, of_ratio=False)}
    return compare("one transaction of one UPDATE", "instructions", samples, bars)


def count(contender: Contender) -> float:
    """Return how many instructions a transaction takes once everything is warm."""
    with contender.around():
        for _ in range(WARM_UP):
            transaction(contender)
        counter = Counter()
        sys.settrace(counter.enter)
        try:
            transaction(contender)
        finally:
            sys.settrace(None)
    return counter.instructions


def transaction(contender: Contender) -> None:
    """Run the transaction that is counted."""
    with contender.block() as connection:
        add(connection, 1, 1)


class Counter:
    """A trace function that counts instructions."""

    def __init__(self) -> None:
        self.instructions = 0

    def enter(self, frame: FrameType, event: str, arg: Any) -> Any:
        """Have each instruction of a new frame reported."""
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        return self.step

    def step(self, frame: FrameType, event: str, arg: Any) -> Any:
        """Count an instruction."""
        self.instructions += event == "opcode"
        return self.step
