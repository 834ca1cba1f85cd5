"""The states of a lease, and what leads from one to another.

`Lease` has one state, and moves by the tables below: a state that has no entry for an event refuses
it. `docs/design.md` shows the picture.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping


class State(enum.IntEnum):
    """What a lease is in. Those up to IN_TRANSACTION may be used."""

    UNUSED = 0
    """Nothing was done with it: its connection goes back as it came."""
    IDLE = 1
    """It was used, and has no transaction open."""
    IN_TRANSACTION = 2
    """A statement was sent since the last COMMIT or ROLLBACK."""
    BUSY = 3
    """A call of the driver is under way."""
    ROLLED_BACK = 4
    """The server has rolled the transaction back; `rollback()` acknowledges it."""
    ABORTED = 5
    """The transaction must not be committed; `rollback()` ends it."""
    BROKEN = 6
    """The connection is lost, or what the server did is not known."""
    RELEASED = 7
    """The end: its connection is another lease's, or closed."""


class Event(enum.Enum):
    """What happens to a lease."""

    CALL = "the driver is called"
    STATEMENT = "a statement is sent"
    READ = "a statement is sent that is a transaction of its own (readonly)"
    SUCCEEDED = "the call returns, or only its statement failed"
    LOST_TRANSACTION = "the call fails: the server has rolled the transaction back"
    DOOMED = "the call fails: its statement dooms the transaction"
    LOST_CONNECTION = "the call fails, or is interrupted: the connection is of no more use"
    COMMITTED = "COMMIT was answered"
    NOTHING_TO_COMMIT = "the server has no transaction open"
    COMMIT_REFUSED = "the server did not commit"
    COMMIT_UNANSWERED = "the connection was lost before COMMIT, or its answer was"
    ROLLBACK = "rollback() is called"
    ABORT = "a part of the transaction was left by an exception"
    UNDONE = "a savepoint undoes what doomed the transaction"
    RELEASE = "it is returned"


_S = State
_USABLE = (_S.UNUSED, _S.IDLE, _S.IN_TRANSACTION)
_OVER = (_S.ROLLED_BACK, _S.ABORTED, _S.BROKEN)

TRANSITIONS: Mapping[Event, Mapping[State, State]] = {
    # The first three lead through BUSY, to the state they name when the call has succeeded.
    Event.CALL: {
        _S.UNUSED: _S.IDLE,
        _S.IDLE: _S.IDLE,
        _S.IN_TRANSACTION: _S.IN_TRANSACTION,
    },
    Event.STATEMENT: dict.fromkeys(_USABLE, _S.IN_TRANSACTION),
    Event.READ: {
        _S.UNUSED: _S.IDLE,
        _S.IDLE: _S.IDLE,
        _S.IN_TRANSACTION: _S.IN_TRANSACTION,
    },
    Event.LOST_TRANSACTION: {
        _S.BUSY: _S.ROLLED_BACK,
        _S.ABORTED: _S.ABORTED,
        _S.RELEASED: _S.RELEASED,
    },
    Event.DOOMED: {
        _S.BUSY: _S.ABORTED,
        _S.ABORTED: _S.ABORTED,
        _S.RELEASED: _S.RELEASED,
    },
    Event.LOST_CONNECTION: {
        **dict.fromkeys(_USABLE, _S.BROKEN),
        _S.BUSY: _S.BROKEN,
        _S.ABORTED: _S.BROKEN,
        _S.RELEASED: _S.RELEASED,
    },
    Event.COMMITTED: {_S.IN_TRANSACTION: _S.IDLE},
    Event.NOTHING_TO_COMMIT: {_S.IN_TRANSACTION: _S.IDLE},
    Event.COMMIT_REFUSED: {
        _S.IN_TRANSACTION: _S.ABORTED,
        _S.ROLLED_BACK: _S.ROLLED_BACK,
        _S.ABORTED: _S.ABORTED,
    },
    Event.COMMIT_UNANSWERED: {_S.IN_TRANSACTION: _S.BROKEN, _S.BROKEN: _S.BROKEN},
    Event.ROLLBACK: {
        _S.UNUSED: _S.UNUSED,
        _S.IDLE: _S.IDLE,
        _S.IN_TRANSACTION: _S.IDLE,
        _S.ROLLED_BACK: _S.IDLE,
        _S.ABORTED: _S.IDLE,
    },
    Event.ABORT: {
        **dict.fromkeys(_USABLE, _S.ABORTED),
        _S.BUSY: _S.ABORTED,
        **{state: state for state in _OVER},
        _S.RELEASED: _S.RELEASED,
    },
    Event.UNDONE: {_S.ABORTED: _S.IN_TRANSACTION},
    Event.RELEASE: dict.fromkeys(State, _S.RELEASED),
}


def _by_number(event: Event) -> tuple[State | None, ...]:
    """Return a table that is indexed by the state: a member of an enum takes long to hash."""
    return tuple(TRANSITIONS[event].get(state) for state in State)


AFTER_CALL = _by_number(Event.CALL)
AFTER_STATEMENT = _by_number(Event.STATEMENT)
AFTER_READ = _by_number(Event.READ)
