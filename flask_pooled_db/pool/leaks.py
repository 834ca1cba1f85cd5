"""Leases that are not returned: those that are garbage, and those that are out for too long."""

from __future__ import annotations

import logging
import warnings

from flask_pooled_db.pool.entry import EntryRef
from flask_pooled_db.pool.state import Terms
from flask_pooled_db.pool.supply import Supply
from flask_pooled_db.runtime import reporter

logger = logging.getLogger("flask_pooled_db")


class Leaks:
    """The leaks of one pool."""

    def __init__(self, terms: Terms, supply: Supply) -> None:
        self._terms = terms
        self._supply = supply
        self._reported: dict[EntryRef, float] = {}  # leases reported as long, by their checkout

    def reclaim(self) -> None:
        """Close the connections that nobody holds any more."""
        state = self._supply.state
        while state.lost:
            state.lost.clear()
            with state.lock:
                lost = state.lost_locked()
            try:
                for ref in lost:
                    self._reclaim(ref)
            except BaseException:
                state.lost.extend(lost)  # the next one goes on
                raise

    def _reclaim(self, ref: EntryRef) -> None:
        if ref.link.reason is None:
            ref.link.reason = "its lease was garbage"
            bind = self._terms.bind
            self._terms.events.leaked()
            reporter.tell(
                logger.warning, "A connection of bind %r was never given back; it is closed", bind
            )
            text = f"a connection of bind {bind!r} was never given back: use it in a `with` block"
            reporter.tell(warnings.warn, text, ResourceWarning)
        ref.link.terminate()
        self._supply.closed(ref, ref.link.reason)

    def report_long_leases(self, now: float) -> None:
        """Log the leases that have been out for longer than `leak_threshold`, each once."""
        threshold = self._terms.config.leak_threshold
        if not threshold:
            return
        state = self._supply.state
        with state.lock:
            leases = {entry.ref: entry.since for entry in state.in_use_locked()}
        long = {ref: since for ref, since in leases.items() if now - since > threshold}
        reported, self._reported = self._reported, long
        for ref, since in long.items():
            if reported.get(ref) != since:
                reporter.tell(
                    logger.warning,
                    "A lease of bind %r has been out for %.1f s (POOLED_DB_LEAK_THRESHOLD is "
                    "%.1f s)",
                    self._terms.bind,
                    now - since,
                    threshold,
                )
