"""P3 on a real server."""

from __future__ import annotations

import contextlib
import threading

from flask_pooled_db.pool import Budget
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


def test_p3_binds_on_server(mariadb: MariaDBServer, database: str, mariadb_driver: str) -> None:
    """Twelve threads on three binds with a common limit of four are four connections on the server,
    and each of them is served. The server counts one that was closed for a moment longer.
    """
    stop, url = threading.Event(), mariadb.url(mariadb_driver, database)

    def work(number: int) -> int:
        served = 0
        while not stop.is_set():
            use(pools[(number + served // 3) % len(pools)])
            served += 1
        return served

    with contextlib.ExitStack() as stack:
        budget = Budget(4)
        pools = [stack.enter_context(open_pool(url=url, bind=b, budget=budget)) for b in "abc"]
        callers = [call(work, number) for number in range(12)]
        wait_until(lambda: sum(pool.stats().open for pool in pools) == 4)
        seen = [len(mariadb.connections(database=database)) for _ in range(300)]
        stop.set()
        assert min(caller.result() for caller in callers) > 0
    assert max(seen) >= 4
    assert sum(count > 4 for count in seen) < len(seen) / 10, seen
