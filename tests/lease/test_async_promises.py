"""T1 to T8 of asynchronous scopes: the scenarios of the blocking ones, played by a task."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.server import MariaDBServer
from tests.support import scenarios
from tests.support.aio import asynchronous
from tests.support.scenarios.base import SCENARIOS
from tests.support.stages import Stage, on_file, on_server

assert scenarios

# A signal does not reach a worker's call: a task is cancelled instead. A view streams by a thread.
NOT_OF_TASKS = ("interrupted", "abandoned_stream")


def cases() -> Iterator[object]:
    for name, scenario in SCENARIOS.items():
        if name.startswith(NOT_OF_TASKS) or scenario.options:
            continue
        for driver in scenario.drivers:
            marks = () if driver == "sqlite" else pytest.mark.shared_server
            yield pytest.param(name, driver, id=f"{name}-{driver}", marks=marks)


@pytest.mark.parametrize(("name", "driver"), list(cases()))
def test_t1_to_t8_of_tasks(
    name: str, driver: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """What holds for a thread's block holds for a task's."""
    scenario = SCENARIOS[name]
    if driver == "sqlite":
        stage: Stage
        with on_file("ours", tmp_path / "file.sqlite") as stage, asynchronous(stage) as stage:
            scenario(stage)
    else:
        server: MariaDBServer = request.getfixturevalue("mariadb")
        with (
            on_server("ours", server, driver, is_direct=scenario.is_direct) as on,
            asynchronous(on) as stage,
        ):
            scenario(stage)
