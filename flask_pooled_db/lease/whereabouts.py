"""Who has a connection, and what for: found out when somebody asks.

Nothing is kept for that. Whoever has a connection refers to it, as the garbage collector knows.
"""

from __future__ import annotations

import contextlib
import gc
import sys
import threading
from types import FrameType
from typing import Any

from flask_pooled_db.lease.lease import Lease
from flask_pooled_db.lease.openscopes import scopes_of
from flask_pooled_db.lease.owner import current_owner
from flask_pooled_db.pool import Entry
from flask_pooled_db.runtime import callers


def place_of(lease: Lease) -> callers.Place | None:
    """Return where a lease was taken, if that is known: of a scope of the caller's it is, if a
    generator or a coroutine holds it.
    """
    scopes = scopes_of(current_owner()).newest_first()
    return lease.place or next((scope.place for scope in scopes if scope.holds(lease)), None)


def whereabouts_of(entry: Entry) -> tuple[callers.Place | None, str]:
    """Return the place of a connection that is in use, if one is known, and what a report says of
    it: where it was taken, if its caller gives it back itself, and where its thread is at work. It
    takes a look at all objects of the process.
    """
    with contextlib.suppress(Exception):  # a lease that is being made, a thread that ends
        for thing in gc.get_referrers(entry):
            if issubclass(type(thing), Lease) and thing.lends(entry):
                return _describe(thing, entry)
    return None, ""


def _describe(lease: Lease, entry: Entry) -> tuple[callers.Place | None, str]:
    name, frame = _name_and_frame(lease.owner)
    dbapi: Any = entry.driver.dbapi
    driver = getattr(dbapi, "__name__", "").partition(".")[0]
    now = callers.place_at_work(frame, beside=driver) if frame else None
    told = f"in {name}" + (f", which is {callers.at(now)} now" if now else "")
    if lease.place:
        by = f" by {lease.taker}" if lease.taker else ""
        told = f"taken {callers.at(lease.place)}{by}, {told}"
    return lease.place or now, told


def _name_and_frame(owner: Any) -> tuple[str, FrameType | None]:
    if isinstance(owner, int):
        name = next((one.name for one in threading.enumerate() if one.ident == owner), owner)
        return f"thread {name!r}", sys._current_frames().get(owner)
    if hasattr(owner, "get_stack"):
        return f"task {owner.get_name()!r}", next(iter(owner.get_stack(limit=1)), None)
    return "a greenlet", getattr(owner, "gr_frame", None)
