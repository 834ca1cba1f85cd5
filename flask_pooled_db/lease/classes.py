"""The classes of leases: what the driver's connection has beside the standard's are attributes.

Each is made once for all pools. A class takes more memory than a pool, and more time to be made
than a connection to be opened.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple, TypeVar

from flask_pooled_db.lease.absent import REMEDIES, Absent
from flask_pooled_db.lease.attributes import (
    CursorSetting,
    DriverAttribute,
    DriverException,
    StateQuestion,
)
from flask_pooled_db.lease.beginning import BeginningLease
from flask_pooled_db.lease.cursor import IteratingCursor, LeaseCursor, NamedCursor, ParticularCursor
from flask_pooled_db.lease.ending import EndingLease
from flask_pooled_db.lease.handle import GONE
from flask_pooled_db.lease.held import HeldLease
from flask_pooled_db.lease.limits import LimitedLease
from flask_pooled_db.lease.observing import ObservingLease
from flask_pooled_db.lease.proxied import ProxiedLease
from flask_pooled_db.lease.proxy import (
    IS_CONNECTED,
    ForwardingConnection,
    LeaseConnection,
    SendingConnection,
)
from flask_pooled_db.lease.shaping import CURSOR_SETTINGS, shaping_class
from flask_pooled_db.lease.streaming import StreamingCursor
from flask_pooled_db.lease.tagging import TaggingLease
from flask_pooled_db.pool import Entry
from flask_pooled_db.pool.entry import Origin
from flask_pooled_db.pool.state import Terms

_EXCEPTIONS = frozenset(
    {
        "Warning",
        "Error",
        "InterfaceError",
        "DatabaseError",
        "DataError",
        "OperationalError",
        "IntegrityError",
        "InternalError",
        "ProgrammingError",
        "NotSupportedError",
    }
)

Kind = TypeVar("Kind")

_made: weakref.WeakValueDictionary[Hashable, type] = weakref.WeakValueDictionary()


def made_once(key: Hashable, make: Callable[[], type]) -> Any:
    """Return the class of this key, which is all that it depends on; made by `make` if no pool has
    it. With the last pool that has it, the class is garbage.
    """
    found = _made.get(key)
    return _made.setdefault(key, make()) if found is None else found


def extended(kind: type[Kind], plain: type) -> type[Kind]:
    """Return a class of leases like `plain` that are of this kind too."""
    bases = kind, plain
    made: type[Kind] = made_once(bases, lambda: type(plain.__name__, bases, {"__slots__": ()}))
    return made


class Traits(NamedTuple):
    """What the class of a lease depends on."""

    kind: type
    """Of the driver's connection."""
    title: str
    bases: tuple[type, ...]
    names: tuple[str, ...]
    """What is passed on to the driver's connection."""
    settings: tuple[str, ...]
    """What says how its cursors are made."""
    cursor_class: type
    pings_on_cursor: bool
    has_shapes: bool


def class_for(
    entry: Entry, known: dict[Any, type[LeaseConnection]], terms: Terms
) -> type[LeaseConnection]:
    """Return the class for leases of a connection of a pool with these terms; `known` are its
    classes so far.

    Each attribute of the driver's connection is an attribute of the class. With a `__getattr__` for
    all of them, CPython would take the slow way for every attribute of a lease, its own too: a
    lease took a fifth more time.
    """
    streams = entry.driver.may_stream(entry.raw)
    is_observed, is_tagged = terms.observer.is_on(), terms.tags is not None
    tells_ends = is_observed and terms.observer.wants_ends
    is_held = terms.holders.is_on() or terms.config.leak_threshold > 0
    kinds = is_observed, tells_ends, is_tagged, is_held
    kind = type(entry.raw), entry.origin.needs_interrupting, streams, kinds
    if kind not in known:
        traits = _traits_of(entry.raw, entry.origin, *kinds)
        known[kind] = made_once(traits, functools.partial(_make_class, traits))
    entry.lease_class = known[kind]
    return known[kind]


def _traits_of(
    raw: Any, origin: Origin, is_observed: bool, tells_ends: bool, is_tagged: bool, is_held: bool
) -> Traits:
    kind: Any = type(raw)
    driver = origin.driver
    if hasattr(kind, "__getattr__") or kind.__getattribute__ is not object.__getattribute__:
        base: type[LeaseConnection] = ForwardingConnection
        names: list[str] = []
    else:
        base = SendingConnection if driver.cursors_send else LeaseConnection
        names = [name for name in dir(raw) if not name.startswith("_")]
    is_plain = not (driver.prepare_cursor or driver.translate or driver.has_to_close_cursors)
    particular = IteratingCursor if driver.iterates_cursors else ParticularCursor
    cursor_class: type = LeaseCursor if is_plain else particular
    more = (
        (ProxiedLease, driver.begins_transactions),
        (ObservingLease, is_observed),
        (EndingLease, tells_ends),
        (TaggingLease, is_tagged),
        (HeldLease, is_held),
        (BeginningLease, driver.begins_late(raw)),
        (LimitedLease, origin.needs_interrupting),
    )
    return Traits(
        kind,
        driver.title,
        (*(one for one, is_wanted in more if is_wanted), base),
        tuple(names),
        tuple(name for name in CURSOR_SETTINGS if hasattr(raw, name)),
        StreamingCursor if driver.may_stream(raw) else cursor_class,
        origin.ping.on_cursor,
        origin.config.rows != "tuple",
    )


def _make_class(traits: Traits) -> type[LeaseConnection]:
    """Make the class for leases of such connections."""
    names, title = traits.names, traits.title
    namespace: dict[str, Any] = {name: DriverAttribute(name) for name in names}
    namespace |= {name: StateQuestion(name) for name in (*GONE, IS_CONNECTED) if name in names}
    namespace |= {name: CursorSetting(name) for name in traits.settings}
    if names:
        namespace |= {name: Absent(title, name) for name in REMEDIES if name not in names}
    for name in dir(traits.bases[-1]):
        namespace.pop(name, None)
    namespace |= {name: DriverException(name) for name in _EXCEPTIONS}
    namespace |= {
        "__slots__": (),
        "cursor_class": traits.cursor_class,
        "streaming_class": StreamingCursor,
        "named_class": NamedCursor,
        "pings_on_cursor": traits.pings_on_cursor,
    }
    made = type(f"{title} connection", traits.bases, namespace)
    return shaping_class(made) if traits.has_shapes else made
