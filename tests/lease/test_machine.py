"""Any order of what callers, scopes and a database do to leases, beside a model of the contract.

After each step the state of the lease, what its caller was told and what is committed are those of
the model (T1 to T8), on a fake server that fails at will and on SQLite files.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from contextvars import Context
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from flask_pooled_db.errors import UsageError
from flask_pooled_db.lease.home import Leases
from flask_pooled_db.lease.proxy import LeaseConnection
from flask_pooled_db.lease.scope import Scope
from flask_pooled_db.lease.state import State
from tests.lease.databases import (
    READONLY,
    WITH_SAVEPOINT,
    WITHOUT_SAVEPOINT,
    Database,
    FakeDatabase,
    Fault,
    FileDatabase,
    is_one_of,
    told,
)
from tests.lease.model import Block, CallersError, Expected, LeaseModel, World
from tests.support.pools import call, check_counts, open_pool

MOST_LEASES = 3
MOST_BLOCKS = 4
REMEMBERED = 4  # leases that are released, and what they do when they are used

ANY = 9  # out of twelve: below it a step takes what suits it
which = st.integers(0, 11)  # of several leases or blocks
by_error = st.booleans()
savepoints = st.booleans()


LOSSES = (
    Fault.ROLLED_BACK,
    Fault.LOST_BEFORE,
    Fault.LOST_AFTER,
    Fault.INTERRUPTED_BEFORE,
    Fault.INTERRUPTED_AFTER,
    Fault.BUG,
)
any_fault = st.sampled_from([Fault.STATEMENT, *LOSSES])


logger = logging.getLogger("flask_pooled_db")


class Party:
    """A lease, the scopes and the cursors on it, and what the contract says of it."""

    def __init__(self, model: LeaseModel, lease: LeaseConnection, context: Context) -> None:
        self.model = model
        self.lease = lease
        self.context = context  # in which its scopes are entered: no other's
        self.scopes: list[Scope] = []
        self.cursors: list[Any] = []
        self.has_ended = False

    def __repr__(self) -> str:
        return f"<{self.lease!r} over connection {self.model.number}>"

    def cursor(self) -> Any:
        """A cursor, the last one that was made if there is any."""
        if not self.cursors:
            self.cursors.append(self.lease.cursor())
        return self.cursors[-1]

    def leave(self, scope: Scope, *, by_error: bool) -> BaseException | None:
        error = CallersError() if by_error else None
        kind = type(error) if error else None

        def leave() -> None:
            scope.__exit__(kind, error, None)
            if error is not None:
                raise error  # as the `with` statement does

        return told(self.context.run, leave)


Fits = Callable[[Party], object]


def is_usable(party: Party) -> bool:
    return party.model.is_usable


def is_due(party: Party) -> bool:
    """Whether a statement has to set a savepoint first."""
    blocks = party.model.blocks
    return is_usable(party) and any(block.savepoint and block.mark is None for block in blocks)


def can_commit(party: Party) -> bool:
    """Whether there is something to commit, and its caller may."""
    return party.model.state is State.IN_TRANSACTION and len(party.model.blocks) <= 1


def can_roll_back(party: Party) -> bool:
    """Whether there is something to roll back, and its caller may."""
    ended = party.model.state in (State.ROLLED_BACK, State.ABORTED)
    return can_commit(party) or (ended and len(party.model.blocks) <= 1)


def can_close(party: Party) -> bool:
    """Whether its caller may close it."""
    return not party.model.blocks


def was_used(party: Party) -> bool:
    """Whether anything was done with it."""
    return party.model.state is not State.UNUSED


def can_close_used(party: Party) -> bool:
    """Whether closing it does more than giving it back as it came."""
    return can_close(party) and was_used(party)


def can_be_joined(party: Party) -> bool:
    """Whether a block can begin inside its innermost one."""
    return 0 < len(party.scopes) < MOST_BLOCKS and party.model.state is not State.RELEASED


def ends_work(party: Party) -> bool:
    """Whether leaving its innermost block sends something."""
    if not party.model.blocks or party.model.state is not State.IN_TRANSACTION:
        return False
    block = party.model.blocks[-1]
    return block.is_outermost or block.mark is not None


def any_that(fits: Fits) -> Callable[[LeaseMachine], bool]:
    """A precondition: there is a lease that fits."""
    return lambda machine: any(map(fits, machine.parties))


class FailedRollbacks(logging.Handler):
    """Counts the rollbacks that are logged as failed (T2)."""

    count = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.count += record.msg.startswith("Rolling back")


class LeaseMachine(RuleBasedStateMachine):
    """Leases of one pool, and what is done with them."""

    make_database: Callable[[], Database]

    def __init__(self) -> None:
        super().__init__()
        self.database = self.make_database()
        self.world = World(self.database)
        self.pools = open_pool(self.database.driver, maxconnections=MOST_LEASES)
        self.pool = self.pools.__enter__()
        self.parties: list[Party] = []
        self.released: list[Party] = []
        self.rows = 0
        self.failed_rollbacks = FailedRollbacks()
        logger.addHandler(self.failed_rollbacks)

    # Helpers

    def pick(self, which: int, fits: Fits = lambda _: True) -> Party | None:
        """One that fits, if there is any."""
        fitting = [party for party in self.parties if fits(party)]
        return fitting[which % len(fitting)] if fitting else None

    def prefer(self, which: int, fits: Fits) -> Party | None:
        """Most often one that fits, now and then any: it has to refuse."""
        best = self.pick(which, fits) if which < ANY else None
        return best or self.pick(which, was_used) or self.pick(which)

    def compare(self, party: Party, error: BaseException | None, expected: Expected) -> None:
        """What was told, and the state; a lease that has ended goes."""
        assert is_one_of(error, expected), f"{party}: expected {expected}, got {error!r}"
        assert party.lease.state is party.model.state, (
            f"{party}: expected {party.model.state!r}, is {party.lease.state!r}"
        )
        assert self.failed_rollbacks.count == self.world.failed_rollbacks
        if self.holds(party):
            return
        if not party.has_ended:
            party.has_ended = True
            self.look_at_returned(party)
        if not party.scopes:
            self.parties.remove(party)
            self.released = [*self.released, party][-REMEMBERED:]

    def look_at_returned(self, party: Party) -> None:
        """What became of its connection."""

    def add(self, lease: LeaseConnection, context: Context, *, readonly: bool = False) -> Party:
        number = lease.number
        assert number not in [party.model.number for party in self.parties if self.holds(party)]
        assert number not in self.world.condemned, "a condemned connection is lent"
        party = Party(LeaseModel(self.world, number, readonly=readonly), lease, context)
        self.parties.append(party)
        return party

    @staticmethod
    def holds(party: Party) -> bool:
        return party.model.state is not State.RELEASED

    def has_room(self) -> bool:
        return len(self.parties) < MOST_LEASES

    # A lease begins

    @precondition(lambda self: self.has_room())
    @rule(as_dbutils=st.booleans())
    def borrow(self, as_dbutils: bool) -> None:
        """A caller takes a connection that `close()` gives back."""
        lease = self.pool.connection() if as_dbutils else self.pool.lease()
        self.compare(self.add(lease, Context()), None, ())

    @initialize(nested=st.lists(savepoints, max_size=2))
    def enter_first(self, nested: list[bool]) -> None:
        """Blocks that may write, so that there is something to work with."""
        self.enter(nested)

    @precondition(lambda self: self.has_room())
    @rule(nested=st.lists(savepoints, max_size=2), readonly=st.sampled_from([False, False, True]))
    def enter_outermost(self, nested: list[bool], readonly: bool) -> None:
        """A block begins, perhaps with others inside it."""
        self.enter(nested, readonly=readonly)

    def enter(self, nested: list[bool], *, readonly: bool = False) -> None:
        context = Context()
        scope = Scope(self.pool.engine, Leases(), READONLY if readonly else WITH_SAVEPOINT)
        party = self.add(context.run(scope.__enter__), context, readonly=readonly)
        party.scopes.append(scope)
        party.model.blocks.append(Block(savepoint=False, is_outermost=True))
        self.compare(party, None, ())
        for savepoint in nested:
            self.join(party, savepoint)

    @precondition(any_that(can_be_joined))
    @rule(which=which, savepoint=savepoints)
    def enter_nested(self, which: int, savepoint: bool) -> None:
        """A block begins inside another: it joins it."""
        party = self.pick(which, can_be_joined)
        if party is not None:
            self.join(party, savepoint)

    def join(self, party: Party, savepoint: bool) -> None:
        options = WITH_SAVEPOINT if savepoint else WITHOUT_SAVEPOINT
        scope = Scope(self.pool.engine, Leases(), options)
        assert party.context.run(scope.__enter__) is party.lease
        party.scopes.append(scope)
        party.model.blocks.append(Block(savepoint=savepoint and not party.model.readonly))
        self.compare(party, None, ())

    # It is used

    @rule(which=which, use=st.sampled_from(["make a cursor", "close one", "ping"]))
    def use(self, which: int, use: str) -> None:
        """What asks for no statement."""
        party = self.pick(which)
        if party is None:
            return
        if use == "make a cursor":
            error = told(lambda: party.cursors.append(party.lease.cursor()))
            self.compare(party, error, party.model.touch())
        elif use == "ping":
            self.compare(party, told(party.lease.ping), party.model.call(Fault.NONE))
        elif party.cursors:  # closing a cursor is never refused
            self.compare(party, told(party.cursors.pop().close), ())

    def do_write(
        self, which: int, fault: Fault = Fault.NONE, savepoint_fault: Fault = Fault.NONE
    ) -> None:
        party = self.prefer(which, is_due if savepoint_fault is not Fault.NONE else is_usable)
        if party is None:
            return
        self.rows += 1
        row = self.rows
        what, planned = "INSERT", fault
        if savepoint_fault is not Fault.NONE:
            what, planned, fault = "SAVEPOINT", savepoint_fault, Fault.NONE
        with self.database.failing(what, planned):
            error = told(lambda: self.database.insert(party.cursor(), row, fault))
        self.compare(party, error, party.model.write(row, fault, savepoint_fault))

    @precondition(any_that(is_usable))
    @rule(which=which, rows=st.integers(1, 3))
    def write(self, which: int, rows: int) -> None:
        for _ in range(rows):
            self.do_write(which)

    @rule(which=which)
    def read(self, which: int) -> None:
        """A statement without effects, whose row is fetched."""
        party = self.prefer(which, is_usable)
        if party is None:
            return

        def read() -> None:
            party.cursor().execute("SELECT 1")
            party.cursor().fetchone()

        self.compare(party, told(read), party.model.read(Fault.NONE))

    @rule(which=which, how=st.sampled_from(["revoke", "change its session"]))
    def spoil(self, which: int, how: str) -> None:
        """The lease is taken back from its owner, or its connection is no more to be lent."""
        party = self.pick(which, self.holds)
        if party is None:
            return
        if how == "revoke":
            error = told(party.lease.revoke, "was taken back by the test")
            self.compare(party, error, party.model.revoke())
        else:
            error = told(party.lease.session_changed, "the test")
            self.compare(party, error, party.model.change_session())

    @precondition(any_that(was_used))
    @rule(which=which)
    def commit(self, which: int) -> None:
        self.do_commit(which)

    @precondition(any_that(was_used))
    @rule(which=which)
    def rollback(self, which: int) -> None:
        self.do_rollback(which)

    @precondition(any_that(can_close_used))
    @rule(which=which)
    def close(self, which: int) -> None:
        self.do_close(which)

    @rule(which=which, by_error=by_error)
    def leave(self, which: int, by_error: bool) -> None:
        self.do_leave(which, by_error=by_error)

    # The transaction ends, or fails to

    def do_commit(self, which: int, fault: Fault = Fault.NONE) -> None:
        party = self.prefer(which, can_commit)
        if party is not None:
            with self.database.failing("commit", fault):
                error = told(party.lease.commit)
            self.compare(party, error, party.model.commit(fault))

    def do_rollback(self, which: int, fault: Fault = Fault.NONE) -> None:
        party = self.prefer(which, can_roll_back)
        if party is not None:
            with self.database.failing("rollback", fault):
                error = told(party.lease.rollback)
            self.compare(party, error, party.model.rollback(fault))

    def do_close(self, which: int, fault: Fault = Fault.NONE) -> None:
        party = self.prefer(which, can_close)
        if party is not None:
            with self.database.failing("rollback", fault):
                error = told(party.lease.close)
            self.compare(party, error, party.model.close(fault))

    def do_leave(self, which: int, fault: Fault = Fault.NONE, *, by_error: bool) -> None:
        """Leave the innermost block; `fault` is of what ends its transaction or its savepoint."""
        fits = ends_work if fault is not Fault.NONE else lambda party: party.scopes
        party = self.pick(which, fits)
        if party is None:
            return
        model = party.model
        is_outermost = model.blocks[-1].is_outermost
        ends = ("commit", "rollback") if is_outermost else ("RELEASE", "ROLLBACK TO")
        with self.database.failing(ends[by_error], fault):
            error = party.leave(party.scopes.pop(), by_error=by_error)
        if is_outermost:
            expected = model.leave_outermost(by_error=by_error, fault=fault)
        else:
            expected = model.leave_nested(by_error=by_error, fault=fault)
        self.compare(party, error, expected)

    @precondition(any_that(lambda party: len(party.scopes) > 1))
    @rule(which=which, place=which, by_error=by_error)
    def leave_out_of_order(self, which: int, place: int, by_error: bool) -> None:
        """Leave a block before one inside it, as interleaved generators do."""
        party = self.pick(which, lambda party: len(party.scopes) > 1)
        if party is None:
            return
        place %= len(party.scopes) - 1
        error = party.leave(party.scopes.pop(place), by_error=by_error)
        self.compare(party, error, party.model.leave_out_of_order(place, by_error=by_error))

    # What holds

    @invariant()
    def what_is_committed_is_what_the_contract_says(self) -> None:
        """T1, T4: nothing is half committed."""
        assert self.database.committed() == self.world.committed

    @invariant()
    def every_lease_keeps_its_connection(self) -> None:
        """T3: none goes on over another."""
        for party in self.parties:
            if party.model.is_usable:
                assert party.lease.number == party.model.number

    @invariant()
    def the_counts_agree(self) -> None:
        """T1: what has ended was released, once."""
        assert check_counts(self.pool).in_use == sum(map(self.holds, self.parties))

    @invariant()
    def a_released_lease_refuses_everything(self) -> None:
        """T7: nothing can run on what another now holds."""
        for party in self.released:
            lease, cursor = party.lease, party.cursors[-1] if party.cursors else None
            uses: list[Callable[[], object]] = [
                lease.cursor,
                lease.commit,
                lease.rollback,
                lease.ping,
                lease.begin,
                lease.__enter__,
                functools.partial(getattr, lease, "number"),
            ]
            if cursor is not None:
                uses += [cursor.fetchone, functools.partial(cursor.execute, "SELECT 1")]
            for use in uses:
                with pytest.raises(UsageError):
                    use()

    def teardown(self) -> None:
        try:
            for party in self.parties:
                party.lease.release()
            self.pools.__exit__(None, None, None)
        finally:
            logger.removeHandler(self.failed_rollbacks)
            self.database.close()


class FakeMachine(LeaseMachine):
    """On the fake server, where every call can fail in every way."""

    make_database = FakeDatabase
    database: FakeDatabase

    @precondition(any_that(is_usable))
    @rule(which=which, fault=any_fault)
    def fail_to_write(self, which: int, fault: Fault) -> None:
        self.do_write(which, fault)

    @precondition(any_that(is_due))
    @rule(which=which, fault=any_fault)
    def fail_to_set_savepoint(self, which: int, fault: Fault) -> None:
        """What comes before a statement fails, if anything does."""
        self.do_write(which, Fault.NONE, fault)

    @precondition(any_that(is_usable))
    @rule(which=which, fault=any_fault)
    def fail_to_fetch(self, which: int, fault: Fault) -> None:
        party = self.prefer(which, is_usable)
        if party is not None:
            with self.database.failing("fetch", fault):
                error = told(lambda: party.cursor().fetchone())
            self.compare(party, error, party.model.call(fault))

    @precondition(any_that(is_usable))
    @rule(which=which, how=st.sampled_from(["rows are left", "the server hangs up"]))
    def disturb(self, which: int, how: str) -> None:
        """Something happens that is seen when the transaction ends."""
        party = self.pick(which, is_usable)
        if party is None:
            return
        if how == "the server hangs up":
            self.database.server.hang_up(party.model.number)
            party.model.was_hung_up_on = True
        elif not party.model.readonly:
            error = told(lambda: party.cursor().execute("STREAM"))
            self.compare(party, error, party.model.stream())

    @precondition(any_that(can_commit))
    @rule(which=which, fault=st.sampled_from([Fault.STATEMENT, Fault.UNSENT, *LOSSES]))
    def fail_to_commit(self, which: int, fault: Fault) -> None:
        self.do_commit(which, fault)

    @precondition(any_that(can_roll_back))
    @rule(which=which, fault=any_fault)
    def fail_to_roll_back(self, which: int, fault: Fault) -> None:
        self.do_rollback(which, fault)

    @precondition(any_that(can_close))
    @rule(which=which, fault=any_fault)
    def fail_to_close(self, which: int, fault: Fault) -> None:
        self.do_close(which, fault)

    @precondition(any_that(ends_work))
    @rule(which=which, fault=any_fault)
    def fail_to_leave(self, which: int, fault: Fault) -> None:
        self.do_leave(which, fault, by_error=False)

    @precondition(any_that(ends_work))
    @rule(which=which, fault=any_fault)
    def fail_to_leave_by_error(self, which: int, fault: Fault) -> None:
        self.do_leave(which, fault, by_error=True)

    # While a call is under way

    @rule(
        which=which,
        what=st.sampled_from(["INSERT", "fetch", "commit", "rollback"]),
        fault=st.sampled_from([Fault.NONE, Fault.STATEMENT, *LOSSES]),
        is_revoked=st.booleans(),
    )
    def interfere(self, which: int, what: str, fault: Fault, is_revoked: bool) -> None:
        """While a thread is in a call, all others are refused. A lease that is revoked meanwhile
        ends with the call, whose caller is told what became of it.
        """
        party = self.pick(which, lambda party: self.can_call(party.model, what))
        if party is None:
            return
        lease, model = party.lease, party.model
        self.rows += 1
        row = self.rows
        calls: dict[str, tuple[Callable[[], object], Callable[[], Expected]]] = {
            "INSERT": (
                lambda: party.cursor().execute(f"INSERT {row}"),
                lambda: model.write(row, fault, Fault.NONE),
            ),
            "fetch": (lambda: party.cursor().fetchone(), lambda: model.call(fault)),
            "commit": (lease.commit, lambda: model.commit(fault)),
            "rollback": (lease.rollback, lambda: model.rollback(fault)),
        }
        act, expect = calls[what]
        with self.database.failing(what, fault):
            gate = self.database.server.hold(f"INSERT {row}" if what == "INSERT" else what)
            caller = call(act)
            gate.wait_for_arrivals()
            for use in (lease.cursor, lease.commit, lease.rollback, lease.ping):
                assert type(told(use)) is UsageError
            if is_revoked:
                lease.revoke("was taken back by the test")
            gate.open()
            caller.wait()
        expected = expect()
        if is_revoked:
            model.revoke(is_busy=True)
        self.compare(party, caller.error, expected)

    @staticmethod
    def can_call(model: LeaseModel, what: str) -> bool:
        """Whether the call would come to the server."""
        if model.was_hung_up_on or model.readonly:
            return False
        if what in ("INSERT", "fetch"):
            return model.is_usable
        is_open = model.state is State.IN_TRANSACTION
        if what == "rollback":
            is_open = is_open or model.state in (State.ROLLED_BACK, State.ABORTED)
        return is_open and len(model.blocks) <= 1

    def look_at_returned(self, party: Party) -> None:
        """T6: a condemned connection is closed; another one is kept."""
        raw = self.database.server.raws[party.model.number]
        assert raw.closed == (party.model.number in self.world.condemned)

    @invariant()
    def nothing_is_sent_twice(self) -> None:
        """T3: no statement, and none over the connection of another lease."""
        row = f"INSERT {self.rows}"
        assert len(self.database.sent(row)) <= 1


class FileMachine(LeaseMachine):
    """On SQLite files."""

    make_database = FileDatabase

    @rule(
        which=which,
        fault=st.sampled_from(
            [Fault.STATEMENT, Fault.ROLLED_BACK, Fault.INTERRUPTED_BEFORE, Fault.BUG, Fault.DEBT]
        ),
    )
    def fail_to_write(self, which: int, fault: Fault) -> None:
        """It fails at once, or makes COMMIT fail."""
        self.do_write(which, fault)


def bounded(max_examples: int, steps: int) -> settings:
    return settings(
        max_examples=max_examples,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow],
    )


def test_t1_to_t8_in_any_order_on_a_fake_server() -> None:
    """After any order of steps and failures a lease is what its contract says it is."""
    run_state_machine_as_test(FakeMachine, settings=bounded(100, 50))


def test_t1_to_t8_in_any_order_on_a_file() -> None:
    """The same with SQLite, where what is committed is read by another connection."""
    run_state_machine_as_test(FileMachine, settings=bounded(20, 50))


@pytest.mark.slow
@pytest.mark.parametrize(("machine", "examples"), [(FakeMachine, 500), (FileMachine, 150)])
def test_t1_to_t8_in_many_orders(machine: type[LeaseMachine], examples: int) -> None:
    """The same with many more of them."""
    run_state_machine_as_test(machine, settings=bounded(examples, 50))
