"""Transactions a second over a slow network, of tasks in an event loop beside threads.

A transaction is one UPDATE of the task's, or the thread's, own row; a round trip takes 2 ms. With
20 connections, the default, tasks and threads wait for one another; with one for each, only for the
CPU of their process, of which a task's call takes more: it is made by a thread, too. The network is
that of the benchmark of throughput.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from flask import Flask

from benchmarks.contenders import Place, pooled_app, sizes
from benchmarks.effort import Effort
from benchmarks.measure import OURS, Bar, Row, compare, in_turn
from benchmarks.network import running_on, slow_network, two_cpus
from benchmarks.throughput import ROUND_TRIP
from flask_pooled_db import PooledDB, db_connection_context
from harness.server import MariaDBServer
from harness.workloads import add, create_accounts

NUMBER = 64
THREADS = "threads with blocking scopes"
BARS = {THREADS: Bar(0.9, at_most=False)}
USUAL = 20  # connections: what MAXCONNECTIONS is by default


def run(effort: Effort) -> list[Row]:
    """Tasks and threads, on pools of both sizes."""
    clients_cpu, relays_cpu = two_cpus()
    with MariaDBServer([f"--max-connections={2 * NUMBER}"]) as server:
        database = server.create_database()
        create_accounts(server, database, NUMBER, 0)
        with running_on(relays_cpu), slow_network(server.host, server.port, ROUND_TRIP) as network:
            place = Place.of(server, database, network.port)
            with running_on(clients_cpu):
                return _compare(place, USUAL, effort, BARS) + _compare(place, NUMBER, effort, None)


def _compare(
    place: Place, connections: int, effort: Effort, bars: dict[str, Bar] | None
) -> list[Row]:
    with (
        pooled_app(URL=place.urls["pymysql"], **sizes(connections)) as app,
        ThreadPoolExecutor(NUMBER) as executor,
    ):
        contenders: dict[str, Callable[[float], float]] = {
            OURS: partial(by_tasks, app),
            THREADS: partial(by_threads, app, executor),
        }
        for transactions_a_second in contenders.values():
            transactions_a_second(effort.seconds)  # opens the connections
        samples = in_turn(
            {name: partial(measure, effort.seconds) for name, measure in contenders.items()},
            effort.rounds,
        )
    case = f"tasks: {NUMBER}, connections: {connections}"
    return compare(case, "transactions/s", samples, bars)


def by_threads(app: Flask, executor: ThreadPoolExecutor, seconds: float) -> float:
    """How many transactions all threads together get done."""
    start = threading.Barrier(NUMBER)

    def work(account: int) -> tuple[int, float]:
        done = 0
        with app.app_context():
            start.wait()
            started = time.monotonic()
            while time.monotonic() < started + seconds:
                with db_connection_context() as connection:
                    add(connection, account, 1)
                done += 1
            return done, time.monotonic() - started

    results = list(executor.map(work, range(1, NUMBER + 1)))
    return sum(done for done, _ in results) / max(took for _, took in results)


def by_tasks(app: Flask, seconds: float) -> float:
    """How many transactions all tasks together get done."""
    db: PooledDB = app.extensions["pooled_db"].extension

    async def work(account: int) -> tuple[int, float]:
        update = f"UPDATE accounts SET balance = balance + 1 WHERE id = {account}"  # as `add` does
        done, started = 0, time.monotonic()
        while time.monotonic() < started + seconds:
            async with db.async_connection_context() as connection, connection.cursor() as cursor:
                await cursor.execute(update)
            done += 1
        return done, time.monotonic() - started

    async def all_of_them() -> list[tuple[int, float]]:
        return await asyncio.gather(*map(work, range(1, NUMBER + 1)))

    with app.app_context():
        results = asyncio.run(all_of_them())
    return sum(done for done, _ in results) / max(took for _, took in results)
