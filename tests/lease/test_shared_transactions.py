"""What one lease of a shared connection does to the transaction of the others."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable
from typing import Any

import pytest

from flask_pooled_db.errors import CommitOutcomeUnknown, PoolTimeout, TransactionAborted, UsageError
from tests.lease.shares import Deadlock, SharingDriver, refuse, run, sharing
from tests.pool.helpers import close_all, number_of
from tests.support.fake_driver import Error, OperationalError
from tests.support.pools import call, check_counts, open_pool


@pytest.fixture
def fake() -> SharingDriver:
    """A driver whose connections may be shared between threads."""
    return SharingDriver()


# The mark that `begin()` sets

ENDS: dict[str, Callable[[Any], None]] = {
    "commit": lambda lease: lease.commit(),
    "rollback": lambda lease: lease.rollback(),
    "close": lambda lease: lease.close(),
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("statements", [0, 1])
def test_mark_ends_with_transaction(fake: SharingDriver, end: str, statements: int) -> None:
    """commit(), rollback() and close() end what begin() began, whether or not a statement ran."""
    with sharing(fake) as (pool, (first, _other)):
        first.begin()
        for _ in range(statements):
            run(first)
        waiter = call(pool.connection)
        ENDS[end](first)
        third = waiter.result()
        assert number_of(third) == 1
        third.close()


def test_mark_ends_with_failed_commit(fake: SharingDriver) -> None:
    """A COMMIT that fails ends what begin() began: the next caller gets another connection."""
    with sharing(fake) as (pool, (first, _other)):
        first.begin()
        run(first)
        fake.fail("commit", OperationalError())
        with pytest.raises(CommitOutcomeUnknown):
            first.commit()
        third = pool.lease(timeout=20, shareable=True)
        assert number_of(third) == 2
        third.close()


def test_mark_of_another_lease(fake: SharingDriver) -> None:
    """A lease that ends nothing of its own leaves the mark of another one."""
    with sharing(fake, 3, blocking=False) as (pool, (first, second, third)):
        first.begin()
        second.close()
        third.commit()
        with pytest.raises(PoolTimeout):
            pool.connection()


# What the server ended


def test_t4_deadlock_of_another_share(fake: SharingDriver) -> None:
    """A deadlock of one share loses the statements of all: each refuses until its rollback()."""
    with sharing(fake, 3) as (_pool, (first, second, third)):
        run(second)
        fake.fail("DELETE", Deadlock())
        with pytest.raises(Deadlock):
            run(first, "DELETE")
        refuse(second)
        run(third)  # had nothing to lose
        third.commit()
        assert fake.count("commit") == 1
        second.rollback()
        run(second)
        second.commit()
        assert fake.count("commit") == 2


def test_t4_rollback_by_another_share(fake: SharingDriver) -> None:
    """A rollback() by one share loses the statements of all, and its reason is told."""
    with sharing(fake) as (_pool, (first, second)):
        run(first)
        run(second)
        first.rollback()
        refuse(second)
        with pytest.raises(TransactionAborted) as caught:
            run(second)
        assert "another lease of this shared connection" in str(caught.value.__cause__)


def test_acknowledged_rollback_sends_nothing(fake: SharingDriver) -> None:
    """The rollback() that acknowledges another share's ROLLBACK undoes nothing of a third."""
    with sharing(fake, 3) as (_pool, (first, second, third)):
        run(first)
        run(second)
        first.rollback()
        run(third)
        second.rollback()
        assert fake.count("rollback") == 1
        third.commit()
        assert fake.count("commit") == 1


def test_rollback_without_statement(fake: SharingDriver) -> None:
    """A rollback() of a share that sent nothing undoes nothing of the others."""
    with sharing(fake) as (_pool, (first, second)):
        run(second)
        first.begin()
        first.rollback()
        second.commit()
        assert (fake.count("rollback"), fake.count("commit")) == (0, 1)


def test_commit_by_another_share(fake: SharingDriver) -> None:
    """A COMMIT commits the statements of all: what comes after it loses none of them."""
    with sharing(fake) as (_pool, (first, second)):
        run(second)
        run(first)
        first.commit()
        run(first)
        first.rollback()
        second.commit()
        run(second)
        second.commit()
        assert fake.count("commit") == 2


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_leftovers_of_share(fake: SharingDriver, end: str) -> None:
    """What a share left uncommitted is committed, or undone, by the next end of another one."""
    with sharing(fake, 3) as (_pool, (first, second, third)):
        run(first)
        first.close()
        ENDS[end](second)
        ENDS[end](third)  # has nothing left to do
        assert fake.count(end) == 1


@pytest.mark.parametrize("ping", [(2, "SELECT 1"), (4, "SELECT 1")])
@pytest.mark.parametrize("is_left", [False, True])
def test_ping_amid_transaction(fake: SharingDriver, ping: tuple[int, str], is_left: bool) -> None:
    """A check of one share undoes nothing that another one did, or left."""
    with sharing(fake, ping=ping) as (_pool, (first, second)):
        run(first)
        if is_left:
            first.close()
        before = fake.count("rollback")
        run(second)
        assert fake.count("rollback") == before


