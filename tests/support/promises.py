"""Which promise holds on which driver, as a run of the tests has shown it.

A test is named for the promises that it holds (`test_t4_...`), and runs on the drivers that its
parameters, or its fixtures, name. `--promises FILE` writes what became of each as a table. Another
run adds to the table of that file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from harness.processes import PROJECT

DRIVERS = {
    "pymysql": "PyMySQL",
    "mariadbconnector": "MariaDB Connector/Python",
    "psycopg": "psycopg",
    "sqlite": "sqlite3",
    "": "the pool itself",
}
"""The columns: drivers by their names in the tests' parameters, and what has no part in any."""

_FIXTURES = {
    "psycopg_stage": "psycopg",
    "postgresql_server": "psycopg",
    "sqlite_stage": "sqlite",
    "pymysql_stage": "pymysql",
}
_OTHER_MODULES = ("psycopg2", "pg8000")  # for PostgreSQL
_NAME = re.compile(r"test_((?:[tpa]\d+_)+)")
_PROMISE = re.compile(r"^- \*\*([TPA]\d+)\*\* (.*?)(?=^- \*\*|^$)", re.MULTILINE | re.DOTALL)
_ROW = re.compile(r"^\| ([TPA]\d+) \|[^|]*\|(.*)\|$", re.MULTILINE)
_SHOWN = "promise"

HOLDS, FAILS, UNTRIED = "holds", "**fails**", ""

_HEAD = """# Which promise holds on which driver

A run of the whole suite writes this page: do not edit it. A promise *holds* on a driver if all
tests that are named for it have passed there, on a real server. Its field is empty where no test of
it asks for the driver. The last column is of the tests that ask for none: most of the pool is the
same for all of them, and is tested with a driver that fails at will. [Design](design.md#promises)
has the promises in full, and the [README](../README.md#drivers) what differs between drivers.

"""

Outcomes = dict[tuple[str, str], str]
"""What is known of a promise on a driver."""


def promises_of(name: str) -> list[str]:
    """The promises that a test is named for."""
    found = _NAME.match(name)
    return [part.upper() for part in found[1].strip("_").split("_")] if found else []


def drivers_of(name: str, parameters: Mapping[str, Any], fixtures: Iterable[str]) -> set[str]:
    """The drivers that a test runs on: those that its parameters name, or else its fixtures, or its
    own name.
    """
    if any(module in name for module in _OTHER_MODULES):
        return {""}
    named = {value for value in _flat(parameters.values()) if value in DRIVERS and value}
    named = named or {_FIXTURES[name] for name in fixtures if name in _FIXTURES}
    return named or {"psycopg" if "psycopg" in name or "postgresql" in name else ""}


def _flat(values: Iterable[Any]) -> Iterator[str]:
    for value in values:
        if isinstance(value, str):
            yield value
        elif isinstance(value, tuple | list):
            yield from _flat(value)


def mark(item: pytest.Item) -> None:
    """Note with a test what its report is to tell."""
    call = getattr(item, "callspec", None)
    parameters = call.params if call else {}
    for driver in drivers_of(item.name, parameters, getattr(item, "fixturenames", ())):
        note(item, driver)


def note(item: pytest.Item, driver: str) -> None:
    """Note with a test that it runs on a driver."""
    for promise in promises_of(item.name):
        item.user_properties.append((_SHOWN, f"{promise} {driver}"))


def texts() -> dict[str, str]:
    """What each promise says, in short: the first part of its first sentence."""
    design = (PROJECT / "docs" / "design.md").read_text(encoding="utf-8")
    return {
        number: re.split(r"[;.](?:\s|$)", " ".join(text.split()))[0]
        for number, text in _PROMISE.findall(design)
    }


def merged(one: str, other: str) -> str:
    """What two runs have shown together."""
    return FAILS if FAILS in (one, other) else one or other


def read(page: str) -> Outcomes:
    """What the table of a page says."""
    return {
        (number, driver): cell.strip()
        for number, cells in _ROW.findall(page)
        for driver, cell in zip(DRIVERS, cells.split("|"), strict=True)
    }


def page_of(outcomes: Outcomes) -> str:
    """The page with these outcomes."""
    rows = [["", "promise", *DRIVERS.values()], ["---"] * (len(DRIVERS) + 2)]
    for number, text in texts().items():
        cells = (outcomes.get((number, driver), UNTRIED) for driver in DRIVERS)
        rows.append([number, text, *cells])
    return _HEAD + "".join(f"| {' | '.join(row)} |\n".replace("  ", " ") for row in rows)


class Promises:
    """The plugin that collects the outcomes of a run, and writes the page."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._outcomes: Outcomes = read(file.read_text(encoding="utf-8")) if file.exists() else {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note what a report says of a promise."""
        if not (report.failed or (report.when == "call" and report.passed)):
            return
        shown = FAILS if report.failed else HOLDS
        for name, value in report.user_properties:
            if name == _SHOWN:
                promise, driver = str(value).split(" ")
                known = self._outcomes.get((promise, driver), UNTRIED)
                self._outcomes[promise, driver] = merged(known, shown)

    def pytest_sessionfinish(self) -> None:
        """Write the page."""
        self._file.write_text(page_of(self._outcomes), encoding="utf-8")
