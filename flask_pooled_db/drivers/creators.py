"""What a creator of connections tells: an application's own, or a DB-API 2 module."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from inspect import Parameter
from types import ModuleType
from typing import Any

_BY_NAME = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)

UNSAFE = (
    "CREATOR states no threadsafety of 1 or more: "
    "if threads may share its module, give the creator an attribute `threadsafety`"
)


def what_connects(creator: Any) -> Any:
    """Return what to call for a connection: a creator's `connect`, or the creator itself."""
    if isinstance(creator, ModuleType):
        return getattr(creator, "connect", creator)
    connect = inspect.getattr_static(creator, "connect", None)
    # The connections of a class have the method (PyMySQL's `connect` is such a class).
    is_method = isinstance(creator, type) and not isinstance(connect, classmethod | staticmethod)
    return creator if is_method else getattr(creator, "connect", creator)


def parameters_of(function: Callable[..., Any]) -> dict[str, Parameter] | None:
    """Return the parameters of a function that can be given by name; None if it takes any name, or
    does not tell. What it wraps says nothing: it may add to that, or take away.
    """
    try:
        parameters = inspect.signature(function, follow_wrapped=False).parameters
    except (TypeError, ValueError):
        return None
    if any(parameter.kind is Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return None
    return {name: found for name, found in parameters.items() if found.kind in _BY_NAME}


def has_parameter(create: Any, name: str) -> bool:
    """Return whether a function that connects has a parameter of this name, as far as anybody can
    tell: a module's own function, in C, is taken to have it.
    """
    try:
        return name in inspect.signature(create).parameters
    except (TypeError, ValueError):
        return True


def is_module_connect(creator: Any, dbapi: ModuleType | None) -> bool:
    """Return whether a creator connects by its module's own `connect`, which a tracer may have
    replaced.
    """
    return what_connects(creator) is getattr(dbapi, "connect", None)


def threadsafety_of(creator: Any, dbapi: ModuleType | None) -> int:
    """Return the thread safety of a creator's connections, as DBUtils does: 1 for a function of an
    unknown module, and 0 for anything else that states none.
    """
    is_assumed = dbapi is None and what_connects(creator) is creator
    stated = getattr(creator, "threadsafety", getattr(dbapi, "threadsafety", is_assumed))
    return int(stated or 0)


def is_unsafe(raw: Any) -> bool:
    """Return whether a connection is of a module that states no thread safety of 1 or more."""
    dbapi = dbapi_of(type(raw))
    return dbapi is not None and not getattr(dbapi, "threadsafety", 0)


def dbapi_of(creator: Any) -> ModuleType | None:
    """Return a creator's DB-API 2 module: itself, its `dbapi`, or the package it comes from."""
    while isinstance(creator, functools.partial):
        creator = creator.func
    if isinstance(creator, ModuleType):
        return creator
    dbapi = getattr(creator, "dbapi", None)
    if isinstance(dbapi, ModuleType):
        return dbapi
    package = getattr(creator, "__module__", None) or ""
    while package:
        # A function of an extension module `_x` is the package `x`'s, as with sqlite3.
        for name in (package, package.removeprefix("_")):
            module = sys.modules.get(name)
            if hasattr(module, "apilevel"):
                return module
        package = package.rpartition(".")[0]
    return None
