"""Programs that fork, run as processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys

PRELUDE = '''
import gc, logging, os, sys, threading, time, warnings
from flask_pooled_db.errors import PooledDBError, UsageError
from tests.support.pools import check_counts, open_pool
from harness.waiting import wait_until
logging.basicConfig(format="%(message)s")
url = sys.argv[1]

def fork(child):
    pid = os.fork()
    if pid:
        status = os.waitpid(pid, 0)[1]
        assert status == 0, f"the child ended with {status}"
        return
    child()
    sys.exit(0)  # as a program ends: with its exit handlers, its modules torn down

def fork_amid_threads(child):
    """Fork where the test has threads of its own on purpose: since 3.12 Python warns of that."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".* is multi-threaded", DeprecationWarning)
        fork(child)

def ask(conn, sql):
    cursor = conn.cursor()
    cursor.execute(sql)
    row = cursor.fetchone()
    cursor.close()
    return row[0]
'''


def untraced() -> dict[str, str]:
    """Return the environment of a program that coverage does not trace.

    Where a tracer runs, a signal handler can raise where nothing else can; and threads that never
    rest hardly give way to others.
    """
    return {name: value for name, value in os.environ.items() if "COVERAGE" not in name}


def run_program(program: str, url: str, env: dict[str, str] | None = None) -> tuple[str, str]:
    """What a program says on its standard output and error; it must end well."""
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + program, url],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env=env,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, done.stderr


CHILDREN = {
    "exits": "def child(): pass",
    "collects garbage": """
def child():
    global pool, pools, leases, cursors
    del pool, pools, leases, cursors
    for _ in range(3):
        gc.collect()
""",
    "closes what it inherited": """
def child():
    for lease in leases:
        lease.close()
    pool.close()
""",
    "uses what it inherited": """
def child():
    for use in (
        lambda: leases[0].cursor(),
        lambda: leases[0].commit(),
        lambda: leases[0].ping(),
        lambda: cursors[0].execute("SELECT 'child'"),
        lambda: cursors[0].fetchone(),
    ):
        try:
            use()
        except UsageError as error:
            assert "fork" in str(error), error
        else:
            sys.exit("the child used its parent's connection")
    cursors[0].close()
    leases[0].close()
""",
    "gives back by hand what it inherited": """
def child():
    for con in in_use:
        pool.engine.release(con)
        con.condemn("of no use")
        pool.engine.release(con)
    assert check_counts(pool).open == 0
""",
    "uses its own": """
def child():
    for lease in leases:
        lease.close()
    own = [pool.lease(timeout=20) for _ in range(3)]
    for lease in own:
        assert ask(lease, "SELECT 1") == 1
        lease.close()
    stats = check_counts(pool)
    assert (stats.open, stats.idle) == (3, 3), stats
    del own
    pool.close()
""",
    "exits in the middle of a scope": """
def child():
    end = SystemExit(0)
    cursors[0].__exit__(SystemExit, end, None)
    leases[0].__exit__(SystemExit, end, None)
    raise end
""",
}

FORKING = """
pools = open_pool(url=url, maxconnections=3, ping_after=0)
pool = pools.__enter__()
leases = [pool.connection() for _ in range(3)]
cursors = [lease.cursor() for lease in leases]
in_use = pool.engine.state.in_use_locked()
for cursor in cursors:
    cursor.execute("SELECT 'before the fork'")
    cursor.fetchall()
leases.pop().close()  # one is idle at the fork, two are lent, in a transaction
fork(child)
for cursor in cursors[:2]:
    cursor.execute("SELECT 'after the fork'")
    assert cursor.fetchone()[0] == 'after the fork'
for lease in leases:
    lease.commit()
    lease.close()
for _ in range(2):
    with pool.connection() as lease:
        assert ask(lease, "SELECT 'again'") == 'again'
assert pool.stats().connects == 3, "a connection of the parent was lost"
pools.__exit__(None, None, None)
"""
