"""The time limit of a statement that its pool keeps, since its server does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flask_pooled_db.lease.home import Home
from flask_pooled_db.pool import Entry

_COMES_LATE = "a statement of it was interrupted, and the interruption may come late"


def run_limited(
    home: Home, entry: Entry, seconds: float, function: Callable[..., Any], *args: Any
) -> Any:
    """Call the driver within the time that a statement may take; raise if it takes longer.

    A connection whose statement ended in another way than by its interruption is condemned.
    """
    driver = entry.driver
    limit = home.interrupter.limit(entry, seconds)
    try:
        with limit:
            result = function(*args)
    except driver.Error as error:
        if driver.is_interruption(error):
            told = driver.time_is_up(seconds, error)
            if told is not error:
                raise told from error
        elif limit.was_interrupted:
            entry.condemn(_COMES_LATE)
        raise
    if not limit.was_exceeded:
        return result
    if limit.was_interrupted:
        entry.condemn(_COMES_LATE)
    raise driver.time_is_up(seconds)
