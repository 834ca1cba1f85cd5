"""Checkpoints of SQLite, which bring the WAL into the database: https://www.sqlite.org/wal.html."""

from __future__ import annotations

from time import monotonic, sleep
from typing import Any

_PATIENCE, _PAUSE = 0.1, 0.005
_MOST_TO_WRITERS = 100
"""Milliseconds that who writes may have to wait for readers."""
_LAST_PAGES = 2000
"""How many pages may be copied while nobody can write."""


def empty_log(raw: Any) -> None:
    """Empty the WAL, or give up soon. Who writes meanwhile waits a small part of their time at the
    most.
    """
    (own_timeout,) = raw.run("PRAGMA busy_timeout").fetchone()
    raw.run(f"PRAGMA busy_timeout={min(own_timeout // 20, _MOST_TO_WRITERS)}").fetchall()
    deadline = monotonic() + _PATIENCE
    while not _has_emptied_log(raw) and monotonic() < deadline:
        sleep(_PAUSE)


def _has_emptied_log(raw: Any) -> bool:
    """Try to empty the WAL. Those who write are not locked out while its pages are copied, which
    may take long, but while the last ones are, and until the readers of an older state have done.
    """
    is_busy, pages, copied = raw.run("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    if is_busy or pages - copied > _LAST_PAGES:  # somebody has read an old state for long
        return False
    is_busy, *_ = raw.run("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    return not is_busy
