"""Errors at any line of the pool, of the lease, and of what tells their numbers."""

from __future__ import annotations

import contextlib
import linecache
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import flask_pooled_db
from flask_pooled_db.runtime import housekeeper
from flask_pooled_db.runtime.workers import THREADS
from tests.support.tracing import traced_by

PACKAGE = Path(flask_pooled_db.__file__).parent
TRACED = tuple(f"{PACKAGE / folder}/" for folder in ("pool", "lease", "host"))


class Injection:
    """Raises before the line of this number of the pool, the lease and the scope.

    Not where a `with` block is left: the interpreter reports its line once more, between the body
    and the call of `__exit__`. Nothing but a tracer can raise there.
    """

    def __init__(self, line: int, make: Callable[[], BaseException]) -> None:
        self._left = line
        self._make = make
        self._before: dict[FrameType, int] = {}  # the line that each frame was at
        self.is_done = False
        self.where = ""

    def __call__(self, frame: FrameType, event: str, arg: object) -> Any:
        if not frame.f_code.co_filename.startswith(TRACED):
            return None
        if event == "return":
            self._before.pop(frame, None)  # it holds what it works with
        if event == "line" and not self.is_done:
            before, self._before[frame] = self._before.get(frame, 0), frame.f_lineno
            if before <= frame.f_lineno or not self._is_with(frame):
                self._left -= 1
            if self._left < 0:
                self.is_done = True
                self._before.clear()
                self.where = f"{frame.f_code.co_filename}:{frame.f_lineno}"
                raise self._make()
        return self

    def _is_with(self, frame: FrameType) -> bool:
        line = linecache.getline(frame.f_code.co_filename, frame.f_lineno)
        return line.lstrip().startswith("with ")

    @contextlib.contextmanager
    def here(self) -> Iterator[None]:
        """In this thread."""
        try:
            with traced_by(self):
                yield
        finally:
            self._before.clear()  # frames hold what they work with

    @contextlib.contextmanager
    def in_background(self) -> Iterator[None]:
        """In the threads of the package, which begin anew."""
        housekeeper.pause(self, 20)
        before = threading.gettrace()
        threading.settrace(self._if_ours)
        housekeeper.resume(self)
        try:
            yield
        finally:
            threading.settrace(before)
            self._before.clear()

    def _if_ours(self, frame: FrameType, event: str, arg: object) -> Any:
        return self if threading.current_thread().name.startswith(THREADS) else None
