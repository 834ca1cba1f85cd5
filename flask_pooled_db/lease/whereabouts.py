"""Where a lease was taken, and where its holder is at work now."""

from __future__ import annotations

import contextlib
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


def whereabouts_of(entry: Entry) -> str:
    """Return what a report says of a connection that is in use: where it was taken and by whom, and
    where its thread or task is at work. Nothing is said where holders are not known.
    """
    hold, frame, name = entry.link.hold, None, ""
    if hold is None:
        return ""
    with contextlib.suppress(Exception):  # a thread that ends
        name, frame = _name_and_frame(hold.owner)
    driver = getattr(entry.driver.dbapi, "__name__", "").partition(".")[0]
    now = callers.place_at_work(frame, beside=driver) if frame else None
    told = f"taken {callers.at(hold.place)}" + (f" by {hold.name}" if hold.name else "")
    return f"{told}, in {name}" + (f", which is {callers.at(now)} now" if now else "")


def _name_and_frame(owner: Any) -> tuple[str, FrameType | None]:
    if isinstance(owner, int):
        name = next((one.name for one in threading.enumerate() if one.ident == owner), owner)
        return f"thread {name!r}", sys._current_frames().get(owner)
    if hasattr(owner, "get_stack"):
        return f"task {owner.get_name()!r}", next(iter(owner.get_stack(limit=1)), None)
    return "a greenlet", getattr(owner, "gr_frame", None)
