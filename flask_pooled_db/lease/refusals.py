"""Why a lease refuses: one error for each state that can't be used."""

from __future__ import annotations

import functools
from typing import Any

from flask_pooled_db.config import shown
from flask_pooled_db.drivers import Driver
from flask_pooled_db.errors import (
    CommitOutcomeUnknown,
    DeadlineExceeded,
    PooledDBError,
    PoolTimeout,
    TransactionAborted,
    UsageError,
)
from flask_pooled_db.lease.state import State


@functools.cache
def _also(kind: Any, drivers: Any) -> Any:
    """Return a class of errors that is also one of the driver's."""
    if drivers is Exception:  # nobody knows the driver's module
        return kind

    def reduce(error: Any) -> tuple[Any, Any]:
        return kind, error.args

    names = {"__reduce__": reduce, "__doc__": kind.__doc__, "__module__": kind.__module__}
    return type(kind.__name__, (kind, drivers), names)


def refusal(
    driver: Driver, state: State, cause: BaseException | None, revoked: str | None
) -> PooledDBError:
    """Return the error for using a lease in a state that refuses it.

    `cause` is the error that ended the transaction; `revoked` says why the lease was taken back.
    The error is also of the class that the driver raises then, so that `except conn.Error` has it.
    """
    closed_error: Any = driver.closed_error
    lost_error: Any = driver.failures[0]
    if state is State.RELEASED:
        closed: PooledDBError = _also(UsageError, closed_error)(
            f"this connection {revoked or 'was released'} and is closed to its caller: nothing can "
            "be done with it or with its cursors; do the work, and fetch the rows, inside the "
            "block that took it, or take another one. (A `with` block gives it back at its end; a "
            "generator that streams a response has to take its own.)"
        )
        return closed
    if state is State.BUSY:
        return in_use()
    if isinstance(cause, CommitOutcomeUnknown):
        return outcome_unknown(cause.__cause__)
    error: PooledDBError = _also(TransactionAborted, lost_error)(
        f"the transaction of this connection is gone ({type(cause).__name__} before this): nothing "
        "of it was or will be committed; let the error leave the block, and start over if need be"
    )
    error.__cause__ = cause
    return error


def in_use() -> UsageError:
    """Return the error of using a lease in the middle of somebody else's call."""
    return UsageError(
        "this connection is in use by another thread, task or greenlet at this moment: each "
        "needs a connection of its own"
    )


def with_fate(error: PooledDBError, fate: str) -> PooledDBError:
    """Return the error of a lost transaction, with what a statement had done to it before."""
    if not isinstance(error, TransactionAborted):
        return error
    told = type(error)(
        f"the transaction of this connection is gone, and {fate}. Look at the data before "
        "starting over"
    )
    told.__cause__ = error.__cause__
    return told


def in_doubt(cause: BaseException) -> TransactionAborted:
    """Return what ended the transaction of a statement whose error may have ended it."""
    error = TransactionAborted(
        f"a statement failed ({type(cause).__name__}) that may have rolled the transaction back, as"
        " a procedure can: let its error leave the block, or put the statement into a nested block,"
        " whose savepoint tells what is still there"
    )
    error.__cause__ = cause
    return error


def outcome_unknown(cause: BaseException | None) -> CommitOutcomeUnknown:
    """Return the error of a COMMIT whose answer was lost."""
    error = CommitOutcomeUnknown(
        "COMMIT was sent and its answer was lost: the transaction took place as a whole or not "
        "at all; look at the data before doing it again"
    )
    error.__cause__ = cause
    return error


def out_of_time(what: str, seconds: float) -> DeadlineExceeded:
    """Return the error of what would begin when nothing is left of a deadline."""
    error = DeadlineExceeded(f"nothing is left of {what}: nothing was sent, and nobody waits")
    error.seconds = seconds
    return error


def ended_in_time(what: str, seconds: float, drivers: Any) -> DeadlineExceeded:
    """Return the error of a statement that was ended by a deadline. It is also of a class of the
    driver's.
    """
    error: DeadlineExceeded = _also(DeadlineExceeded, drivers)(
        f"a statement was ended since nothing is left of {what}; let the error leave the block, so "
        "that its work is rolled back"
    )
    error.seconds = seconds
    return error


def was_sent(error: PooledDBError) -> bool:
    """Return whether an error tells of a statement that the server, or the driver, has ended."""
    is_of_time = isinstance(error, DeadlineExceeded | TransactionAborted)
    return is_of_time and error.__cause__ is not None


def overdue(seconds: float) -> TransactionAborted:
    """Return the error of a transaction that was open for too long."""
    return TransactionAborted(
        f"the transaction was open for longer than its limit of {seconds:g} s "
        "(POOLED_DB_TRANSACTION_TIMEOUT), and is rolled back: do the slow work, such as a call of "
        "another service, before it begins or after its end"
    )


def left_alone() -> TransactionAborted:
    """Return the error of a block in which a call goes on that a cancellation could not end."""
    return TransactionAborted(
        "a call of this connection was cancelled, and goes on: its driver has no way to end it. "
        "The transaction is rolled back when it has ended"
    )


