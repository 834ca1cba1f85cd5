"""Connections to SQLite that an application's own function makes.

The pool's promises need connections of its own class. A function that has a parameter `factory` is
given the class; while any other runs, the module's `connect()` makes such ones in its thread.
"""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from types import ModuleType
from typing import Any

from flask_pooled_db.drivers.creators import has_parameter
from flask_pooled_db.drivers.sqlite_cursors import beneath
from flask_pooled_db.errors import ConfigError
from flask_pooled_db.runtime import guard

_UNWATCHED = (
    "CREATOR returned a connection that the pool can't watch: give its function a parameter "
    "`factory`, and call {}.connect(..., factory=factory)"
)
_PLACE_OF_FACTORY = 5  # among the arguments of `connect()`


def connect(
    create: Callable[..., Any], arguments: Mapping[str, Any], dbapi: ModuleType, own: Any
) -> Any:
    """Return a connection of our own class that an application's function makes by a module."""
    if has_parameter(create, "factory"):
        theirs = create.keywords.get("factory") if isinstance(create, functools.partial) else None
        raw = create(**arguments, factory=_watched(theirs or own.plain, own))
    else:
        with _connect_of(dbapi.__name__.partition(".")[0]).watched(own):
            raw = create(**arguments)
    if not hasattr(raw, "adopt"):
        with suppress(Exception):
            raw.close()
        raise ConfigError([_UNWATCHED.format(dbapi.__name__)])
    return raw


@functools.lru_cache(maxsize=64)
def _watched(kind: Any, own: Any) -> Any:
    """Return an application's class of connections with ours beneath it."""
    if kind is own.plain:
        return own
    is_class = isinstance(kind, type) and issubclass(kind, own.plain)
    return beneath(kind, own) if is_class and not issubclass(kind, own) else kind


class _Connect:
    """The name `connect` of a module, under which another function stands in for the original while
    functions of applications connect.
    """

    def __init__(self, name: str) -> None:
        self._modules: Any = [sys.modules[name], sys.modules[f"{name}.dbapi2"]]
        self._users = 0
        self._original: Any = None
        self._stand_in: Any = None
        self._here = threading.local()

    @contextmanager
    def watched(self, own: Any) -> Iterator[None]:
        """Have it make connections of our own class, for the time of a block, in this thread."""
        with guard.lock:
            if not self._users:
                self._original = self._modules[0].connect
                self._stand_in = _standing_in_for(self._original, self._here)
                self._put(self._stand_in)
            self._users += 1
        self._here.own = own
        try:
            yield
        finally:
            self._here.own = None
            with guard.lock:
                self._users -= 1
                is_there = self._modules[0].connect is self._stand_in  # else a tracer wrapped it
                if not self._users and is_there:
                    self._put(self._original)

    def _put(self, what: Callable[..., Any]) -> None:
        for module in self._modules:
            module.connect = what


def _standing_in_for(original: Callable[..., Any], here: threading.local) -> Callable[..., Any]:
    @functools.wraps(original)
    def connect(*args: Any, **kwargs: Any) -> Any:
        own = getattr(here, "own", None)
        if own is None:  # in another thread
            return original(*args, **kwargs)
        if len(args) <= _PLACE_OF_FACTORY:
            factory = _watched(kwargs.pop("factory", own.plain), own)
            return original(*args, factory=factory, **kwargs)
        given = list(args)
        given[_PLACE_OF_FACTORY] = _watched(given[_PLACE_OF_FACTORY], own)
        return original(*given, **kwargs)

    return connect


_connects: dict[str, _Connect] = {}


def _connect_of(name: str) -> _Connect:
    """Return the one of a module. Two would put each other's stand-in back, for good."""
    return _connects.get(name) or _connects.setdefault(name, _Connect(name))
