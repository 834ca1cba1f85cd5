"""Coverage, where it is measured."""

from __future__ import annotations

import importlib
import os
import pkgutil
import sys
from typing import Any

import flask_pooled_db

_CHILDREN = "COVERAGE_PROCESS_CONFIG"


class Measuring:
    """Switches coverage off and on again, in this process and the programs that it starts."""

    def __init__(self) -> None:
        self._coverage: Any = None
        self._of_children = os.environ.get(_CHILDREN)
        self._is_on = True
        if "coverage" in sys.modules:
            self._coverage = sys.modules["coverage"].Coverage.current()

    def import_all(self) -> None:
        """Import the whole package, so that this is measured whatever needs a module first."""
        if self._coverage is None:
            return
        for module in pkgutil.walk_packages(flask_pooled_db.__path__, "flask_pooled_db."):
            importlib.import_module(module.name)

    def switch(self, *, on: bool) -> None:
        """Measure from now on, or not."""
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
