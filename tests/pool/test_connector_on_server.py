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


def test_p7_nothing_connects_at_init_app(
    server: MariaDBServer, proxy: Proxy, mariadb_driver: str
) -> None:
    """Connections are opened by the first caller, also those of MINCACHED."""
    with pooled_app(server.url(mariadb_driver, port=proxy.port), mincached=2) as (_app, db):
        assert db.stats().open == 0
        assert proxy.connections == 0
        with db.connection_context() as conn:
            assert value(conn, "SELECT 1") == 1
        wait_until(lambda: db.stats().idle == 2)


def test_p10_a_server_that_is_down_is_not_stormed(
    server: MariaDBServer, proxy: Proxy, mariadb_driver: str
) -> None:
    """Sixteen callers for 1.5 s share their tries, and the first success serves them."""
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


def test_p10_wrong_credentials_fail_at_once(mariadb: MariaDBServer, mariadb_driver: str) -> None:
    """Another try would not help: all who wait are told."""
    url = mariadb.url(mariadb_driver, password="wrong" + APP_PASSWORD_WORD)
    with open_pool(url=url) as pool:
        assert_refused(pool, 1045)


def test_p10_an_unknown_database_fails_at_once(mariadb: MariaDBServer, mariadb_driver: str) -> None:
    """Another try would not help: all who wait are told."""
    with open_pool(url=mariadb.url(mariadb_driver, "no_such_database")) as pool:
        assert_refused(pool, 1049)


def test_p10_too_many_connections_is_tried_again(mariadb_driver: str) -> None:
    """The server's own limit is no reason to give up: somebody may leave."""
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
def test_p10_connect_timeout_bounds_the_handshake_with_a_frozen_server(
    private_server: MariaDBServer, mariadb_driver: str
) -> None:
    """The kernel takes the connection of a stopped server, and nobody ever answers."""
    with open_pool(url=private_server.url(mariadb_driver), connect_timeout=1) as pool:
        private_server.pause()
        caller = call(pool.lease, timeout=60)
        wait_until(lambda: pool.stats().connect_errors)
        private_server.resume()
        caller.result().close()


@pytest.mark.slow
def test_p10_connect_timeout_bounds_a_handshake_that_stops_half_way(
    server: MariaDBServer, mariadb_driver: str
) -> None:
    """Each answer may come in time, and the whole must not take longer than CONNECT_TIMEOUT."""
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
def test_p10_connect_timeout_bounds_a_deaf_network(
    server: MariaDBServer, proxy: Proxy, mariadb_driver: str
) -> None:
    """Who waits gets a PoolTimeout by its own deadline, with the connect's error as the cause."""
    proxy.deaf()
    with open_pool(url=server.url(mariadb_driver, port=proxy.port), connect_timeout=0.5) as pool:
        with pytest.raises(PoolTimeout) as caught:
            pool.lease(timeout=4)
        assert caught.value.__cause__ is not None
        proxy.hear()


@pytest.mark.slow
def test_p10_connect_timeout_bounds_the_set_up_of_the_session(
    mariadb: MariaDBServer, mariadb_driver: str
) -> None:
    """A SETSESSION statement that hangs is cut off."""
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
