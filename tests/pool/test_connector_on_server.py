"""P7 and P10 on a real server and a real network."""

from __future__ import annotations

from typing import Any

import pytest

from flask_pooled_db.errors import ConnectFailed, PoolTimeout
from flask_pooled_db.lease.dbutils import Pool
from harness.proxy import Proxy
from harness.server import APP_PASSWORD_WORD, MariaDBServer
from harness.waiting import wait_until
from tests.pool.on_server import use, value
from tests.support.apps import pooled_app
from tests.support.pools import call, most_tries, open_pool


def test_p7_init_app_connects_nothing(
    server: MariaDBServer, proxy: Proxy, mariadb_driver: str
) -> None:
    """The first caller opens connections, including those of MINCACHED; init_app opens none."""
    with pooled_app(server.url(mariadb_driver, port=proxy.port), mincached=2) as (_app, db):
        assert db.stats().open == 0
        assert proxy.connections == 0
        with db.connection_context() as conn:
            assert value(conn, "SELECT 1") == 1
        wait_until(lambda: db.stats().idle == 2)


def test_p10_connects_to_server_down(
    server: MariaDBServer, proxy: Proxy, mariadb_driver: str
) -> None:
    """Sixteen callers that wait 1.5 s for a server share a few connects, and the first success
    serves them.
    """
    proxy.refuse()
    with open_pool(url=server.url(mariadb_driver, port=proxy.port), maxconnections=16) as pool:
        callers = [call(pool.lease, timeout=1.5) for _ in range(16)]
        for caller in callers:
            with pytest.raises(PoolTimeout) as caught:
                caller.result()
            assert caught.value.__cause__ is not None
        assert 3 <= proxy.refused <= most_tries(1.5)
        proxy.accept()
        with pool.lease(timeout=60) as conn:
            assert value(conn, "SELECT 1") == 1


def assert_refused(pool: Pool, number: int) -> None:
    callers = [call(pool.lease, timeout=60) for _ in range(5)]
    for caller in callers:
        with pytest.raises(ConnectFailed) as caught:
            caller.result()
        cause: Any = caught.value.__cause__
        assert (getattr(cause, "errno", None) or cause.args[0]) == number
        assert str(number) in str(caught.value)
        assert APP_PASSWORD_WORD not in str(caught.value)


def test_p10_wrong_credentials(mariadb: MariaDBServer, mariadb_driver: str) -> None:
    """Wrong credentials fail every waiter at once."""
    url = mariadb.url(mariadb_driver, password="wrong" + APP_PASSWORD_WORD)
    with open_pool(url=url) as pool:
        assert_refused(pool, 1045)


def test_p10_unknown_database(mariadb: MariaDBServer, mariadb_driver: str) -> None:
    """An unknown database fails every waiter at once."""
    with open_pool(url=mariadb.url(mariadb_driver, "no_such_database")) as pool:
        assert_refused(pool, 1049)


def test_p10_server_limit_retried(mariadb_driver: str) -> None:
    """The pool retries when the server's own connection limit is reached."""
    with MariaDBServer(["--max-connections=10"]) as server:
        url = server.url(mariadb_driver)
        with (
            open_pool(url=url, maxconnections=10) as others,
            open_pool(url=url, maxconnections=1) as pool,
        ):
            leases = [others.connection() for _ in range(10)]
            caller = call(use, pool)
            wait_until(lambda: pool.stats().connect_errors)
            for lease in leases:
                lease.close()
            others.close()
            assert caller.result()


@pytest.mark.slow
def test_p10_connect_timeout_frozen_server(
    private_server: MariaDBServer, mariadb_driver: str
) -> None:
    """CONNECT_TIMEOUT ends the handshake with a stopped server, whose kernel still accepts
    connections.
    """
    with open_pool(url=private_server.url(mariadb_driver), connect_timeout=1) as pool:
        private_server.pause()
        caller = call(pool.lease, timeout=60)
        wait_until(lambda: pool.stats().connect_errors)
        private_server.resume()
        caller.result().close()


@pytest.mark.slow
def test_p10_connect_timeout_slow_handshake(server: MariaDBServer, mariadb_driver: str) -> None:
    """CONNECT_TIMEOUT bounds the whole handshake, even if each single answer arrives in time."""
    # A round trip takes 0.8 s: less than the timeout, and a connect takes several.
    with Proxy(server.host, server.port, 0.4, certificates=server.certificates) as slow:
        with open_pool(
            url=server.url(mariadb_driver, port=slow.port),
            connect_timeout=1,
            setsession=["SET @a = 1", "SET @b = 2"],
        ) as pool:
            caller = call(pool.lease, timeout=60)
            wait_until(lambda: pool.stats().connect_errors)
            slow.delay = 0.0
            caller.result().close()


@pytest.mark.slow
def test_p10_connect_timeout_deaf_network(
    server: MariaDBServer, proxy: Proxy, mariadb_driver: str
) -> None:
    """A waiter gets PoolTimeout by its own deadline, with the connect error as its cause."""
    proxy.deaf()
    with open_pool(url=server.url(mariadb_driver, port=proxy.port), connect_timeout=0.5) as pool:
        with pytest.raises(PoolTimeout) as caught:
            pool.lease(timeout=4)
        assert caught.value.__cause__ is not None
        proxy.hear()


@pytest.mark.slow
def test_p10_connect_timeout_setsession(mariadb: MariaDBServer, mariadb_driver: str) -> None:
    """CONNECT_TIMEOUT cuts off a SETSESSION statement that hangs."""
    with open_pool(
        url=mariadb.url(mariadb_driver), connect_timeout=0.5, setsession=["DO SLEEP(60)"]
    ) as pool:
        with pytest.raises((PoolTimeout, ConnectFailed)):
            pool.lease(timeout=3)
        assert pool.stats().connect_errors >= 1
    for id_, _ in mariadb.query(
        "SELECT id, info FROM information_schema.processlist WHERE info = 'DO SLEEP(60)'"
    ):
        mariadb.kill_connection(id_)
