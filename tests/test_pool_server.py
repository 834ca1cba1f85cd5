"""The pool's promises on a real server and a real network: P3, P4, P5, and P7 to P11."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pymysql
import pytest

from flask_pooled_db.drivers import Session
from flask_pooled_db.errors import ConnectFailed, PoolTimeout
from flask_pooled_db.pool import Pool
from tests.support.apps import pooled_app
from tests.support.pools import call, check_counts, most_tries, open_pool, wait_until
from tests.support.proxy import Proxy
from tests.support.server import APP_PASSWORD_WORD, APP_USER, MariaDBServer
from tests.support.sockets import is_readable
from tests.support.tls import Certificates
from tests.support.workloads import connection_id

COM_PING = 0x0E
COM_RESET_CONNECTION = 0x1F


def value(conn: Any, sql: str) -> Any:
    """The first value of a query's first row."""
    with conn.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchone()[0]


def run(conn: Any, sql: str) -> None:
    with conn.cursor() as cursor:
        cursor.execute(sql)


def use(pool: Pool) -> int:
    """The server's number of the connection that one statement ran on."""
    with pool.connection() as conn:
        return connection_id(conn)


def fill(pool: Pool, count: int) -> list[int]:
    """Have so many connections idle in the pool; the server's numbers of them."""
    leases = [pool.connection() for _ in range(count)]
    numbers = [connection_id(lease) for lease in leases]
    for lease in leases:
        lease.close()
    return numbers


def pings(proxy: Proxy) -> int:
    return sum(command.code == COM_PING for command in proxy.commands)


# P3


