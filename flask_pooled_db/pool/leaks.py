"""Leases that are not returned: those that are garbage, and those that are out for too long."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable

from flask_pooled_db.pool.entry import Entry
from flask_pooled_db.pool.state import Terms
from flask_pooled_db.pool.supply import Supply

logger = logging.getLogger("flask_pooled_db")


class Leaks:
    """The leaks of one pool."""

    def __init__(self, terms: Terms, supply: Supply) -> None:
        self._terms = terms
        self._supply = supply
        self._reported: dict[Entry, float] = {}  # leases reported as long, by their checkout

    def note(self, entry: Entry, is_last: Callable[[], bool]) -> None:
        """Note that a lease is garbage. Takes no lock and does no I/O: a finalizer calls it."""
        self._supply.state.leaked.append((entry, is_last))
        warnings.warn(
            f"a connection of bind {self._terms.bind!r} was never given back: use it in a `with` "
            "block",
            ResourceWarning,
            stacklevel=2,
        )

    def reclaim(self) -> None:
        """Close the connections of leases that are garbage."""
        leaked = self._supply.state.leaked
        while leaked:
            try:
                entry, is_last = leaked.popleft()
            except IndexError:  # another thread was faster
                return
            self._terms.events.leaked()
            logger.warning(
                "A connection of bind %r was never given back; it is closed", self._terms.bind
            )
            if is_last():
                entry.condemn("its lease was garbage")
                self._supply.close(entry, "its lease was garbage")

    def report_long_leases(self, now: float) -> None:
        """Log the leases that have been out for longer than `leak_threshold`, each once."""
        threshold = self._terms.config.leak_threshold
        if not threshold:
            return
        state = self._supply.state
        with state.lock:
            long = {entry: entry.since for entry in state.in_use if now - entry.since > threshold}
        reported, self._reported = self._reported, long
        for entry, since in long.items():
            if reported.get(entry) != since:
                logger.warning(
                    "A lease of bind %r has been out for %.1f s (POOLED_DB_LEAK_THRESHOLD is "
                    "%.1f s)",
                    self._terms.bind,
                    now - since,
                    threshold,
                )
