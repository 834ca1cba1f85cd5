"""P12: the process ends, whatever it still holds and whoever listens to its log."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.protocol import COM_QUIT
from harness.proxy import Proxy
from harness.server import MariaDBServer
from tests.runtime.forking import run_program, untraced

BEGINNING = """
import gc, logging, os, signal, sys, threading, time
from flask import Flask
from flask_pooled_db import PooledDB, db_connection_context

app = Flask("exits")
app.config.update(POOLED_DB_URL=sys.argv[1], POOLED_DB_MINCACHED=0)
db = PooledDB(app)
context = app.app_context()
context.push()
with db_connection_context() as conn:
    conn.cursor().execute("CREATE TABLE t (n INTEGER)")

def rows():
    with db_connection_context() as conn:
        conn.cursor().execute("INSERT INTO t VALUES (1)")
        yield 1
"""

IN_LOOPS = """
import asyncio
context.pop()
loop = asyncio.new_event_loop()

async def idle():
    async with db.async_connection_context() as conn:
        await conn.cursor().execute("SELECT n FROM t")
        await asyncio.sleep(3600)

async def busy():
    async with db.async_connection_context() as conn:
        await conn.cursor().execute(
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i FROM n) SELECT max(i) FROM n"
        )

async def rows():
    async with db.async_connection_context(readonly=True) as conn:
        yield await conn.cursor().execute("SELECT 1")
        yield 2

def begin(*works):
    db.pool().resize(0, 3, 3)
    iterator = rows()
    loop.run_until_complete(anext(iterator))
    tasks = [loop.create_task(work()) for work in works]
    loop.run_until_complete(asyncio.sleep(0.1))
    return loop, tasks, iterator
"""

PROGRAMS = {
    "a suspended generator in a module's global": """
kept = rows()
next(kept)
""",
    "several, in a cycle": """
class Cycle:
    pass
kept = [Cycle() for _ in range(3)]
for cycle in kept:
    cycle.itself, cycle.rows = cycle, rows()
    if cycle is kept[0]:
        next(cycle.rows)
""",
    "a suspended generator in another thread": """
def work():
    with app.app_context():
        kept.append(rows())
        next(kept[0])
        time.sleep(3600)
kept = []
threading.Thread(target=work, daemon=True).start()
while not kept:
    time.sleep(0.01)
time.sleep(0.1)
""",
    "a log handler that blocks": """
class Blocking(logging.Handler):
    def emit(self, record):
        time.sleep(3600)
logging.getLogger("flask_pooled_db").addHandler(Blocking())
from flask_pooled_db.runtime import housekeeper
housekeeper.call_later(0.0, lambda: 1 / 0)
time.sleep(0.2)
""",
    "a log handler that blocks behind another one": """
class Blocking(logging.Handler):
    def emit(self, record):
        time.sleep(3600)
class Forwarding(logging.Handler):
    def emit(self, record):
        logging.getLogger("elsewhere").handle(record)
logging.getLogger("elsewhere").addHandler(Blocking())
logging.getLogger("flask_pooled_db").addHandler(Forwarding())
from flask_pooled_db.runtime import housekeeper
housekeeper.call_later(0.0, lambda: 1 / 0)
time.sleep(0.2)
""",
    "a log handler that uses the pool": """
class Writing(logging.Handler):
    def emit(self, record):
        with app.app_context(), db_connection_context() as conn:
            conn.cursor().execute("INSERT INTO t VALUES (2)")
logging.getLogger("flask_pooled_db").addHandler(Writing())
from flask_pooled_db.runtime import housekeeper
housekeeper.call_later(0.0, lambda: 1 / 0)
""",
    "a housekeeping job that blocks": """
from flask_pooled_db.runtime import housekeeper
housekeeper.call_later(0.0, lambda: time.sleep(3600))
time.sleep(0.1)
""",
    "a task and a generator of a loop that is closed": IN_LOOPS
    + """
with app.app_context():
    _, (task,), iterator = begin(idle)
loop.close()
""",
    "tasks and a generator of a loop that nobody runs any more": IN_LOOPS
    + """
kept = begin(idle, busy, idle, idle)  # two wait in line
kept[1].append(kept)
del kept, loop
""",
    "a finalizer that uses the database at the very end": """
class Late:
    def __del__(self):
        with app.app_context(), db_connection_context() as conn:
            conn.cursor().execute("INSERT INTO t VALUES (3)")
late = Late()
""",
}


@pytest.mark.parametrize("what", PROGRAMS)
def test_p12_exit(tmp_path: Path, what: str) -> None:
    """The process ends within its few seconds of patience."""
    program = BEGINNING + PROGRAMS[what]
    arguments = [sys.executable, "-c", program, f"sqlite:///{tmp_path}/db"]
    began = time.monotonic()
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)
    assert time.monotonic() - began < 30
    assert done.returncode == 0, done.stdout + done.stderr


WARMS_UP = """
pools = open_pool(url=url, mincached=5)  # nobody closes it
with pools.__enter__().connection() as conn:
    ask(conn, "SELECT 1")
"""


def test_p12_exit_during_connects(server: MariaDBServer, proxy: Proxy, mariadb_driver: str) -> None:
    """What is being connected when the process ends is finished, and ends with a goodbye: a server
    takes what stops amid a handshake for an attack.
    """
    proxy.delay = 0.01
    run_program(WARMS_UP, server.url(mariadb_driver, port=proxy.port))
    ends = {command.connection: command.code for command in proxy.commands}
    assert ends == dict.fromkeys(range(1, proxy.connections + 1), COM_QUIT)
    assert len(ends) > 1


FORKS_WHILE_POOLS_ARE_MADE = """
import os, sys, threading, warnings
from tests.support.fake_driver import FakeDriver
from tests.support.pools import open_pool
warnings.filterwarnings("ignore", ".* is multi-threaded", DeprecationWarning)
stop = threading.Event()

def make():
    while not stop.is_set():
        with open_pool(FakeDriver()) as pool:
            pass

threads = [threading.Thread(target=make) for _ in range(3)]
for thread in threads:
    thread.start()
for _ in range(20):
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitpid(pid, 0)
stop.set()
for thread in threads:
    thread.join()
"""


@pytest.mark.alone
def test_p12_fork_while_pools_are_made() -> None:
    """A fork is guarded whatever other threads do to the pools at that moment."""
    _, said = run_program(FORKS_WHILE_POOLS_ARE_MADE, "", untraced())
    assert "changed size during iteration" not in said
    assert "A fork hook failed" not in said
