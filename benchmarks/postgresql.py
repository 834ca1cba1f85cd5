"""The extension on psycopg beside psycopg's own pool, on PostgreSQL.

The block of psycopg_pool is its `with pool.connection()`, which commits. Throughput is measured as
in `throughput`, round trips as in `roundtrips`: psycopg's BEGIN is one of its own. Scopes on a
real connection are measured in the thread's CPU time, which leaves out what the server takes.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import psycopg

from benchmarks.bare import microseconds
from benchmarks.contenders import Contender, pooled_app
from benchmarks.effort import Effort
from benchmarks.measure import OURS, Bar, Row, compare, in_turn
from benchmarks.network import running_on, slow_network, two_cpus
from benchmarks.psycopg_pools import PSYCOPG_POOL, conninfo_of, opened_pool, pools_on, private
from benchmarks.roundtrips import compare_scopes
from benchmarks.throughput import ROUND_TRIP, THREADS_OF_THE_BAR, measure_teams
from harness.postgres import PostgreSQLServer
from harness.postgres_protocol import PostgreSQLSplitter
from harness.proxy import Proxy
from harness.tls import make_certificates
from harness.workloads import add, create_accounts

PSYCOPG = "psycopg"
GETCONN = "psycopg_pool, getconn and putconn"
CALLS_OF_A_STATEMENT = 40
"""As many checkouts take about as long as one scope with a statement."""
BARS = {PSYCOPG_POOL: Bar(1.0, at_most=False)}

Connect = Callable[[], Any]


def run(effort: Effort) -> list[Row]:
    """Throughput, round trips, bare scopes, and new connections."""
    with PostgreSQLServer() as server:
        database = server.create_database()
        create_accounts(server, database, THREADS_OF_THE_BAR, 0)
        rows = [
            *_throughput(server, database, effort),
            *_round_trips(server, database),
            *_bare(server, database, effort),
            *_connects(server, effort, "no TLS on the server"),
        ]
    with (
        tempfile.TemporaryDirectory() as directory,
        PostgreSQLServer(certificates=make_certificates(Path(directory))) as server,
    ):
        return rows + _connects(server, effort, "TLS on the server")


def _throughput(server: PostgreSQLServer, database: str, effort: Effort) -> list[Row]:
    threads = min(THREADS_OF_THE_BAR, max(effort.threads))
    clients_cpu, relays_cpu = two_cpus()
    with ExitStack() as stack:
        with running_on(relays_cpu):
            network = stack.enter_context(slow_network(server.host, server.port, ROUND_TRIP))
        url = server.url(database=database, port=network.port)
        with running_on(clients_cpu):
            contenders = [
                *stack.enter_context(pools_on(url, threads)),
                stack.enter_context(private(url)),
            ]
            return measure_teams(effort, contenders, network, threads, _ping, BARS)


def _ping(connection: Any) -> None:
    connection.execute("")


def _round_trips(server: PostgreSQLServer, database: str) -> list[Row]:
    with ExitStack() as stack:
        proxy = stack.enter_context(Proxy(server.host, server.port, splitter=PostgreSQLSplitter))
        pools = stack.enter_context(pools_on(server.url(database=database, port=proxy.port), 1))
        return compare_scopes(pools, proxy, PSYCOPG_POOL)


def _bare(server: PostgreSQLServer, database: str, effort: Effort) -> list[Row]:
    url = server.url(database=database)
    with ExitStack() as stack:
        ours, theirs, _ = stack.enter_context(pools_on(url, 1))
        pool = stack.enter_context(opened_pool(url, 1))
        stack.enter_context(ours.around())
        empty: dict[str, Callable[[], object]] = {
            OURS: partial(_enter, ours),
            PSYCOPG_POOL: partial(_enter, theirs),
            GETCONN: lambda: pool.putconn(pool.getconn()),
        }
        updating: dict[str, Callable[[], object]] = {
            OURS: partial(_update, ours),
            PSYCOPG_POOL: partial(_update, theirs),
        }
        calls = max(1, effort.calls // CALLS_OF_A_STATEMENT)
        return [
            *_in_cpu_time("a scope without a statement", empty, effort.calls, effort.rounds),
            *_in_cpu_time("a scope with one UPDATE", updating, calls, effort.rounds),
        ]


def _in_cpu_time(
    case: str, contenders: dict[str, Callable[[], object]], calls: int, rounds: int
) -> list[Row]:
    measures = {name: partial(microseconds, call, calls) for name, call in contenders.items()}
    return compare(f"{case}, CPU", "µs", in_turn(measures, rounds))


def _enter(contender: Contender) -> None:
    with contender.block():
        pass


def _update(contender: Contender) -> None:
    with contender.block() as connection:
        add(connection, 1, 1)


def _connects(server: PostgreSQLServer, effort: Effort, case: str) -> list[Row]:
    with pooled_app(URL=server.url()) as app:
        contenders: dict[str, Connect] = {
            OURS: app.extensions["pooled_db"].pool(None).driver.connect,
            PSYCOPG: partial(psycopg.connect, conninfo_of(server.url())),
        }
        rows = []
        for what, clock in (("", time.perf_counter), (", CPU", time.thread_time)):
            samples = in_turn(
                {
                    name: partial(_milliseconds, connect, effort.connects, clock)
                    for name, connect in contenders.items()
                },
                effort.rounds,
            )
            rows += compare(f"one connection by psycopg, {case}{what}", "ms", samples)
    return rows


def _milliseconds(connect: Connect, count: int, clock: Callable[[], float]) -> float:
    connect().close()  # what is made once is made here
    times = []
    for _ in range(count):
        started = clock()
        connection = connect()
        times.append(clock() - started)
        connection.close()
    return statistics.median(times) * 1000
