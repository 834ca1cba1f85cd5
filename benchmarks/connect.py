"""What one new connection costs, on a server with TLS and on one without.

With its defaults PyMySQL asks for TLS, unverified, and takes what the server has.
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

import mariadb
import pymysql

from benchmarks.contenders import pooled_app
from benchmarks.effort import Effort
from benchmarks.measure import OURS, Bar, Row, compare, in_turn
from harness.server import MariaDBServer
from harness.tls import make_certificates

PLAIN, DEFAULT, CONNECTOR = "PyMySQL, ssl_disabled", "PyMySQL", "mariadb"

Connect = Callable[[], Any]


def run(effort: Effort) -> list[Row]:
    """Both kinds of server, one after the other."""
    with MariaDBServer() as server:
        rows = _on(server, effort, "no TLS on the server", {PLAIN: Bar(2.0, at_most=True)})
    with (
        tempfile.TemporaryDirectory() as directory,
        MariaDBServer(certificates=make_certificates(Path(directory))) as server,
    ):
        rows += _on(server, effort, "TLS on the server", {})
    return rows


def _on(server: MariaDBServer, effort: Effort, case: str, bars: dict[str, Bar]) -> list[Row]:
    arguments = server.connect_args(ask_for_tls=False)
    with ExitStack() as stack:
        contenders = {
            OURS: _our_connect(stack, server, "pymysql"),
            PLAIN: lambda: pymysql.connect(**arguments, ssl_disabled=True),
            DEFAULT: lambda: pymysql.connect(**arguments),
        }
        rows = _compare(f"one connection by PyMySQL, {case}", contenders, effort, bars)
        contenders = {
            OURS: _our_connect(stack, server, "mariadbconnector"),
            CONNECTOR: lambda: mariadb.connect(**arguments),
        }
        return rows + _compare(f"one connection by the connector, {case}", contenders, effort, {})


def _our_connect(stack: ExitStack, server: MariaDBServer, driver: str) -> Connect:
    app = stack.enter_context(pooled_app(URL=server.url(driver, ask_for_tls=False)))
    connect: Connect = app.extensions["pooled_db"].pool(None).driver.connect
    return connect


def _compare(
    case: str, contenders: dict[str, Connect], effort: Effort, bars: dict[str, Bar]
) -> list[Row]:
    samples = in_turn(
        {
            name: partial(_milliseconds, connect, effort.connects)
            for name, connect in contenders.items()
        },
        effort.rounds,
    )
    return compare(case, "ms", samples, bars)


def _milliseconds(connect: Connect, count: int) -> float:
    connect().close()  # what is made once is made here
    times = []
    for _ in range(count):
        started = time.perf_counter()
        connection = connect()
        times.append(time.perf_counter() - started)
        connection.close()
    return statistics.median(times) * 1000
