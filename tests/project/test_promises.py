"""docs/promises.md, and how a run of the tests makes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.processes import PROJECT
from tests.support.promises import (
    DRIVERS,
    FAILS,
    HOLDS,
    UNTRIED,
    Promises,
    drivers_of,
    page_of,
    promises_of,
    read,
    texts,
)

PAGE = (PROJECT / "docs" / "promises.md").read_text(encoding="utf-8")


def report_of(outcome: Any, *shown: str, when: Any = "call") -> pytest.TestReport:
    properties = [("promise", value) for value in shown]
    place = ("file", 1, "test")
    return pytest.TestReport("test", place, {}, outcome, None, when, user_properties=properties)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("test_t4_lost", ["T4"]),
        ("test_t1_t6_t9_on_postgresql", ["T1", "T6", "T9"]),
        ("test_p13_places[psycopg]", ["P13"]),
        ("test_timeout", []),
        ("test_t", []),
    ],
)
def test_promises_of_a_test(name: str, expected: list[str]) -> None:
    """A test says by its name which promises it holds."""
    assert promises_of(name) == expected


def test_drivers_of_a_test() -> None:
    """Its parameters say on which drivers, plain or among others; else its fixtures do."""
    assert drivers_of("test_t1", {"any_stage": "psycopg", "way": "close"}, ["sqlite_stage"]) == {
        "psycopg"
    }
    assert drivers_of("test_t1", {"wired_stage": ("tls", "pymysql")}, []) == {"pymysql"}
    assert drivers_of("test_t1", {"n": 5}, ["tmp_path", "sqlite_stage"]) == {"sqlite"}
    assert drivers_of("test_t1", {}, ["tmp_path"]) == {""}
    assert drivers_of("test_t1[psycopg2]", {"kind": "psycopg2"}, ["postgresql_server"]) == {""}


def test_page_of_runs(tmp_path: Path) -> None:
    """A run writes what it has shown, another one adds to that, and what has failed stays so."""
    file = tmp_path / "page.md"
    for reports in (
        [report_of("passed", "T4 psycopg"), report_of("failed", "T5 sqlite", when="teardown")],
        [report_of("failed", "T4 psycopg"), report_of("passed", "P1 ")],
        [report_of("passed", "T4 psycopg", "T5 pymysql"), report_of("skipped", "T6 psycopg")],
    ):
        run = Promises(file)
        for report in reports:
            run.pytest_runtest_logreport(report)
        run.pytest_sessionfinish()
    page = file.read_text(encoding="utf-8")
    found = {place: shown for place, shown in read(page).items() if shown != UNTRIED}
    assert found == {
        ("T4", "psycopg"): FAILS,
        ("T5", "sqlite"): FAILS,
        ("T5", "pymysql"): HOLDS,
        ("P1", ""): HOLDS,
    }
    assert page_of(read(page)) == page


def test_committed_page() -> None:
    """The page has a row for each promise and a column for each driver, and nothing fails on it.
    What is promised of transactions holds on each driver.
    """
    shown = read(PAGE)
    assert page_of(shown) == PAGE
    assert set(shown.values()) <= {HOLDS, UNTRIED}
    assert {number for number, _ in shown} == set(texts())
    for number in range(1, 11):
        for driver in DRIVERS:
            assert not driver or shown[f"T{number}", driver] == HOLDS, (number, driver)
