"""What the naive pool does in the scenarios that ours stands: it breaks most of the promises.

Each scenario is one that other modules play with our pool, where it must pass.
"""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from typing import Any

import mariadb
import pymysql
import pytest

from harness.server import MariaDBServer
from tests.support.scenarios.base import SCENARIOS, Scenario
from tests.support.stages import on_file, on_server

pytestmark = pytest.mark.slow

_ALWAYS = frozenset(
    {
        "left_normally",
        "left_by_an_exception",
        "statement_failed",
        "connection_used_after_release",
        "half_read_and_dropped",
        "abandoned_stream",
    }
)
HAPPENS_TO_BE_RIGHT: dict[str, frozenset[str]] = {
    "pymysql": _ALWAYS
    | {
        "lock_wait_timeout",
        "killed_before_commit",
        "commit_refused",
        "interrupted_by_systemexit",
        "interrupted_by_keyboardinterrupt",
        "interrupted_by_generatorexit",
        "interrupted_by_cancellederror",
        "interrupted_by_timeout",
        "half_read_on_commit",
        "half_read_on_rollback",
    },
    "mariadbconnector": _ALWAYS | {"lock_wait_timeout", "killed_before_commit", "commit_refused"},
    "sqlite": _ALWAYS
    | {
        "commit_refused_by_a_constraint",
        "interrupted_while_reading",
        "half_read_on_commit",
        "half_read_on_rollback",
    },
}
"""Where nothing goes wrong in the naive pool either, by driver."""

NOT_ALWAYS_WRONG = frozenset(name for name in SCENARIOS if name.startswith("interrupted_by_"))
"""Where it depends on the instruction that the signal meets, with the MariaDB connector."""

ERRORS = (pymysql.Error, mariadb.Error, sqlite3.Error)
"""What the naive pool raises in place of the right error."""

CASES = [
    pytest.param(scenario, driver, id=f"{scenario.name}-{driver}")
    for scenario in SCENARIOS.values()
    for driver in scenario.drivers
]


@pytest.mark.filterwarnings("ignore")  # it warns of some of what it does
@pytest.mark.parametrize(("scenario", "driver"), CASES)
def test_naive_pool(
    scenario: Scenario[Any], driver: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """The naive pool fails every scenario except those it is known to pass."""
    if scenario.name in HAPPENS_TO_BE_RIGHT[driver]:
        play(scenario, driver, request, tmp_path)
    elif driver == "mariadbconnector" and scenario.name in NOT_ALWAYS_WRONG:
        with contextlib.suppress(AssertionError, *ERRORS):
            play(scenario, driver, request, tmp_path)
    else:
        with pytest.raises((AssertionError, *ERRORS)):
            play(scenario, driver, request, tmp_path)


def play(
    scenario: Scenario[Any], driver: str, request: pytest.FixtureRequest, directory: Path
) -> None:
    """Play a scenario with the naive pool on the database that the driver is for."""
    direct = scenario.is_direct
    if driver == "sqlite":
        with on_file("naive", directory / "file.sqlite") as stage:
            scenario(stage)
    elif scenario.options:
        with (
            MariaDBServer(scenario.options) as own,
            on_server("naive", own, driver, is_direct=direct) as stage,
        ):
            scenario(stage)
    else:
        shared: MariaDBServer = request.getfixturevalue("mariadb")
        with on_server("naive", shared, driver, is_direct=direct) as stage:
            scenario(stage)
