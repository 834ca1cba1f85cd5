"""The benchmarks run, and their report has its rows. How long anything takes is not asserted."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time

import pytest

from benchmarks.__main__ import BENCHMARKS, main, make_report
from benchmarks.effort import Effort
from benchmarks.measure import OURS, Bar, Row, compare, in_turn, percentile
from benchmarks.network import running_on, slow_network, two_cpus
from benchmarks.report import render, results
from harness.sockets import LOOPBACK

TINY = Effort(rounds=1, calls=50, seconds=0.05, connects=1, threads=(1, 2), held=3)

PEERS = {
    "bare": {"DBUtils", "SQLAlchemy", "a bind of POOLED_DB_BINDS", "without SLOW_STATEMENT"},
    "bytecodes": {"DBUtils", "SQLAlchemy", "SQLAlchemy, pre_ping", "private connections"},
    "throughput": {"DBUtils", "SQLAlchemy", "SQLAlchemy, pre_ping", "private connections"},
    "tasks": {"threads with blocking scopes"},
    "resets": {'RESET="rollback"', 'RESET="session"'},
    "roundtrips": {"DBUtils", "SQLAlchemy", "SQLAlchemy, pre_ping"},
    "connect": {"PyMySQL, ssl_disabled", "PyMySQL", "mariadb"},
    "tls": {
        "DBUtils",
        "SQLAlchemy",
        "SQLAlchemy, pre_ping",
        "private connections",
        "a look at a socket without TLS",
        "PyMySQL, a ping",
    },
    "fairness": {"DBUtils", "SQLAlchemy"},
    "starting": {"SQLAlchemy's create_engine(), each"},
    "memory": {"DBUtils", "SQLAlchemy", "PyMySQL alone", "PyMySQL alone, ssl_disabled"},
    "postgresql": {
        "psycopg_pool",
        "psycopg_pool, check",
        "psycopg_pool, getconn and putconn",
        "private connections",
        "psycopg",
    },
    "webapp": {"Flask-SQLAlchemy", "Flask-SQLAlchemy, pre_ping"},
}


@pytest.mark.alone
@pytest.mark.parametrize("name", BENCHMARKS)
def test_peers(name: str) -> None:
    """Each benchmark, run at its smallest, has a row for every peer."""
    rows = BENCHMARKS[name].run(TINY)

    assert {row.peer for row in rows} == PEERS[name]
    assert all(row.ours >= 0 and row.theirs >= 0 for row in rows)
    assert len({(row.case, row.peer) for row in rows}) == len(rows)


@pytest.mark.alone
def test_round_trips_meet_bars() -> None:
    """The round trips meet their bars."""
    rows = [row for row in BENCHMARKS["roundtrips"].run(TINY) if row.bar]

    assert len(rows) == 8
    assert [row for row in rows if not row.is_met] == []


def test_order_of_contenders() -> None:
    """Contenders are measured A B, B A, so that a disturbance hits both."""
    order: list[str] = []

    def measure(name: str) -> float:
        order.append(name)
        return float(len(order))

    samples = in_turn({OURS: lambda: measure("a"), "peer": lambda: measure("b")}, 3)

    assert order == ["a", "b", "b", "a", "a", "b"]
    assert samples == {OURS: [1, 4, 5], "peer": [2, 3, 6]}


def test_ratios() -> None:
    """Ratios compare values of the same round."""
    [row] = compare("case", "µs", {OURS: [1, 10, 3], "peer": [2, 20, 2]})

    assert (row.ratio, row.lowest, row.highest) == (0.5, 0.5, 1.5)
    assert (row.ours, row.theirs) == (3, 2)


def test_ratio_of_zeros() -> None:
    """Zero beside zero is a ratio of one."""
    rows = compare("case", "round trips", {OURS: [0, 2], "none": [0, 0]})

    assert (rows[0].lowest, rows[0].highest) == (1.0, float("inf"))


@pytest.mark.parametrize(
    ("bar", "is_met"),
    [
        (Bar(0.5, at_most=True), True),
        (Bar(0.4, at_most=True), False),
        (Bar(0.5, at_most=False), True),
        (Bar(0.6, at_most=False), False),
        (Bar(3, at_most=True, of_ratio=False), True),
        (Bar(2, at_most=True, of_ratio=False), False),
    ],
)
def test_bars(bar: Bar, is_met: bool) -> None:
    """A bar limits the median ratio or our own value, from above or from below."""
    row = Row("case", "ms", 3.0, "peer", 6.0, 0.5, 0.4, 0.9, bar)

    assert row.is_met is is_met
    [*_, line] = results({"name": [row]})
    assert ("| yes |" in line, "| **no** |" in line) == (is_met, not is_met)


def test_bars_and_notes_of_report() -> None:
    """Below the table the report lists each bar with its result, and each note once."""
    rows = compare(
        "case", "ms", {OURS: [1], "p": [2], "q": [4]}, {"p": Bar(0.4, at_most=True)}, "A note."
    )
    report = render({"name": rows}, {"name": "What it does."}, ["2 CPUs"])

    assert "| name | case | ms | 1.00 | p | 2.00 | 0.50 (0.50 to 0.50) |" in report
    assert "- **missed**: name, case, beside p: ratio at most 0.4; measured 0.50\n" in report
    assert "- **name**: What it does. A note.\n" in report
    assert "- 2 CPUs\n" in report


def _echo(listener: socket.socket) -> None:
    with listener, listener.accept()[0] as connection:
        while data := connection.recv(1000):
            connection.sendall(data)


def test_slow_network() -> None:
    """A round trip takes as long as asked for; data and the end of a connection arrive in order."""
    listener = socket.create_server((LOOPBACK, 0))
    port = listener.getsockname()[1]
    server = threading.Thread(target=_echo, args=(listener,))
    server.start()
    text = b"".join(b"%d " % number for number in range(1000))
    with slow_network(LOOPBACK, port, 0.04) as network:
        with socket.create_connection((LOOPBACK, network.port), timeout=10) as client:
            started = time.monotonic()
            client.sendall(b"x")
            assert client.recv(1) == b"x"
            assert time.monotonic() - started >= 0.04

            for place in range(0, len(text), 10):
                client.sendall(text[place : place + 10])
            client.shutdown(socket.SHUT_WR)
            answers = list(iter(lambda: client.recv(1000), b""))
        server.join(10)

    assert b"".join(answers) == text
    assert not server.is_alive()


def test_cpus() -> None:
    """A process started on a CPU stays there, and its parent is as free as before."""
    before = os.sched_getaffinity(0)
    mine, other = two_cpus()

    with running_on(other):
        command = [sys.executable, "-c", "import os; print(*os.sched_getaffinity(0))"]
        answer = subprocess.run(command, capture_output=True, check=True, text=True)

    assert {int(cpu) for cpu in answer.stdout.split()} == other
    assert os.sched_getaffinity(0) == before
    assert mine != other or len(before) == 1


def test_percentiles() -> None:
    """Percentiles are measured values; the 100th is the worst."""
    values = [float(value) for value in range(100, 0, -1)]

    assert [percentile(values, percent) for percent in (50, 99, 100)] == [51, 100, 100]


def test_facts_of_report() -> None:
    """The report names the machine and the versions."""
    report = make_report(["bare"], TINY)

    for name in ("CPUs", "Python", "PyMySQL", "SQLAlchemy", "MariaDB server"):
        assert name in report


def test_unknown_name(capsys: pytest.CaptureFixture[str]) -> None:
    """An unknown name is refused with the list of known ones."""
    with pytest.raises(SystemExit):
        main(["bear"])

    assert "there is no benchmark bear" in capsys.readouterr().err