def shared(cause: BaseException | None) -> PooledDBError:
    """Return what ended the transaction of a lease whose connection another one shares: `cause` was
    the error there. It holds none of that one's frames.
    """
    if isinstance(cause, CommitOutcomeUnknown):
        return outcome_unknown(None)
    return TransactionAborted(
        f"another lease of this shared connection lost it ({type(cause).__name__})"
    )


def released_early(revoked: str | None) -> TransactionAborted:
    """Return the error of a scope whose connection was taken back before its end."""
    return TransactionAborted(
        f"this connection {revoked or 'was released'} before the end of its scope: what it had not "
        "committed by then was rolled back"
    )


INHERITED = "was taken before a fork: it is the parent process's"
SERVER_LEFT = "the server closed the connection before COMMIT was sent: nothing was committed"
COMMIT_IS_ROLLBACK = (
    "a statement of this transaction failed and was not rolled back to a savepoint: the server "
    "would turn COMMIT into ROLLBACK"
)
NO_PING = "the connection did not answer a ping"
SHARE_LOST = "the connection was lost by another lease that shares it"
UNDONE = "another lease of this shared connection called rollback()"
UNREAD = (
    "a cursor of this connection has rows that were not read yet, and would lose them by this: read"
    " them to the end or close() that cursor first, or do the other work on a connection of its own"
    ", in a db_connection_context(independent=True)"
)
OF_OUTER = (
    "this was begun outside of the nested db_connection_context() that it is used in, which could "
    "not undo it alone: no savepoint can be set before it has come to its end. Go on with it "
    "outside of that block, or give the block independent=True"
)
DROPPED = (
    "the rows that this cursor had not read were dropped, because their block, or the transaction, "
    "has ended: read them to the end inside of it"
)
BEGUN = "begin() in an open transaction: commit() or rollback() it first"


def readonly_wrote() -> UsageError:
    """Return the error of a readonly scope that a transaction is open in."""
    return UsageError(
        "a transaction was opened by text in a readonly=True block and is open at its end: what it "
        "wrote is rolled back; do the work in a block without readonly"
    )


def implicit_commit(fate: object) -> UsageError:
    """Return the error of a scope that a statement has ended before its end."""
    return UsageError(
        f"{fate}, and POOLED_DB_IMPLICIT_COMMIT is 'error': what came after it is rolled back. "
        "Give the statement a block of its own, or use commit() and rollback()"
    )


def distributed(what: str) -> UsageError:
    """Return the error of a step of a distributed transaction."""
    return UsageError(
        f"{what} is of a distributed transaction, which a block can't be a part of: do all of it "
        "with the driver's own connection, which conn.dbapi_connection is"
    )


def listening(statement: str) -> UsageError:
    """Return the error of waiting for notifications on a connection that goes back to its pool."""
    return UsageError(
        f"{statement} can't work on a pooled connection: it goes back to the pool with its block, "
        "and nobody reads there what is notified; use a connection of your own for it, opened by "
        "the driver's connect() (NOTIFY works in any block)"
    )


def no_session(bind: str, waited: float) -> PoolTimeout:
    """Return the error of a transaction that a pooler in front of the server had no session for."""
    return PoolTimeout(
        f"the proxy of the bind {shown(bind)} had no session for this transaction in {waited:.1f} "
        "s: all of its pool are in use, or its server does not answer; raise its "
        "default_pool_size, or have transactions end sooner",
        bind=bind,
        waited=waited,
    )


def open_block() -> UsageError:
    """Return the error of ending a transaction, or a part of it, inside a block of the driver's."""
    return UsageError(
        "a transaction, or a nested block, can't be ended inside a block of the driver's own "
        "(transaction(), copy(), ...) that it has entered: leave that first"
    )


def out_of_order() -> UsageError:
    """Return the error of a scope that is left before one inside it."""
    return UsageError(
        "a db_connection_context() was left before one that was entered inside it: scopes end in "
        "the reverse of the order they began in. The whole transaction is rolled back. If a "
        "generator holds the inner one, exhaust or close it before, or give it independent=True"
    )


def not_alone(place: tuple[str, int] | None, exc: BaseException) -> UsageError:
    """Return the error of a nested scope whose work can't be undone without that of others."""
    return UsageError(
        f"the block {at(place)} was left by {type(exc).__name__} when other code had worked in its "
        "transaction meanwhile, or in another thread or task: it can't be undone alone, so the "
        "whole transaction is rolled back. If a generator holds the block, exhaust or close it "
        "before other work is done, or give the block independent=True"
    )


def at(place: tuple[str, int] | None) -> str:
    """Return how a message names the place of a block."""
    return "at {}:{}".format(*place) if place else "of a generator"


def nested(what: str) -> UsageError:
    """Return the error of ending the transaction inside a nested scope."""
    return UsageError(
        f"{what} inside a nested db_connection_context(): it would end the outer block's "
        "transaction too; let the blocks end, or use independent=True"
    )
