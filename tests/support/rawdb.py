"""A DB-API 2 module that nothing is known about."""

from __future__ import annotations

import functools
import sqlite3
from types import ModuleType
from typing import Any


def rawdb(**more: Any) -> ModuleType:
    """A module with the names that PEP 249 asks for and no others: sqlite3 in disguise."""
    module = ModuleType("rawdb")
    names = {name for name in vars(sqlite3) if name.endswith("Error")}
    module.__dict__.update({name: vars(sqlite3)[name] for name in names})
    module.__dict__.update(
        apilevel="2.0",
        threadsafety=1,
        paramstyle="qmark",
        connect=functools.partial(sqlite3.connect, check_same_thread=False),
        **more,
    )
    return module
