"""Connections to SQLite that an application's own function makes.

The pool's promises need connections of its own class. A function that has a parameter `factory` is
given the class; while any other runs, `sqlite3.connect()` makes such connections in its thread.
"""

from __future__ import annotations

import functools
import sqlite3
import threading
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from flask_pooled_db.drivers.creators import has_parameter
from flask_pooled_db.drivers.sqlite_connection import Connection
from flask_pooled_db.errors import ConfigError
from flask_pooled_db.runtime import guard

_UNWATCHED = (
    "CREATOR returned a connection that the pool can't watch: give its function a parameter "
    "`factory`, and call sqlite3.connect(..., factory=factory)"
)
_PLACE_OF_FACTORY = 5  # among the arguments of sqlite3.connect()


def connect(create: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    """Return a connection that an application's function makes, and that can be adopted."""
    if has_parameter(create, "factory"):
        own = create.keywords.get("factory") if isinstance(create, functools.partial) else None
        raw = create(**arguments, factory=_watched(own or sqlite3.Connection))
    else:
        with _stand_in.in_place():
            raw = create(**arguments)
    if not hasattr(raw, "adopt"):
        raw.close()
        raise ConfigError([_UNWATCHED])
    return raw


@functools.lru_cache(maxsize=64)
def _watched(kind: Any) -> Any:
    """Return an application's class of connections with ours beneath it."""
    if kind is sqlite3.Connection:
        return Connection
    if not (isinstance(kind, type) and issubclass(kind, sqlite3.Connection)):
        return kind  # a function
    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
    return types.new_class(
        kind.__name__, (kind, Connection), exec_body=lambda body: body.update(names)
    )


class _StandIn:
    """What `sqlite3.connect` is while the functions of applications make connections.

    In other threads than theirs it does what the original does.
    """

    def __init__(self) -> None:
        self._here = threading.local()
        self._users = 0
        self._original: Callable[..., Any] = sqlite3.connect

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Connect."""
        if getattr(self._here, "is_in_use", False):
            if len(args) > _PLACE_OF_FACTORY:
                before, after = args[:_PLACE_OF_FACTORY], args[_PLACE_OF_FACTORY + 1 :]
                args = (*before, _watched(args[_PLACE_OF_FACTORY]), *after)
            else:
                kwargs["factory"] = _watched(kwargs.get("factory", sqlite3.Connection))
        return self._original(*args, **kwargs)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Have it stand in for `sqlite3.connect` in a block, in this thread."""
        with guard.lock:
            self._users += 1
            if _now() is not self:
                self._original = _now()
                _put(self)
        self._here.is_in_use = True
        try:
            yield
        finally:
            self._here.is_in_use = False
            with guard.lock:
                self._users -= 1
                if not self._users and _now() is self:  # else a tracer has replaced it
                    _put(self._original)


def _now() -> Any:
    return sqlite3.connect


def _put(what: Callable[..., Any]) -> None:
    for module in (sqlite3, sqlite3.dbapi2):
        module.connect = what  # type: ignore[attr-defined]


_stand_in = _StandIn()
