"""Ctrl-C, SIGTERM and the end of the terminal while a command is at work that has to tidy up."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import Any

_HANGUP = getattr(signal, "SIGHUP", None)  # Windows has none

ENDS = (signal.SIGTERM,) if _HANGUP is None else (signal.SIGTERM, _HANGUP)
"""What ends a command whose terminal, or whose session, ends."""


@contextlib.contextmanager
def interrupted_by(*signals: signal.Signals) -> Iterator[None]:
    """Have these signals raise KeyboardInterrupt in the block, as Ctrl-C does. One that is ignored
    stays so, as SIGHUP under nohup.
    """
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
            for each in signals:
                if signal.getsignal(each) is not signal.SIG_IGN:
                    before[each] = signal.signal(each, handler)
        yield
    finally:
        for each, former in before.items():
            signal.signal(each, former)


class Stopping:
    """Whether a command is to come to its end early."""

    def __init__(self) -> None:
        self.signum = 0  # of the first signal; 0: none has come
        self._was_told = False  # by somebody, and not by the end of the terminal

    def is_asked(self) -> bool:
        """Return whether the command is to come to its end."""
        return self.signum > 0

    @contextlib.contextmanager
    def noting(self) -> Iterator[None]:
        """Have the first signal in the block noted, and the second raise KeyboardInterrupt: whoever
        sends it does not want to wait. The end of a terminal is never the second: it comes more
        than once, from the shell and from the system, and with SIGTERM where a session ends.
        """
        with _handled_by(self._note, (signal.SIGINT, *ENDS)):
            yield

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self.signum = self.signum or signum
        if signum == _HANGUP:
            return
        if self._was_told:
            raise KeyboardInterrupt
        self._was_told = True
