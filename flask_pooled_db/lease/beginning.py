"""Leases whose transactions begin in the round trip of their first statement."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from flask_pooled_db.lease.lease import Lease


class BeginningLease(Lease):
    """A lease of a connection whose driver would begin each transaction in a round trip of its own.

    Leases of other drivers do not pay for it.
    """

    __slots__ = ()

    def statement(self, function: Callable[..., Any], *args: Any) -> Any:
        entry, driver = self._entry, self.driver
        if args and entry is not None and driver.can_begin_with(entry.raw, function, args[0]):
            function = functools.partial(driver.begin_with, entry.raw, function)
        return super().statement(function, *args)
