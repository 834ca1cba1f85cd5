"""What TLS changes: a scope over a slow network, and a look at a TLS socket.

The scope is a transaction of one UPDATE where a round trip takes 2 ms; each certificate is checked.
A look is what each checkout takes at its connection, without a round trip. TLS 1.3 session tickets
that come late are no news: the look reads them, and the connection is lent. Two of them lie unread
on each socket that is looked at; a ping, beside it, is how else to tell that from the end.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

import pymysql

from benchmarks.contenders import Place, pools_on, private
from benchmarks.effort import Effort
from benchmarks.measure import OURS, Row, compare, in_turn
from benchmarks.network import running_on, slow_network, two_cpus
from benchmarks.throughput import ROUND_TRIP, Team
from flask_pooled_db.drivers.sockets import look_at, look_at_tls
from harness.server import MariaDBServer
from harness.tls import Certificates, make_certificates, tls_sockets
from harness.workloads import create_accounts

THREADS = (1, 16)
LOOKS = 1000


def run(effort: Effort) -> list[Row]:
    """Scopes, then looks."""
    with tempfile.TemporaryDirectory() as directory:
        certificates = make_certificates(Path(directory))
        with MariaDBServer(certificates=certificates) as server:
            database = server.create_database()
            create_accounts(server, database, max(THREADS), 0)
            clients_cpu, relays_cpu = two_cpus()
            with ExitStack() as stack:
                with running_on(relays_cpu):
                    relay = stack.enter_context(slow_network(server.host, server.port, ROUND_TRIP))
                stack.enter_context(running_on(clients_cpu))
                place = Place.of(server, database, relay.port)
                return [*_scopes(effort, place), *_looks(effort, place, certificates)]


def _scopes(effort: Effort, place: Place) -> list[Row]:
    rows = []
    for threads in THREADS:
        with (
            pools_on(place, threads) as pools,
            private(place) as without_pool,
            ThreadPoolExecutor(threads) as executor,
        ):
            team = Team(threads, executor)
            contenders = [*pools, without_pool]
            for contender in contenders:
                team.warm_up(contender)
            measures = {
                contender.name: partial(team.transactions_a_second, contender, effort.seconds)
                for contender in contenders
            }
            samples = in_turn(measures, effort.rounds)
        rows += compare(f"scopes at 2 ms, threads: {threads}", "transactions/s", samples)
    return rows


def _looks(effort: Effort, place: Place, certificates: Certificates) -> list[Row]:
    with (
        closing(pymysql.connect(**place.arguments)) as connection,
        tls_sockets(certificates) as (client, _),
    ):
        look_at_tls(client)()  # what came with the handshake
        silent = in_turn(
            {
                OURS: partial(_microseconds, look_at_tls(client)),
                "a look at a socket without TLS": partial(_microseconds, look_at(client.fileno())),
            },
            effort.rounds,
        )
        ping = partial(connection.ping, reconnect=False)
        late = in_turn(
            {
                OURS: lambda: _late_look(certificates, effort.connects),
                "PyMySQL, a ping": lambda: _microseconds(ping, effort.connects),
            },
            effort.rounds,
        )
    return [
        *compare("a look at a silent socket", "µs", silent),
        *compare("a look at a socket with late session tickets", "µs", late),
    ]


def _microseconds(function: Callable[[], object], count: int = LOOKS) -> float:
    started = time.perf_counter()
    for _ in range(count):
        function()
    return (time.perf_counter() - started) / count * 1e6


def _late_look(certificates: Certificates, count: int) -> float:
    times = []
    for _ in range(count):
        with tls_sockets(certificates) as (client, _):
            look = look_at_tls(client)
            started = time.perf_counter()
            seen = look()
            times.append(time.perf_counter() - started)
            assert seen == 0, "late session tickets cost a connection"
    return statistics.median(times) * 1e6
