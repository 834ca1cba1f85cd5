"""The shape of rows, as `POOLED_DB_ROWS` and `rows=` take it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

Rows = Literal["tuple", "dict", "namedtuple"] | Callable[[Any, Any], Any]
"""A word, or a function that takes the cursor's description and the driver's row."""
