"""Starting a transaction over."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from typing import TypeVar

from flask_pooled_db.config import check_count
from flask_pooled_db.lease.deadline import nearest
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


class Attempts:
    """The attempts at one transaction: whether there is another one, and the pause before it.

    The pauses take no longer in all than a wait for a connection may, by the scope's `timeout` or
    else by the pool's, and none outlasts a deadline.
    """

    def __init__(self, most: int) -> None:
        check_count("attempts", most, least=1)
        self._left = most
        self._made = 0
        self._paused = 0.0

    def pause(self, scope: Scope, lease: LeaseConnection | None, error: Exception) -> float | None:
        """Return the seconds to wait before the next attempt, after one that has failed; None if
        there is none.
        """
        self._left -= 1
        self._made += 1
        if not self._left or lease is None or not scope.may_start_over(lease, error):
            return None
        own, usual = scope.options.timeout, lease.terms.config.acquire_timeout
        pause = pause_after(self._made)
        self._paused += pause
        if self._paused > (usual if own is None else own):
            return None
        deadline = nearest()
        if deadline is not None and deadline.left() <= pause:
            return None
        logger.info("Starting a transaction over after %s", type(error).__name__)
        return pause


def run_in_transaction(
    make_scope: Callable[[], Scope], function: Callable[[LeaseConnection], T], attempts: int
) -> T:
    """Call `function(conn)` in a scope; start over if the transaction is lost as a whole and a
    retry may succeed. Raises what the last attempt raised.
    """
    following = Attempts(attempts)
    while True:
        scope = make_scope()
        lease = None
        try:
            with scope as lease:
                return function(lease)
        except Exception as error:
            pause = following.pause(scope, lease, error)
            if pause is None:
                raise
        time.sleep(pause)
