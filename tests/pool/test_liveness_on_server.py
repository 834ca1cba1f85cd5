"""P4 on a real server and a real network."""

from __future__ import annotations

import pytest

from harness.proxy import Proxy
from harness.server import MariaDBServer
from harness.sockets import is_readable
from harness.waiting import wait_until
from harness.workloads import connection_id
from tests.pool.on_server import COM_PING, fill, pings, run, use
from tests.support.pools import call, check_counts, open_pool


def test_p4_killed_connection(server: MariaDBServer, mariadb_driver: str) -> None:
    """A killed idle connection is replaced, and its next caller gets no error."""
    with open_pool(url=server.url(mariadb_driver)) as pool:
        killed = use(pool)
        assert use(pool) == killed
        server.kill_connection(killed)
        assert use(pool) != killed


def test_p4_wait_timeout(server: MariaDBServer, mariadb_driver: str) -> None:
    """A connection that the server ended after wait_timeout is replaced."""
    with open_pool(url=server.url(mariadb_driver), setsession=["SET wait_timeout=1"]) as pool:
        first = use(pool)
        wait_until(lambda: first not in server.connections())
        assert use(pool) != first


def test_p4_late_tls_ticket(
    tls_mariadb: MariaDBServer, tls_proxy: Proxy, mariadb_driver: str
) -> None:
    """A late TLS session ticket on an idle connection costs its next caller no error, and the pool
    no additional connection.
    """
    with open_pool(url=tls_mariadb.url(mariadb_driver, port=tls_proxy.port)) as pool:
        use(pool)
        tls_proxy.send_tickets()
        idle = pool.engine.state.idle[0].raw
        assert is_readable(pool.driver.fileno(idle))
        assert use(pool)
        assert check_counts(pool).open == 1


@pytest.mark.slow
def test_p4_server_restart(private_server: MariaDBServer, mariadb_driver: str) -> None:
    """After a restart of the server, twenty stale connections cost their callers no error."""
    url = private_server.url(mariadb_driver)
    with open_pool(url=url, maxconnections=20, maxcached=20) as pool:
        fill(pool, 20)
        private_server.restart()
        assert len(fill(pool, 20)) == 20


def test_p4_ping_after_on_wire(server: MariaDBServer, proxy: Proxy, mariadb_driver: str) -> None:
    """A checkout sends a ping only after PING_AFTER seconds of rest."""
    with open_pool(url=server.url(mariadb_driver, port=proxy.port), ping_after=60) as pool:
        for _ in range(3):
            use(pool)
        assert pings(proxy) == 0
        pool.engine.state.idle[0].valid_until = 0.0
        use(pool)
        assert pings(proxy) == 1


def test_p4_ping_7_on_wire(server: MariaDBServer, proxy: Proxy, mariadb_driver: str) -> None:
    """PING 7 pings at the checkout, at the cursor and at the statement, as in DBUtils."""
    url = server.url(mariadb_driver, port=proxy.port)
    with open_pool(url=url, ping=7, ping_after=0) as pool:
        use(pool)
        proxy.reset_counts()
        use(pool)
        assert pings(proxy) == 3


def test_p4_ping_statement_on_wire(
    server: MariaDBServer, proxy: Proxy, mariadb_driver: str
) -> None:
    """A statement as PING is sent in place of a ping, and leaves no transaction open."""
    with open_pool(url=server.url(mariadb_driver, port=proxy.port), ping="SELECT 'alive'") as pool:
        use(pool)
        proxy.reset_counts()
        with pool.connection() as conn:
            proxy.wait_for_command(b"SELECT 'alive'")
            run(conn, "SET TRANSACTION READ ONLY")  # refused where a transaction is open
        assert pings(proxy) == 0


@pytest.mark.slow
def test_p4_silent_connections_on_wire(
    server: MariaDBServer, proxy: Proxy, mariadb_driver: str
) -> None:
    """Twenty silent connections cost one timeout in all."""
    with open_pool(
        url=server.url(mariadb_driver, port=proxy.port),
        maxconnections=20,
        maxcached=20,
        ping_after=0,
        connect_timeout=1,
    ) as pool:
        stale = set(fill(pool, 20))
        proxy.reset_counts()
        proxy.deaf()
        caller = call(pool.lease, timeout=60)
        wait_until(lambda: not pool.stats().idle and pool.engine.state.connector.opening)
        proxy.hear()
        with caller.result() as conn:
            assert connection_id(conn) not in stale
        assert not stale & set(fill(pool, 20))
        pinged = [command.connection for command in proxy.commands if command.code == COM_PING]
        assert sum(connection <= 20 for connection in pinged) == 1
