"""Workers of gunicorn that are killed and reloaded under load."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable

from harness.gunicorn import GunicornServer


def churn(
    gunicorn: GunicornServer,
    works: Iterable[Callable[[float], None]],
    *,
    seconds: float,
    turns: int,
) -> None:
    """Let each of these work in a thread until a time of the monotonic clock, `seconds` from now.
    In each turn meanwhile one worker is killed; in the second, all are reloaded instead.
    """
    until = time.monotonic() + seconds
    threads = [threading.Thread(target=work, args=(until,)) for work in works]
    for thread in threads:
        thread.start()
    for turn in range(turns):
        time.sleep(seconds / (turns + 1))
        if turn == 1:
            os.kill(gunicorn.pid, signal.SIGHUP)
        else:
            with contextlib.suppress(ProcessLookupError, IndexError):
                os.kill(gunicorn.workers()[0], signal.SIGKILL)
    for thread in threads:
        thread.join()
