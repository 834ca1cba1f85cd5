"""Connect arguments that a driver does not take, told before anything connects."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterator, Mapping
from inspect import Parameter
from types import ModuleType
from typing import Any

from flask_pooled_db.config import FROM_FILE, is_plain_name
from flask_pooled_db.drivers import creators, passwords
from flask_pooled_db.drivers.configuration import TEXTS, FromConfiguration

_SYNONYMS = (passwords.NAMES, ("database", "db"), ("user", "username"))


def of_module(
    adapter: type[FromConfiguration], dbapi: ModuleType, arguments: Mapping[str, Any]
) -> Iterator[str]:
    """Yield what is wrong with the arguments of a module's own `connect`, each with its remedy."""
    yield from _differing(arguments)
    names = adapter.names_of_arguments(dbapi, arguments)
    for name, value in arguments.items():
        if name == FROM_FILE:
            yield (
                f"the connect argument {FROM_FILE!r} goes with the URL of a server: remove it, or "
                "read the file in a callable CREATOR"
            )
        elif name in adapter.number_arguments and not _is_number(value):
            yield (
                f"the connect argument {name!r} must be a number, not a value of type "
                f"{type(value).__name__}"
            )
        elif name in TEXTS and name not in passwords.NAMES and isinstance(value, int | float):
            yield (
                f"the connect argument {name!r} must be a text, not a value of type "
                f"{type(value).__name__}: put it in quotes"
            )
        elif names is not None and name not in names:
            yield _unknown(dbapi.__name__, name, names, adapter.advice.get(name))
        elif name not in passwords.NAMES and (words := adapter.objection(dbapi, name, value)):
            yield f"{dbapi.__name__} refuses the connect argument {name!r} ({words}): correct it"


def of_function(
    adapter: type[FromConfiguration], function: Callable[..., Any], arguments: Mapping[str, Any]
) -> Iterator[str]:
    """Yield what of the arguments does not fit an application's own function."""
    parameters = creators.parameters_of(function)
    if parameters is None:
        return
    for name in arguments:
        if name not in parameters and name not in adapter.own_arguments:
            yield _unknown("CREATOR", name, parameters, None)
    for name, parameter in parameters.items():
        is_given = name in arguments or name in adapter.given_to_functions
        if parameter.default is Parameter.empty and not is_given:
            yield f"CREATOR needs an argument {name!r}: add it to CONNECT_ARGS"


def _differing(arguments: Mapping[str, Any]) -> Iterator[str]:
    """Yield the pairs of names for the same thing that have two values."""
    for one, other in _SYNONYMS:
        values = arguments.get(one), arguments.get(other)
        if None not in values and values[0] != values[1]:
            yield f"the connect arguments {one!r} and {other!r} differ: keep one"


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _unknown(who: str, name: str, names: Collection[str], advice: str | None) -> str:
    if not is_plain_name(name):  # it may be a URL with a password
        return f"{who} is given a connect argument whose name is none: correct it"
    closest = difflib.get_close_matches(name.lower(), names, 1)
    remedy = f"did you mean {closest[0]!r}?" if closest else "remove it, or correct its spelling"
    return f"{who} takes no connect argument {name!r}: {advice or remedy}"
