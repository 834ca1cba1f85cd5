"""statement_timeout= and timeout=."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from flask_pooled_db import PoolTimeout
from harness.server import MariaDBServer
from harness.workloads import add, run
from tests.support.scenarios import sessions
from tests.support.scenarios.base import MOVED, assert_fit, must_raise, signalled
from tests.support.stages import ENDLESS, FileStage, ServerStage, on_file, on_server


@pytest.mark.mariadb_only
def test_statement_timeout(stage: ServerStage) -> None:
    """The server ends a statement that exceeds its limit; the next lease has no limit."""
    sessions.slow_statement(stage)


@pytest.mark.mariadb_only
def test_statement_timeout_keeps_transaction(stage: ServerStage) -> None:
    """After a statement timeout the transaction goes on and commits."""
    with stage.db.connection_context(statement_timeout=0.2) as connection:
        add(connection, 1, -10)
        with pytest.raises(connection.Error):
            run(connection, "SELECT SLEEP(20)")
        add(connection, 2, 10)
    assert stage.committed() == MOVED


def test_statement_timeout_on_sqlite(sqlite_stage: FileStage) -> None:
    """On SQLite, too, a statement that exceeds its limit is ended and the transaction goes on."""
    with sqlite_stage.db.connection_context(statement_timeout=0.1) as connection:
        add(connection, 1, -10)
        with pytest.raises(connection.OperationalError, match="interrupted"):
            run(connection, ENDLESS)
        add(connection, 2, 10)
    assert sqlite_stage.committed() == MOVED
    with sqlite_stage.db.connection_context() as connection:
        run(connection, ENDLESS.replace("FROM n)", "FROM n LIMIT 300000)"))


def test_statement_timeout_and_signal_on_sqlite(sqlite_stage: FileStage) -> None:
    """A signal during a statement with a limit is what the caller sees."""
    with must_raise(SystemExit):
        with sqlite_stage.db.connection_context(statement_timeout=20) as connection:
            with signalled(SystemExit(1), lambda: time.sleep(0.3)):
                run(connection, ENDLESS.replace("FROM n)", "FROM n LIMIT 3000000)"))
                time.sleep(10)


@pytest.mark.mariadb_only
def test_statement_timeout_nested_block(stage: ServerStage) -> None:
    """The limit of a nested block ends with it, and the outer block has its own again."""
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
def test_statement_timeout_round_trips(stage: ServerStage) -> None:
    """The limit and readonly are set in one statement, and in none if the connection has that state
    already.
    """
    options = {"readonly": True, "statement_timeout": 7.5}
    assert_fit(stage)
    for expected in (2, 1):
        stage.proxy.reset_counts()
        with stage.db.connection_context(**options) as connection:
            assert run(connection, "SELECT @@max_statement_time + 0") == [(7.5,)]
        assert stage.proxy.round_trips == expected


@pytest.mark.mariadb_only
def test_configured_statement_timeout(mariadb: MariaDBServer, mariadb_driver: str) -> None:
    """`POOLED_DB_STATEMENT_TIMEOUT` applies to every scope that asks for no other."""
    with on_server("ours", mariadb, mariadb_driver, statement_timeout=3) as stage:
        for options, expected in (({}, 3.0), ({"statement_timeout": 0}, 0.0), ({}, 3.0)):
            with stage.db.connection_context(**options) as connection:
                assert run(connection, "SELECT @@max_statement_time + 0") == [(expected,)]


def test_timeout(tmp_path: Path) -> None:
    """`timeout` replaces ACQUIRE_TIMEOUT; 0 does not wait."""
    with on_file("ours", tmp_path / "f.sqlite", maxconnections=1, acquire_timeout=100) as stage:
        with stage.db.connection_context():
            for seconds in (0, 0.1):
                started = time.monotonic()
                with pytest.raises(PoolTimeout):
                    stage.db.connection_context(timeout=seconds, independent=True).__enter__()
                assert time.monotonic() - started < 50
        assert stage.db.stats().in_use == 0
