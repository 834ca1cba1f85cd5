"""`flask pooled-db resize`: other limits for all workers."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from flask_pooled_db import PooledDB
from flask_pooled_db.flask.commands import ordering
from harness.processes import PROJECT
from harness.waiting import PATIENCE
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
        keep = "MAXCACHED = 1, POOLED_DB_MAXCONNECTIONS = 1 and POOLED_DB_MINCACHED = 0."
        assert f"To keep it, set POOLED_DB_{keep}" in result.stdout
    assert db.stats().open == 1
    assert host.run("resize", "--maxconnections", "1").exit_code == 0


@pytest.mark.parametrize(
    ("bind", "where"),
    [("log", "POOLED_DB_BINDS['log']"), ("other", "what the bind_loader returns for 'other'")],
)
def test_resize_a_bind(
    make_host: Callable[..., Host], tmp_path: Path, bind: str, where: str
) -> None:
    """With --bind it is said where that bind is configured."""
    host = make_host(binds={"log": f"sqlite:///{tmp_path}/log.db"})
    host.add(1, "default", bind)
    result = host.run("resize", "--maxconnections", "4", "--bind", bind)
    assert result.exit_code == 0, result.output
    keep = "MAXCACHED to 4, MAXCONNECTIONS to 4 and MINCACHED to 0"
    assert result.stdout.endswith(f"set {keep} in {where}.\n")
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


@pytest.mark.parametrize("options", ["0", "2", "30", "30 --mincached 12", "30 --maxcached 12"])
@pytest.mark.parametrize(
    "configured",
    [
        {},
        {"maxconnections": 5},
        {"maxconnections": 8, "maxcached": 4},
        {"maxcached": 0, "mincached": 6},
        {"maxcached": 2},
        {"maxconnections": 0, "mincached": 0},
    ],
)
def test_to_keep(
    hurry: None, url: str, tmp_path: Path, configured: dict[str, int], options: str
) -> None:
    """New workers that are configured as it says have the sizes that the old ones were given."""

    def worker(**sizes: int) -> contextlib.AbstractContextManager[tuple[Flask, PooledDB]]:
        config = {f"POOLED_DB_{name.upper()}": size for name, size in sizes.items()}
        return opened({"POOLED_DB_URL": url, "POOLED_DB_RUNTIME_DIR": tmp_path / "run"} | config)

    with worker(**configured) as (_, old):
        old.fetch_value("SELECT 1")
        old.host_stats()
        with worker(**configured) as (app, _):
            command = ["pooled-db", "resize", "--maxconnections", *options.split()]
            result = app.test_cli_runner().invoke(args=command)
        assert result.exit_code == 0, result.output
        advice = re.findall(r"POOLED_DB_(\w+) = (\d+)", result.stdout)
        wanted = {name.lower(): int(size) for name, size in advice}
        with worker(**configured | wanted) as (_, new):
            assert sizes_of(new) == sizes_of(old)


def sizes_of(db: PooledDB) -> tuple[int, int, int]:
    now = db.stats()
    return now.maxconnections, now.maxcached, now.mincached


@contextlib.contextmanager
def opened(config: dict[str, Any]) -> Iterator[tuple[Flask, PooledDB]]:
    """An app with this configuration alone."""
    app = Flask("app_under_test")
    app.config.update(config)
    db = PooledDB(app)
    try:
        yield app, db
    finally:
        db.close(PATIENCE)
