"""All pools of a process: they share one thread, and end with it."""

from __future__ import annotations

import subprocess
import sys

from flask_pooled_db.runtime.process import close_everything
from tests.support.fake_driver import FakeDriver
from tests.support.leaks import housekeeping_threads
from tests.support.pools import open_pool


def test_pools_share_thread(fake: FakeDriver) -> None:
    """All pools of a process share one housekeeping thread."""
    with open_pool(fake) as one, open_pool(FakeDriver()) as two:
        for pool in (one, two):
            pool.connection().close()
        assert len(housekeeping_threads()) == 1


def test_close_everything(fake: FakeDriver) -> None:
    """close_everything() closes every pool and ends the thread; it can be called twice."""
    with open_pool(fake) as pool:
        pool.connection().close()
        close_everything()
        close_everything()
        assert fake.open_now == 0
        assert not housekeeping_threads()


def test_pools_closed_at_exit() -> None:
    """At exit the pools say goodbye to their servers, and the program prints nothing."""
    program = """
from tests.support.fake_driver import FakeDriver
from tests.support.pools import open_pool
fake = FakeDriver()
pools = open_pool(fake)
pools.__enter__().connection().close()
import atexit
atexit._run_exitfuncs()
print(fake.count("close"), fake.open_now)
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stdout.strip(), done.stderr) == ("1 0", "")
