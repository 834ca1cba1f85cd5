"""RQ as docs/jobs.md has it: a worker that forks for each job, and one that does not."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from rq import Queue

from harness.processes import children
from harness.waiting import wait_until
from tests.jobs.sites import Site

pytestmark = pytest.mark.mariadb_only  # its process list and its time limit of statements

LAG_OF_TRANSACTIONS = 0.15
"""Seconds for which InnoDB shows who asks again and again the same transactions."""

USED = """
import shop
shop.db.execute("INSERT INTO orders VALUES ('parent', 1)")
import worker
"""

SLOW = """
import time
from shop import db

def slow(code, in_statement):
    with db.connection_context(statement_timeout=1.5) as conn, conn.cursor() as cur:
        cur.execute("INSERT INTO orders VALUES (%s, 1)", (code,))
        if in_statement:
            cur.execute("SELECT SLEEP(60)")
        time.sleep(60)
"""


@contextmanager
def queue_of(site: Site) -> Iterator[Queue]:
    with site.redis() as client:
        yield Queue(connection=client)


def test_p6_work_horses(shop: Site) -> None:
    """Each work horse opens its own connection, once the order is committed, and it ends with the
    job; a connection of the parent's serves no job, and lives on. Work that is rolled back queues
    nothing.
    """
    shop.write("used.py", USED)
    with shop.worker("used.py", FLASK_POOLED_DB_MINCACHED="0") as worker:
        shop.order("jobs", "abc")
        shop.wait_until_packed(["a", "b", "c", "parent"])
        used = shop.used()
        (of_parent,) = used.pop("parent")
        wait_until(lambda: shop.connections() == [of_parent])
        of_jobs = {connections[-1] for connections in used.values()}
        assert len(of_jobs - {of_parent}) == 3
        with queue_of(shop) as queue:
            wait_until(lambda: queue.finished_job_registry.count == 3)
            assert (queue.count, queue.failed_job_registry.count) == (0, 0)
        assert worker.tell_to_end()() == 0
        assert worker.log.count("Forking with 1 open database connections") == 1
    shop.wait_until_none_is_left()
    assert shop.aborted() == 3


def test_t6_killed_work_horse(shop: Site) -> None:
    """A work horse that is killed leaves neither its work nor a connection; its statement ends at
    its limit.
    """
    shop.write("slow.py", SLOW)
    with shop.worker("worker.py", FLASK_POOLED_DB_MINCACHED="0") as worker, queue_of(shop) as queue:
        for in_statement in (False, True):
            queue.enqueue("slow.slow", "a", in_statement)
            wait_until_ongoing(shop, in_statement)
            (horse,) = children(worker.pid)
            os.kill(horse, signal.SIGKILL)
            shop.wait_until_none_is_left()
        wait_until(lambda: queue.failed_job_registry.count == 2)
        assert worker.tell_to_end()() == 0
    assert shop.packed() == {}


def wait_until_ongoing(site: Site, in_statement: bool) -> None:
    """Return when a job with a transaction has come to its long statement, or to its pause."""
    statement = "SELECT SLEEP(60)" if in_statement else None

    def ongoing() -> list[tuple[str | None]]:
        return site.server.query(
            "SELECT info FROM information_schema.processlist JOIN information_schema.innodb_trx"
            " ON id = trx_mysql_thread_id WHERE db = %s",
            site.database,
        )

    wait_until(lambda: ongoing() == [(statement,)], interval=LAG_OF_TRANSACTIONS)


def test_t6_simple_worker(shop: Site) -> None:
    """A worker that does not fork uses one connection for job after job. What a time limit
    interrupts in a statement is closed, what it interrupts elsewhere is rolled back, and what a job
    forgets goes back at the end of its context. All is closed with the worker.
    """
    shop.write("slow.py", SLOW)
    shop.write("forgetful.py", FORGETFUL)
    arguments = ("-m", "rq.cli", "worker", "--url", shop.redis_url, "-w", "rq.SimpleWorker")
    with shop.worker(*arguments, FLASK_POOLED_DB_MINCACHED="0") as worker, queue_of(shop) as queue:
        shop.order("jobs", "ab")
        shop.wait_until_packed("ab")
        used = shop.used()
        assert used["a"][-1] == used["b"][-1]
        for in_statement in (False, True):
            queue.enqueue("slow.slow", "slow", in_statement, job_timeout=1)
        queue.enqueue("old_jobs.cancel", "b")
        queue.enqueue("forgetful.forget")
        shop.order("jobs", "cd")
        shop.wait_until_packed("acd")
        wait_until(lambda: queue.failed_job_registry.count == 2)
        assert len({used["a"][-1], *[shop.used()[code][-1] for code in "cd"]}) == 2
        wait_until(lambda: shop.connections() == [shop.used()["d"][-1]])
        assert "was not given back by" in worker.log
        assert worker.tell_to_end()() == 0
    shop.wait_until_none_is_left()
    assert shop.aborted() == 1  # the one that was interrupted


FORGETFUL = """
import shop
from flask_pooled_db import get_db_connection

def forget():
    with shop.app.app_context():
        get_db_connection()
"""
