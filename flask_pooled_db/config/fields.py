"""How a configuration key is declared: an attribute of a config dataclass, on one line.

The attribute has the key's type and default, and its metadata the key's check and scope.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

PREFIX = "POOLED_DB_"
"""What every key in `app.config` starts with."""

DEFAULT_BIND = "default"
"""The name of the bind that the top-level keys describe."""

Check = Callable[[Any], Any]
"""Returns a value in the form the package uses, or raises `checks.Invalid`."""


class Field(NamedTuple):
    """One configuration key, as the code that reads mappings needs it."""

    name: str
    """The attribute's name. The key is the same in upper case."""
    check: Check
    default: Any
    scope: Literal["pool", "database", "app"]
    """What the key describes. Binds inherit the top-level keys of scope "pool" and no others."""
    none_is_unset: bool = True
    """Whether None means "not set", as in DBUtils."""


def pool(check: Check) -> Mapping[str, Any]:
    """Return the metadata of a key that describes a pool."""
    return {"check": check, "scope": "pool"}


def database(check: Check, *, none_is_unset: bool = True) -> Mapping[str, Any]:
    """Return the metadata of a key that describes a database."""
    return {"check": check, "scope": "database", "none_is_unset": none_is_unset}


def keys_of(config: type) -> Mapping[str, Field]:
    """Return the keys that a config dataclass declares, by key."""
    return {
        field.name.upper(): Field(field.name, default=field.default, **field.metadata)
        for field in dataclasses.fields(config)
    }
