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
    "bare": {"DBUtils", "SQLAlchemy"},
    "throughput": {"DBUtils", "SQLAlchemy", "SQLAlchemy, pre_ping", "private connections"},
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
    "memory": {"DBUtils", "SQLAlchemy", "PyMySQL alone", "PyMySQL alone, ssl_disabled"},
    "webapp": {"Flask-SQLAlchemy", "Flask-SQLAlchemy, pre_ping"},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_compares_with_each_of_its_peers(name: str) -> None:
    """Each benchmark, run as small as can be, has a row for every peer, with a value of ours."""
    rows = BENCHMARKS[name].run(TINY)

    assert {row.peer for row in rows} == PEERS[name]
    assert all(row.ours >= 0 and row.theirs >= 0 for row in rows)
    assert len({(row.case, row.peer) for row in rows}) == len(rows)


@pytest.mark.slow
def test_round_trips_are_those_that_are_promised() -> None:
    """The one benchmark that depends on no time meets its bars wherever it runs."""
    rows = [row for row in BENCHMARKS["roundtrips"].run(TINY) if row.bar]

    assert len(rows) == 8
    assert [row for row in rows if not row.is_met] == []


def test_contenders_are_measured_in_turn() -> None:
    """A B, B A: what disturbs the machine for a while disturbs both, and what one leaves behind
    is not always the same one's to bear.
    """
    order: list[str] = []

    def measure(name: str) -> float:
        order.append(name)
        return float(len(order))

    samples = in_turn({OURS: lambda: measure("a"), "peer": lambda: measure("b")}, 3)

    assert order == ["a", "b", "b", "a", "a", "b"]
    assert samples == {OURS: [1, 4, 5], "peer": [2, 3, 6]}


def test_ratios_are_of_the_same_round() -> None:
    """A round that was slow for both says nothing about either."""
    [row] = compare("case", "µs", {OURS: [1, 10, 3], "peer": [2, 20, 2]})

    assert (row.ratio, row.lowest, row.highest) == (0.5, 0.5, 1.5)
    assert (row.ours, row.theirs) == (3, 2)


def test_nothing_beside_nothing_is_a_ratio_of_one() -> None:
    """No round trip beside none is no better, and none beside some has no number."""
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
def test_a_bar_is_met_or_missed_as_measured(bar: Bar, is_met: bool) -> None:
    """A bar is for the ratio's median or for our own value, from above or from below."""
    row = Row("case", "ms", 3.0, "peer", 6.0, 0.5, 0.4, 0.9, bar)

    assert row.is_met is is_met
    [*_, line] = results({"name": [row]})
    assert ("| yes |" in line, "| **no** |" in line) == (is_met, not is_met)


def test_a_report_lists_its_bars_and_its_notes() -> None:
    """What a bar asks for and how it fared stand below the table, and so does each note, once."""
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


def test_the_slow_network_is_slow_and_loses_nothing() -> None:
    """A round trip takes as long as it is told to, what is sent arrives in order, and so does the
    end of a connection.
    """
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


def test_client_and_relay_do_not_share_a_cpu_where_there_are_two() -> None:
    """What is started on a CPU stays there, and who started it is as free as before afterwards."""
    before = os.sched_getaffinity(0)
    mine, other = two_cpus()

    with running_on(other):
        command = [sys.executable, "-c", "import os; print(*os.sched_getaffinity(0))"]
        answer = subprocess.run(command, capture_output=True, check=True, text=True)

    assert {int(cpu) for cpu in answer.stdout.split()} == other
    assert os.sched_getaffinity(0) == before
    assert mine != other or len(before) == 1


def test_percentiles_are_values_that_were_measured() -> None:
    """The worst is the 100th percentile."""
    values = [float(value) for value in range(100, 0, -1)]

    assert [percentile(values, percent) for percent in (50, 99, 100)] == [51, 100, 100]


def test_a_report_names_what_it_was_measured_on() -> None:
    """A number without the versions that it belongs to is worth nothing."""
    report = make_report(["bare"], TINY)

    for name in ("CPUs", "Python", "PyMySQL", "SQLAlchemy", "MariaDB server"):
        assert name in report


def test_an_unknown_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """A slip of the pen measures nothing, and says what there is."""
    with pytest.raises(SystemExit):
        main(["bear"])

    assert "there is no benchmark bear" in capsys.readouterr().err