def test_p3_the_server_never_sees_more_than_maxconnections(
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


# P4


def test_p4_an_idle_connection_that_was_killed_is_replaced(
    server: MariaDBServer, mariadb_driver: str
) -> None:
    """Its next caller gets a live one, and no error."""
    with open_pool(url=server.url(mariadb_driver)) as pool:
        killed = use(pool)
        assert use(pool) == killed
        server.kill_connection(killed)
        assert use(pool) != killed


def test_p4_one_that_idled_beyond_wait_timeout_is_replaced(
    server: MariaDBServer, mariadb_driver: str
) -> None:
    """The server ends what idles for long."""
    with open_pool(url=server.url(mariadb_driver), setsession=["SET wait_timeout=1"]) as pool:
        first = use(pool)
        wait_until(lambda: first not in server.connections())
        assert use(pool) != first


def test_p4_a_ticket_on_an_idle_tls_connection_costs_nobody_an_error(
    tls_mariadb: MariaDBServer, tls_proxy: Proxy, mariadb_driver: str
) -> None:
    """A TLS session ticket that comes late makes the socket readable, as its end would: the next
    caller gets a live connection, and the pool has none too many.
    """
    with open_pool(url=tls_mariadb.url(mariadb_driver, port=tls_proxy.port)) as pool:
        use(pool)
        tls_proxy.send_tickets()
        idle = pool._idle[0].raw
        assert is_readable(pool.driver.fileno(idle))
        assert use(pool)
        assert check_counts(pool).open == 1


@pytest.mark.slow
def test_p4_after_a_restart_of_the_server_every_caller_succeeds(
    private_server: MariaDBServer, mariadb_driver: str
) -> None:
    """Twenty stale connections cost their callers no error."""
    url = private_server.url(mariadb_driver)
    with open_pool(url=url, maxconnections=20, maxcached=20) as pool:
        fill(pool, 20)
        private_server.restart()
        assert len(fill(pool, 20)) == 20


def test_p4_a_ping_is_on_the_wire_only_after_ping_after(
    server: MariaDBServer, proxy: Proxy, mariadb_driver: str
) -> None:
    """A checkout costs no round trip, or one."""
    with open_pool(url=server.url(mariadb_driver, port=proxy.port), ping_after=60) as pool:
        for _ in range(3):
            use(pool)
        assert pings(proxy) == 0
        pool._idle[0].good_until = 0.0
        use(pool)
        assert pings(proxy) == 1


def test_p4_with_ping_7_the_server_is_asked_each_time(
    server: MariaDBServer, proxy: Proxy, mariadb_driver: str
) -> None:
    """At the checkout, for the cursor, and for the statement, as in DBUtils."""
    url = server.url(mariadb_driver, port=proxy.port)
    with open_pool(url=url, ping=7, ping_after=0) as pool:
        use(pool)
        proxy.reset_counts()
        use(pool)
        assert pings(proxy) == 3


def test_p4_a_statement_as_ping_is_on_the_wire(
    server: MariaDBServer, proxy: Proxy, mariadb_driver: str
) -> None:
    """It is asked in place of a ping, and leaves no transaction open."""
    with open_pool(url=server.url(mariadb_driver, port=proxy.port), ping="SELECT 'alive'") as pool:
        use(pool)
        proxy.reset_counts()
        with pool.connection() as conn:
            proxy.wait_for_command(b"SELECT 'alive'")
            run(conn, "SET TRANSACTION READ ONLY")  # refused where a transaction is open
        assert pings(proxy) == 0


@pytest.mark.slow
def test_p4_connections_that_went_silent_cost_one_timeout_not_twenty(
    server: MariaDBServer, proxy: Proxy, mariadb_driver: str
) -> None:
    """After the first ping without an answer the others are not waited for."""
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
        wait_until(lambda: not pool.stats().idle and pool._opening)
        proxy.hear()
        with caller.result() as conn:
            assert connection_id(conn) not in stale
        assert not stale & set(fill(pool, 20))
        pinged = [command.connection for command in proxy.commands if command.code == COM_PING]
        assert sum(connection <= 20 for connection in pinged) == 1


# P5


@pytest.mark.slow
def test_p5_a_hung_server_on_one_bind_leaves_the_others_alone(
    server: MariaDBServer, proxy: Proxy, mariadb_driver: str
) -> None:
    """While one bind's callers wait for a server that says nothing, the other bind serves."""
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


def test_p5_a_hung_statement_delays_no_other_lease(
    mariadb: MariaDBServer, mariadb_driver: str
) -> None:
    """Who waits for a lock holds up nobody: neither a checkout nor a return nor a connect."""
    with open_pool(url=mariadb.url(mariadb_driver), maxconnections=4) as pool:
        with pool.connection() as holder:
            run(holder, f"SELECT GET_LOCK('p5-{mariadb_driver}', 0)")
            with pool.connection() as other:
                hung = call(run, other, f"SELECT GET_LOCK('p5-{mariadb_driver}', 60)")
                fill(pool, 2)
                assert hung.is_alive()
                run(holder, f"SELECT RELEASE_LOCK('p5-{mariadb_driver}')")
                hung.result()


# P7


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


# P8


def test_p8_the_pool_shrinks_on_the_server_too(mariadb: MariaDBServer, mariadb_driver: str) -> None:
    """After IDLE_TIMEOUT the server is rid of what the load no longer needs."""
    with open_pool(
        url=mariadb.url(mariadb_driver), mincached=1, maxconnections=4, idle_timeout=0.3
    ) as pool:
        numbers = set(fill(pool, 4))
        wait_until(lambda: len(numbers & set(mariadb.connections())) == 1)
        assert pool.stats().open == 1


# P9


@pytest.fixture
def reset_pool(mariadb: MariaDBServer, mariadb_driver: str, database: str) -> Iterator[Pool]:
    """A pool of one connection whose session is reset after each lease."""
    with open_pool(
        url=mariadb.url(mariadb_driver, database),
        reset="session",
        maxconnections=1,
        setsession=["SET @mine = 'set up'", "SET time_zone = '+03:00'"],
    ) as pool:
        yield pool


SESSION_STATE: dict[str, tuple[str, str]] = {
    "user variables": ("SET @other = 'left'", "SELECT @other"),
    "sql_mode": ("SET sql_mode = 'ANSI'", "SELECT @@sql_mode"),
    "isolation level": (
        "SET SESSION TRANSACTION ISOLATION LEVEL SERIALIZABLE",
        "SELECT @@tx_isolation",
    ),
    "read only": ("SET SESSION TRANSACTION READ ONLY", "SELECT @@tx_read_only"),
    "current database": ("USE information_schema", "SELECT DATABASE()"),
    "character set": (
        "SET character_set_connection = latin1",
        "SELECT @@character_set_connection",
    ),
    "result character set": (
        "SET character_set_results = latin1",
        "SELECT @@character_set_results",
    ),
    "collation": (
        "SET NAMES utf8mb4 COLLATE utf8mb4_german2_ci",
        "SELECT @@collation_connection",
    ),
    "what SETSESSION set": ("SET @mine = 'other'", "SELECT @mine"),
    "the time zone SETSESSION set": ("SET time_zone = '+05:00'", "SELECT @@time_zone"),
    "statement timeout": ("SET max_statement_time = 7", "SELECT @@max_statement_time"),
    "lock wait timeout": ("SET innodb_lock_wait_timeout = 7", "SELECT @@innodb_lock_wait_timeout"),
    "foreign key checks": ("SET foreign_key_checks = 0", "SELECT @@foreign_key_checks"),
}


@pytest.mark.parametrize("what", SESSION_STATE)
def test_p9_nothing_of_a_session_reaches_the_next_lease(
    reset_pool: Pool, mariadb: MariaDBServer, what: str
) -> None:
    """With RESET "session", each lease finds the session as the first one found it."""
    change, look = map(mariadb.sql, SESSION_STATE[what])
    with reset_pool.connection() as conn:
        number, fresh = connection_id(conn), value(conn, look)
        run(conn, change)
        assert value(conn, look) != fresh
    with reset_pool.connection() as conn:
        assert value(conn, look) == fresh
        assert connection_id(conn) == number  # reset, and not replaced


# Those that tell of the moment, or of the connection itself.
MOMENTARY = {"timestamp", "rand_seed1", "rand_seed2", "pseudo_thread_id"}

SERVERS = {
    "as it comes": [],
    "of another character set": ["--character-set-server=latin1", "--collation-server=latin1_bin"],
    "that decides the character set": [
        "--skip-character-set-client-handshake",
        "--character-set-server=utf8mb4",
        "--collation-server=utf8mb4_unicode_ci",
    ],
    "of another mode": ["--sql-mode=ANSI_QUOTES", "--autocommit=0", "--wait-timeout=777"],
}


@pytest.fixture(scope="module", params=SERVERS)
def any_server(request: pytest.FixtureRequest) -> Iterator[MariaDBServer]:
    """A server whose own settings differ from what drivers ask for."""
    with MariaDBServer(SERVERS[request.param]) as server:
        yield server


def session_variables(conn: Any) -> dict[str, str]:
    with conn.cursor() as cursor:
        cursor.execute("SHOW SESSION VARIABLES")
        return {name: value for name, value in cursor.fetchall() if name not in MOMENTARY}


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"charset": "latin1"},
        {"collation": "utf8mb4_bin"},
        {"init_command": "SET SESSION wait_timeout = 77"},
        {"sql_mode": "ANSI"},
    ],
    ids=["plain", "charset", "collation", "init_command", "sql_mode"],
)
def test_p9_a_session_that_was_reset_is_as_a_fresh_one(
    any_server: MariaDBServer, mariadb_driver: str, arguments: dict[str, Any]
) -> None:
    """Every variable of it, whatever the server and the driver make of what they were told."""
    if mariadb_driver == "mariadbconnector":
        # It knows no other character set, and takes no collation nor mode to connect with.
        arguments = {k: v for k, v in arguments.items() if k == "init_command"}
    url = any_server.url(mariadb_driver, any_server.create_database(), **arguments)
    with open_pool(url=url, reset="session", maxconnections=1) as pool:
        with pool.connection() as conn:
            number, fresh = connection_id(conn), session_variables(conn)
            run(conn, "SET NAMES utf8mb4 COLLATE utf8mb4_german2_ci")
            run(conn, "SET sql_mode = 'NO_ZERO_DATE', time_zone = '+03:00', autocommit = 0")
            run(conn, "SET SESSION TRANSACTION ISOLATION LEVEL SERIALIZABLE")
            run(conn, "SET max_statement_time = 7, innodb_lock_wait_timeout = 7")
            run(conn, "USE information_schema")
            changed = {
                name for name, value in session_variables(conn).items() if fresh[name] != value
            }
            assert len(changed) > 5
        with pool.connection() as conn:
            assert connection_id(conn) == number
            assert session_variables(conn) == fresh


