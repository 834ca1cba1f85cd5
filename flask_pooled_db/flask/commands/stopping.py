"""Ctrl-C and SIGTERM while a command is at work that has to tidy up."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


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
