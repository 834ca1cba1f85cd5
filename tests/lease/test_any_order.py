"""T9: any order of generators and blocks in one transaction.

Either what is committed is what every block was told, or the outermost block fails and nothing is.
"""

from __future__ import annotations

import contextlib
import logging
import random
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any

import pytest

from flask_pooled_db import db_connection_context
from flask_pooled_db.errors import PooledDBError
from harness.workloads import run
from tests.support.stages import FileStage, Stage


@dataclass
class Step:
    """Something that a block does. `steps` are those inside it; `by_error` is how it ends."""

    kind: str
    which: int = 0
    by_error: bool = False
    steps: list[Step] = field(default_factory=list)


KINDS = {"write": 4, "block": 3, "begin": 3, "resume": 5, "exhaust": 1, "close": 1, "throw": 1}


def make_program(chance: random.Random, depth: int = 4) -> list[Step]:
    """Make up what a block does."""
    kinds = chance.choices(
        list(KINDS), list(KINDS.values()), k=chance.randint(min(depth, 1), depth + 1)
    )
    return [
        Step(kind, chance.randrange(6), chance.random() < 0.3, make_program(chance, depth - 1))
        for kind in kinds
    ]


class Players:
    """Plays steps, and knows which rows each block was told are done."""

    def __init__(self) -> None:
        self.row = 0
        self.generators: list[Generator[None, list[Step] | None, None]] = []

    def play(self, conn: Any, steps: list[Step], told: list[int]) -> None:
        for step in steps:
            self.do(conn, step, told)

    def do(self, conn: Any, step: Step, told: list[int]) -> None:
        idle = [it for it in self.generators if not it.gi_running]  # type: ignore[attr-defined]
        it = idle[step.which % len(idle)] if idle else None
        if step.kind == "write":
            self.row += 1
            run(conn, f"INSERT INTO numbers VALUES ({self.row})")
            told.append(self.row)
        elif step.kind == "block":
            with contextlib.suppress(LookupError):
                self.block(step, told)
        elif step.kind == "begin":
            self.generators.append(self.generator(told))
            next(self.generators[-1])
            self.generators[-1].send(step.steps)
        elif it is not None:
            with contextlib.suppress(StopIteration, LookupError):
                self.drive(it, step)

    def drive(self, it: Generator[None, list[Step] | None, None], step: Step) -> None:
        if step.kind == "resume":
            it.send(step.steps)
        elif step.kind == "close":
            it.close()
        elif step.kind == "throw":
            it.throw(LookupError())
        else:
            it.send(None)

    def block(self, step: Step, told: list[int]) -> None:
        mine: list[int] = []
        with db_connection_context() as conn:
            self.play(conn, step.steps, mine)
            if step.by_error:
                raise LookupError
        told += mine

    def generator(self, told: list[int]) -> Generator[None, list[Step] | None, None]:
        mine: list[int] = []
        with db_connection_context() as conn:
            while (steps := (yield)) is not None:
                self.play(conn, steps, mine)
        told += mine


def play_program(stage: Stage, numbers: Callable[[], set[int]], seed: int) -> bool:
    """Play it in one transaction; return whether it was committed."""
    with db_connection_context() as conn:
        run(conn, "DELETE FROM numbers")
    players, told = Players(), [0]
    try:
        with db_connection_context() as conn:
            run(conn, "INSERT INTO numbers VALUES (0)")
            players.play(conn, make_program(random.Random(seed)), told)
            for it in players.generators:
                it.close()
    except PooledDBError:
        assert numbers() == set(), seed
        return False
    finally:
        for it in players.generators:
            with contextlib.suppress(PooledDBError):
                it.close()
        assert stage.db.stats().in_use == 0
    assert numbers() == set(told), seed
    return True


def numbers_of(stage: Stage) -> Callable[[], set[int]]:
    with db_connection_context() as conn:
        run(conn, "CREATE TABLE numbers (n INTEGER PRIMARY KEY)")

    def numbers() -> set[int]:
        with db_connection_context(readonly=True) as conn:
            return {n for (n,) in run(conn, "SELECT n FROM numbers")}

    return numbers


def play_programs(stage: Stage, seeds: range) -> None:
    numbers = numbers_of(stage)
    logging.getLogger("flask_pooled_db").setLevel(logging.CRITICAL)
    try:
        committed = [play_program(stage, numbers, seed) for seed in seeds]
    finally:
        logging.getLogger("flask_pooled_db").setLevel(logging.NOTSET)
    assert 0.3 < sum(committed) / len(committed) < 0.9, "too few of either outcome"


def test_t9_any_order(sqlite_stage: FileStage) -> None:
    """In any order of generators and blocks, what was told is what is committed, or all fails."""
    play_programs(sqlite_stage, range(600))


def test_t9_any_order_on_server(pymysql_stage: Stage) -> None:
    """The same on a server, where a second savepoint of a name replaces the first."""
    play_programs(pymysql_stage, range(100))


@pytest.mark.slow
def test_t9_many_orders(sqlite_stage: FileStage) -> None:
    """The same with many more of them."""
    play_programs(sqlite_stage, range(600, 6000))
