"""What an idle connection and a lease weigh.

A connection is weighed by what many of them add to the memory of a fresh process: to its resident
set, so that what C libraries allocate is in it (PyMySQL keeps a TLS context for each connection),
and to what Python has allocated (tracemalloc). Few pages are less than what was free before, so
that a small resident set is no exact one.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pymysql

from benchmarks.contenders import (
    DBUTILS,
    SQLALCHEMY,
    Contender,
    Place,
    engine_pool,
    naive,
    ours,
    sizes,
    sqlalchemy,
)
from benchmarks.effort import Effort
from benchmarks.measure import OURS, Row, compare
from flask_pooled_db import db_connection_context
from harness.naive import NaiveDB
from harness.server import MariaDBServer

ROUNDS = 3  # it hardly varies
PLAIN, DEFAULT = "PyMySQL alone, ssl_disabled", "PyMySQL alone"
KIB = 1024


def run(effort: Effort) -> list[Row]:
    """Each pool, and the driver alone, in a process of its own."""
    resident: dict[str, list[float]] = {name: [] for name in _MAKERS}
    traced: dict[str, list[float]] = {name: [] for name in _MAKERS}
    lease: dict[str, list[float]] = {OURS: [], DBUTILS: [], SQLALCHEMY: []}
    with MariaDBServer([f"--max-connections={2 * effort.held + 10}"]) as server:
        place = Place.of(server, server.create_database())
        for _ in range(min(ROUNDS, effort.rounds)):
            for name in _MAKERS:
                weights = _in_new_process(weigh, name, place, effort.held)
                resident[name].append(weights.resident)
                traced[name].append(weights.traced)
                if name in lease:
                    lease[name].append(weights.lease)
    return [
        *compare("an idle connection, resident set", "KiB", resident),
        *compare("an idle connection, tracemalloc", "KiB", traced),
        *compare("a lease, tracemalloc", "KiB", lease),
    ]


def _in_new_process(function: Callable[..., Any], *args: Any) -> Any:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, args)


class Weights(NamedTuple):
    """What one connection and one lease add, in KiB."""

    resident: float
    traced: float
    lease: float


def weigh(name: str, place: Place, count: int) -> Weights:
    """Weigh `count` connections, then as many more, then leases of them all."""
    with _MAKERS[name](place, 2 * count) as contender, contender.around():
        _hold(contender, 1, _nothing)  # what is made once is made here
        resident = _resident()
        _hold(contender, count, _nothing)
        resident = (_resident() - resident) / (count - 1)
        tracemalloc.start()
        _hold(contender, 2 * count, _nothing)
        traced = _traced()
        lease = _hold(contender, 2 * count, _traced) - traced
        tracemalloc.stop()
    return Weights(resident, traced / count, lease / (2 * count))


def _hold(contender: Contender, count: int, look: Callable[[], float]) -> float:
    """What is seen with so many blocks entered at the same time."""
    with ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(contender.block())
        return look()


def _nothing() -> float:
    return 0.0


def _resident() -> float:
    gc.collect()
    # Field 2 of /proc/pid/statm, in pages: proc(5).
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / KIB


def _traced() -> float:
    gc.collect()
    return tracemalloc.get_traced_memory()[0] / KIB


@contextmanager
def _ours(place: Place, size: int) -> Iterator[Contender]:
    with ours(URL=place.urls["pymysql"], **sizes(size)) as contender:
        yield Contender(
            contender.name,
            lambda: db_connection_context(independent=True),  # this thread holds many
            contender.reading,
            contender.around,
        )


def _dbutils(place: Place, size: int) -> AbstractContextManager[Contender]:
    return naive(NaiveDB(pymysql, maxcached=size, maxconnections=size, **place.arguments))


def _sqlalchemy(place: Place, size: int) -> AbstractContextManager[Contender]:
    return sqlalchemy(SQLALCHEMY, engine_pool(place, size, ping=False))


@contextmanager
def _alone(place: Place, size: int, **arguments: Any) -> Iterator[Contender]:
    """Connections that nobody looks after, up to `size`, all open to the end."""
    with ExitStack() as opened:
        free: list[Any] = []

        @contextmanager
        def block() -> Iterator[Any]:
            if not free:
                connection = pymysql.connect(**place.arguments, **arguments)
                free.append(opened.enter_context(closing(connection)))
            connection = free.pop()
            yield connection
            free.append(connection)

        yield Contender(DEFAULT, block, block)


_MAKERS: dict[str, Callable[[Place, int], AbstractContextManager[Contender]]] = {
    OURS: _ours,
    DBUTILS: _dbutils,
    SQLALCHEMY: _sqlalchemy,
    DEFAULT: _alone,
    PLAIN: lambda place, size: _alone(place, size, ssl_disabled=True),
}
