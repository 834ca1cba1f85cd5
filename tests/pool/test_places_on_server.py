"""P3 on a real server."""

from __future__ import annotations

import threading

from harness.server import MariaDBServer
from harness.waiting import wait_until
from tests.pool.on_server import use
from tests.support.pools import call, open_pool


def test_p3_connections_on_server(
    mariadb: MariaDBServer, database: str, mariadb_driver: str
) -> None:
    """Twelve threads on four connections are four connections on the server."""
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            use(pool)

    with open_pool(url=mariadb.url(mariadb_driver, database), maxconnections=4) as pool:
        callers = [call(work) for _ in range(12)]
        wait_until(lambda: pool.stats().open == 4)
        seen = [len(mariadb.connections(database=database)) for _ in range(50)]
        stop.set()
        for caller in callers:
            caller.result()
    assert max(seen) == 4
