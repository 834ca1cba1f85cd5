"""A clock for whatever asks for the time."""

from __future__ import annotations


class Clock:
    """A monotonic clock that stands still until a test puts it forward."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now
