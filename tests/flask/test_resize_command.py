"""`flask pooled-db resize`: other limits for all workers."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from flask_pooled_db.flask.commands import ordering
from harness.processes import PROJECT
from tests.flask.workers import Host, lines_of


def test_resize(host: Host) -> None:
    """The limits are those of all workers from then on. The command says for how long, and what
    to configure.
    """
    result = host.run("resize", "--maxconnections", "5", "--mincached", "1")
    assert (result.exit_code, result.stderr) == (0, "")
    text = (
        "has maxconnections 5, maxcached 5, mincached 1 "
        "(before: maxconnections 20, maxcached 10, mincached 0)"
    )
    assert lines_of(result) == [text, text]
    assert result.stdout.splitlines()[-1] == (
        "This lasts until a worker restarts: new workers use the configured limits. To keep it, "
        "set POOLED_DB_MAXCACHED = 5, POOLED_DB_MAXCONNECTIONS = 5 and POOLED_DB_MINCACHED = 1."
    )
    for db in host.workers:
        now = db.stats()
        assert (now.maxconnections, now.maxcached, now.mincached) == (5, 5, 1)


def test_resize_begins_anew(host: Host) -> None:
    """What is left out is as configured, whatever an earlier order has made of it."""
    host.run("resize", "--maxconnections", "2")
    (line, _) = lines_of(host.run("resize", "--maxconnections", "30"))
    assert line.startswith("has maxconnections 30, maxcached 10, mincached 0 (before: max")


def test_smaller(make_host: Callable[..., Host]) -> None:
    """A smaller limit is waited for: idle connections are closed at once, those in use when they
    come back.
    """
    host = make_host()
    host.add(1)
    (db,) = host.workers
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(db.connection_context(independent=True)).execute("SELECT 1")
        result = host.run("resize", "--maxconnections", "1", "--wait", "1.5")
        assert result.exit_code == 1
        (line,) = lines_of(result)
        assert line == (
            "has the new limits and 2 connections too many, and did not finish within 1.5 s: "
            "connections still in use are closed when they are returned"
        )
        assert "To keep it, set POOLED_DB_MAXCONNECTIONS = 1." in result.stdout
    assert db.stats().open == 1
    assert host.run("resize", "--maxconnections", "1").exit_code == 0


@pytest.mark.parametrize(
    ("bind", "where"),
    [
        ("log", "MAXCACHED to 4 and MAXCONNECTIONS to 4 in POOLED_DB_BINDS['log']"),
        ("other", "MAXCACHED to 4 and MAXCONNECTIONS to 4 in what the bind_loader returns for"),
    ],
)
def test_resize_a_bind(
    make_host: Callable[..., Host], tmp_path: Path, bind: str, where: str
) -> None:
    """With --bind it is said where that bind is configured."""
    host = make_host(binds={"log": f"sqlite:///{tmp_path}/log.db"})
    host.add(1, "default", bind)
    result = host.run("resize", "--maxconnections", "4", "--bind", bind)
    assert result.exit_code == 0, result.output
    assert where in result.stdout
    assert [host.workers[0].stats(one).maxconnections for one in (None, bind)] == [20, 4]


def without_numbers(text: str) -> set[str]:
    return {re.sub(r"\d+", "N", line) for line in text.splitlines()}


def test_page(make_host: Callable[..., Host]) -> None:
    """What docs/commands.md shows is what the commands print."""
    page = (PROJECT / "docs" / "commands.md").read_text(encoding="utf-8")
    section = page.partition("\n## drain and resize\n")[2].partition("\n## ")[0]
    host = make_host(mincached=3)
    host.add(2)
    for args in (("drain",), ("resize", "--maxconnections", "5")):
        result = host.run(*args)
        assert without_numbers(result.stdout) <= without_numbers(section), result.stdout
    words = " ".join(section.split())
    assert f"by default {ordering.MORE:g} more than `--over`" in words
    assert f"for {ordering.MORE:g} seconds unless `--wait` says otherwise" in words
