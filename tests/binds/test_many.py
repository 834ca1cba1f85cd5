"""Far more names than may be open."""

from __future__ import annotations

import gc
import random
import threading
from collections import Counter
from pathlib import Path

import pytest

from flask_pooled_db.lease.dbutils import Pool
from harness.waiting import PATIENCE, holds_within, wait_until
from tests.support.apps import pooled_app
from tests.support.pools import call

NAMES, OPEN, THREADS, USES = 10_000, 200, 16, 150


def _pools() -> int:
    gc.collect()
    return sum(isinstance(one, Pool) for one in gc.get_objects())


def _kinds() -> Counter[str]:
    """Count the objects of the package and of its driver, by their class.

    All objects would be too many: what measures coverage keeps some for each thread that there was.
    """
    gc.collect()
    classes = (type(one) for one in gc.get_objects())
    ours = (one for one in classes if one.__module__.startswith(("flask_pooled_db", "sqlite3")))
    return Counter(one.__qualname__ for one in ours)


@pytest.mark.slow
def test_ten_thousand_names(tmp_path: Path) -> None:
    """Of 10,000 names that 16 threads use at random never more than 200 are open, no caller gets an
    error, and no descriptor, thread or memory is left behind.
    """
    before = _pools()
    with pooled_app("sqlite:///:memory:", max_binds=OPEN, bind_idle_timeout=30) as (app, db):
        registry = app.extensions["pooled_db"].registry
        # Several names share a file: what counts is how many are open.
        db.bind_loader(lambda name: f"sqlite:///{tmp_path}/{int(name[1:]) % 64}.db")
        most, weight = [0], 0

        def work(seed: int, uses: int) -> None:
            chance = random.Random(seed)
            for _ in range(uses):
                with db.connection_context(f"n{chance.randrange(NAMES)}") as conn:
                    conn.execute("SELECT 1")
                    most[0] = max(most[0], len(registry.opened))

        for seed in (0, THREADS, 2 * THREADS):
            callers = [call(work, seed + i, USES // 3) for i in range(THREADS)]
            for caller in callers:
                caller.result()
            if not weight:
                weight = _kinds().total()
        assert most[0] == OPEN
        assert _pools() - before <= OPEN + 2
        # What was closed a moment ago is forgotten by the next sweep.
        # (Looking seldom: to count all objects keeps the threads that do so from their work.)
        assert holds_within(PATIENCE, lambda: _kinds().total() < weight * 1.1, 0.5), (
            f"more than {weight} objects: {_kinds().most_common(20)}"
        )
        for name in list(registry.opened):
            db.close_bind(name)
        links = [link for link in Path("/proc/self/fd").iterdir() if link.exists()]
        assert not [link for link in links if str(tmp_path) in str(link.readlink())]
        wait_until(
            lambda: not [t for t in threading.enumerate() if "opener" in t.name],
            "the end of the openers",
        )
