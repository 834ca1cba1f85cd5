"""Transactions a second over a slow network, with one thread and with many.

A transaction is one UPDATE of the thread's own row; a round trip takes 2 ms. Every pool has as
many connections as there are threads. The network is a relay in a process of its own: were it busy
all of the time, it would be what is measured. Client and relay keep to one CPU each, and not the
same; the server has all.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import chain
from typing import Any

from benchmarks.contenders import PRIVATE, SQLALCHEMY, Contender, Place, pools_on, private
from benchmarks.effort import Effort
from benchmarks.measure import OURS, Bar, Row, compare, in_turn
from benchmarks.network import Network, running_on, slow_network, two_cpus
from harness.server import MariaDBServer
from harness.workloads import add, create_accounts

ROUND_TRIP = 0.002
PINGS = 50
"""Of each thread, to see what a round trip really takes."""
THREADS_OF_THE_BAR = 16
BARS = {PRIVATE: Bar(0.95, at_most=False), SQLALCHEMY: Bar(1.0, at_most=False)}


Ping = Callable[[Any], object]


class Team:
    """Threads that stay, so that each can keep a connection of its own."""

    def __init__(self, size: int, executor: ThreadPoolExecutor) -> None:
        self._size = size
        self._executor = executor
        self._start = threading.Barrier(size)

    def warm_up(self, contender: Contender) -> None:
        """Have each thread hold a connection at the same time as all others."""

        def hold(account: int) -> None:
            with contender.around(), contender.block() as connection:
                add(connection, account, 1)
                self._start.wait()

        list(self._executor.map(hold, self._accounts))

    def transactions_a_second(self, contender: Contender, seconds: float) -> float:
        """How many transactions all threads together get done."""

        def work(account: int) -> tuple[int, float]:
            done = 0
            with contender.around():
                self._start.wait()
                started = time.monotonic()
                while time.monotonic() < started + seconds:
                    with contender.block() as connection:
                        add(connection, account, 1)
                    done += 1
                return done, time.monotonic() - started

        # No task ends before all have begun, so each has a thread of its own.
        results = list(self._executor.map(work, self._accounts))
        return sum(done for done, _ in results) / max(took for _, took in results)

    def round_trip(self, contender: Contender, ping: Ping) -> float:
        """Seconds that a ping takes, the median of many, with all threads at it."""

        def work(account: int) -> list[float]:
            self._start.wait()
            took = []
            with contender.around(), contender.block() as connection:
                for _ in range(PINGS):
                    started = time.perf_counter()
                    ping(connection)
                    took.append(time.perf_counter() - started)
            return took

        return statistics.median(chain.from_iterable(self._executor.map(work, self._accounts)))

    @property
    def _accounts(self) -> range:
        return range(1, self._size + 1)


def run(effort: Effort) -> list[Row]:
    """All pools and no pool, with each number of threads."""
    most = max(effort.threads)
    clients_cpu, relays_cpu = two_cpus()
    with MariaDBServer([f"--max-connections={6 * most + 10}"]) as server, ExitStack() as stack:
        database = server.create_database()
        create_accounts(server, database, most, 0)
        with running_on(relays_cpu):
            network = stack.enter_context(slow_network(server.host, server.port, ROUND_TRIP))
        place = Place.of(server, database, network.port)
        with running_on(clients_cpu):
            rows = []
            for threads in effort.threads:
                rows += _with_threads(effort, place, network, threads)
            return rows


def _with_threads(effort: Effort, place: Place, network: Network, threads: int) -> list[Row]:
    bars = BARS if threads == THREADS_OF_THE_BAR else {}
    with _contenders(place, threads) as contenders:
        return measure_teams(effort, contenders, network, threads, _ping, bars)


def _ping(connection: Any) -> None:
    connection.ping(reconnect=False)


def measure_teams(
    effort: Effort,
    contenders: Sequence[Contender],
    network: Network,
    threads: int,
    ping: Ping,
    bars: Mapping[str, Bar],
) -> list[Row]:
    """So many threads on each contender in turn; a ping of the last one is noted."""
    with ThreadPoolExecutor(threads) as executor:
        team = Team(threads, executor)
        for contender in contenders:
            team.warm_up(contender)
        round_trip = team.round_trip(contenders[-1], ping)
        busiest = 0.0

        def measure(contender: Contender) -> float:
            nonlocal busiest
            busy, started = network.cpu_seconds(), time.monotonic()
            result = team.transactions_a_second(contender, effort.seconds)
            busy, took = network.cpu_seconds() - busy, time.monotonic() - started
            busiest = max(busiest, busy / took)
            return result

        samples = in_turn(
            {contender.name: partial(measure, contender) for contender in contenders},
            effort.rounds,
        )
    note = (
        f"Threads: {threads}, a ping {round_trip * 1000:.1f} ms (median), CPU of the relay at most "
        f"{busiest:.0%}."
    )
    return compare(f"threads: {threads}", "transactions/s", samples, bars, note)


@contextmanager
def _contenders(place: Place, threads: int) -> Iterator[list[Contender]]:
    with pools_on(place, threads) as pools, private(place) as without_pool:
        assert pools[0].name == OURS
        yield [*pools, without_pool]