def test_p9_what_a_creator_of_one_s_own_did_is_not_lost(
    mariadb: MariaDBServer, database: str
) -> None:
    """Nobody else can do it again: its connections are replaced."""

    def connect() -> Any:
        raw = pymysql.connect(**mariadb.connect_args(database), ssl_disabled=True)
        raw.query("SET time_zone = '+03:00'")
        return raw

    connect.dbapi = pymysql  # type: ignore[attr-defined]
    with open_pool(creator=connect, reset="session") as pool:
        for _ in range(2):
            with pool.connection() as conn:
                assert value(conn, "SELECT @@time_zone") == "+03:00"
        assert pool.stats().discarded > 0


def test_p9_a_lease_that_did_nothing_has_nothing_to_reset(
    server: MariaDBServer, proxy: Proxy, mariadb_driver: str
) -> None:
    """It costs no round trip with RESET "session" either."""
    url = server.url(mariadb_driver, "information_schema", port=proxy.port)
    with open_pool(url=url, reset="session") as pool:
        first = use(pool)
        proxy.reset_counts()
        pool.connection().close()
        assert proxy.round_trips == 0
        assert use(pool) == first
        assert proxy.round_trips > 0


def test_p9_autocommit_is_off_again(reset_pool: Pool) -> None:
    """Whether the connection is reset or, as the change can be seen, replaced."""
    with reset_pool.connection() as conn:
        run(conn, "SET autocommit = 1")
    with reset_pool.connection() as conn:
        assert value(conn, "SELECT @@autocommit") == 0


