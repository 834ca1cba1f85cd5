"""T6: rows that were not read to the end."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest

from flask_pooled_db import UsageError
from harness.server import MariaDBServer
from harness.workloads import add, run
from tests.support.scenarios import interruptions
from tests.support.scenarios.base import MOVED, Scenario
from tests.support.stages import Stage, on_server


@pytest.mark.parametrize(
    "scenario",
    [
        interruptions.half_read_on_commit,
        interruptions.half_read_on_rollback,
        interruptions.half_read_and_dropped,
    ],
    ids=lambda scenario: scenario.name,
)
def test_t6_half_read_cursor(direct_stage: Stage, scenario: Scenario[Stage]) -> None:
    """A half-read cursor neither delays the end of its transaction nor reaches the next lease."""
    scenario(direct_stage)
    assert direct_stage.db.stats().in_use == 0


def test_t6_unread_rows(server: MariaDBServer, mariadb_driver: str) -> None:
    """A connection that is released with unread rows is closed."""
    with on_server("ours", server, mariadb_driver, is_direct=True) as stage:
        interruptions.half_read_is_not_read_on(stage)
        assert stage.db.stats().discarded == 1


def test_t6_stream_read_to_end(server: MariaDBServer, mariadb_driver: str) -> None:
    """After a streaming cursor was read to its end, the connection is used again."""
    with on_server("ours", server, mariadb_driver, is_direct=True) as stage:
        for close in (True, False):
            with stage.db.connection_context() as connection:
                cursor = stage.streaming_cursor(connection)
                cursor.execute(f"{stage.many_rows} LIMIT 1000")
                assert len(cursor.fetchall()) == 1000
                if close:
                    cursor.close()
        assert stage.db.stats().discarded == 0


OF_CONNECTION = {
    **dict.fromkeys(("affected_rows", "character_set_name", "get_autocommit", "get_host_info"), ()),
    **dict.fromkeys(("get_proto_info", "get_server_info", "get_server_version"), ()),
    **dict.fromkeys(("insert_id", "ping", "show_warnings", "thread_id"), ()),
    **dict.fromkeys(("escape", "escape_string"), ("x",)),
    "xid": (0, "a", "b"),
}
"""The methods that seem to send nothing, and arguments for each."""


@pytest.mark.parametrize("name", OF_CONNECTION)
def test_t6_questions_amid_rows(server: MariaDBServer, mariadb_driver: str, name: str) -> None:
    """A method of the connection that is called between two rows is refused, or takes none away."""
    with on_server("ours", server, mariadb_driver, is_direct=True) as stage:
        with stage.db.connection_context() as connection:
            add(connection, 1, -10)
            run(connection, "SELECT 'x' + 1")  # a warning
            method = getattr(connection, name, None)
            if not callable(method):
                return
            cursor = stage.streaming_cursor(connection)
            cursor.execute(f"{stage.many_rows} LIMIT 5")
            rows = []
            while row := cursor.fetchone():
                with contextlib.suppress(UsageError):
                    method(*OF_CONNECTION[name])
                rows.append(row)
            assert len(rows) == 5


def test_t1_warnings_by_method(server: MariaDBServer, mariadb_driver: str) -> None:
    """`show_warnings()` tells those of the last statement, in an open transaction too."""
    with on_server("ours", server, mariadb_driver, is_direct=True) as stage:
        with stage.db.connection_context() as connection:
            add(connection, 1, -10)
            run(connection, "SELECT 'x' + 1")
            assert [number for _, number, _ in connection.show_warnings()] == [1292]
            add(connection, 2, 10)
        assert stage.committed() == MOVED


READS: dict[str, tuple[str, Callable[[Any], list[Any]]]] = {
    "read_next": ("pymysql", lambda cur: [cur.read_next() for _ in range(3)]),
    "next": ("mariadbconnector", lambda cur: [cur.next() for _ in range(3)]),
    "fetchrows": ("mariadbconnector", lambda cur: cur.fetchrows(3)),
}


@pytest.mark.parametrize("is_refused", [True, False])
@pytest.mark.parametrize("name", READS)
def test_t6_read_in_the_drivers_way(server: MariaDBServer, name: str, is_refused: bool) -> None:
    """The rows of a stream are read by whatever method the driver has, and none is left out."""
    driver, read = READS[name]
    with on_server("ours", server, driver, is_direct=True) as stage:
        with stage.db.connection_context() as connection:
            cursor = stage.streaming_cursor(connection)
            cursor.execute("SELECT seq FROM seq_1_to_7")
            assert cursor.fetchone() == (1,)
            if is_refused:
                with pytest.raises(UsageError, match="read"):
                    connection.cursor().execute("SELECT 1")
            assert read(cursor) == [(2,), (3,), (4,)]
            if name == "fetchrows":
                assert cursor.fetchrows(-1) == [(5,), (6,), (7,)]
            else:
                assert read(cursor) == [(5,), (6,), (7,)]
                assert read(cursor) == [None] * 3
            connection.cursor().execute("SELECT 1")
        assert stage.db.stats().discarded == 0
