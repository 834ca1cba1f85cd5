"""P3, P4 and P8 on files of SQLite: the process's own descriptors tell what is open."""

from __future__ import annotations

import threading
from pathlib import Path

from flask_pooled_db.lease.dbutils import Pool
from harness.waiting import wait_until
from tests.support.handles import handles
from tests.support.pools import call, open_pool


def use(pool: Pool) -> None:
    with pool.connection() as conn:
        conn.cursor().execute("SELECT 1").fetchone()


def test_p3_connections_on_sqlite(url: str, tmp_path: Path) -> None:
    """Twelve threads on four connections have the file open four times."""
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            use(pool)

    with open_pool(url=f"{url}?journal_mode=delete", mincached=0, maxconnections=4) as pool:
        callers = [call(work) for _ in range(12)]
        wait_until(lambda: pool.stats().open == 4)
        seen = [handles(tmp_path) for _ in range(200)]
        stop.set()
        for caller in callers:
            caller.result()
    assert max(seen) == 4
    assert handles(tmp_path) == 0


def test_p8_idle_timeout_on_sqlite(url: str, tmp_path: Path) -> None:
    """After IDLE_TIMEOUT the file is open only as often as the load needs."""
    url = f"{url}?journal_mode=delete"
    with open_pool(url=url, mincached=1, maxconnections=4, idle_timeout=0.3) as pool:
        leases = [pool.connection() for _ in range(4)]
        assert handles(tmp_path) == 4
        for lease in leases:
            lease.close()
        wait_until(lambda: handles(tmp_path) == 1)
        wait_until(lambda: pool.stats().open == 1)


def test_p4_closed_behind_the_pool_on_sqlite(url: str) -> None:
    """A connection that something has closed is replaced before it is lent."""
    with open_pool(url=url, mincached=0) as pool:
        with pool.connection() as conn:
            conn.cursor().execute("SELECT 1").fetchone()
            raw = conn.dbapi_connection
        raw.close()
        use(pool)
        assert pool.stats().discarded == 1
