"""Starting a transaction over."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from typing import TypeVar

from flask_pooled_db.config import check_count
from flask_pooled_db.lease.proxy import LeaseConnection
from flask_pooled_db.lease.scope import Scope

logger = logging.getLogger("flask_pooled_db")

T = TypeVar("T")

FIRST_PAUSE, LONGEST_PAUSE = 0.02, 0.5
"""Seconds before the second attempt, at most, and before any; doubled from one to the next."""

_DOUBLINGS = 10  # more change nothing


def pause_after(attempt: int) -> float:
    """Return how many seconds to wait after an attempt: at random, so that two transactions that
    collided do not do so again.
    """
    longest = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(attempt - 1, _DOUBLINGS))
    return random.uniform(0.0, longest)


def run_in_transaction(
    make_scope: Callable[[], Scope],
    function: Callable[[LeaseConnection], T],
    attempts: int,
    patience: float,
) -> T:
    """Call `function(conn)` in a scope; start over if the transaction is lost as a whole and a
    retry may succeed. Raises what the last attempt raised.

    The pauses between attempts take no longer than the scope's `timeout` in all, or `patience`
    seconds if it has none.
    """
    check_count("attempts", attempts, least=1)
    paused = 0.0
    for attempt in range(1, attempts + 1):
        scope = make_scope()
        lease = None
        try:
            with scope as lease:
                return function(lease)
        except Exception as error:
            if attempt == attempts or lease is None or not scope.may_start_over(lease, error):
                raise
            own = scope.options.timeout
            pause = pause_after(attempt)
            paused += pause
            if paused > (patience if own is None else own):
                raise
            logger.info("Starting a transaction over after %s", type(error).__name__)
        time.sleep(pause)
    raise AssertionError("the last attempt returns or raises")
