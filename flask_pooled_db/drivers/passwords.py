"""The connect arguments that are passwords."""

from __future__ import annotations

from collections.abc import Mapping
from types import NoneType
from typing import Any

NAMES = ("password", "passwd")
"""The names that drivers have for them."""


def problems(arguments: Mapping[str, Any], types: tuple[type, ...]) -> list[str]:
    """Return what is wrong with the passwords among these connect arguments, each with its remedy.

    `types` are those that the driver takes. One of digits alone is easily read as a number.
    """
    return [
        f"the connect argument {name!r} must be a string, not a value of type "
        f"{type(arguments[name]).__name__}: put it in quotes"
        for name in NAMES
        if not isinstance(arguments.get(name), (*types, NoneType))
    ]