@pytest.fixture(scope="module")
def latin1_server() -> Iterator[MariaDBServer]:
    """A server whose own character set is not what the drivers ask for."""
    with MariaDBServer(["--character-set-server=latin1"]) as server:
        yield server


def test_p9_the_character_set_is_the_one_the_connection_was_made_with(
    latin1_server: MariaDBServer, mariadb_driver: str
) -> None:
    """A reset would leave the server's own."""
    url = latin1_server.url(mariadb_driver, "information_schema")
    with open_pool(url=url, reset="session") as pool:
        first = use(pool)
        with pool.connection() as conn:
            assert connection_id(conn) == first
            assert value(conn, "SELECT @@character_set_client") == "utf8mb4"
            assert value(conn, "SELECT 'äß€😀'") == "äß€😀"


def test_p9_the_collation_is_the_one_that_was_asked_for(mariadb: MariaDBServer) -> None:
    """The server itself would go back to the one of the handshake, which is another."""
    url = mariadb.url("pymysql", "information_schema", collation="utf8mb4_german2_ci")
    with open_pool(url=url, reset="session") as pool:
        first = use(pool)
        with pool.connection() as conn:
            assert connection_id(conn) == first
            assert value(conn, "SELECT @@collation_connection") == "utf8mb4_german2_ci"


def test_p9_set_names_ends_with_the_lease(latin1_server: MariaDBServer) -> None:
    """Also with PyMySQL, which does not notice it."""
    with open_pool(url=latin1_server.url("pymysql"), reset="session") as pool:
        with pool.connection() as conn:
            run(conn, "SET NAMES latin1")
        with pool.connection() as conn:
            assert value(conn, "SELECT 'äß€😀'") == "äß€😀"


def test_p9_temporary_tables_are_gone(reset_pool: Pool) -> None:
    """The next lease can make one of the same name."""
    for _ in range(2):
        with reset_pool.connection() as conn:
            run(conn, "CREATE TEMPORARY TABLE t (a INT)")
            conn.commit()


def test_p9_locks_are_released(reset_pool: Pool, mariadb: MariaDBServer, database: str) -> None:
    """GET_LOCK ends with the lease."""
    with reset_pool.connection() as conn:
        assert value(conn, f"SELECT GET_LOCK('{database}', 0)") == 1
        assert mariadb.query("SELECT IS_FREE_LOCK(%s)", database) == [(0,)]
    assert mariadb.query("SELECT IS_FREE_LOCK(%s)", database) == [(1,)]


def test_p9_a_transaction_is_one_again(
    reset_pool: Pool, mariadb: MariaDBServer, database: str
) -> None:
    """After the reset, which turns autocommit on, a rollback takes back what was written."""
    mariadb.execute(f"CREATE TABLE `{database}`.t (a INT)")
    use(reset_pool)
    with reset_pool.connection() as conn:
        run(conn, "INSERT INTO t VALUES (1)")
        conn.rollback()
    assert mariadb.query(f"SELECT count(*) FROM `{database}`.t") == [(0,)]


def test_p9_a_readonly_lease_leaves_the_next_one_free_to_write(
    reset_pool: Pool, mariadb: MariaDBServer, database: str
) -> None:
    """The pool knows in what mode the reset left the connection."""
    mariadb.execute(f"CREATE TABLE `{database}`.t (a INT)")
    with reset_pool.lease(session=Session(readonly=True)) as conn:
        value(conn, "SELECT 1")
    with reset_pool.connection() as conn:
        run(conn, "INSERT INTO t VALUES (1)")
        conn.commit()
    for _ in range(2):
        with reset_pool.lease(session=Session(readonly=True)) as conn:
            assert value(conn, mariadb.sql("SELECT @@tx_read_only")) == 1
    assert mariadb.query(f"SELECT count(*) FROM `{database}`.t") == [(1,)]


