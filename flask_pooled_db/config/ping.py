"""DBUtils' `ping` option: when a connection is checked, and how."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

Probe = str | Callable[[Any], Any]
"""A check that was configured in place of the driver's ping: an SQL statement or a callable."""

Ping = int | Probe | tuple[int | None, Probe | None] | None
"""The forms of the option. A number is a sum of the flags below; None is 0."""

ON_CHECKOUT, ON_CURSOR, ON_QUERY = 1, 2, 4


@dataclass(frozen=True, slots=True)
class PingPolicy:
    """The `ping` option, parsed as DBUtils parses it."""

    on_checkout: bool = True
    on_cursor: bool = False
    on_query: bool = False
    probe: Probe | None = None
    """None: the driver's own ping is the check."""

    @classmethod
    def parse(cls, ping: Ping) -> Self:
        """Return the policy that `ping` describes. Raises `TypeError` if it has none of the forms.

        A probe without flags runs at checkout. Flags that are no number are 0, as in DBUtils.
        """
        flags: Any = ping
        probe: Any = None
        if isinstance(ping, tuple):
            if len(ping) != 2:
                raise TypeError(_FORMS)
            flags, probe = ping
        elif isinstance(ping, str) or callable(ping):
            flags, probe = ON_CHECKOUT, ping
        if probe is not None and not isinstance(probe, str) and not callable(probe):
            raise TypeError(_FORMS)
        if not isinstance(flags, int):
            flags = 0
        return cls(
            bool(flags & ON_CHECKOUT), bool(flags & ON_CURSOR), bool(flags & ON_QUERY), probe
        )

    def run_probe(self, raw: Any) -> bool:
        """Run the probe on a driver's connection; return False if it says that it is dead.

        A statement has to succeed, and a callable says "dead" by returning False. Whatever either
        raises is raised.
        """
        if not isinstance(self.probe, str):
            return self.probe is None or self.probe(raw) is not False
        cursor = raw.cursor()
        try:
            cursor.execute(self.probe)
        finally:
            with contextlib.suppress(Exception):  # the statement has told what there is to know
                cursor.close()
        return True


_FORMS = (
    "ping must be a number, an SQL statement, a callable, or a pair of a number and one of these"
)
