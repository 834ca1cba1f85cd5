"""Which scopes a thread, a task or a greenlet has open."""

from __future__ import annotations

import weakref
from contextvars import ContextVar
from typing import Any


class OpenScopes(dict["weakref.ref[Any]", None]):
    """The scopes that a thread, task or greenlet has open, in the order it entered them.

    Weak: a scope that an interruption has kept from being left must not enclose what comes later.
    A set that is changed in place takes half the time of a context variable that is set twice.
    """

    __slots__ = ("owner",)

    def __init__(self, owner: Any) -> None:
        # The context of a task refers to this, so that this must not refer to the task.
        self.owner = owner if isinstance(owner, int) else weakref.ref(owner)

    def are_of(self, owner: Any) -> bool:
        """Return whether they are this owner's."""
        return self.owner == owner or (not isinstance(self.owner, int) and self.owner() is owner)

    def newest_first(self) -> list[Any]:
        """Return those that are open, and forget the others: an abandoned generator may never
        leave its own.
        """
        found = []
        for reference in list(self)[::-1]:
            scope = reference()
            if scope is not None and scope.is_open:
                found.append(scope)
            else:
                self.pop(reference, None)
        return found


open_scopes: ContextVar[OpenScopes | None] = ContextVar("flask_pooled_db_scopes", default=None)
"""Contexts that are copied share it. So it may be that of the owner whose context was copied."""


def scopes_of(owner: Any) -> OpenScopes:
    """Return the open scopes of the caller, who is this owner."""
    scopes = open_scopes.get()
    if scopes is None or not scopes.are_of(owner):
        scopes = OpenScopes(owner)
        open_scopes.set(scopes)
    return scopes
