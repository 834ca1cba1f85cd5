"""T6: rows that were not read to the end."""

from __future__ import annotations

import pytest

from harness.server import MariaDBServer
from tests.support.scenarios import interruptions
from tests.support.scenarios.base import Scenario
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
