"""T1, T4 and T5 where the end of a transaction, or of a block in it, goes wrong by itself."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from flask_pooled_db.config import ScopeOptions
from flask_pooled_db.errors import CommitOutcomeUnknown, TransactionAborted, UsageError
from flask_pooled_db.lease.dbutils import Pool
from flask_pooled_db.lease.home import Leases
from flask_pooled_db.lease.scope import Scope
from flask_pooled_db.lease.state import State
from tests.support.fake_driver import Error, FakeDriver, OperationalError
from tests.support.pools import call, open_pool
from tests.support.scenarios.base import must_raise

WITHOUT_SAVEPOINT = ScopeOptions(savepoint=False)


@pytest.fixture
def fake() -> FakeDriver:
    """A driver of the test's own."""
    return FakeDriver()


@pytest.fixture
def pool(fake: FakeDriver) -> Iterator[Pool]:
    """A pool of one connection."""
    with open_pool(fake, maxconnections=1) as pool:
        yield pool


@pytest.mark.parametrize("what", ["commit", "rollback"])
def test_t5_revoked_during_end(fake: FakeDriver, pool: Pool, what: str) -> None:
    """A lease that is taken back during COMMIT or ROLLBACK ends with it, and is released."""
    lease = pool.lease()
    lease.cursor().execute("INSERT")
    gate = fake.hold(what)
    caller = call(getattr(lease, what))
    gate.wait_for_arrivals()
    lease.revoke("was given back by its app context")
    gate.open()
    caller.result()
    assert lease.state is State.RELEASED
    assert pool.stats().in_use == 0


def test_t5_revoked_during_lost_commit(fake: FakeDriver, pool: Pool) -> None:
    """A COMMIT whose answer is lost says so, even if its lease is taken back meanwhile."""
    lease = pool.lease()
    lease.cursor().execute("INSERT")
    gate = fake.hold("commit")
    fake.fail("commit", OperationalError("gone"))
    caller = call(lease.commit)
    gate.wait_for_arrivals()
    lease.revoke("was given back by its app context")
    gate.open()
    with pytest.raises(CommitOutcomeUnknown):
        caller.result()
    assert lease.state is State.RELEASED


def test_t4_failed_rollback_keeps_abort(fake: FakeDriver, pool: Pool) -> None:
    """A rollback() that fails does not make an aborted transaction fit for COMMIT."""
    with must_raise(TransactionAborted), Scope(pool.engine, Leases()) as lease:
        lease.cursor().execute("INSERT 1")
        with (
            contextlib.suppress(LookupError),
            Scope(pool.engine, Leases(), WITHOUT_SAVEPOINT),
        ):
            lease.cursor().execute("INSERT 2")
            raise LookupError
        fake.fail("rollback", Error("no"))
        with contextlib.suppress(Error):
            lease.rollback()
    assert fake.count("commit") == 0


def test_t4_failed_release_of_savepoint(fake: FakeDriver, pool: Pool) -> None:
    """A nested block whose RELEASE SAVEPOINT fails is not committed by the outer block."""
    fake.fail("RELEASE SAVEPOINT pooled_db_1", Error("no"))
    with must_raise(TransactionAborted), Scope(pool.engine, Leases()) as lease:
        lease.cursor().execute("INSERT 1")
        with contextlib.suppress(Error), Scope(pool.engine, Leases()):
            lease.cursor().execute("INSERT 2")
    assert fake.count("commit") == 0


def test_t4_inner_block_outlives_outer(pool: Pool) -> None:
    """A nested block that ends after its outermost one tells that its work was rolled back."""
    outer = Scope(pool.engine, Leases())
    lease = outer.__enter__()
    inner = Scope(pool.engine, Leases(), WITHOUT_SAVEPOINT)
    inner.__enter__()
    lease.cursor().execute("INSERT")
    error = LookupError()
    outer.__exit__(LookupError, error, None)
    with pytest.raises(UsageError):
        inner.__exit__(None, None, None)


def test_savepoint_of_ended_block(fake: FakeDriver, pool: Pool) -> None:
    """The savepoint of a nested block that has ended is not set by a later statement."""
    with Scope(pool.engine, Leases()) as lease:
        lease.cursor().execute("INSERT")
        lease.abort(LookupError())
        with contextlib.suppress(LookupError), Scope(pool.engine, Leases()):
            raise LookupError
        lease.rollback()
        lease.cursor().execute("SELECT")
    assert fake.count("SAVEPOINT pooled_db_1") == 0


def test_closed_sqlite_connection_frees_lock(tmp_path: Path) -> None:
    """A connection that is closed gives up its write lock, even if a cursor keeps a statement."""
    with open_pool(url=f"sqlite:///{tmp_path}/db?timeout=0", maxconnections=3) as pool:
        with pool.lease() as lease:
            lease.cursor().execute("CREATE TABLE t (a)")
            lease.commit()
        first, second = pool.lease(), pool.lease()
        first.cursor().execute("INSERT INTO t VALUES (1)")
        with pytest.raises(sqlite3.OperationalError) as kept:
            second.execute("BEGIN IMMEDIATE")
        first.close()
        second.cursor().execute("INSERT INTO t VALUES (2)")
        second.session_changed("a test")
        second.close()
        third = pool.lease()
        third.cursor().execute("INSERT INTO t VALUES (3)")
        third.close()
        assert "locked" in str(kept.value)
