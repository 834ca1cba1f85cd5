"""What the contract says of a lease: its states, what its caller is told, what is committed.

It knows nothing of the code. What a call is expected to raise is a tuple of exception classes, of
which it raises one; an empty tuple stands for success, as does the class of None among others.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from flask_pooled_db.errors import CommitOutcomeUnknown, TransactionAborted, UsageError
from flask_pooled_db.lease.state import State
from tests.lease.databases import Database, Fault

Expected = tuple[type[BaseException | None], ...]

SUCCESS: Expected = ()
ENDED = (State.ROLLED_BACK, State.ABORTED, State.BROKEN)
USABLE = (State.UNUSED, State.IDLE, State.IN_TRANSACTION)


class CallersError(Exception):
    """What leaves a block by an exception."""


@dataclass
class Block:
    """A scope on a lease."""

    savepoint: bool
    mark: int | None = None
    """How many rows were there when its savepoint was set; None if it is not set."""
    is_outermost: bool = False
    has_work: bool = False


@dataclass
class World:
    """What leases share."""

    database: Database
    committed: set[int] = field(default_factory=set)
    condemned: set[int] = field(default_factory=set)
    failed_rollbacks: int = 0
    """How many have failed where the caller does not learn of it: they are logged."""
    writer: LeaseModel | None = None
    """Who may write, where only one may."""

    @property
    def has_locks(self) -> bool:
        """Whether there is one writer at a time."""
        return self.database.locked is not None


@dataclass(eq=False)
class LeaseModel:
    """One lease, as its contract has it."""

    world: World
    number: int
    readonly: bool = False
    blocks: list[Block] = field(default_factory=list)
    state: State = State.UNUSED
    pending: list[int] = field(default_factory=list)
    debts: set[int] = field(default_factory=set)
    """The rows for which COMMIT will be refused."""
    is_unknown: bool = False
    """Whether the outcome of its COMMIT is."""
    is_condemned: bool = False
    was_hung_up_on: bool = False
    has_unread_rows: bool = False

    # What is refused

    def refusal(self) -> Expected:
        """What a state that refuses raises."""
        if self.state is State.RELEASED:
            return (UsageError,)
        if self.state in ENDED:
            return (CommitOutcomeUnknown if self.is_unknown else TransactionAborted,)
        return SUCCESS

    @property
    def is_usable(self) -> bool:
        """Whether it refuses nothing."""
        return self.state in USABLE

    # What its caller does

    def touch(self) -> Expected:
        """A cursor is made."""
        if self.state is State.UNUSED:
            self.state = State.IDLE
        return self.refusal()

    def call(self, fault: Fault) -> Expected:
        """Something is asked for that is no statement: a row, a ping."""
        self.touch()
        if not self.is_usable:
            return self.refusal()
        return self._answer(Fault.LOST_BEFORE if self.was_hung_up_on else fault)

    def read(self, fault: Fault) -> Expected:
        """A statement that writes nothing."""
        return self._execute(fault, writes=False)

    def stream(self) -> Expected:
        """A statement whose rows are left with the server."""
        expected = self._execute(Fault.NONE, writes=False)
        self.has_unread_rows = self.has_unread_rows or not expected
        return expected

    def write(self, row: int, fault: Fault, savepoint_fault: Fault) -> Expected:
        """A statement that writes a row; its savepoints come first, if they are due."""
        expected = self._execute(fault, savepoint_fault, writes=True)
        if not expected:
            self.pending.append(row)
            if fault is Fault.DEBT:
                self.debts.add(row)
            for block in self.blocks:
                block.has_work = True
        return expected

    def _execute(
        self, fault: Fault, savepoint_fault: Fault = Fault.NONE, *, writes: bool
    ) -> Expected:
        self.touch()
        if not self.is_usable:
            return self.refusal()
        if not self.readonly:
            self.state = State.IN_TRANSACTION
        if self.was_hung_up_on:
            return self._answer(Fault.LOST_BEFORE)
        if self.readonly and writes and not self._fails_before_it_is_run(fault):
            return (self.world.database.read_only,)
        due = [block for block in self.blocks if block.savepoint and block.mark is None]
        takes_lock = not self.readonly and writes
        if takes_lock and self.world.has_locks and self.world.writer not in (None, self):
            assert self.world.database.locked
            return (self.world.database.locked,)
        if due:
            if savepoint_fault is not Fault.NONE:
                return self._answer(savepoint_fault)
            for block in due:
                block.mark = len(self.pending)
        if takes_lock and self.world.has_locks:
            self.world.writer = self
        return self._answer(fault)

    def _fails_before_it_is_run(self, fault: Fault) -> bool:
        in_file = (Fault.STATEMENT, Fault.ROLLED_BACK)  # there it is the statement itself
        return not (fault.is_done or (self.world.has_locks and fault in in_file))

    def _answer(self, fault: Fault) -> Expected:
        """What a call means for the transaction that it ran in."""
        if fault in (Fault.NONE, Fault.DEBT):
            return SUCCESS
        if fault is Fault.ROLLED_BACK:
            self._lose_work()
            self.state = State.ROLLED_BACK
        elif fault is not Fault.STATEMENT and not self._is_certain_after(fault):
            self._break()
        return (self.world.database.errors[fault],)

    def _is_certain_after(self, fault: Fault) -> bool:
        # A bug may have come in the middle of a server's answer. SQLite is in the same process.
        return fault is Fault.BUG and self.world.has_locks

    def _break(self) -> None:
        self.state = State.BROKEN
        self.is_condemned = True
        self.pending.clear()

    def _lose_work(self) -> None:
        self.pending.clear()
        self.debts.clear()
        if self.world.writer is self:
            self.world.writer = None

    # The end of the transaction

    def commit(self, fault: Fault) -> Expected:
        """`commit()`: T8 has it refused in a nested block."""
        if not self.is_usable:
            return self.refusal()
        if len(self.blocks) > 1:
            return (UsageError,)
        self._is_asked_to_end()
        return self._commit(fault)

    def _is_asked_to_end(self) -> None:
        """By its caller: that is sent unless the driver knows that no transaction is open."""
        if self.state in (State.UNUSED, State.IDLE) and not self.world.has_locks:
            self.state = State.IN_TRANSACTION

    def _commit(self, fault: Fault) -> Expected:
        if self.state is not State.IN_TRANSACTION:
            return self.refusal()
        if self.has_unread_rows:  # they are read first
            self.has_unread_rows, self.is_condemned = False, True
        if self.was_hung_up_on:
            self._break()
            return (TransactionAborted,)
        if self.debts:
            self.state = State.ABORTED
            return (self.world.database.errors[Fault.DEBT],)
        if fault.is_done:
            self.world.committed |= set(self.pending)
        if fault is Fault.NONE:
            self._lose_work()  # it is no longer this transaction's
            self.state = State.IDLE
            return SUCCESS
        expected = self._answer(fault)
        if fault is Fault.STATEMENT:
            self.state = State.ABORTED
        elif self.state in ENDED and fault not in (Fault.ROLLED_BACK, Fault.UNSENT):
            self.is_unknown = True
            return expected if fault.is_interruption else (CommitOutcomeUnknown,)
        return expected

    def rollback(self, fault: Fault) -> Expected:
        """`rollback()`: whatever becomes of it, nothing that came before is ever committed."""
        if self.state in (State.BROKEN, State.RELEASED):
            return self.refusal()
        if len(self.blocks) > 1:
            return (UsageError,)
        self._is_asked_to_end()
        if self.state in (State.UNUSED, State.IDLE):
            return SUCCESS
        if self.has_unread_rows:
            self.has_unread_rows, self.is_condemned = False, True
        if fault is Fault.NONE and not self.was_hung_up_on:
            self._lose_work()
            self.state = State.IDLE
            return SUCCESS
        if fault is Fault.STATEMENT and not self.was_hung_up_on:
            self.state = State.ABORTED
        return self._answer(Fault.LOST_BEFORE if self.was_hung_up_on else fault)

    # Its end

    def close(self, fault: Fault) -> Expected:
        """`close()`: a scope closes by itself."""
        return (UsageError,) if self.blocks else self.release(fault)

    def release(self, fault: Fault = Fault.NONE) -> Expected:
        """Its connection goes back; `fault` is what becomes of the ROLLBACK that takes."""
        if self.state is State.RELEASED:
            return SUCCESS
        expected = SUCCESS
        if self.has_unread_rows:
            self.is_condemned = True
        is_open = self.state not in (State.UNUSED, State.IDLE)
        if is_open and not self.is_condemned:
            fault = Fault.LOST_BEFORE if self.was_hung_up_on else fault
            self.is_condemned = fault is not Fault.NONE
            if fault.is_interruption:
                expected = (KeyboardInterrupt,)
            elif fault is not Fault.NONE:
                self.world.failed_rollbacks += 1
        self._lose_work()
        self.state = State.RELEASED
        if self.is_condemned:
            self.world.condemned.add(self.number)
        return expected

    def change_session(self) -> Expected:
        """Its caller changed the session for good."""
        if self.state is not State.RELEASED:
            self.touch()
            self.is_condemned = True
        return SUCCESS

    def revoke(self, *, is_busy: bool = False) -> Expected:
        """It is taken back from its owner."""
        self.touch()
        self.is_condemned = self.is_condemned or is_busy
        return self.release()

    # Blocks

    def leave_outermost(self, *, by_error: bool, fault: Fault) -> Expected:
        """Left normally it commits, left by an exception it rolls back (T1, T2). `fault` is of the
        COMMIT or of the ROLLBACK.
        """
        self.blocks.clear()
        if by_error:
            return self.release(fault) or (CallersError,)
        if self.state is State.RELEASED:
            return (TransactionAborted,)
        expected = self._commit(fault)
        self.release()
        return expected

    def leave_nested(self, *, by_error: bool, fault: Fault) -> Expected:
        """A block inside another: `fault` is of what ends its savepoint."""
        block = self.blocks.pop()
        if by_error:
            return self._undo(block, fault)
        if self.state is State.RELEASED:
            # Where the outermost one is left already, nobody else will say that its work is gone.
            is_last = block.has_work and not any(other.is_outermost for other in self.blocks)
            may_pass = not is_last and block.mark is None
            return (UsageError, TransactionAborted, *([type(None)] if may_pass else []))
        if block.mark is None:
            return SUCCESS
        if not self.is_usable:
            return self.refusal()
        expected = self._answer(Fault.LOST_BEFORE if self.was_hung_up_on else fault)
        if expected and self.state is State.IN_TRANSACTION:
            self.abort()  # what ended in an error is not committed
        return expected

    def _undo(self, block: Block, fault: Fault) -> Expected:
        if not block.savepoint:
            if not self.readonly:
                self.abort()
        elif block.mark is not None and self.is_usable:
            fault = Fault.LOST_BEFORE if self.was_hung_up_on else fault
            expected = self._answer(fault)
            if fault.is_interruption:
                return expected
            if expected:
                self.abort()
                self.world.failed_rollbacks += 1
                return (CallersError,)
            del self.pending[block.mark :]
            self.debts &= set(self.pending)
        return (CallersError,)

    def leave_out_of_order(self, place: int, *, by_error: bool) -> Expected:
        """A block that ends before one inside it: all is rolled back."""
        del self.blocks[place]
        self.abort()
        if place == 0:
            self.release()
        return (CallersError,) if by_error else (UsageError,)

    def abort(self) -> None:
        """A part of the transaction was left by an exception."""
        if self.is_usable:
            self.state = State.ABORTED
