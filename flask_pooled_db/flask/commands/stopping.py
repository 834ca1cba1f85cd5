"""Ctrl-C and SIGTERM while a command is at work that has to tidy up."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def interrupted_by(*signals: signal.Signals) -> Iterator[None]:
    """Have these signals raise KeyboardInterrupt in the block, as Ctrl-C does."""
    with _handled_by(_interrupt, signals):
        yield


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@contextlib.contextmanager
def _handled_by(
    handler: Callable[[int, FrameType | None], None], signals: Iterable[signal.Signals]
) -> Iterator[None]:
    before: dict[signal.Signals, Any] = {}
    try:
        if threading.current_thread() is threading.main_thread():  # signals are no other's
            for each in set(signals):
                before[each] = signal.signal(each, handler)
        yield
    finally:
        for each, former in before.items():
            signal.signal(each, former)


class Stopping:
    """Whether a command is to come to its end early."""

    def __init__(self) -> None:
        self.signum = 0  # of the first signal; 0: none has come

    def is_asked(self) -> bool:
        """Return whether the command is to come to its end."""
        return self.signum > 0

    @contextlib.contextmanager
    def noting(self) -> Iterator[None]:
        """Have the first signal in the block noted, and the second raise KeyboardInterrupt: whoever
        sends it does not want to wait.
        """
        with _handled_by(self._note, _SIGNALS):
            yield

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if self.signum:
            raise KeyboardInterrupt
        self.signum = signum
