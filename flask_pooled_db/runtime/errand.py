"""Calls that nothing can end, made for callers who wait for a limited time."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from flask_pooled_db.runtime.workers import workers

T = TypeVar("T")


class Errand(Generic[T]):
    """A call that a worker makes for a caller.

    If it takes too long, or the caller is interrupted, the worker is left alone with it, and has to
    tidy up by itself when the call has ended.
    """

    def __init__(
        self, name: str, call: Callable[[], T], tidy: Callable[[T | None], object]
    ) -> None:
        """`tidy` gets what the call returned after all, or None if it raised."""
        self._name = name
        self._call = call
        self._tidy = tidy
        self._lock = threading.Lock()  # guards whose the outcome is: the caller's or the worker's
        # The worker lets go of it at its end. No `threading.Event`: a signal handler that raises in
        # its `wait()` may leave it locked, and `set()` would never return.
        self._latch = threading.Lock()
        self._latch.acquire()
        self._thread: threading.Thread | None = None  # that has begun
        self._is_off = False
        self._has_ended = False
        self._outcome: T | None = None
        self._error: BaseException | None = None
        self.is_left = False

    def run(self, seconds: float) -> T:
        """Return what the call returns, or raise what it raises; `TimeoutError` if it takes longer.

        Raises RuntimeError if the system has no more threads.
        """
        is_interrupted = True  # by a signal handler; or there are no threads
        try:
            workers.start(self._name, self._work)
            self._latch.acquire(timeout=max(seconds, 0.0))
            is_interrupted = False
        finally:
            self._stop_waiting(is_interrupted)
        if self.is_left:
            raise TimeoutError("a call did not return by its time limit: it hangs in its driver")
        try:
            if self._error is not None:
                raise self._error
        finally:
            self._error = None  # its frames refer to this object
        return self._outcome  # type: ignore[return-value]  # it has ended without an error

    def _stop_waiting(self, is_interrupted: bool) -> None:
        with self._lock:
            self._is_off = is_interrupted and self._thread is None  # nobody has begun, or will
            self.is_left = not (self._is_off or self._has_ended)
        if self.is_left and self._thread is not None:
            workers.give_up_on(self._thread)
        if is_interrupted and self._has_ended and not self.is_left:
            with contextlib.suppress(Exception):  # the caller is to see what has interrupted it
                self._tidy(self._outcome)

    def _work(self) -> None:
        with self._lock:
            if self._is_off:
                return
            self._thread = threading.current_thread()
        try:
            self._outcome = self._call()
        except BaseException as error:  # noqa: BLE001  the caller is told
            self._error = error
        with self._lock:
            self._has_ended = True
            is_left = self.is_left
        self._latch.release()
        if is_left:
            self._tidy(self._outcome)
