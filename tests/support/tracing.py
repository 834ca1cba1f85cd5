"""Code that is stepped through, line by line."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


@contextmanager
def traced_by(trace: Callable[[FrameType, str, object], Any]) -> Iterator[None]:
    """Have a function told of each line that this thread runs in the block."""
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)
