"""PROXY: what cannot be asked for where a pooler gives each transaction any of its sessions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_CHOOSES = (
    "the proxy chooses the server of each transaction: name the primary in the proxy's own "
    "configuration, and remove this"
)
_REFUSED = {
    "reset": (
        "session",
        "there is no session to reset, for each transaction may have another one: remove it",
    ),
    "target": ("primary", _CHOOSES),
}


def problems_behind(
    values: Mapping[str, Any], defaults: Mapping[str, Any], prefix: str
) -> list[str]:
    """Return what contradicts PROXY among the values of a bind, and the defaults that it has from
    the top level.
    """
    if values.get("proxy") is None:
        return []
    given = {**defaults, **values}
    where = f"{prefix}PROXY 'transaction'"
    problems = [
        f"{prefix}{name.upper()} can't be {value!r} with {where}: {why}"
        for name, (value, why) in _REFUSED.items()
        if given.get(name) == value
    ]
    if given.get("setsession"):
        problems.append(
            f"{prefix}SETSESSION can't be set with {where}: its statements would reach one session "
            "of many, and other programs' transactions; set it for the role instead, by ALTER ROLE "
            "... SET"
        )
    return problems
