"""Ctrl-C and SIGTERM while a command is at work that has to tidy up."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any, Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def interrupted_by(*signals: signal.Signals) -> Iterator[None]:
    """Have these signals raise KeyboardInterrupt in the block, as Ctrl-C does."""
    before: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():  # signals are no other's
        before = {each: signal.signal(each, _interrupt) for each in set(signals)}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


class Stopping:
    """A block in which the first of these signals is noted, and the second raises
    KeyboardInterrupt: whoever sends it does not want to wait.
    """

    def __init__(self) -> None:
        self.signum = 0  # of the first; 0: none has come
        self._before: dict[int, Any] = {}

    def is_asked(self) -> bool:
        """Return whether the command is to come to its end."""
        return self.signum > 0

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # signals are no other's
            for signum in _SIGNALS:
                self._before[signum] = signal.signal(signum, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        frames: TracebackType | None,
    ) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if self.signum:
            raise KeyboardInterrupt
        self.signum = signum
