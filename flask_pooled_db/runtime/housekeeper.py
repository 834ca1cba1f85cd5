"""One daemon thread per process that runs jobs on time.

A job must be short and must not block: the next job may be the deadline of another caller.
"""

from __future__ import annotations

import functools
import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from flask_pooled_db.runtime.workers import is_gone, wait_until

THREAD_NAME = "flask-pooled-db housekeeping"

logger = logging.getLogger("flask_pooled_db")


class Job:
    """A function that runs once, at a time of the monotonic clock."""

    __slots__ = ("_function", "when")

    def __init__(self, when: float, function: Callable[[], object]) -> None:
        self.when = when
        self._function: Callable[[], object] | None = function

    def cancel(self) -> None:
        """Keep the function from starting, and drop the reference to it."""
        self._function = None

    @property
    def cancelled(self) -> bool:
        return self._function is None

    def run(self) -> None:
        function, self._function = self._function, None
        if function is not None:
            function()


class Housekeeper:
    """Runs jobs in a thread that starts with the first job."""

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._changed_lock = threading.Lock()  # guards the fields below
        self._changed = threading.Condition(self._changed_lock)
        self._heap: list[tuple[float, int, Job]] = []
        self._numbers = itertools.count()
        self._thread: threading.Thread | None = None
        self._wakes_at = 0.0
        self._running: set[Job] = set()
        self._pauses = 0
        self._ran = threading.Condition(self._changed_lock)

    after_fork = _reset
    """Start afresh in a forked child: it has no such thread, and its lock may be held for good."""

    def call_at(self, when: float, function: Callable[[], object]) -> Job:
        """Run `function` in the housekeeping thread at `when`, a time of `time.monotonic`."""
        job = Job(when, function)
        with self._changed:
            heapq.heappush(self._heap, (when, next(self._numbers), job))
            thread = self._new_thread() if self._thread is None else None
            if when < self._wakes_at:
                self._changed.notify()
        self._start(thread)
        return job

    def _new_thread(self) -> threading.Thread | None:
        """Return a new thread for the caller to start without the lock, or None during a pause."""
        if self._pauses:
            return None
        self._thread = threading.Thread(target=self._run, name=THREAD_NAME, daemon=True)
        return self._thread

    def _start(self, thread: threading.Thread | None) -> None:
        # Without the lock: start() waits for the thread. If gevent patched the process after the
        # lock was made (a worker forked with --preload), waiting with the lock held is a deadlock.
        if thread is None:
            return
        try:
            thread.start()
        except RuntimeError:  # the system has no more threads: the next job tries again
            self._forget(thread)
            raise

    def _forget(self, thread: threading.Thread) -> None:
        with self._changed_lock:
            if self._thread is thread:
                self._thread = None

    def call_later(self, seconds: float, function: Callable[[], object]) -> Job:
        """Run `function` in `seconds` seconds."""
        return self.call_at(time.monotonic() + seconds, function)

    @contextmanager
    def bounded(self, seconds: float, function: Callable[[], object]) -> Iterator[None]:
        """Run `function` if the block takes longer than `seconds`.

        Once the block exits, `function` will not run; if it has started, the exit waits for it.
        """
        job = self.call_later(seconds, function)
        try:
            yield
        finally:
            with self._changed_lock:
                job.cancel()
                while job in self._running:
                    self._ran.wait()

    def stop(self) -> None:
        """End the thread and drop its jobs. The next job starts a new thread."""
        with self._changed:
            self._heap.clear()
            thread, self._thread = self._thread, None
            self._changed.notify_all()
        # A thread that is just being started ends by itself.
        if thread is not None and thread.is_alive() and thread is not threading.current_thread():
            thread.join()

    def pause(self, seconds: float) -> bool:
        """End the thread and keep its jobs until `resume()`.

        Waits at most `seconds`. Returns False if the lock was not free in that time.
        """
        if not self._changed_lock.acquire(timeout=seconds):
            return False
        try:
            self._pauses += 1
            thread, self._thread = self._thread, None
            self._changed.notify_all()
        finally:
            self._changed_lock.release()
        if thread is not None and thread is not threading.current_thread():
            wait_until(functools.partial(is_gone, thread), seconds)
        return True

    def resume(self) -> None:
        """Run jobs again after a pause."""
        with self._changed:
            self._pauses -= 1
            thread = self._new_thread() if self._heap and self._thread is None else None
        self._start(thread)

    def _run(self) -> None:
        try:
            while (job := self._next()) is not None:
                self._run_job(job)
        finally:
            self._forget(threading.current_thread())

    def _run_job(self, job: Job) -> None:
        try:
            job.run()
        except Exception:
            logger.exception("A housekeeping job failed")
        finally:
            with self._changed_lock:
                self._running.discard(job)
                self._ran.notify_all()

    def _next(self) -> Job | None:
        """Wait for the next due job and return it, or None if this thread has to end."""
        with self._changed:
            while self._thread is threading.current_thread():
                while self._heap and self._heap[0][2].cancelled:
                    heapq.heappop(self._heap)
                now = time.monotonic()
                if self._heap and self._heap[0][0] <= now:
                    job = heapq.heappop(self._heap)[2]
                    self._running.add(job)
                    return job
                self._wakes_at = self._heap[0][0] if self._heap else float("inf")
                self._changed.wait(self._heap[0][0] - now if self._heap else None)
            return None


housekeeper = Housekeeper()
