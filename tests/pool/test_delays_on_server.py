"""P5 on a real server: a hung server or statement delays nobody else."""

from __future__ import annotations

import pytest

from harness.proxy import Proxy
from harness.server import MariaDBServer
from harness.waiting import wait_until
from tests.pool.on_server import fill, run, value
from tests.support.apps import pooled_app
from tests.support.pools import call, open_pool


@pytest.mark.slow
def test_p5_hung_bind(server: MariaDBServer, proxy: Proxy, mariadb_driver: str) -> None:
    """While the server of one bind hangs, the other bind serves its callers."""
    with pooled_app(
        server.url(mariadb_driver),
        connect_timeout=30,
        binds={"reports": server.url(mariadb_driver, port=proxy.port)},
    ) as (_app, db):
        proxy.deaf()
        pool = db.pool("reports")
        hung = call(pool.lease, timeout=60)
        wait_until(lambda: proxy.connections)
        for _ in range(5):
            with db.connection_context() as conn:
                assert value(conn, "SELECT 1") == 1
        assert hung.is_alive()
        proxy.hear()
        hung.result().close()


def test_p5_hung_statement(mariadb: MariaDBServer, mariadb_driver: str) -> None:
    """A statement that waits for a lock delays no checkout, return or connect."""
    with open_pool(url=mariadb.url(mariadb_driver), maxconnections=4) as pool:
        with pool.connection() as holder:
            run(holder, f"SELECT GET_LOCK('p5-{mariadb_driver}', 0)")
            with pool.connection() as other:
                hung = call(run, other, f"SELECT GET_LOCK('p5-{mariadb_driver}', 60)")
                fill(pool, 2)
                assert hung.is_alive()
                run(holder, f"SELECT RELEASE_LOCK('p5-{mariadb_driver}')")
                hung.result()
