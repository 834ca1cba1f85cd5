"""P8: all idle connections are replaced at `DRAIN_INTERVAL`, with a checkpoint of what SQLite keeps
beside its file.
"""

from __future__ import annotations

import contextlib
import random
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flask_pooled_db.lease.dbutils import Pool
from flask_pooled_db.pool.upkeep import sweep
from harness.waiting import wait_until
from tests.pool.helpers import close_all, use
from tests.support import cipher
from tests.support.clock import Clock
from tests.support.fake_driver import FakeDriver
from tests.support.handles import handles
from tests.support.pools import call, open_pool

INTERVAL = 60.0


@pytest.fixture
def clock() -> Clock:
    """A clock that the test puts forward."""
    return Clock()


def drain(pool: Pool, clock: Clock) -> None:
    """Let the interval pass, and return when the pool has been swept."""
    clock.now += INTERVAL
    sweep(pool.engine)
    state = pool.engine.state
    wait_until(lambda: all(ref() in state.in_use_locked() for ref in state.open if ref()))


def is_settled(pool: Pool, idle: int) -> Callable[[], bool]:
    state = pool.engine.state
    return lambda: len(state.idle) == idle and len(state.open) == idle == state.places.taken


class TestAnyDriver:
    """What holds for each driver."""

    def test_p8_all_idle_ones(self, fake: FakeDriver, clock: Clock) -> None:
        """When one idle connection has been open for the interval, all idle ones are replaced."""
        with open_pool(fake, clock=clock, drain_interval=INTERVAL, maxconnections=3) as pool:
            first = pool.connection()
            first.cursor()
            clock.now += INTERVAL - 1
            second = pool.connection()
            close_all([first, second])
            sweep(pool.engine)
            assert pool.stats().idle == 2
            clock.now += 1
            sweep(pool.engine)
            wait_until(is_settled(pool, 0))
            assert fake.count("close") == 2
            sweep(pool.engine)
            assert use(pool) == 3
            clock.now += INTERVAL - 1
            sweep(pool.engine)
            assert is_settled(pool, 1)()

    def test_p8_mincached_is_kept(self, fake: FakeDriver, clock: Clock) -> None:
        """The pool opens new connections up to `mincached` in their place."""
        keys: Any = {"drain_interval": INTERVAL, "mincached": 2, "maxconnections": 2}
        with open_pool(fake, clock=clock, **keys) as pool:
            use(pool)
            wait_until(is_settled(pool, 2))
            clock.now += INTERVAL
            sweep(pool.engine)
            wait_until(lambda: fake.count("close") == 2)
            wait_until(is_settled(pool, 2))
            assert fake.count("connect") == 4
            assert fake.most_open <= 2

    @pytest.mark.parametrize("others_idle", [True, False])
    def test_p8_in_use(self, fake: FakeDriver, clock: Clock, others_idle: bool) -> None:
        """A lease is not disturbed; its connection is closed when it is returned."""
        with open_pool(fake, clock=clock, drain_interval=INTERVAL, reset="rollback") as pool:
            lease, other = pool.connection(), pool.connection()
            cursor = lease.cursor()
            cursor.execute("UPDATE")
            if others_idle:
                other.close()
            clock.now += INTERVAL
            sweep(pool.engine)
            wait_until(lambda: fake.count("close") == others_idle)
            cursor.execute("UPDATE")
            lease.commit()
            close_all([lease, other])
            assert pool.stats().idle == 0  # at once, and not by the next sweep
            wait_until(is_settled(pool, 0))
            assert fake.count("close") == 2

    def test_p5_a_slow_checkpoint(self, fake: FakeDriver, clock: Clock) -> None:
        """A checkpoint that takes its time delays neither the sweep nor a caller, who gets a new
        connection: it holds one place, since the other connections are closed before.
        """
        with open_pool(fake, clock=clock, drain_interval=INTERVAL, maxconnections=2) as pool:
            gate = fake.hold("checkpoint")
            close_all([pool.connection(), pool.connection()])
            clock.now += INTERVAL
            sweep(pool.engine)
            gate.wait_for_arrivals()
            wait_until(lambda: fake.count("close") == 1)
            assert call(use, pool).result() == 3
            assert pool.stats().open == 2
            gate.open()
            wait_until(is_settled(pool, 1))
            assert fake.count("checkpoint") == 1

    def test_p8_always_in_use(self, fake: FakeDriver, clock: Clock) -> None:
        """Where no connection is ever idle at that age, one that comes back makes the checkpoint,
        once in the interval, and its caller does not wait for that.
        """
        with open_pool(fake, clock=clock, drain_interval=INTERVAL, reset="rollback") as pool:
            for round_ in range(1, 4):
                leases = [pool.connection(), pool.connection()]
                clock.now += INTERVAL
                sweep(pool.engine)
                gate = fake.hold("checkpoint")
                close_all(leases)
                gate.wait_for_arrivals()
                gate.open()
                wait_until(is_settled(pool, 0))
                assert fake.count("checkpoint") == round_
                clock.now += 1

    def test_p8_older_than_its_lifetime(self, fake: FakeDriver, clock: Clock) -> None:
        """Where no connection becomes that old, since its lifetime is shorter, one that is closed
        for its lifetime makes the checkpoint, once in the interval.
        """
        keys: Any = {"drain_interval": INTERVAL, "max_lifetime": INTERVAL / 4, "maxconnections": 2}
        with open_pool(fake, clock=clock, **keys) as pool:
            for _ in range(16):
                use(pool)
                clock.now += INTERVAL / 4
                sweep(pool.engine)
                wait_until(is_settled(pool, 0))
            assert fake.count("close") == 16
            assert fake.count("checkpoint") == 4

    def test_p4_lost_lease(self, fake: FakeDriver, clock: Clock) -> None:
        """A connection whose lease was lost makes no checkpoint."""
        with open_pool(fake, clock=clock, drain_interval=INTERVAL) as pool:
            entry = pool.engine.acquire()
            clock.now += INTERVAL
            entry.condemn("it was lost")
            pool.engine.release(entry)
            assert is_settled(pool, 0)()
            assert fake.count("checkpoint") == 0

    @pytest.mark.parametrize("step", ["checkpoint", "close"])
    def test_p13_failing_step(self, fake: FakeDriver, clock: Clock, step: str) -> None:
        """A checkpoint, or a close, that fails is no error: the connections are closed."""
        with open_pool(fake, clock=clock, drain_interval=INTERVAL, maxconnections=2) as pool:
            close_all([pool.connection(), pool.connection()])
            fake.fail(step, OSError(), OSError())
            clock.now += INTERVAL
            sweep(pool.engine)
            wait_until(is_settled(pool, 0))
            assert use(pool) == 3

    def test_p1_without_the_lock(self, fake: FakeDriver, clock: Clock) -> None:
        """The checkpoint is made without the lock, in a thread of its own."""
        fake.watch()
        with open_pool(fake, clock=clock, drain_interval=INTERVAL) as pool:
            use(pool)
            clock.now += INTERVAL
            sweep(pool.engine)
            wait_until(is_settled(pool, 0))
        assert fake.count("checkpoint") == 1
        assert fake.violations == []

    def test_no_thread_left(
        self, fake: FakeDriver, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """If the system has no more threads, they are closed without a checkpoint."""
        with open_pool(fake, clock=clock, drain_interval=INTERVAL) as pool:
            use(pool)
            clock.now += INTERVAL
            with monkeypatch.context() as patch:
                patch.setattr(threading.Thread, "start", _refuse)
                sweep(pool.engine)
            assert is_settled(pool, 0)()
            assert fake.count("checkpoint") == 0

    def test_in_the_background(self, fake: FakeDriver) -> None:
        """It happens by itself, without any caller."""
        with open_pool(fake, drain_interval=0.1, mincached=1) as pool:
            use(pool)
            wait_until(lambda: fake.count("connect") >= 3)
            assert fake.open_now <= 2

    def test_off(self, fake: FakeDriver, clock: Clock) -> None:
        """It is off unless it is asked for."""
        with open_pool(fake, clock=clock, max_lifetime=0, idle_timeout=0) as pool:
            use(pool)
            clock.now += 1e9
            sweep(pool.engine)
            assert is_settled(pool, 1)()


def _refuse(_: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def clear_url(path: Path) -> str:
    return f"sqlite:///{path}"


def clear(path: Path) -> Any:
    return contextlib.closing(sqlite3.connect(path))


FILES = {"sqlite": (clear_url, clear), "sqlcipher": (cipher.url_of, cipher.opened)}
each_file = pytest.mark.parametrize(("url_of", "opened"), FILES.values(), ids=FILES)


def write(pool: Pool, rows: int = 1) -> None:
    with pool.connection() as conn:
        conn.cursor().execute("CREATE TABLE IF NOT EXISTS t (a)")
        conn.cursor().executemany("INSERT INTO t VALUES (%s)", [("x" * 1000,)] * rows)
        conn.commit()


def log_of(path: Path) -> int:
    """The size of a file's WAL."""
    log = path.with_name(f"{path.name}-wal")
    return log.stat().st_size if log.exists() else 0


@each_file
class TestFiles:
    """SQLite's files, in the clear and encrypted."""

    def test_log_is_emptied(self, tmp_path: Path, clock: Clock, url_of: Any, opened: Any) -> None:
        """The WAL is emptied, also while another process keeps the file open."""
        path = tmp_path / "db"
        with open_pool(url=url_of(path), clock=clock, drain_interval=INTERVAL) as pool:
            write(pool, 100)
            with opened(path) as other:
                assert other.execute("SELECT count(*) FROM t").fetchone() == (100,)
                assert log_of(path) > 100_000
                drain(pool, clock)
                assert log_of(path) == 0
                assert other.execute("SELECT count(*) FROM t").fetchone() == (100,)

    def test_transaction_goes_on(
        self, tmp_path: Path, clock: Clock, url_of: Any, opened: Any
    ) -> None:
        """Leases that read and write meanwhile are not disturbed, and keep what they see."""
        path = tmp_path / "db"
        with open_pool(url=url_of(path), clock=clock, drain_interval=INTERVAL) as pool:
            write(pool, 2)
            with pool.connection() as reader, pool.connection() as writer:
                pool.connection().close()
                cursor = reader.cursor()
                cursor.execute("SELECT a FROM t")
                cursor.fetchone()
                writer.cursor().execute("INSERT INTO t VALUES (1)")
                began = time.monotonic()
                drain(pool, clock)
                assert time.monotonic() - began < 2
                assert len(cursor.fetchall()) == 1
                writer.cursor().execute("INSERT INTO t VALUES (1)")
                writer.commit()
            assert is_settled(pool, 0)()
            with opened(path) as other:
                assert other.execute("SELECT count(*) FROM t").fetchone() == (4,)

    def test_slow_reader(self, tmp_path: Path, clock: Clock, url_of: Any, opened: Any) -> None:
        """While somebody reads an old state, the checkpoint gives up soon, without an error, and
        does its work the next time.
        """
        path = tmp_path / "db"
        with open_pool(url=url_of(path), clock=clock, drain_interval=INTERVAL) as pool:
            write(pool)
            with opened(path) as reader:
                reader.execute("BEGIN")
                assert reader.execute("SELECT count(*) FROM t").fetchone() == (1,)
                write(pool, 100)
                drain(pool, clock)
                assert log_of(path) > 0
                write(pool)
                assert reader.execute("SELECT count(*) FROM t").fetchone() == (1,)
                reader.execute("COMMIT")
                drain(pool, clock)
                assert log_of(path) == 0

    def test_p8_never_idle(self, tmp_path: Path, clock: Clock, url_of: Any, opened: Any) -> None:
        """The WAL is emptied also while some lease always reads."""
        path = tmp_path / "db"
        with open_pool(url=url_of(path), clock=clock, drain_interval=INTERVAL) as pool:
            write(pool, 100)
            with opened(path) as other:
                other.execute("SELECT count(*) FROM t").fetchall()
                reader = pool.connection()
                for _ in range(3):
                    reader.cursor().execute("SELECT count(*) FROM t").fetchall()
                    clock.now += INTERVAL
                    sweep(pool.engine)
                    following = pool.connection()
                    following.cursor().execute("SELECT count(*) FROM t").fetchall()
                    reader.close()
                    reader = following
                    wait_until(lambda: log_of(path) == 0)
                    other.execute("INSERT INTO t VALUES (zeroblob(100000))")
                    other.commit()
                    assert log_of(path) > 0
                reader.close()

    @pytest.mark.parametrize("reads_old_state", [True, False])
    def test_p5_writers(
        self, tmp_path: Path, clock: Clock, url_of: Any, opened: Any, reads_old_state: bool
    ) -> None:
        """While somebody reads, no checkpoint locks out who writes for as long as he waits."""
        path = tmp_path / "db"
        with open_pool(
            url=f"{url_of(path)}?timeout=0.5", clock=clock, drain_interval=INTERVAL
        ) as pool:
            write(pool, 100)
            with opened(path) as reader, opened(path) as writer:
                writer.execute("PRAGMA busy_timeout=500").fetchall()
                reader.execute("BEGIN")
                reader.execute("SELECT count(*) FROM t").fetchone()
                if reads_old_state:
                    write(pool)
                clock.now += INTERVAL
                sweep(pool.engine)
                while not is_settled(pool, 0)():
                    writer.execute("BEGIN IMMEDIATE")
                    writer.execute("ROLLBACK")

    def test_read_only(self, tmp_path: Path, clock: Clock, url_of: Any, opened: Any) -> None:
        """A file that may only be read is no error."""
        path = tmp_path / "db"
        with opened(path) as other:
            other.execute("CREATE TABLE t (a)")
        url = f"{url_of(path).replace(f'/{tmp_path}', f'/file:{tmp_path}')}?uri=true&mode=ro"
        with open_pool(url=url, clock=clock, drain_interval=INTERVAL) as pool:
            use_file(pool)
            drain(pool, clock)
            use_file(pool)
            assert pool.stats().connects == 2


@pytest.mark.parametrize("name", ["m1?mode=memory&cache=shared", "/m2?vfs=memdb"])
def test_in_memory(clock: Clock, name: str) -> None:
    """A database in memory that only its connections keep is not drained."""
    url = f"sqlite:///file:{name}&uri=true"
    with open_pool(url=url, clock=clock, drain_interval=INTERVAL) as pool:
        write(pool)
        clock.now += INTERVAL
        sweep(pool.engine)
        assert is_settled(pool, 1)()
        use_file(pool)
        assert pool.stats().connects == 1


def use_file(pool: Pool) -> None:
    with pool.connection() as conn:
        conn.cursor().execute("SELECT * FROM t")


def test_handles_over_200_rounds(tmp_path: Path, clock: Clock) -> None:
    """Over 200 rounds, with another program that holds the file, neither the files nor what
    the process holds open grows.
    """
    path = tmp_path / "db"
    keys: Any = {"drain_interval": INTERVAL, "setsession": ["PRAGMA synchronous=OFF"]}
    with clear(path) as other, open_pool(url=clear_url(path), clock=clock, **keys) as pool:
        write(pool)
        other.execute("SELECT count(*) FROM t").fetchall()
        random_ = random.Random(7)
        most, logs = 0, []
        for _ in range(200):
            leases = [pool.connection() for _ in range(random_.randint(1, 4))]
            for lease in leases:
                lease.cursor().execute("SELECT count(*) FROM t")
            most = max(most, handles(tmp_path))
            close_all(leases)
            write(pool, 5)
            drain(pool, clock)
            logs.append(log_of(path))
        assert max(logs) == 0
        assert most <= 3 * 5  # the file, its WAL and its index, of each connection
        assert {found.name for found in tmp_path.iterdir()} == {"db", "db-wal", "db-shm"}
        assert is_settled(pool, 0)()
    assert handles(tmp_path) == 0
