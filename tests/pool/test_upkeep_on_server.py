"""P8 on a real server."""

from __future__ import annotations

import pytest

from harness.waiting import wait_until
from tests.pool.on_server import fill
from tests.support.pools import open_pool
from tests.support.stages import ON_PSYCOPG, ON_SHARED_SERVER, Server, shared_server


@pytest.mark.parametrize("driver", [*ON_SHARED_SERVER, ON_PSYCOPG])
def test_p8_idle_timeout_on_server(driver: str, request: pytest.FixtureRequest) -> None:
    """After IDLE_TIMEOUT the server has only the connections that the load needs."""
    server: Server = request.getfixturevalue(shared_server(driver))
    with open_pool(url=server.url(driver), mincached=1, maxconnections=4, idle_timeout=0.3) as pool:
        numbers = set(fill(pool, 4))
        wait_until(lambda: len(numbers & set(server.connections())) == 1)
        wait_until(lambda: pool.stats().open == 1)  # the server knows of a close before the pool
