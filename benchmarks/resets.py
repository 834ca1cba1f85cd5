"""What a scope costs with each `RESET`, over a slow network, in which a round trip takes 2 ms.

A scope is one UPDATE. It changes nothing in its session, so that "changed", the default, is to cost
what "rollback" does, while "session" resets after each scope. One thread, one connection; the
median of all scopes of a round. Client and relay keep to one CPU each, and not the same.
"""

from __future__ import annotations

import statistics
import time
from contextlib import ExitStack
from functools import partial

from benchmarks.contenders import Contender, Place, ours, sizes
from benchmarks.effort import Effort
from benchmarks.measure import OURS, Bar, Row, compare, in_turn
from benchmarks.network import running_on, slow_network, two_cpus
from harness.server import MariaDBServer
from harness.workloads import add, create_accounts

ROUND_TRIP = 0.002
ROLLBACK, SESSION = 'RESET="rollback"', 'RESET="session"'
BARS = {ROLLBACK: Bar(1.02, at_most=True)}
RESETS = {OURS: "changed", ROLLBACK: "rollback", SESSION: "session"}
CASE = '1 x UPDATE, RESET="changed"'


def run(effort: Effort) -> list[Row]:
    """The extension beside itself, with each `RESET`."""
    clients_cpu, relays_cpu = two_cpus()
    with MariaDBServer() as server, ExitStack() as stack:
        database = server.create_database()
        create_accounts(server, database, 1, 0)
        with running_on(relays_cpu):
            network = stack.enter_context(slow_network(server.host, server.port, ROUND_TRIP))
        url = Place.of(server, database, network.port).urls["pymysql"]
        with running_on(clients_cpu):
            contenders = {
                name: stack.enter_context(ours(URL=url, RESET=reset, **sizes(1)))
                for name, reset in RESETS.items()
            }
            samples = in_turn(
                {name: partial(_milliseconds, it, effort) for name, it in contenders.items()},
                effort.rounds,
            )
    return compare(CASE, "ms", samples, BARS)


def _milliseconds(contender: Contender, effort: Effort) -> float:
    """How long a scope takes, the median."""
    took: list[float] = []
    with contender.around():
        end = time.monotonic() + effort.seconds
        while time.monotonic() < end or not took:
            started = time.perf_counter()
            with contender.block() as connection:
                add(connection, 1, 1)
            took.append(time.perf_counter() - started)
    return statistics.median(took) * 1000
