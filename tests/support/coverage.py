"""Coverage, where it is measured."""

from __future__ import annotations

import importlib
import os
import pkgutil
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

import flask_pooled_db

_CHILDREN = "COVERAGE_PROCESS_CONFIG"
_MEASURED = 4
"""How many examples of a parametrized test have their coverage measured: one for each driver, most
often.
"""
_repeats = pytest.StashKey[bool]()


def lock_in_c() -> None:
    """Have coverage take and release its lock without a Python function around it, from its next
    start on.

    It does so at each call that it measures (7.17), and a signal handler that raises in between, as
    those of the tests do, would leave the lock taken: all other threads then wait for good.
    """
    collector: Any = importlib.import_module("coverage.collector").Collector
    collector.lock_data = property(lambda self: self.data_lock.acquire)
    collector.unlock_data = property(lambda self: self.data_lock.release)


class Measuring:
    """Switches coverage off and on again, in this process and the programs that it starts."""

    def __init__(self) -> None:
        self._coverage: Any = None
        self._of_children = os.environ.get(_CHILDREN)
        self._is_on = True
        if "coverage" in sys.modules:
            lock_in_c()
            self._coverage = sys.modules["coverage"].Coverage.current()

    def pause_for_collection(self) -> None:
        """Measure no more until the first test. The whole package is imported before, so that this
        is measured whatever needs a module first: the collection runs nothing else of it.
        """
        if self._coverage is None:
            return
        for module in pkgutil.walk_packages(flask_pooled_db.__path__, "flask_pooled_db."):
            importlib.import_module(module.name)
        self._switch(on=False)

    def begin(self, item: pytest.Item) -> None:
        """Measure a test that begins, or not: none that is slow, nor the later examples of a
        parametrized test. They come by the same lines again, and take two to three times as long
        when each is counted.
        """
        is_slow = item.get_closest_marker("slow") is not None
        self._switch(on=not is_slow and not item.stash.get(_repeats, False))

    def _switch(self, *, on: bool) -> None:
        if self._coverage is None or on == self._is_on:
            return
        self._is_on = on
        if not on:
            self._coverage.stop()
            os.environ.pop(_CHILDREN, None)
            return
        if self._of_children is not None:
            os.environ[_CHILDREN] = self._of_children
        # What it has patched for forks is patched for good: once more would be too often.
        patches = self._coverage.get_option("run:patch")
        self._coverage.set_option("run:patch", [])
        self._coverage.start()
        self._coverage.set_option("run:patch", patches)


def note_repeats(items: Sequence[pytest.Item]) -> None:
    """Note which are later examples of a parametrized test."""
    examples: Counter[str] = Counter()
    for item in items:
        function = item.nodeid.partition("[")[0]
        examples[function] += 1
        item.stash[_repeats] = examples[function] > _MEASURED
