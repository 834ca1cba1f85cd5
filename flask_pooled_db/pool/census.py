"""Counting what somebody holds."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Census(Generic[T]):
    """Counts objects for as long as somebody holds them, or until they are discarded.

    Unlike a `WeakSet` it runs no Python code when one of them is garbage: a signal handler may
    raise in any, and the object would be counted for good. Nor does it when it is listed, so that
    any thread may add objects, and drop them, meanwhile.
    """

    def __init__(self) -> None:
        self._references: set[weakref.ref[T]] = set()

    def __len__(self) -> int:
        return len(self._references)

    def __contains__(self, one: T) -> bool:
        return weakref.ref(one) in self._references

    def __iter__(self) -> Iterator[T]:
        return iter(self.members())

    def members(self) -> list[T]:
        """Return those that somebody holds."""
        found = [reference() for reference in list(self._references)]  # a copy, made in one step
        return [one for one in found if one is not None]

    def add(self, one: T) -> None:
        """Count an object."""
        self._references.add(weakref.ref(one, self._references.discard))

    def discard(self, one: T) -> None:
        """Count an object no more."""
        self._references.discard(weakref.ref(one))
