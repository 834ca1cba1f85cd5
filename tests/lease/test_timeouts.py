"""statement_timeout= and timeout=."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from flask_pooled_db import (
    PoolTimeout,
)
from harness.server import MariaDBServer
from harness.workloads import add, run
from tests.support.scenarios import sessions
from tests.support.scenarios.base import MOVED, assert_fit, must_raise, signalled
from tests.support.stages import (
    ENDLESS,
    FileStage,
    ServerStage,
    on_file,
    on_server,
)


@pytest.mark.mariadb_only
def test_statement_timeout_ends_a_statement_and_is_put_back(stage: ServerStage) -> None:
    """A statement that takes longer is ended by the server; the next lease has no such limit."""
    sessions.slow_statement(stage)


@pytest.mark.mariadb_only
def test_statement_timeout_costs_the_statement_alone(stage: ServerStage) -> None:
    """The transaction of a statement that was ended so goes on and commits."""
    with stage.db.connection_context(statement_timeout=0.2) as connection:
        add(connection, 1, -10)
        with pytest.raises(connection.Error):
            run(connection, "SELECT SLEEP(20)")
        add(connection, 2, 10)
    assert stage.committed() == MOVED


def test_statement_timeout_on_sqlite(sqlite_stage: FileStage) -> None:
    """On SQLite too a statement that takes longer is ended, and the transaction goes on."""
    with sqlite_stage.db.connection_context(statement_timeout=0.1) as connection:
        add(connection, 1, -10)
        with pytest.raises(connection.OperationalError, match="interrupted"):
            run(connection, ENDLESS)
        add(connection, 2, 10)
    assert sqlite_stage.committed() == MOVED
    with sqlite_stage.db.connection_context() as connection:
        run(connection, ENDLESS.replace("FROM n)", "FROM n LIMIT 300000)"))


def test_statement_timeout_hides_no_interrupt_on_sqlite(sqlite_stage: FileStage) -> None:
    """A signal that comes while such a statement runs is what the caller sees."""
    with must_raise(SystemExit):
        with sqlite_stage.db.connection_context(statement_timeout=20) as connection:
            with signalled(SystemExit(1), lambda: time.sleep(0.3)):
                run(connection, ENDLESS.replace("FROM n)", "FROM n LIMIT 3000000)"))
                time.sleep(10)


@pytest.mark.mariadb_only
def test_statement_timeout_of_a_nested_block_ends_with_it(stage: ServerStage) -> None:
    """Inside it holds, and the outer block has its own again."""
    limit = "SELECT @@max_statement_time + 0"
    with stage.db.connection_context(statement_timeout=9) as outer:
        assert run(outer, limit) == [(9.0,)]
        with stage.db.connection_context(statement_timeout=5) as inner:
            assert run(inner, limit) == [(5.0,)]
            with stage.db.connection_context(statement_timeout=0) as innermost:
                assert run(innermost, limit) == [(0.0,)]
            assert run(inner, limit) == [(5.0,)]
        assert run(outer, limit) == [(9.0,)]


@pytest.mark.mariadb_only
def test_statement_timeout_and_readonly_are_one_round_trip(stage: ServerStage) -> None:
    """Both are set with one statement, and none when the connection is in that state already."""
    options = {"readonly": True, "statement_timeout": 7.5}
    assert_fit(stage)
    for expected in (2, 1):
        stage.proxy.reset_counts()
        with stage.db.connection_context(**options) as connection:
            assert run(connection, "SELECT @@max_statement_time + 0") == [(7.5,)]
        assert stage.proxy.round_trips == expected


@pytest.mark.mariadb_only
def test_the_configured_statement_timeout_is_everybody_s(
    mariadb: MariaDBServer, mariadb_driver: str
) -> None:
    """`POOLED_DB_STATEMENT_TIMEOUT` holds in every scope that asks for no other."""
    with on_server("ours", mariadb, mariadb_driver, statement_timeout=3) as stage:
        for options, expected in (({}, 3.0), ({"statement_timeout": 0}, 0.0), ({}, 3.0)):
            with stage.db.connection_context(**options) as connection:
                assert run(connection, "SELECT @@max_statement_time + 0") == [(expected,)]


def test_timeout_bounds_the_wait_for_a_connection(tmp_path: Path) -> None:
    """`timeout` stands in for the configured one; 0 waits for nothing."""
    with on_file("ours", tmp_path / "f.sqlite", maxconnections=1, acquire_timeout=100) as stage:
        with stage.db.connection_context():
            for seconds in (0, 0.1):
                started = time.monotonic()
                with pytest.raises(PoolTimeout):
                    stage.db.connection_context(timeout=seconds, independent=True).__enter__()
                assert time.monotonic() - started < 50
        assert stage.db.stats().in_use == 0
