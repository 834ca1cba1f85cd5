"""Starting a transaction over."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from typing import TypeVar

from flask_pooled_db.errors import UsageError
from flask_pooled_db.lease.proxy import LeaseConnection
from flask_pooled_db.lease.scope import Scope

logger = logging.getLogger("flask_pooled_db")

T = TypeVar("T")

LONGEST_PAUSE = 0.01
"""Seconds before the second attempt, at most; doubled for each further one. The pause is random, so
that two transactions that collided do not do so again."""


def run_in_transaction(
    make_scope: Callable[[], Scope], function: Callable[[LeaseConnection], T], attempts: int
) -> T:
    """Call `function(conn)` in a scope; start over if the transaction is lost as a whole and a
    retry may succeed. Raises what the last attempt raised.
    """
    if isinstance(attempts, bool) or not isinstance(attempts, int) or attempts < 1:
        raise UsageError("attempts must be a whole number, 1 or more")
    for attempt in range(1, attempts + 1):
        scope = make_scope()
        lease = None
        try:
            with scope as lease:
                return function(lease)
        except Exception as error:
            if attempt == attempts or lease is None or not scope.may_start_over(lease, error):
                raise
            logger.info("Starting a transaction over after %s", type(error).__name__)
        time.sleep(random.uniform(0.0, LONGEST_PAUSE * 2**attempt))
    raise AssertionError("the last attempt returns or raises")
