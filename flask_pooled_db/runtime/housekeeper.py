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
import traceback
from collections.abc import Callable
from types import TracebackType

from flask_pooled_db.runtime import guard
from flask_pooled_db.runtime.reporter import reporter
from flask_pooled_db.runtime.workers import THREADS, is_gone, wait_until

THREAD_NAME = THREADS + "housekeeping"

logger = logging.getLogger("flask_pooled_db")


END_PATIENCE = 5.0
"""Seconds that the end of the thread is waited for: a job that blocks must not hold up the exit."""


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
    """Runs jobs in a thread that starts with the first job. The lock of the package guards it."""

    def __init__(self) -> None:
        self._is_over = False
        self._reset()

    def _reset(self) -> None:
        self._changed = threading.Condition(guard.lock)
        self._ran = threading.Condition(guard.lock)
        self._heap: list[tuple[float, int, Job]] = []
        self._numbers = itertools.count()
        self._thread: threading.Thread | None = None
        self._wakes_at = 0.0
        self._running: set[Job] = set()
        self._pauses: set[object] = set()  # forks under way

    after_fork = _reset
    """Start afresh in a forked child: it has no such thread."""

    def call_at(self, when: float, function: Callable[[], object]) -> Job:
        """Run `function` in the housekeeping thread at `when`, a time of `time.monotonic`."""
        job = Job(when, function)
        self.schedule(job)
        return job

    def call_later(self, seconds: float, function: Callable[[], object]) -> Job:
        """Run `function` in `seconds` seconds."""
        return self.call_at(time.monotonic() + seconds, function)

    def bounded(self, seconds: float, function: Callable[[], object]) -> Bound:
        """Return a block; `function` is run if it takes longer than `seconds`."""
        return Bound(self, seconds, function)

    def schedule(self, job: Job) -> None:
        if self._is_over:
            return
        with guard.lock:
            heapq.heappush(self._heap, (job.when, next(self._numbers), job))
        self.ensure_runs()

    def ensure_runs(self) -> bool:
        """Start the thread if there is none, and wake it for the next job. Returns False if the
        system has no more threads: the jobs wait for the next call.
        """
        thread = None
        try:
            with guard.lock:
                if self._heap and self._heap[0][0] < self._wakes_at:
                    self._changed.notify()
                wants = bool(self._heap) and self._thread is None and not self._pauses
                if wants and not self._is_over:
                    thread = threading.Thread(target=self._run, name=THREAD_NAME, daemon=True)
                    self._thread = thread
            if thread is not None:
                thread.start()  # without the lock: it waits for the thread
        except BaseException as error:
            if thread is not None:
                self._forget(thread)
            if isinstance(error, Exception):
                return False
            raise
        return True

    @property
    def is_current(self) -> bool:
        """Whether this is the housekeeping thread, or the process is ending: nothing may wait."""
        return self._is_over or self._thread is threading.current_thread()

    def drop(self, job: Job) -> None:
        """Cancel a job. If it has started, wait for its end."""
        with guard.lock:
            job.cancel()
            while job in self._running:
                self._ran.wait()

    def _forget(self, thread: threading.Thread) -> None:
        with guard.lock:
            if self._thread is thread:
                self._thread = None

    def stop(self, *, for_good: bool = False) -> None:
        """End the thread and drop its jobs. The next job starts a new one, unless it is for good:
        while Python shuts down no thread can start any more.
        """
        with guard.lock:
            self._is_over = for_good
            self._heap.clear()
            thread, self._thread = self._thread, None
            self._changed.notify_all()
        # A thread that is just being started ends by itself.
        if thread is not None and thread.is_alive() and thread is not threading.current_thread():
            thread.join(END_PATIENCE)

    def pause(self, fork: object, seconds: float) -> None:
        """End the thread and keep its jobs until `resume()`. Waits at most `seconds`; if the caller
        holds the lock, for which the thread waits, it does nothing.
        """
        if guard.is_inside():
            return
        with guard.lock:
            self._pauses.add(fork)
            thread, self._thread = self._thread, None
            self._changed.notify_all()
        if thread is not None and thread is not threading.current_thread():
            wait_until(functools.partial(is_gone, thread), seconds)

    def resume(self, fork: object) -> None:
        """Run jobs again after a pause."""
        with guard.lock:
            self._pauses.discard(fork)
        self.ensure_runs()

    def _run(self) -> None:
        try:
            while (job := self._next()) is not None:
                self._run_job(job)
        finally:
            self._forget(threading.current_thread())

    def _run_job(self, job: Job) -> None:
        try:
            job.run()
        except Exception:  # noqa: BLE001  the thread goes on
            # As text: whoever keeps an error keeps what its frames were at work with.
            reporter.tell(logger.error, "A housekeeping job failed:\n%s", traceback.format_exc())
        finally:
            with guard.lock:
                self._running.discard(job)
                self._ran.notify_all()

    def _next(self) -> Job | None:
        """Wait for the next due job and return it, or None if this thread has to end."""
        with guard.lock:
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


class Bound:
    """A block that has its function run if it takes too long.

    Once the block exits, the function will not run; if it has started, the exit waits for it.
    """

    __slots__ = ("_function", "_job", "_keeper", "_seconds")

    def __init__(self, keeper: Housekeeper, seconds: float, function: Callable[[], object]) -> None:
        self._keeper = keeper
        self._seconds = seconds
        self._function = function

    def __enter__(self) -> None:
        self._job = Job(time.monotonic() + self._seconds, self._function)
        try:
            self._keeper.schedule(self._job)
        except BaseException:
            self._job.cancel()
            raise

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        frames: TracebackType | None,
    ) -> None:
        self._keeper.drop(self._job)


housekeeper = Housekeeper()
