"""Leases that are not returned: those that are garbage, and those that are out for too long."""

from __future__ import annotations

import warnings
from collections.abc import Callable

from flask_pooled_db.config import shown
from flask_pooled_db.pool import evictions
from flask_pooled_db.pool.entry import Entry, EntryRef
from flask_pooled_db.pool.state import Terms
from flask_pooled_db.pool.supply import Supply
from flask_pooled_db.runtime import callers, reporter

Locate = Callable[[Entry], str]
"""Returns where a connection that is in use was taken, and where its holder is at work now."""


class Leaks:
    """The leaks of one pool."""

    def __init__(self, terms: Terms, supply: Supply) -> None:
        self._terms = terms
        self.locate: Locate = lambda _: ""  # set by who knows leases
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
        with self._supply.state.lock:
            is_first = ref.link.reason is None  # else another thread was faster, or it is no leak
            reason = ref.link.reason = ref.link.reason or evictions.LOST
        if is_first:
            bind, place = shown(self._terms.bind), ref.link.taken_at
            taken = f", taken {callers.at(place)}," if place else ""
            self._terms.events.leaked(place)
            self._terms.notices.warn(
                ("lost", place),
                "A connection of bind %s%s was never given back; it is closed",
                bind,
                taken,
            )
            text = f"a connection of bind {bind}{taken} was never given back: use it in a `with` "
            reporter.tell(warnings.warn, f"{text}block", ResourceWarning)
        ref.link.terminate()
        self._supply.closed(ref, reason)

    def report_long_leases(self, now: float) -> None:
        """Log the leases that have been out for longer than `leak_threshold`, once a place and a
        caller.
        """
        threshold = self._terms.config.leak_threshold
        if not threshold:
            return
        state = self._supply.state
        with state.lock:
            leases = {entry.ref: entry.since for entry in state.in_use_locked()}
        long = {ref: since for ref, since in leases.items() if now - since > threshold}
        reported, self._reported = self._reported, long
        for ref, since in long.items():
            entry = ref()
            if entry is not None and reported.get(ref) != since:
                self._report(entry, now)

    def _report(self, entry: Entry, now: float) -> None:
        hold, told, place, name = entry.link.hold, "", None, ""
        if hold is not None:
            hold.is_reported, place, name = True, hold.place, hold.name
            holder = hold.at(now, self._terms.bind)
            told = f": {self.locate(entry)}; {holder.doing()}"
        self._terms.events.overdue(place, now - entry.since)
        self._terms.notices.warn(
            ("long", place, name),
            "A lease of bind %s has been out for %.1f s (POOLED_DB_LEAK_THRESHOLD is %.1f s)%s",
            shown(self._terms.bind),
            now - entry.since,
            self._terms.config.leak_threshold,
            told,
        )