@pytest.mark.mariadb_only
def test_p9_a_statement_timeout_ends_with_its_lease(reset_pool: Pool) -> None:
    """The pool knows what limit the reset left the connection with: none."""
    for limit in (5.0, 0.0, 5.0, 5.0):
        with reset_pool.lease(session=Session(statement_timeout=limit)) as conn:
            assert value(conn, "SELECT @@max_statement_time") == limit


def test_p9_a_database_that_was_never_chosen_can_not_be_left(
    mariadb: MariaDBServer, mariadb_driver: str
) -> None:
    """Where the URL names none, a lease that chose one costs the connection."""
    with open_pool(url=mariadb.url(mariadb_driver), reset="session") as pool:
        with pool.connection() as conn:
            run(conn, "USE information_schema")
        with pool.connection() as conn:
            assert value(conn, "SELECT DATABASE()") is None


def test_p9_by_default_only_the_transaction_is_reset(
    server: MariaDBServer, proxy: Proxy, mariadb_driver: str
) -> None:
    """RESET "rollback" sends no reset."""
    with open_pool(url=server.url(mariadb_driver, port=proxy.port)) as pool:
        use(pool)
        use(pool)
        assert not [c for c in proxy.commands if c.code == COM_RESET_CONNECTION]


def test_p9_a_driver_without_a_reset_has_its_connections_replaced(tmp_path: Path) -> None:
    """On SQLite, nothing of a session survives as no session does."""
    with open_pool(url=f"sqlite:///{tmp_path}/db", reset="session") as pool:
        with pool.connection() as conn:
            run(conn, "PRAGMA cache_size = 77")
            run(conn, "CREATE TEMPORARY TABLE t (a)")
            conn.commit()
        with pool.connection() as conn:
            assert value(conn, "PRAGMA cache_size") != 77
            assert value(conn, "SELECT count(*) FROM sqlite_temp_master") == 0
        assert pool.stats().discarded >= 1


# P10


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


# P11


ASK_FOR_TLS = {
    "pymysql": [{"ssl": "true"}, {"ssl_ca": "{ca}"}, {"ssl_ca": "{ca}", "ssl_verify_cert": "true"}],
    "mariadbconnector": [
        {"ssl": "true"},
        {"ssl_ca": "{ca}"},
        {"ssl_ca": "{ca}", "ssl_verify_cert": "true"},
    ],
}


@pytest.mark.mariadb_only  # which can be had without TLS
@pytest.mark.parametrize("variant", range(3))
def test_p11_plaintext_is_refused_where_tls_was_asked_for(
    mariadb: MariaDBServer, certificates: Certificates, mariadb_driver: str, variant: int
) -> None:
    """No lease is had on a server without TLS, and no connection stays open."""
    asked = ASK_FOR_TLS[mariadb_driver][variant]
    options: dict[str, Any] = {
        name: text.format(ca=certificates.ca) for name, text in asked.items()
    }
    with open_pool(url=mariadb.url(mariadb_driver, **options)) as pool:
        with pytest.raises((PoolTimeout, ConnectFailed)) as caught:
            pool.lease(timeout=0.5)
        assert caught.value.__cause__ is not None
        wait_until(lambda: not mariadb.connections(APP_USER))


@pytest.mark.parametrize("variant", range(3))
def test_p11_a_server_with_tls_is_talked_to_in_tls(
    tls_mariadb: MariaDBServer, certificates: Certificates, mariadb_driver: str, variant: int
) -> None:
    """The server itself says so."""
    asked = ASK_FOR_TLS[mariadb_driver][variant]
    options: dict[str, Any] = {
        name: text.format(ca=certificates.ca) for name, text in asked.items()
    }
    with open_pool(url=tls_mariadb.url(mariadb_driver, **options)) as pool:
        with pool.connection() as conn, conn.cursor() as cursor:
            cursor.execute("SHOW STATUS LIKE 'Ssl_cipher'")
            assert cursor.fetchone()[1]


def test_p11_a_certificate_of_an_unknown_ca_is_refused(
    tls_mariadb: MariaDBServer, certificates: Certificates, mariadb_driver: str
) -> None:
    """With verification asked for, a server that anybody could be is not talked to."""
    url = tls_mariadb.url(mariadb_driver, ssl_ca=str(certificates.wrong_ca), ssl_verify_cert="true")
    with open_pool(url=url) as pool:
        with pytest.raises((PoolTimeout, ConnectFailed)) as caught:
            pool.lease(timeout=0.5)
        assert caught.value.__cause__ is not None
