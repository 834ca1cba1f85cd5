"""Databases by name: those that are opened at their first use, and closed when they are unused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from flask_pooled_db.config import DEFAULT_BIND, describe
from flask_pooled_db.errors import UsageError
from flask_pooled_db.flask.serving import Serving
from flask_pooled_db.pool.ageing import Housekeeping, age
from flask_pooled_db.pool.registry import Registry
from flask_pooled_db.pool.upkeep import sweep

Loader = Callable[[str], Any]
"""Returns the settings of a bind, or None if there is none of this name."""

Guard = Callable[[], Any]
"""Returns the names of the binds that are to stay open."""

F = TypeVar("F", bound=Callable[..., Any])


class ByName(Serving):
    """The part of the extension that opens databases by their names, and closes them."""

    def __init__(self) -> None:
        super().__init__()
        self.loader: Loader | None = None
        self.guard: Guard | None = None

    def bind_loader(self, function: F) -> F:
        """Have `function(name)` called for a bind that is not in POOLED_DB_BINDS, at its first use.

        It returns the bind's settings: a URL, or a mapping of keys as in POOLED_DB_BINDS. None
        says that there is no such bind: the caller gets `UnknownBind`. It judges the name, which
        may come from outside: its length, its characters. It runs in the caller's thread, and only
        callers of that name wait for it. What it raises is the caller's to see, and is not kept.
        """
        self.loader = _the_only_one(self.loader, function, "bind_loader")
        return function

    def bind_guard(self, function: F) -> F:
        """Have `function()` asked before a bind that nobody uses is closed.

        It returns the names of all binds that are to stay open, such as those of users with a
        session. If it raises, all stay open, and the error is logged. It may be called in any
        thread, in an app context.
        """
        self.guard = _the_only_one(self.guard, function, "bind_guard")
        return function

    def close_bind(self, name: str) -> bool:
        """Close a bind that was opened by its name: at a logout, or when its database is removed.

        Its idle connections are closed now, those in use when they come back. Who waits for one
        gets `PoolClosed`. At its next use it is loaded anew. Returns False if it was not open.
        """
        registry = self._registry(name, "close_bind")
        if name in registry.fixed:
            raise UsageError(
                f"bind {name!r} is in the configuration, which keeps it open: close_bind() is for "
                "those that the bind_loader knows"
            )
        return registry.close_bind(name)

    def replace_bind(self, name: str | None = None) -> bool:
        """Give a bind new connections, after its password or its host has changed.

        New leases get new connections, and so do callers who wait; those in use are closed when
        they come back. A connect under way is not used. A bind that the bind_loader knows is loaded
        anew at its next use. Returns False if it was not open.
        """
        name = DEFAULT_BIND if name is None else name
        registry = self._registry(name, "replace_bind")
        if name in registry.fixed:
            registry.pools[name].drain()
            return True
        return registry.replace_bind(name)

    def _registry(self, name: str, method: str) -> Registry:
        if not isinstance(name, str):
            raise UsageError(f"{method}() takes the name of a bind, not {describe(name)}")
        return self.here()[0].registry

    def housekeep(self) -> Housekeeping:
        """Do now what is done in the background from time to time: close the binds that were not
        used for POOLED_DB_BIND_IDLE_TIMEOUT, and sweep all pools. Returns what was found and done.
        """
        registry = self.here()[0].registry
        for pool in registry.own_pools():
            if pool.engine.state.is_tended:
                sweep(pool.engine)
        return age(registry)


def _the_only_one(before: F | None, function: F, name: str) -> F:
    if not callable(function):
        raise UsageError(f"{name} must be given a function, as in @db.{name}")
    if before is not None and before is not function:
        raise UsageError(f"{name} has a function already: there is one for all names")
    return function
