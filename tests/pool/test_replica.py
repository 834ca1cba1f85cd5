"""Readers of a replica that does not answer, on real servers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest

from flask_pooled_db import PooledDB, PoolTimeout, db_connection_context
from flask_pooled_db.pool import Engine
from harness.proxy import Proxy
from harness.server import MariaDBServer
from harness.waiting import wait_until
from tests.pool.on_server import value
from tests.support.apps import pooled_app

pytestmark = pytest.mark.mariadb_only  # the servers that it freezes are MariaDB's

Stages = Callable[..., AbstractContextManager["Stage"]]

AT_ONCE = 0.7
"""Seconds in which a caller is served who does not wait, however busy the machine is."""

SOON = 2.5
"""Seconds in which a reader turns to the primary who waits a second for the replica."""


class Stage:
    """A bind and its replica, which are two databases: a reader sees which one it is served by."""

    def __init__(self, db: PooledDB, primary: str, replica: str) -> None:
        self.db = db
        self.primary = primary
        self.replica = replica

    @property
    def engine(self) -> Engine:
        """The replica's pool."""
        return self.db.pool("near").engine

    def read(self, timeout: float | None = None) -> Any:
        """Return the name of the database that a reader is served by."""
        with db_connection_context(readonly=True, timeout=timeout) as conn:
            return value(conn, "SELECT DATABASE()")

    def timed_read(self, timeout: float | None = None) -> tuple[Any, float]:
        """Return that name, and the seconds that the reader took."""
        started = time.monotonic()
        return self.read(timeout), time.monotonic() - started


@pytest.fixture
def stage_of(mariadb: MariaDBServer, database: str, mariadb_driver: str) -> Stages:
    """Open an app whose primary is the shared server, and whose replica is the one given."""

    @contextmanager
    def make(replica: MariaDBServer, port: int | None = None, **settings: Any) -> Iterator[Stage]:
        name = replica.create_database()
        near = {"URL": replica.url(mariadb_driver, name, port=port), "MINCACHED": 0}
        near |= {key.upper(): settings.pop(key) for key in list(settings) if key in _OF_REPLICA}
        url = mariadb.url(mariadb_driver, database)
        with pooled_app(url, replica="near", binds={"near": near}, **settings) as (_app, db):
            try:
                yield Stage(db, database, name)
            finally:
                if replica is not mariadb:
                    replica.resume()

    return make


_OF_REPLICA = ("ping_after", "connect_timeout", "maxconnections")


def check_fallback(stage: Stage) -> None:
    """Assert that the first reader turns to the primary soon, and each later one at once."""
    name, seconds = stage.timed_read()
    assert (name, seconds < SOON) == (stage.primary, True), seconds
    assert stage.engine.is_down
    for _ in range(3):
        name, seconds = stage.timed_read()
        assert (name, seconds < AT_ONCE) == (stage.primary, True), seconds


def test_p2_reader_frozen_connect(private_mariadb: MariaDBServer, stage_of: Stages) -> None:
    """A reader whose connect to the replica hangs turns to the primary after a second, and all
    later ones do at once, until a connect succeeds.
    """
    with stage_of(private_mariadb) as stage:
        private_mariadb.pause()
        check_fallback(stage)
        private_mariadb.resume()
        wait_until(lambda: stage.read() == stage.replica)
        assert not stage.engine.is_down


def test_p2_reader_frozen_ping(private_mariadb: MariaDBServer, stage_of: Stages) -> None:
    """So does one whose ping the replica does not answer, whatever else is idle there."""
    with stage_of(private_mariadb, ping_after=0) as stage:
        leases = [stage.db.pool("near").lease() for _ in range(4)]
        kept = leases.pop()
        for lease in leases:
            lease.close()
        private_mariadb.pause()
        check_fallback(stage)
        kept.close()  # one more that nobody has to ping
        name, seconds = stage.timed_read()
        assert (name, seconds < AT_ONCE) == (stage.primary, True), seconds
        private_mariadb.resume()
        wait_until(lambda: stage.read() == stage.replica)


def test_p2_reader_swallowed_packets(mariadb: MariaDBServer, stage_of: Stages) -> None:
    """So does one behind a network that swallows packets, with an idle connection or without."""
    with Proxy(mariadb.host, mariadb.port) as proxy:
        with stage_of(mariadb, proxy.port, ping_after=0) as stage:
            proxy.deaf()
            check_fallback(stage)
            proxy.hear()
            wait_until(lambda: stage.read() == stage.replica)
            proxy.deaf()
            check_fallback(stage)
            proxy.hear()
            wait_until(lambda: stage.read() == stage.replica)


@pytest.mark.parametrize("is_connected", [False, True])
def test_p2_reader_little_time(
    private_mariadb: MariaDBServer, stage_of: Stages, is_connected: bool
) -> None:
    """A reader with less time than that has some left for the primary."""
    with stage_of(private_mariadb, ping_after=0) as stage:
        if is_connected:
            assert stage.read() == stage.replica
        private_mariadb.pause()
        for _ in range(3):
            assert stage.read(timeout=0.8) == stage.primary
        private_mariadb.resume()


def test_p2_reader_busy_replica(private_mariadb: MariaDBServer, stage_of: Stages) -> None:
    """A replica whose connections are all lent out is not down: its readers wait."""
    with stage_of(private_mariadb, maxconnections=1) as stage:
        lease = stage.db.pool("near").lease()
        started = time.monotonic()
        with pytest.raises(PoolTimeout):
            stage.read(timeout=1.6)
        assert time.monotonic() - started >= 1.6
        assert not stage.engine.is_down
        lease.close()
        assert stage.read() == stage.replica


def test_p2_reader_without_fallback(private_mariadb: MariaDBServer, stage_of: Stages) -> None:
    """Without REPLICA_FALLBACK a reader waits for the replica until its deadline."""
    with stage_of(private_mariadb, replica_fallback=False) as stage:
        private_mariadb.pause()
        started = time.monotonic()
        with pytest.raises(PoolTimeout):
            stage.read(timeout=1.6)
        assert time.monotonic() - started >= 1.6
        private_mariadb.resume()
        assert stage.read() == stage.replica


def test_p10_hung_host_left_alone(
    private_mariadb: MariaDBServer, mariadb: MariaDBServer, mariadb_driver: str
) -> None:
    """With TARGET and several hosts, the first of which hangs, one connect in ten pays for that."""
    places = f"{private_mariadb.host}:{private_mariadb.port},{mariadb.host}:{mariadb.port}"
    url = mariadb.url(mariadb_driver, mariadb.create_database())
    url = url.replace(f"{mariadb.host}:{mariadb.port}", places)
    private_mariadb.pause()
    with pooled_app(url, target="primary", connect_timeout=1) as (_app, db):
        with db_connection_context() as conn:
            assert value(conn, "SELECT @@port") == mariadb.port
        for _ in range(3):
            time.sleep(0.2)  # longer than the pause after a first failure
            db.pool().drain()
            started = time.monotonic()
            with db_connection_context() as conn:
                assert value(conn, "SELECT @@port") == mariadb.port
            assert time.monotonic() - started < AT_ONCE
    private_mariadb.resume()
