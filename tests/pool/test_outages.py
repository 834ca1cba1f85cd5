"""Callers of a database that has been away for longer than ACQUIRE_TIMEOUT, on real servers."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from flask_pooled_db import ConnectFailed, PoolTimeout, db_connection_context
from flask_pooled_db.lease.dbutils import Pool
from harness.proxy import Proxy
from harness.server import APP_PASSWORD_WORD, MariaDBServer
from harness.sockets import free_port
from harness.waiting import PATIENCE, wait_until
from tests.pool.on_server import fill, use, value
from tests.support.apps import pooled_app
from tests.support.fake_driver import FakeDriver, OperationalError
from tests.support.pools import Caller, call, check_counts, open_pool, queue_up
from tests.support.sites import serve
from tests.support.stages import ON_PSYCOPG, ON_SHARED_SERVER, Server, shared_server

AT_ONCE = 0.7
"""Seconds in which a caller is turned away, however busy the machine is."""

LIMIT = 1.0
"""The ACQUIRE_TIMEOUT of most tests, in seconds."""

RECOVERY = 2.0
"""Seconds in which a polling caller is served again. The promise is 1 s, on a machine at rest."""


def turn_away(pool: Pool, timeout: float | None = PATIENCE) -> PoolTimeout:
    """Return the error of a caller, who must get it at once."""
    started = time.monotonic()
    with pytest.raises(PoolTimeout) as caught:
        pool.lease(timeout=timeout)
    assert time.monotonic() - started < AT_ONCE
    return caught.value


def turns_away(pool: Pool) -> bool:
    """Whether the pool turns a caller away who comes now."""
    state = pool.engine.state
    with state.lock:
        return state.connector.backoff.turns_away_locked(time.monotonic())


def wait_for_outage(pool: Pool) -> None:
    """Return when every connect has failed for as long as ACQUIRE_TIMEOUT."""

    def poll() -> bool:
        with suppress(PoolTimeout):
            pool.lease(timeout=0.0).close()
        return turns_away(pool)

    wait_until(poll, "an outage", 0.05)


def poll_until_served(ask: Callable[[], Any]) -> float:
    """Call every 20 ms until there is no PoolTimeout. Returns the seconds it took."""
    started = time.monotonic()
    while time.monotonic() - started < PATIENCE:
        try:
            ask()
        except PoolTimeout:
            time.sleep(0.02)
        else:
            break
    return time.monotonic() - started


@contextmanager
def refused(server: MariaDBServer, driver: str, **keys: Any) -> Iterator[tuple[Pool, Proxy]]:
    """A pool behind a proxy that refuses connects, until the pool turns callers away."""
    with Proxy(server.host, server.port) as proxy:
        proxy.refuse()
        url = server.url(driver, port=proxy.port)
        with open_pool(url=url, **{"acquire_timeout": LIMIT, **keys}) as pool:
            wait_for_outage(pool)
            yield pool, proxy


@pytest.mark.parametrize("mincached", [0, 3])
def test_p2_outage_turns_away(
    private_mariadb: MariaDBServer, mariadb_driver: str, mincached: int
) -> None:
    """A server that has been down for ACQUIRE_TIMEOUT costs no caller any more time. Stale idle
    connections don't change that. When it is up again, callers are served within a second.
    """
    url = private_mariadb.url(mariadb_driver)
    with open_pool(url=url, mincached=mincached, acquire_timeout=LIMIT) as pool:
        fill(pool, 3)
        kept = pool.lease()
        private_mariadb.kill()
        wait_for_outage(pool)
        for _ in range(5):
            error = turn_away(pool)
            assert error.outage >= LIMIT
            assert error.waited < AT_ONCE
            assert error.__cause__ is not None
        with suppress(Exception):
            kept.close()
        private_mariadb.start()
        assert poll_until_served(lambda: use(pool)) < RECOVERY
        assert use(pool)
        check_counts(pool)


def test_p2_outage_stale_connection(private_mariadb: MariaDBServer, mariadb_driver: str) -> None:
    """A caller who finds but a connection that died in the outage is turned away as well."""
    url = private_mariadb.url(mariadb_driver)
    with open_pool(url=url, acquire_timeout=LIMIT) as pool:
        fill(pool, 4)
        kept = [pool.lease() for _ in range(4)]
        private_mariadb.kill()
        wait_for_outage(pool)
        for lease in kept:
            lease.close()  # nothing was done with it: nobody knows that it is dead
        assert pool.stats().idle == 4
        turn_away(pool)


def test_p2_outage_message(mariadb: MariaDBServer) -> None:
    """The error says for how long connecting has failed, since when, and with what."""
    with refused(mariadb, "pymysql") as (pool, _):
        text = str(turn_away(pool))
    found = re.search(
        r"connecting has failed for (\d+) s, since \d\d:\d\d:\d\d, last with OperationalError 2013",
        text,
    )
    assert found, text
    assert 1 <= int(found[1]) < PATIENCE
    assert APP_PASSWORD_WORD not in text


@pytest.mark.parametrize("mincached", [0, 3])
def test_p2_outage_from_start(mariadb_driver: str, mariadb: MariaDBServer, mincached: int) -> None:
    """A pool that never connected turns callers away after the same time, and a caller who comes
    after a while without any is turned away at once too.
    """
    url = mariadb.url(mariadb_driver, port=free_port())
    with open_pool(url=url, mincached=mincached, acquire_timeout=LIMIT) as pool:
        started = time.monotonic()
        with pytest.raises(PoolTimeout):
            pool.lease()
        assert time.monotonic() - started >= LIMIT
        wait_until(lambda: turns_away(pool))  # the pool tries on by itself
        turn_away(pool)
        time.sleep(3.0)
        turn_away(pool)


def test_p2_outage_waiters_keep_waiting(
    private_mariadb: MariaDBServer, mariadb_driver: str
) -> None:
    """Who waited before keeps waiting, and is served when the server is back."""
    # Time enough for both callers to come before it is over.
    with open_pool(url=private_mariadb.url(mariadb_driver), acquire_timeout=3 * LIMIT) as pool:
        private_mariadb.kill()
        caller = queue_up(pool, use, pool)
        patient = queue_up(pool, pool.lease, timeout=PATIENCE)
        with pytest.raises(PoolTimeout):
            caller.result()
        wait_for_outage(pool)
        turn_away(pool)
        assert patient.is_alive(), repr(patient.error)
        private_mariadb.start()
        assert poll_until_served(lambda: use(pool)) < RECOVERY
        patient.result().close()


def test_p10_outage_sleeping_opener(mariadb: MariaDBServer, mariadb_driver: str) -> None:
    """A caller who is turned away also shortens the pause in which an opener sleeps for another one
    that waits.
    """
    with Proxy(mariadb.host, mariadb.port) as proxy:
        proxy.refuse()
        url = mariadb.url(mariadb_driver, port=proxy.port)
        with open_pool(url=url, acquire_timeout=LIMIT) as pool:
            patient = queue_up(pool, pool.lease, timeout=PATIENCE)
            wait_until(lambda: turns_away(pool))
            backoff = pool.engine.state.connector.backoff
            backoff.failures += 30
            wait_until(lambda: backoff.pause_locked() > RECOVERY)
            proxy.accept()
            assert poll_until_served(lambda: use(pool)) < RECOVERY
            patient.result().close()


def test_p2_short_restart(private_mariadb: MariaDBServer, mariadb_driver: str) -> None:
    """A restart that is shorter than ACQUIRE_TIMEOUT costs nobody an error."""
    with open_pool(url=private_mariadb.url(mariadb_driver)) as pool:
        stop = threading.Event()

        def work() -> int:
            count = 0
            while not stop.is_set():
                try:
                    pool.lease().close()  # a statement may fail as the server goes
                except ConnectFailed:  # a server that starts may refuse for a moment
                    continue
                count += 1
                time.sleep(0.01)
            return count

        callers: list[Caller[int]] = [call(work) for _ in range(4)]
        private_mariadb.stop()
        time.sleep(1.0)
        private_mariadb.start()
        use(pool)
        stop.set()
        assert all(caller.result() for caller in callers)
        assert pool.stats().timeouts == 0


def test_p10_outage_tries(mariadb: MariaDBServer, mariadb_driver: str) -> None:
    """Callers who are turned away cause a try every half a second, one at a time, and no more."""
    with refused(mariadb, mariadb_driver) as (pool, proxy):
        for _ in range(20):  # the pauses have grown
            pool.engine.state.connector.backoff.failures += 1
        turn_away(pool)
        proxy.reset_counts()
        stop = time.monotonic() + 3.0
        most = [0]

        def poll() -> None:
            while time.monotonic() < stop:
                turn_away(pool)
                most[0] = max(most[0], pool.engine.state.connector.opening)
                time.sleep(0.01)

        for caller in [call(poll) for _ in range(4)]:
            caller.result()
        assert most[0] <= 1
        assert 3 <= proxy.refused <= 7
        proxy.accept()
        assert poll_until_served(lambda: use(pool)) < RECOVERY


def test_p10_outage_recovery_without_callers(mariadb: MariaDBServer, mariadb_driver: str) -> None:
    """A pool that is down tries on without callers, also with MINCACHED 0."""
    with refused(mariadb, mariadb_driver) as (pool, proxy):
        proxy.accept()
        wait_until(lambda: pool.stats().idle)
        assert not turns_away(pool)
        assert use(pool)


@pytest.mark.parametrize("timeout", [0.0, 0.3, None])
@pytest.mark.parametrize("keys", [{}, {"max_waiting": 1}, {"blocking": False}], ids=str)
def test_p2_outage_settings(mariadb: MariaDBServer, keys: dict[str, Any], timeout: float) -> None:
    """Callers are turned away, and served again, with any timeout and limit of callers."""
    with refused(mariadb, "pymysql", maxconnections=2, **keys) as (pool, proxy):
        assert turn_away(pool, timeout).outage >= LIMIT
        proxy.accept()
        assert poll_until_served(lambda: pool.lease(timeout=timeout).close()) < RECOVERY


def test_p2_outage_sharing() -> None:
    """Callers who would share a connection are turned away, and served again."""
    fake = FakeDriver(threadsafety=2)
    fake.fail_always("connect", OperationalError)
    with open_pool(fake, maxshared=1, acquire_timeout=LIMIT) as pool:
        wait_for_outage(pool)
        started = time.monotonic()
        with pytest.raises(PoolTimeout):
            pool.connection(shareable=True)
        assert time.monotonic() - started < AT_ONCE
        fake.mend("connect")
        assert poll_until_served(lambda: pool.connection(shareable=True).close()) < RECOVERY


def test_p2_outage_sharing_behind_waiter() -> None:
    """So is one for whom another caller, who came before, waits to open the connection."""
    fake = FakeDriver(threadsafety=2)
    fake.fail_always("connect", OperationalError)
    with open_pool(fake, maxshared=1, acquire_timeout=LIMIT) as pool:
        first = queue_up(pool, pool.lease, shareable=True, timeout=PATIENCE)
        wait_until(lambda: turns_away(pool))
        started = time.monotonic()
        with pytest.raises(PoolTimeout):
            pool.lease(shareable=True, timeout=PATIENCE)
        assert time.monotonic() - started < AT_ONCE
        fake.mend("connect")
        first.result().close()


def test_p2_outage_of_both(mariadb: MariaDBServer) -> None:
    """With the replica away readers go to the primary at once; with both, they are turned away."""
    name = mariadb.create_database()
    with (
        Proxy(mariadb.host, mariadb.port) as near,
        Proxy(mariadb.host, mariadb.port) as far,
        pooled_app(
            mariadb.url("pymysql", name, port=far.port),
            replica="near",
            binds={"near": {"URL": mariadb.url("pymysql", name, port=near.port)}},
            acquire_timeout=LIMIT,
        ) as (_app, db),
    ):

        def read() -> None:
            with db_connection_context(readonly=True) as conn:
                assert value(conn, "SELECT 1") == 1

        def read_in_vain() -> bool:
            started = time.monotonic()
            with pytest.raises(PoolTimeout):
                read()
            return time.monotonic() - started < AT_ONCE

        near.refuse()
        wait_for_outage(db.pool("near"))
        started = time.monotonic()
        read()
        assert time.monotonic() - started < AT_ONCE
        far.refuse()
        far.cut()
        wait_for_outage(db.pool())
        assert read_in_vain()
        near.accept()
        assert poll_until_served(read) < RECOVERY
        assert turns_away(db.pool())
        assert not db.pool("near").engine.is_down


def test_p2_server_limit_is_no_outage(mariadb_driver: str) -> None:
    """A pool whose connects a server at its limit refuses is busy: its callers wait for those
    connections that go round.
    """
    with MariaDBServer(["--max-connections=10"]) as server:
        url = server.url(mariadb_driver)
        with (
            open_pool(url=url, maxconnections=20) as others,
            open_pool(url=url, acquire_timeout=LIMIT) as pool,
        ):
            held = [pool.lease()]
            leases = [others.lease() for _ in range(9)]
            stop = time.monotonic() + 3 * LIMIT
            while time.monotonic() < stop:
                caller = queue_up(pool, pool.lease, timeout=PATIENCE)
                time.sleep(0.1)
                held.pop().close()
                held.append(caller.result())
            assert turns_away(pool)
            held.pop().close()
            for lease in leases:
                lease.close()


def test_p10_wrong_credentials_last(mariadb: MariaDBServer, mariadb_driver: str) -> None:
    """Wrong credentials stay ConnectFailed, however long they are wrong."""
    url = mariadb.url(mariadb_driver, password="wrong" + APP_PASSWORD_WORD)
    with open_pool(url=url, acquire_timeout=0.3) as pool:
        stop = time.monotonic() + 2.0
        while time.monotonic() < stop:
            with pytest.raises(ConnectFailed):
                pool.lease(timeout=PATIENCE)


@pytest.mark.slow
def test_p2_outage_frozen_server(private_mariadb: MariaDBServer, mariadb_driver: str) -> None:
    """A server that hangs is an outage like any other."""
    url = private_mariadb.url(mariadb_driver)
    with open_pool(url=url, acquire_timeout=LIMIT, connect_timeout=1) as pool:
        private_mariadb.pause()
        wait_for_outage(pool)
        for _ in range(20):
            turn_away(pool)
            time.sleep(0.1)
        private_mariadb.resume()
        assert poll_until_served(lambda: use(pool)) < RECOVERY


@pytest.mark.parametrize("driver", [*ON_SHARED_SERVER, ON_PSYCOPG])
def test_a2_outage(driver: str, request: pytest.FixtureRequest) -> None:
    """In an outage the answer is 503 at once, and its Retry-After is as long as the outage, ten
    seconds at most.
    """
    server: Server = request.getfixturevalue(shared_server(driver))
    url = server.url(driver, port=free_port())
    with pooled_app(url, acquire_timeout=LIMIT) as (app, db):

        def view() -> str:
            with db_connection_context():
                return "done"

        client = serve(app, "/", view)
        assert client.get("/").status_code == 503
        wait_for_outage(db.pool())
        started = time.monotonic()
        answer = client.get("/")
        assert time.monotonic() - started < AT_ONCE
        assert answer.status_code == 503
        assert 2 <= int(answer.headers["Retry-After"]) <= 10
