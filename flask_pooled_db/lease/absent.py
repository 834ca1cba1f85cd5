"""What a lease's connection and its cursors do not have, and what is said of that.

A `__getattr__` of connections could say it, but would have CPython look up every attribute of a
lease the slow way. So names that people look for are attributes which raise, and the class is named
for its driver, since CPython puts that into the error for all others.
"""

from __future__ import annotations

from typing import NoReturn

_SCRIPT = "executescript(): use db.run_script(...)"

REMEDIES = {
    **{
        name: f"{name}(): use a cursor, conn.cursor().{name}(...)"
        for name in ("execute", "executemany", "callproc", "fetchone", "fetchmany", "fetchall")
    },
    **{
        name: f"attribute {name!r}: it is a cursor's, cur = conn.cursor()"
        for name in ("rowcount", "lastrowid", "description")
    },
    "executescript": _SCRIPT,
}
"""What connections lack that people look for, and what to do."""

_REMEDIES_OF_CURSORS = {
    "executescript": _SCRIPT,
    "lastrowid": "attribute 'lastrowid': have the statement return it, INSERT ... RETURNING id",
}


class Absent:
    """An attribute that the driver's connection does not have, and that people look for."""

    def __init__(self, title: str, name: str) -> None:
        self._title = title
        self._name = name

    def __get__(self, instance: object, owner: type) -> NoReturn:
        raise no_attribute(self._title, self._name)


def no_attribute(title: str, name: str, *, of: str = "connection") -> AttributeError:
    """Return the error for an attribute that a driver's connection, or cursor, does not have."""
    remedies = REMEDIES if of == "connection" else _REMEDIES_OF_CURSORS
    what = remedies.get(name, f"attribute {name!r}")
    return AttributeError(f"a {title} {of} has no {what}")
