"""P8 on a real server."""

from __future__ import annotations

from harness.server import MariaDBServer
from harness.waiting import wait_until
from tests.pool.on_server import fill
from tests.support.pools import open_pool


def test_p8_idle_timeout_on_server(mariadb: MariaDBServer, mariadb_driver: str) -> None:
    """After IDLE_TIMEOUT the server has only the connections that the load needs."""
    with open_pool(
        url=mariadb.url(mariadb_driver), mincached=1, maxconnections=4, idle_timeout=0.3
    ) as pool:
        numbers = set(fill(pool, 4))
        wait_until(lambda: len(numbers & set(mariadb.connections())) == 1)
        wait_until(lambda: pool.stats().open == 1)  # the server knows of a close before the pool
