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
from contextlib import contextmanager, suppress
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
        with _connect.watched():
            raw = create(**arguments)
    if not hasattr(raw, "adopt"):
        with suppress(Exception):
            raw.close()
        raise ConfigError([_UNWATCHED])
    return raw


@functools.lru_cache(maxsize=64)
def _watched(kind: Any) -> Any:
    """Return an application's class of connections with ours beneath it."""
    if kind is sqlite3.Connection:
        return Connection
    is_class = isinstance(kind, type) and issubclass(kind, sqlite3.Connection)
    if not is_class or issubclass(kind, Connection):
        return kind
    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
    return types.new_class(
        kind.__name__, (kind, Connection), exec_body=lambda body: body.update(names)
    )


class _Connect:
    """The name `sqlite3.connect`, under which another function stands in for the original while
    functions of applications connect.
    """

    def __init__(self) -> None:
        self._users = 0
        self._original: Any = sqlite3.connect
        self._stand_in: Any = None

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Have it make connections that can be adopted, for the time of a block, in this thread."""
        with guard.lock:
            if not self._users:
                self._original = sqlite3.connect
                self._stand_in = _standing_in_for(self._original)
                _put(self._stand_in)
            self._users += 1
        _here.is_watched = True
        try:
            yield
        finally:
            _here.is_watched = False
            with guard.lock:
                self._users -= 1
                is_there = sqlite3.connect is self._stand_in  # else a tracer has wrapped it
                if not self._users and is_there:
                    _put(self._original)


def _standing_in_for(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def connect(*args: Any, **kwargs: Any) -> Any:
        if not getattr(_here, "is_watched", False):  # in another thread
            return original(*args, **kwargs)
        if len(args) <= _PLACE_OF_FACTORY:
            factory = _watched(kwargs.pop("factory", sqlite3.Connection))
            return original(*args, factory=factory, **kwargs)
        given = list(args)
        given[_PLACE_OF_FACTORY] = _watched(given[_PLACE_OF_FACTORY])
        return original(*given, **kwargs)

    return connect


def _put(what: Callable[..., Any]) -> None:
    for module in (sqlite3, sqlite3.dbapi2):
        module.connect = what  # type: ignore[attr-defined]


_here = threading.local()
_connect = _Connect()