@pytest.mark.parametrize("end", ["fails", "succeeds"])
def test_t5_share_closed_in_commit(fake: SharingDriver, end: str) -> None:
    """A share that is closed during its COMMIT leaves none of the others in use for good."""
    with sharing(fake) as (_pool, (first, second)):
        run(first)
        run(second)
        gate = fake.hold("commit")
        if end == "fails":
            fake.fail("commit", OperationalError())
        committing = call(first.commit)
        gate.wait_for_arrivals()
        first.close()
        gate.open()
        committing.wait()
        if end == "fails":
            refuse(second)
        else:
            run(second)


@pytest.mark.parametrize("statements", [0, 1])
def test_t4_connection_lost_by_another_share(fake: SharingDriver, statements: int) -> None:
    """A connection that one share lost is lost to all, and to none is it lent again."""
    with sharing(fake) as (pool, (first, second)):
        for _ in range(statements):
            run(second)
        fake.fail("DELETE", OperationalError())
        with pytest.raises(OperationalError):
            run(first, "DELETE")
        refuse(second)
        with pytest.raises(TransactionAborted):
            second.rollback()
        third = pool.lease(timeout=20, shareable=True)
        assert number_of(third) == 2
        third.close()


def test_t6_statement_interrupted_in_another_share(fake: SharingDriver) -> None:
    """After an interruption in the middle of a call no other share talks to that server."""
    with sharing(fake) as (_pool, (first, second)):
        fake.fail("DELETE", KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            run(first, "DELETE")
        refuse(second)
        assert fake.count("UPDATE") == 0


def test_t4_closed_by_server_before_commit(fake: SharingDriver) -> None:
    """A connection that is found closed before COMMIT is lost to all its shares."""
    with sharing(fake) as (_pool, (first, second)):
        run(first)
        run(second)
        fake.raws[1].die()
        with pytest.raises(TransactionAborted):
            first.commit()
        refuse(second)


def test_t5_commit_unanswered_for_another_share(fake: SharingDriver) -> None:
    """When the answer to a share's COMMIT is lost, all who took part learn that it is unknown."""
    with sharing(fake, 3) as (_pool, (first, second, third)):
        run(first)
        run(second)
        fake.fail("commit", OperationalError())
        with pytest.raises(CommitOutcomeUnknown):
            first.commit()
        refuse(second, CommitOutcomeUnknown)
        with pytest.raises(TransactionAborted) as caught:
            run(third)
        assert not isinstance(caught.value, CommitOutcomeUnknown)


@pytest.mark.parametrize("what", ["commit", "rollback"])
def test_t4_refused_end_in_another_share(fake: SharingDriver, what: str) -> None:
    """After a COMMIT or ROLLBACK that failed, no share commits before it has rolled back."""
    with sharing(fake, 3) as (pool, (first, second, third)):
        run(first)
        run(second)
        fake.fail(what, Error())
        with pytest.raises(Error):
            getattr(first, what)()
        before = fake.count("commit")
        refuse(second)
        refuse(third)
        waiter = call(pool.connection)
        for lease in (second, third, first):
            lease.rollback()
        waiter.result().close()
        run(third)
        third.commit()
        assert fake.count("commit") == before + 1


def test_t4_commit_waits_for_another_call(fake: SharingDriver) -> None:
    """A COMMIT that is called while another share's statement runs learns how that one ended."""
    with sharing(fake) as (_pool, (first, second)):
        run(second)
        gate = fake.hold("DELETE")
        fake.fail("DELETE", Deadlock())
        deleting = call(run, first, "DELETE")
        gate.wait_for_arrivals()
        committing = call(second.commit)
        gate.open()
        with pytest.raises(Deadlock):
            deleting.result()
        with pytest.raises(TransactionAborted):
            committing.result()
        assert fake.count("commit") == 0


def test_statement_waits_for_another_commit(fake: SharingDriver) -> None:
    """A statement that is called while another share's COMMIT runs is not part of that."""
    with sharing(fake) as (_pool, (first, second)):
        run(first)
        gate = fake.hold("commit")
        committing = call(first.commit)
        gate.wait_for_arrivals()
        updating = call(run, second)
        gate.open()
        committing.result()
        updating.result()
        second.commit()
        assert fake.count("commit") == 2


# The end of a share


def test_t6_last_share_released_in_call(fake: SharingDriver) -> None:
    """A last share that is closed while another thread uses it costs the connection."""
    with sharing(fake, 1) as (pool, (first,)):
        gate = fake.hold("UPDATE")
        updating = call(run, first)
        gate.wait_for_arrivals()
        first.close()
        assert pool.stats().idle == 0
        gate.open()
        updating.wait()


def test_garbage_share_holds_no_mark(fake: SharingDriver) -> None:
    """A share that is garbage keeps nobody from the connections that may be shared."""
    with open_pool(fake, maxshared=1, maxconnections=2, acquire_timeout=60) as pool:
        kept, lost = pool.connection(), pool.connection()
        lost.begin()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            del lost
            gc.collect()
        other = pool.connection()
        close_all([kept, other])
        assert pool.stats().in_use == 0
        check_counts(pool)


def test_p6_inherited_share(fake: SharingDriver) -> None:
    """In a forked child a share refuses at once, also if its parent was forked during a call."""
    with open_pool(fake, maxshared=1) as pool:
        first, second = pool.connection(), pool.connection()
        gate = fake.hold("UPDATE")
        updating = call(run, first)
        gate.wait_for_arrivals()
        second.inherit()
        refuse(second, UsageError)
        gate.open()
        updating.result()
        del second
        first.close()
        check_counts(pool)
