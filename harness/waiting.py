"""Waiting for what others do."""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE = 30.0
"""Seconds to wait for what is sure to come, however busy the machine is."""

POLL_INTERVAL = 0.005


def holds_within(
    seconds: float, condition: Callable[[], object], interval: float = POLL_INTERVAL
) -> bool:
    """Return True as soon as the condition holds, or False after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(interval)
    return True


def wait_until(
    condition: Callable[[], object], what: str = "", interval: float = POLL_INTERVAL
) -> None:
    """Wait until the condition holds; raise AssertionError if it does not within PATIENCE."""
    if not holds_within(PATIENCE, condition, interval):
        raise AssertionError(f"waited in vain for {what or condition}")
