"""`flask pooled-db drain`: new connections for all workers."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from flask_pooled_db.flask import ordered
from flask_pooled_db.flask.ordered import carry_out
from flask_pooled_db.host import Duty
from flask_pooled_db.host.orders import Order
from flask_pooled_db.pool import Engine
from flask_pooled_db.pool.draining import Draining
from harness.waiting import PATIENCE
from tests.flask.workers import Host, drained, lines_of


def test_drain(host: Host) -> None:
    """All connections of all workers are replaced. The command has a line for each worker."""
    result = host.run("drain")
    assert (result.exit_code, result.stderr) == (0, "")
    assert lines_of(result) == ["replaced 2 connections"] * 2
    for db in host.workers:
        assert (drained(db), db.stats().open) == (2, 0)


def test_drain_takes_its_time(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """With --over the connections are replaced one after the other, the workers in turn."""
    spreads: list[tuple[float, float]] = []

    class Noted(Draining):
        def __init__(self, pool: Engine, seconds: float, offset: float) -> None:
            spreads.append((seconds, offset))
            super().__init__(pool, seconds, offset)

    monkeypatch.setattr(ordered, "Draining", Noted)
    began = time.monotonic()
    result = host.run("drain", "--over", "0.8")
    assert lines_of(result) == ["replaced 2 connections"] * 2, result.output
    assert time.monotonic() - began > 0.6  # when the last one's time is
    assert sorted(offset for _, offset in spreads) == [0.25, 0.75]
    assert all(0 < seconds <= 0.8 for seconds, _ in spreads)


def test_drain_begins_late(make_host: Callable[..., Host]) -> None:
    """A worker that begins late is ready in time all the same."""
    host, now = make_host(), time.monotonic()
    host.add(1)
    (state,) = host.workers[0].states
    arguments = {"bind": None, "over": 60.0}
    order = Order("a" * 16, "b" * 16, "drain", arguments, now - 60.0, now + PATIENCE, ())
    result = carry_out(state.numbers, Duty(order, 0.5))
    assert result["drained"] == {"default": 2}


def test_drain_waits_for_use(host: Host) -> None:
    """A connection in use is replaced when it comes back, and waited for until then."""
    with host.workers[0].connection_context() as conn:
        result = host.run("drain", "--wait", "1.5")
        assert result.exit_code == 1
        late, done = sorted(lines_of(result))
        assert late == (
            "replaced 1 of 2 connections, and did not finish within 1.5 s: connections still in "
            "use are closed when they are returned"
        )
        assert done == "replaced 2 connections"
        conn.execute("SELECT 1")
    assert drained(host.workers[0]) == 2


def test_drain_one_bind(make_host: Callable[..., Host], tmp_path: Path) -> None:
    """With --bind the others keep their connections; without it all are drained, and counted."""
    host = make_host(binds={"log": f"sqlite:///{tmp_path}/log.db"})
    host.add(1, "default", "log")
    (db,) = host.workers
    assert lines_of(host.run("drain", "--bind", "log")) == ["replaced 2 connections"]
    assert (drained(db), drained(db, "log")) == (0, 2)
    host.use(db, 1, "log")
    assert lines_of(host.run("drain")) == ["replaced 3 connections ('default' 2, 'log' 1)"]


def test_drain_by_name(make_host: Callable[..., Host]) -> None:
    """A bind that is loaded by its name is drained where it is open."""
    host = make_host()
    host.add(1, "other")
    host.add(1)
    result = host.run("drain", "--bind", "other")
    assert result.exit_code == 0
    assert sorted(lines_of(result)) == ["does not have this bind open", "replaced 2 connections"]


@pytest.mark.parametrize("command", ["drain", "resize --maxconnections 3"])
def test_bind_that_is_open_nowhere(host: Host, command: str) -> None:
    """A bind that no worker has open is told as such."""
    result = host.run(*command.split(), "--bind", "other")
    assert result.exit_code == 1
    assert lines_of(result) == ["does not have this bind open"] * 2
    assert result.stderr == "Error: no worker has the bind 'other' open\n"


@pytest.mark.parametrize("command", ["drain", "resize --maxconnections 3"])
def test_bind_of_the_configuration_alone(
    make_host: Callable[..., Host], tmp_path: Path, command: str
) -> None:
    """A bind that workers have, and have not used yet, is no error."""
    host = make_host(binds={"log": f"sqlite:///{tmp_path}/log.db"})
    host.add(1)
    result = host.run(*command.split(), "--bind", "log")
    assert result.exit_code == 0, result.output
    assert lines_of(result) != ["does not have this bind open"]


def test_drain_in_memory(make_host: Callable[..., Host]) -> None:
    """Where a database ends with its last connection, none is closed, and the line says so."""
    host = make_host(url="sqlite:///file:orders?mode=memory&cache=shared&uri=true")
    host.add(1)
    (db,) = host.workers
    with db.connection_context() as conn:
        conn.execute("CREATE TABLE t (a INT)")
    (line,) = lines_of(host.run("drain"))
    assert line == (
        "replaced 0 connections; those of 'default' stay: the database is in memory, and would "
        "end with them"
    )
    assert db.fetch_all("SELECT * FROM t") == []
