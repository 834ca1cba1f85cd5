"""What a lease leaves behind on its connection, and what the next lease must not find."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from flask_pooled_db.lease.home import OpenCursor
from flask_pooled_db.lease.state import State
from flask_pooled_db.pool import Entry, evictions
from flask_pooled_db.runtime import housekeeper, reporter

logger = logging.getLogger("flask_pooled_db")

_LOST = {
    State.BUSY: "another thread was using it",
    State.BROKEN: "what its last call did is not known",
}


def tidy(
    entry: Entry,
    state: State,
    cursors: Iterable[OpenCursor],
    undo: Callable[[Entry], None],
    *,
    readonly: bool,
) -> None:
    """Leave nothing open on the connection of a lease that ended in this state, or condemn it.
    `undo` sends ROLLBACK.
    """
    driver = entry.driver
    if housekeeper.is_current:  # a finalizer runs there, or while Python shuts down
        entry.condemn("there was no time to roll it back")
    if state in _LOST:
        entry.condemn(_LOST[state])  # if it has no better reason
    elif (
        entry.condemned is None
        and (state is not State.IDLE or readonly)  # COMMIT comes after the last row
        and (
            any(stream.has_rows(driver) for stream in entry.streams)
            or driver.has_unread_rows(entry.raw)
        )
    ):
        entry.condemn(evictions.UNREAD)
    if entry.condemned is not None:
        driver.cut(entry.raw)  # no cursor reads on, and none waits for the server
    try:
        _close_cursors(entry, cursors)
        entry.streams.clear()
        if entry.condemned is None and state is not State.IDLE:
            undo(entry)
    except Exception as error:  # noqa: BLE001  the caller must see its own error, not this one
        reporter.tell(
            logger.warning,
            "Rolling back a connection failed (%s); it is closed, and the server rolls back by "
            "itself",
            type(error).__name__,
        )
        entry.condemn("its rollback failed")


def _close_cursors(entry: Entry, cursors: Iterable[OpenCursor]) -> None:
    for cursor in cursors:
        try:
            if entry.driver.forgets:
                cursor.remember()
            cursor.driver_cursor.close()
        except Exception as error:  # noqa: BLE001  the connection pays for it
            entry.condemn(f"closing a cursor failed ({type(error).__name__})")
