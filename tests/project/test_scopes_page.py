"""docs/scopes.md: one table of what a block does in each place."""

from __future__ import annotations

import re

import pytest

from harness.processes import PROJECT

PAGES = ("async.md", "jobs.md", "scopes.md", "sockets.md")
PLACES = (
    *("view", "async view", "streamed answer", "websocket", "thread", "executor", "job"),
    *("command", "process"),
)


def text(name: str) -> str:
    return (PROJECT / name).read_text(encoding="utf-8")


def tables(page: str) -> list[list[list[str]]]:
    """The cells of each table of a page."""
    found = re.findall(r"(?:^\|.*\|\n)+", page, re.MULTILINE)
    return [
        [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines()]
        for table in found
    ]


def test_one_table() -> None:
    """There is one table of places, it has all of them, and what a block is in each."""
    of_places = {
        name: [
            table for table in tables(text(f"docs/{name}")) if table[0][0] in ("where", "runner")
        ]
        for name in PAGES
    }
    assert [name for name, found in of_places.items() if found] == ["scopes.md"]
    ((head, _, *rows),) = of_places["scopes.md"]
    assert {len(row) for row in rows} == {len(head)} == {4}
    assert all(row[2] and row[3] for row in rows)
    for place in PLACES:
        assert any(re.search(rf"\b{place}\b", row[0]) for row in rows), place


@pytest.mark.parametrize(
    "name", ["README.md", *(f"docs/{name}" for name in PAGES if name != "scopes.md")]
)
def test_links(name: str) -> None:
    """The README, and the pages with the code, lead to it."""
    assert "scopes.md)" in text(name)
