"""How the programs that start servers end when they are told to."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

# What a command line begins with to have Ctrl-C work as at a terminal: a shell's background jobs
# ignore it, and what they start inherits that.
AS_AT_A_TERMINAL = ("env", "--default-signal=INT")

_ENDING = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)


def unwind_on_signals() -> None:
    """Have Ctrl-C, SIGTERM and SIGHUP unwind this process, so that what it started is ended.

    The exit status is the shell's for that signal, 143 for SIGTERM. A signal that was ignored from
    the start, as under nohup, stays ignored.
    """
    for signum in _ENDING:
        if signal.getsignal(signum) is not signal.SIG_IGN:
            signal.signal(signum, _unwind)


def _unwind(signum: int, frame: FrameType | None) -> None:
    # The next signal, of an impatient Ctrl-C, would interrupt the ending of servers.
    for each in _ENDING:
        signal.signal(each, signal.SIG_IGN)
    raise SystemExit(128 + signum)


@contextlib.contextmanager
def handled(signum: signal.Signals, how: signal.Handlers) -> Iterator[None]:
    """Have a signal ignored, or do what it does by itself, in the block, whoever has started this
    process. What is started in the block inherits that.
    """
    before = signal.signal(signum, how)
    try:
        yield
    finally:
        signal.signal(signum, before)
