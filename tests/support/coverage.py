"""Coverage, where it is measured."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def unmeasured() -> Iterator[None]:
    """Measure no coverage in this process during the block."""
    coverage = sys.modules.get("coverage")
    current = coverage.Coverage.current() if coverage else None
    if current is None:
        yield
        return
    current.stop()
    try:
        yield
    finally:
        # What it has patched for children is patched for good: once more would be too often.
        patches = current.get_option("run:patch")
        current.set_option("run:patch", [])
        current.start()
        current.set_option("run:patch", patches)
