"""Celery as docs/jobs.md has it, with each kind of pool, all of them at once."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

import pytest

from tests.jobs.sites import Site

pytestmark = pytest.mark.mariadb_only  # its process list

USED = """
import shop
shop.db.execute("INSERT INTO orders VALUES ('parent', 1)")
from tasks import celery
"""

# Enough for each pool, and ended fast: without what workers tell each other.
OPTIONS = ("--concurrency", "2", "--loglevel", "INFO", "--without-gossip", "--without-mingle")
CODES = "abcdef"


@pytest.mark.slow
def test_p6_celery(make_site: Callable[[], Site]) -> None:
    """With prefork each child has its own connections, and a connection of the parent's serves no
    task, and lives on. With threads and greenlets the worker has one pool. Tasks are queued once
    their order is committed, and not if it is rolled back. All is closed with the workers, with a
    goodbye.
    """
    sites = {pool: make_site() for pool in ("prefork", "threads", "gevent")}
    sites["prefork"].write("used.py", USED)
    with ExitStack() as stack:
        workers = {}
        for pool, site in sites.items():
            module = "used" if pool == "prefork" else "tasks"
            arguments = ("-m", "celery", "-A", module, "worker", "--pool", pool, *OPTIONS)
            workers[pool] = stack.enter_context(site.worker(*arguments))
        for site in sites.values():
            site.order("tasks", CODES)
        for pool, site in sites.items():
            site.wait_until_packed([*CODES, "parent"] if pool == "prefork" else CODES)
        check_use(sites)
        ends = [worker.tell_to_end() for worker in workers.values()]
        assert [end() for end in ends] == [0, 0, 0]
        for site in sites.values():
            site.wait_until_none_is_left()
            assert site.aborted() == 0
        for worker in workers.values():
            assert worker.log.count(" received") == len(CODES), worker.log
        assert "Forking with" in workers["prefork"].log
        assert "Forking with" not in workers["threads"].log + workers["gevent"].log


def check_use(sites: dict[str, Site]) -> None:
    """Check that tasks have used connections of their own process, which are open still."""
    used = {pool: site.used() for pool, site in sites.items()}
    (of_parent,) = used["prefork"].pop("parent")
    assert of_parent in sites["prefork"].connections()
    for pool, site in sites.items():
        of_tasks = {connections[-1] for connections in used[pool].values()}
        assert of_parent not in of_tasks
        assert of_tasks <= set(site.connections())
