"""What becomes of an app's connections when the app is garbage."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
from flask import Flask

from flask_pooled_db import PooledDB, db_connection_context
from flask_pooled_db.config import PoolConfig
from flask_pooled_db.lease.dbutils import Pool
from harness.server import MariaDBServer
from harness.waiting import wait_until
from tests.support.fake_driver import FakeDriver

PROGRAM = """
import gc, os, sys, threading, time
from flask import Flask
from flask_pooled_db import PooledDB, db_connection_context
from flask_pooled_db.pool.upkeep import upkeep

def serve():
    app = Flask("short-lived")
    app.config["POOLED_DB_URL"] = sys.argv[1]
    db = PooledDB(app)
    with app.app_context():
        with db_connection_context() as conn:
            conn.cursor().execute("SELECT 1").fetchall()
        deadline = time.monotonic() + 20
        while db.stats().idle < 3 and time.monotonic() < deadline:  # up to MINCACHED
            time.sleep(0.01)
        assert db.stats().idle == 3

serve()
if sys.argv[2] != "exits at once":
    gc.collect()
if sys.argv[2] == "forks":
    pid = os.fork()
    if not pid:
        gc.collect()
        sys.exit(0)
    assert os.waitpid(pid, 0)[1] == 0
if sys.argv[2] in ("waits", "forks"):
    deadline = time.monotonic() + 20
    while upkeep.is_at_work() and time.monotonic() < deadline:
        time.sleep(0.01)
        gc.collect()  # the housekeeping may have been at work on the pool
    assert not upkeep.is_at_work()
    gc.collect()
"""


@pytest.mark.parametrize("what", ["exits at once", "exits", "waits", "forks"])
@pytest.mark.parametrize("database", ["file", "memory"])
def test_garbage_app_without_warning(tmp_path: Path, database: str, what: str) -> None:
    """The pools of a garbage app cause no ResourceWarning of sqlite3's."""
    url = f"sqlite:///{tmp_path}/db" if database == "file" else "sqlite://"
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", PROGRAM, url, what],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    quiet = [line for line in done.stderr.splitlines() if "Forking with" not in line]
    assert quiet == []


def test_garbage_pool() -> None:
    """The idle connections of a garbage pool are closed with a goodbye; a pool with a lease is not
    garbage.
    """
    fake = FakeDriver()
    pool = Pool(PoolConfig(creator=fake, mincached=0), fake)
    held = pool.connection()
    pool.connection().close()
    reference = weakref.ref(pool.engine)
    del pool
    gc.collect()
    assert reference() is not None
    assert fake.open_now == 2
    held.close()
    del held
    gc.collect()
    assert reference() is None
    wait_until(lambda: fake.open_now == 0)
    assert fake.count("close") == 2


def test_garbage_app_on_server(mariadb: MariaDBServer, mariadb_driver: str) -> None:
    """The server sees the connections of a garbage app end, and nothing is logged."""
    database = mariadb.create_database()

    def connected() -> int:
        sql = "SELECT COUNT(*) FROM information_schema.processlist WHERE db = %s"
        return int(mariadb.query(sql, database)[0][0])

    def serve() -> None:
        app = Flask("short-lived")
        app.config["POOLED_DB_URL"] = mariadb.url(mariadb_driver, database)
        PooledDB(app)
        with app.app_context(), db_connection_context() as conn, conn.cursor() as cur:
            cur.execute("SELECT 1")
        wait_until(lambda: connected() == 3)

    serve()
    wait_until(lambda: gc.collect() >= 0 and connected() == 0)  # its publisher may be at work
