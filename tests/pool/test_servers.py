"""Several servers: in which order they are tried, and when one of them will not do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from flask_pooled_db import ConnectFailed, PoolTimeout, db_connection_context
from flask_pooled_db.drivers.servers import Servers, backoff
from flask_pooled_db.lease.proxy import LeaseConnection
from harness.haproxy import DatabaseHAProxy, allow_checks
from harness.server import APP_PASSWORD, APP_USER, SCHEMES, MariaDBServer
from harness.sockets import free_port
from harness.waiting import wait_until
from harness.workloads import run
from tests.support.apps import pooled_app
from tests.support.pools import fail_to_connect


@pytest.fixture
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[MariaDBServer, MariaDBServer]]:
    """Two servers that know nothing of each other, each with a database `shop`.

    They have TLS where the test asks for that.
    """
    tls = getattr(request, "param", "plain") == "tls"
    certificates = request.getfixturevalue("certificates") if tls else None
    with (
        MariaDBServer(certificates=certificates) as first,
        MariaDBServer(certificates=certificates) as second,
    ):
        for server in (first, second):
            server.execute("CREATE DATABASE shop")
            server.execute("CREATE TABLE shop.t (id INT PRIMARY KEY) ENGINE=InnoDB")
        yield first, second


def url_of(driver: str, *ports: int) -> str:
    """A URL that names a server on each port."""
    from urllib.parse import quote

    hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
    return f"{SCHEMES[driver]}://{APP_USER}:{quote(APP_PASSWORD, safe='')}@{hosts}/shop"


def url_of_all(driver: str, *servers: MariaDBServer) -> str:
    """A URL that names all of these, and asks for TLS where they have it."""
    first = servers[0]
    places = ",".join(f"{server.host}:{server.port}" for server in servers)
    return first.url(driver, "shop").replace(f"{first.host}:{first.port}", places)


on_every_wire = pytest.mark.parametrize("pair", ["plain", "tls"], indirect=True)


def port_in_use() -> int:
    """The port of the server that a new scope is served by."""
    with db_connection_context() as conn:
        return port_of(conn)


def port_of(conn: LeaseConnection) -> int:
    """The port of the server that a connection goes to."""
    with conn.cursor() as cur:
        cur.execute("SELECT @@port")
        return int(cur.fetchone()[0])


def test_host_order_given(pair: tuple[MariaDBServer, MariaDBServer], mariadb_driver: str) -> None:
    """The first server serves; a server that is down is skipped without an error."""
    first, second = pair
    with pooled_app(url_of(mariadb_driver, first.port, second.port)):
        assert port_in_use() == first.port
    with pooled_app(url_of(mariadb_driver, free_port(), second.port)):
        assert port_in_use() == second.port


@on_every_wire
def test_p4_server_dies(pair: tuple[MariaDBServer, MariaDBServer], mariadb_driver: str) -> None:
    """After the end of a server, the next scope runs on the other one."""
    first, second = pair
    with pooled_app(url_of_all(mariadb_driver, first, second)):
        assert port_in_use() == first.port
        first.kill()
        assert port_in_use() == second.port


def test_p10_all_servers_down() -> None:
    """With all servers down, a caller gets PoolTimeout at its deadline, caused by the connect
    error.
    """
    with pooled_app(url_of("pymysql", free_port(), free_port())) as (_, db):
        fail_to_connect(db.pool())
        with pytest.raises(PoolTimeout) as info, db_connection_context(timeout=0.3):
            pass
        assert type(info.value.__cause__).__name__ == "OperationalError"


def test_wrong_credentials_on_every_server(
    pair: tuple[MariaDBServer, MariaDBServer],
) -> None:
    """If every server refuses the credentials, nobody waits."""
    url = url_of("pymysql", *(server.port for server in pair)).replace(APP_USER, "nobody")
    with pooled_app(url):
        with pytest.raises(ConnectFailed), db_connection_context():
            pass


def test_target_primary(pair: tuple[MariaDBServer, MariaDBServer], mariadb_driver: str) -> None:
    """TARGET "primary" skips a read-only server, wherever it stands in the list."""
    first, second = pair
    first.execute("SET GLOBAL read_only=1")
    url = url_of(mariadb_driver, first.port, second.port)
    with pooled_app(url, target="primary"):
        assert port_in_use() == second.port
    with pooled_app(url):
        assert port_in_use() == first.port


def test_t4_demoted_primary(pair: tuple[MariaDBServer, MariaDBServer], mariadb_driver: str) -> None:
    """The scope that meets a demotion fails once; every later scope runs on the other server."""
    first, second = pair
    url = url_of(mariadb_driver, first.port, second.port)
    with pooled_app(url, target="primary", mincached=3) as (_app, db):
        outer = [db.pool().lease() for _ in range(3)]
        for lease in outer:
            lease.cursor().execute("SELECT 1")
        first.execute("SET GLOBAL read_only=1")
        for lease in outer:
            lease.close()
        with pytest.raises(Exception, match="read-only"):
            write(1)
        for number in range(2, 8):
            write(number)
    assert [row[0] for row in second.query("SELECT id FROM shop.t ORDER BY id")] == [*range(2, 8)]
    assert first.query("SELECT COUNT(*) FROM shop.t") == [(0,)]


def test_run_transaction_after_demotion(
    pair: tuple[MariaDBServer, MariaDBServer], mariadb_driver: str
) -> None:
    """run_transaction starts over on the new primary after a demotion."""
    first, second = pair
    url = url_of(mariadb_driver, first.port, second.port)
    with pooled_app(url, target="primary") as (_app, db):
        assert port_in_use() == first.port
        first.execute("SET GLOBAL read_only=1")
        db.run_transaction(lambda conn: conn.cursor().execute("INSERT INTO t VALUES (1)"))
    assert second.query("SELECT id FROM shop.t") == [(1,)]


def write(number: int) -> None:
    """Insert a row in a scope of its own."""
    with db_connection_context() as conn, conn.cursor() as cur:
        cur.execute("INSERT INTO t VALUES (%s)", (number,))


def test_replica(pair: tuple[MariaDBServer, MariaDBServer], mariadb_driver: str) -> None:
    """Scopes with readonly=True run on the bind that REPLICA names, all others on their own."""
    first, second = pair
    replica = url_of(mariadb_driver, second.port)
    url = url_of(mariadb_driver, first.port)
    with pooled_app(url, replica="near", binds={"near": replica}):
        assert port_in_use() == first.port
        assert port_of_read() == second.port
        with db_connection_context():
            with db_connection_context(readonly=True, independent=True) as conn:
                assert run(conn, "SELECT @@port") == [(second.port,)]


@pytest.mark.parametrize("fallback", [True, False])
def test_replica_fallback(
    pair: tuple[MariaDBServer, MariaDBServer], mariadb_driver: str, fallback: bool
) -> None:
    """While no replica is up, readonly scopes run on the primary without waiting, unless
    REPLICA_FALLBACK is off.
    """
    first, second = pair
    settings = {"replica": "near", "replica_fallback": fallback, "acquire_timeout": 2}
    binds = {"near": url_of(mariadb_driver, second.port)}
    with pooled_app(url_of(mariadb_driver, first.port), binds=binds, **settings):
        assert port_of_read() == second.port
        second.kill()
        if not fallback:
            with pytest.raises(PoolTimeout):
                port_of_read()
            return
        assert port_of_read() == first.port
        assert port_of_read() == first.port
        second.start()
        deadline_reads = (port_of_read() for _ in range(100_000))
        assert next(port for port in deadline_reads if port == second.port)


def port_of_read() -> int:
    """The port of the server that a new readonly scope is served by."""
    with db_connection_context(readonly=True) as conn, conn.cursor() as cur:
        cur.execute("SELECT @@port")
        return int(cur.fetchone()[0])


def test_failed_server_pauses() -> None:
    """A failed server is tried again after its pause, or at once if it is the only one."""
    servers = Servers([{"host": "a"}, {"host": "b"}])
    first, second = servers.candidates()
    servers.failed(first)
    assert servers.candidates() == [second]
    servers.failed(second)
    assert set(servers.candidates()) == {first, second}
    servers.succeeded(first)
    assert servers.candidates() == [first]


def test_host_order_random() -> None:
    """With HOST_ORDER "random", every server comes first now and then."""
    servers = Servers([{"host": name} for name in "abc"], at_random=True)
    assert {servers.candidates()[0].arguments["host"] for _ in range(200)} == set("abc")


@pytest.mark.slow
@on_every_wire
def test_p4_server_dies_behind_haproxy(
    pair: tuple[MariaDBServer, MariaDBServer], mariadb_driver: str
) -> None:
    """Connections through HAProxy to a server that died are replaced by connections to the other
    one.
    """
    for server in pair:
        allow_checks(server)
    with (
        DatabaseHAProxy(pair) as proxy,
        pooled_app(pair[0].url(mariadb_driver, "shop", port=proxy.port)) as (_app, db),
    ):
        with ExitStack() as stack:
            ports = [
                port_of(stack.enter_context(db_connection_context(independent=True)))
                for _ in range(6)
            ]
        assert set(ports) == {server.port for server in pair}
        first, second = pair
        first.kill()
        idle = db.pool().engine.state.idle
        wait_until(
            lambda: sum(con.look() > 0 for con in idle) == ports.count(first.port),
            "the end",
        )
        assert [port_in_use() for _ in range(20)] == [second.port] * 20


def test_p10_pauses() -> None:
    """Each pause is a fifth longer than the one before, from 50 ms to 5 s, and shortened by up to
    half at random.
    """
    first = [backoff(1) for _ in range(200)]
    assert 0.025 <= min(first) < max(first) <= 0.05
    assert max(backoff(2) for _ in range(200)) <= 0.06
    assert 2.5 <= min(backoff(1_000) for _ in range(200)) <= 5.0
    outage = 0.0
    for failures in range(1, 100):
        longest = min(5.0, 0.05 * 1.2 ** (failures - 1))
        # The bar for outages of up to 3 s: nobody waits longer than 1 s for the next try.
        assert outage > 3.0 or longest <= 1.0
        outage += longest * 0.75
