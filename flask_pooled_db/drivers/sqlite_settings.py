"""What an application may choose of its connections to SQLite: in the URL, or in CONNECT_ARGS."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

_FLAGS = {"on": True, "true": True, "1": True, "off": False, "false": False, "0": False}
_MODES = ("wal", "delete", "truncate", "persist", "memory")  # without any, nothing can be undone

_ALLOWED: dict[str, tuple[Any, str]] = {
    "foreign_keys": (_FLAGS, "on or off (also true, false, 1, 0)"),
    "journal_mode": (_MODES, f"one of {', '.join(_MODES)}"),
}
SETTINGS = tuple(_ALLOWED)
"""Their names."""


class Settings(NamedTuple):
    """How a connection is set up."""

    foreign_keys: bool
    journal_mode: str


def take_settings(arguments: dict[str, Any]) -> Settings:
    """Return the settings among connect arguments, which are right, and leave the others."""
    return Settings(
        _FLAGS[_lowered(arguments.pop("foreign_keys", "on"))],
        _lowered(arguments.pop("journal_mode", "wal")),
    )


def setting_problems(arguments: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with the settings among connect arguments."""
    return [
        f"the connect argument {name!r} must be {words}, in any case"
        for name, (allowed, words) in _ALLOWED.items()
        if name in arguments and _lowered(arguments[name]) not in allowed
    ]


def _lowered(value: object) -> str:
    return str(value).lower()
