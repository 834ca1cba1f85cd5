"""The `ping` option, beside DBUtils' own reading of it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any

import pytest
from dbutils.steady_db import SteadyDBConnection

from flask_pooled_db.config import PingPolicy


def check(raw: Any) -> bool | None:
    """A check as an application would write it."""
    return bool(raw.execute("SELECT 1"))


class Recorder:
    """A connection, and its cursor, that keep what is called on them."""

    def __init__(self, broken: str = "") -> None:
        self.calls: list[str] = []
        self._broken = broken

    def cursor(self) -> Recorder:
        self._note("cursor")
        return self

    def execute(self, sql: str) -> None:
        self._note(sql)

    def close(self) -> None:
        self._note("close")

    def _note(self, call: str) -> None:
        self.calls.append(call)
        if call == self._broken:
            raise OSError(call)


FORMS: list[Any] = [
    *range(9),
    None,
    True,
    False,
    -1,
    1.5,
    "SELECT 1",
    check,
    (0, "SELECT 1"),
    (4, "SELECT 1"),
    (7, check),
    (3, None),
    (None, "SELECT 1"),
    (None, None),
    ("SELECT 1", None),
    ("SELECT 1", "SELECT 2"),
    (check, check),
    [1, "SELECT 1"],
]


@pytest.mark.parametrize("form", FORMS)
def test_ping_is_parsed_as_dbutils_parses_it(form: Any) -> None:
    """The same flags and the same check, for every form that DBUtils accepts."""
    flags, pinger = SteadyDBConnection._parse_ping(form)
    policy = PingPolicy.parse(form)
    found = policy.on_checkout + 2 * policy.on_cursor + 4 * policy.on_query
    assert found == flags & 7
    if isinstance(policy.probe, str):
        assert pinger.__module__ == SteadyDBConnection.__module__
    else:
        assert policy.probe is pinger


@pytest.mark.parametrize(
    "form", [(), (1,), (1, 2), (1, "SELECT 1", 3), (1, ["SELECT 1"])], ids=repr
)
def test_ping_is_refused_where_dbutils_refuses_it(form: Any) -> None:
    """The same error, for every form that DBUtils does not accept."""
    with pytest.raises(TypeError):
        SteadyDBConnection._parse_ping(form)
    with pytest.raises(TypeError, match="ping must be"):
        PingPolicy.parse(form)


@pytest.mark.parametrize("broken", ["", "cursor", "SELECT 1", "close"])
def test_a_statement_is_run_as_dbutils_runs_it(broken: str) -> None:
    """The same calls and the same error, wherever one of them fails."""

    def run(probe: Callable[[Any], object]) -> tuple[list[str], str]:
        raw = Recorder(broken)
        try:
            probe(raw)
        except OSError as error:
            return raw.calls, str(error)
        return raw.calls, ""

    _, pinger = SteadyDBConnection._parse_ping("SELECT 1")
    assert run(PingPolicy.parse("SELECT 1").run_probe) == run(pinger)


@pytest.mark.parametrize(("answer", "alive"), [(None, True), (True, True), (False, False)])
def test_a_callable_says_whether_the_connection_is_alive(answer: Any, alive: bool) -> None:
    """False means dead; None means alive, as from a check that raises instead."""
    asked = []

    def probe(raw: Any) -> Any:
        asked.append(raw)
        return answer

    raw = object()
    assert PingPolicy.parse(probe).run_probe(raw) is alive
    assert asked == [raw]


def test_a_policy_without_a_probe_finds_nothing_dead() -> None:
    """The driver's ping is the check then."""
    assert PingPolicy.parse(7).run_probe(None)


def test_a_statement_is_run_on_a_real_connection() -> None:
    """A wrong statement raises the driver's error."""
    raw = sqlite3.connect(":memory:")
    assert PingPolicy.parse("SELECT 1").run_probe(raw)
    with pytest.raises(sqlite3.OperationalError):
        PingPolicy.parse("SELECT nonsense").run_probe(raw)
    raw.close()
