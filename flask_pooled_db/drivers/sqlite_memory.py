"""A database in memory that all connections of a pool share, in one process."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

from flask_pooled_db.drivers.base import keep_forever


class Memory:
    """A connection that keeps a database in memory alive while the pool has no other."""

    def __init__(self) -> None:
        self.lock = threading.RLock()  # guards it, and the switch of a new file to WAL
        self.anchor: Any = None

    def name(self, connect: Callable[..., Any], kind: type) -> str:
        """Return the name of the database. It exists while a connection to it, of this class, is
        open.
        """
        with self.lock:
            name = f"file:/flask_pooled_db-{os.getpid()}-{id(self)}?vfs=memdb"
            if self.anchor is None:
                self.anchor = connect(name, uri=True, factory=kind)
            return name

    def close(self) -> None:
        """Let the database go with its last connection."""
        with self.lock:
            if self.anchor is not None:
                self.anchor.close()
                self.anchor = None

    def after_fork(self) -> None:
        """In a forked child, leave the connection to the parent."""
        self.lock = threading.RLock()
        if self.anchor is not None:
            keep_forever(self.anchor)
            self.anchor = None
