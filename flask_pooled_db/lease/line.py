"""Calls of a lease that worker threads make for tasks of event loops.

The calls of one lease come one after the other, in the order they were asked for. Each is the call
of its task: `current_owner()` is the task, and its statements belong to the part of the transaction
that the task was in.
"""

from __future__ import annotations

import contextvars
import functools
import weakref
from collections import deque
from collections.abc import Callable
from threading import get_ident
from typing import Any

from flask_pooled_db.lease import refusals
from flask_pooled_db.lease.lease import Lease
from flask_pooled_db.lease.owner import current_owner, is_running, stand_ins
from flask_pooled_db.lease.preamble import ANYWHERE
from flask_pooled_db.pool import Entry
from flask_pooled_db.runtime import crew, guard

CANCELLED = "the task that it worked for was cancelled"


class Job:
    """A call that a worker makes as its task would: in a copy of its context and, if it is a
    lease's, in its part of the transaction.
    """

    is_started = is_dropped = is_finished = False
    outcome: Any = None
    error: BaseException | None = None
    _abandoned_by: BaseException | None = None
    _when_done: tuple[Any, ...] | None = None

    def __init__(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        lease: Lease | None = None,
        *,
        is_for_sure: bool = False,
    ) -> None:
        """`is_for_sure`: it is made whatever comes, as is one that nobody waits for."""
        self._is_for_sure = is_for_sure
        self._function = function
        self._args = args
        self._lease = lease
        self._context = contextvars.copy_context()
        self._owner = current_owner()
        self._part = None if lease is None else lease.innermost()

    def run(self) -> None:
        """Make the call."""
        me, lease = get_ident(), self._lease
        stand_ins[me] = self._owner
        if lease is not None:
            lease.work_in(self._part)
        try:
            self.outcome = self._context.run(self._function, *self._args)
        except BaseException as error:  # noqa: BLE001  its task is told
            self.error = error
        self._args = ()
        stand_ins.pop(me, None)  # gone after a fork
        if lease is not None:
            lease.work_in(ANYWHERE)
        self.is_finished = True
        if self._abandoned_by is not None and lease is not None:
            lease.break_off(self._abandoned_by, CANCELLED)

    def run_or_fail(self) -> None:
        """Make the call here if it has to be made: it ends a lease. Any other fails, for its task
        is told, and this thread may be that of an event loop.
        """
        if self._is_for_sure or self._when_done is None:
            self.run()
            return
        self._args = ()
        self.error = RuntimeError("no thread could start that makes this call")
        self.is_finished = True

    def when_done(self, tell: Callable[..., object], *args: Any) -> None:
        """Have a function called in the worker when the call has ended: the last one given."""
        self._when_done = (tell, *args)

    def tell(self) -> None:
        """Tell who waits for the end of the call."""
        if self._when_done is not None:
            tell, *args = self._when_done
            tell(*args)

    def run_and_tell(self) -> None:
        """Make the call, and tell who waits for its end."""
        self.run()
        self.tell()

    def abandon(self, cause: BaseException) -> Entry | None:
        """Have the call end soon, and its connection not used again: its task is gone. Returns the
        connection, unless the call has ended or has given it back before.
        """
        self._abandoned_by = cause
        if self._lease is None or self.is_finished:
            return None
        return self._lease.give_up(CANCELLED)

    def result(self) -> Any:
        """Return what the call has returned, or raise what it has raised."""
        error, self.error = self.error, None  # whose frames refer to this
        if error is not None:
            raise error
        return self.outcome


class Line:
    """The calls of one lease that wait for their turn."""

    __slots__ = ("__weakref__", "_awaited", "_is_at_work", "_jobs", "face", "is_left", "mailbox")

    def __init__(self) -> None:
        self.mailbox: Any = None  # of the loop that it was last used in
        self.face: weakref.ref[Any] | None = None  # what tasks use of the lease
        self._jobs: deque[Job] = deque()
        self._is_at_work = False
        self._awaited: object = None  # what a worker knows that is to begin, until it does
        self.is_left = False  # with a call that nothing could end, and that nobody waits for

    @property
    def is_idle(self) -> bool:
        """Whether no call is under way, nor waits."""
        return not self._is_at_work

    def submit(self, job: Job) -> None:
        """Have a call made when those before it have ended. Raises RuntimeError if the system has
        no more threads.
        """
        start = object()
        try:
            with guard.lock:
                self._jobs.append(job)
                if not self._is_at_work:
                    self._is_at_work, self._awaited = True, start
            if self._awaited is start:
                crew.call(functools.partial(self._work, start))
        except BaseException:
            self.drop(job)
            # Others may have come meanwhile, and rely on the worker that was to begin.
            if self._begins(start):
                self._work_off(Job.run_or_fail)
            raise

    def drop(self, job: Job) -> bool:
        """Have a call not made, if it has not begun. Returns whether that is so."""
        with guard.lock:
            job.is_dropped = not job.is_started
        return job.is_dropped

    def _work(self, start: object) -> None:
        if self._begins(start):
            self._work_off(Job.run)

    def _begins(self, start: object) -> bool:
        """Return whether it is the caller who works the line off: one alone."""
        with guard.lock:
            begins = self._awaited is start
            if begins:
                self._awaited = None
            return begins

    def _work_off(self, make: Callable[[Job], None]) -> None:
        job = self._next()
        while job is not None:
            make(job)
            following = self._next()  # the line is idle before the task goes on
            job.tell()
            job = following

    def _next(self) -> Job | None:
        with guard.lock:
            while self._jobs:
                job = self._jobs.popleft()
                if not job.is_dropped:
                    job.is_started = True
                    return job
            self._is_at_work = False
        return None


def refuse_to_disturb(lease: Lease) -> None:
    """Raise if a call of a lease is under way for another task."""
    line: Line | None = getattr(lease, "line", None)
    if line is not None and not line.is_idle:
        raise refusals.in_use()


def end_in_turn(lease: Lease, reason: str, end: Callable[[], object]) -> None:
    """Call what ends a lease in place of its owner, and raises nothing: here, or if workers have
    calls of it, after them. Those of a task that nobody runs any more are ended.
    """
    line: Line | None = getattr(lease, "line", None)
    try:
        if line is not None and not line.is_idle:
            if not is_running(lease.owner):
                lease.give_up(reason)
            line.submit(Job(end, ()))
            return
    except RuntimeError:  # they have ended at that moment, and no thread can start
        pass
    end()


def line_of(lease: Lease) -> Line:
    """Return the line of a lease: one for all who use it."""
    line: Line | None = getattr(lease, "line", None)
    if line is None:
        lease.line = line = Line()
    return line
