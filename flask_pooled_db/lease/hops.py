"""How a task waits for the calls that worker threads make for it, and what cancelling it does."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import weakref
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Any, TypeVar

from flask_pooled_db.errors import CommitOutcomeUnknown, TransactionAborted
from flask_pooled_db.lease import refusals
from flask_pooled_db.lease.lease import Lease
from flask_pooled_db.lease.line import Job, Line, line_of
from flask_pooled_db.lease.mailbox import Mailbox, mailbox_of, settle
from flask_pooled_db.pool import Entry
from flask_pooled_db.pool.queue import Wait
from flask_pooled_db.pool.steps import Call, Step, Steps, Turn
from flask_pooled_db.runtime import crew, reporter

logger = logging.getLogger("flask_pooled_db")

T = TypeVar("T")

GLANCE = 0.05
"""Seconds between two tries to end a call whose task was cancelled."""

PATIENCE = 1.0
"""Seconds that a cancelled task waits for the end of its call, and for the answer of its COMMIT."""


def _future_of(job: Job, line: Line | None = None) -> asyncio.Future[None]:
    """Return what is done when a call has ended. A second one takes the place of the first."""
    loop = asyncio.get_running_loop()
    mailbox: Mailbox | None = None if line is None else line.mailbox
    if mailbox is None or mailbox.loop() is not loop:
        mailbox = mailbox_of(loop)
        if line is not None:
            line.mailbox = mailbox
    future: asyncio.Future[None] = loop.create_future()
    job.when_done(mailbox.put, future)
    return future


# Calls of leases


def _submit(
    lease: Lease,
    line: Line,
    function: Callable[..., Any],
    args: tuple[Any, ...],
    *,
    is_for_sure: bool = False,
) -> tuple[Job, asyncio.Future[None]]:
    """Have a call of a lease made in its turn. The future is done when the call has ended."""
    job = Job(function, args, lease, is_for_sure=is_for_sure)
    future = _future_of(job, line)
    line.submit(job)
    return job, future


async def call(lease: Lease, line: Line, function: Callable[..., Any], *args: Any) -> Any:
    """Make a call of a lease. A cancelled one is ended; its connection is not used again."""
    if line.is_left:
        raise refusals.left_alone()
    job, future = _submit(lease, line, function, args)
    try:
        await future
    except BaseException as error:
        if not line.drop(job):
            await _end(line, job, error)
        raise
    return job.result()


async def call_for_sure(lease: Lease, line: Line, function: Callable[..., Any], *args: Any) -> None:
    """Make a call of a lease that has to be made, whatever comes: a block is left."""
    job, future = _submit(lease, line, function, args, is_for_sure=True)
    try:
        await future
    except BaseException as error:
        await _end(line, job, error)
        raise
    job.result()


async def call_commit(lease: Lease, line: Line, function: Callable[..., Any], *args: Any) -> Any:
    """Make a call of a lease that commits. A cancelled one goes on for a while: what became of the
    COMMIT is to be known. Raises `CommitOutcomeUnknown` if it is not.
    """
    if line.is_left:
        raise refusals.left_alone()
    job, future = _submit(lease, line, function, args)
    try:
        await future
    except BaseException as error:
        if line.drop(job):
            raise
        if isinstance(error, asyncio.CancelledError):
            with contextlib.suppress(asyncio.CancelledError):  # one that can't wait that long
                await _wait(job, PATIENCE)
        if not job.is_finished and lease.has_committed_all is None:
            await _end(line, job, error)
        _tell_outcome(lease, job, error)
        raise
    return job.result()


def _tell_outcome(lease: Lease, job: Job, error: BaseException) -> None:
    """Say what became of a COMMIT to whoever sees the error that kept its task from waiting for it.

    A `CommitOutcomeUnknown` takes the place of a cancellation: who sees a timeout may start over.
    """
    failure, is_committed = job.error, lease.has_committed_all
    if not job.is_finished and not is_committed:
        # If it is known, what on_commit() has asked for before is still at work.
        is_lost = is_committed is None
        failure = refusals.outcome_unknown(error) if is_lost else TransactionAborted()
    if failure is None:
        error.add_note("This came after the end of the transaction: its work is committed.")
    elif not isinstance(failure, CommitOutcomeUnknown):
        error.add_note(f"The transaction was not committed ({type(failure).__name__}).")
    elif isinstance(error, asyncio.CancelledError):
        raise failure
    else:
        text = "A coroutine was closed amid its COMMIT: whether it took place is not known"
        reporter.tell(logger.error, text)


async def _end(line: Line, job: Job, error: BaseException) -> None:
    """End a call that its task does not wait for any more, and wait for a while until it has ended.

    If `error` says that the coroutine is being closed, nothing is awaited.
    """
    entry = job.abandon(asyncio.CancelledError())
    if is_closing(error):
        return
    deadline = monotonic() + PATIENCE
    while not job.is_finished and monotonic() < deadline:
        with contextlib.suppress(asyncio.CancelledError):  # that was asked for already
            await _wait(job, GLANCE)
        if entry is not None and not job.is_finished:
            entry.link.stop()  # what has just begun has not seen the first
    line.is_left = not job.is_finished


async def _wait(job: Job, seconds: float) -> None:
    """Wait until a call has ended, for up to `seconds`."""
    future = _future_of(job)
    if not job.is_finished:  # else the future before may have been told
        await asyncio.wait([future], timeout=seconds)


# What leads to a lease


class Bell:
    """Wakes a task that waits in line for a connection.

    The line has it, so it keeps neither the task nor the loop, which may be garbage.
    """

    __slots__ = ("_future", "_loop")

    def __init__(self) -> None:
        self._loop = weakref.ref(asyncio.get_running_loop())
        # While it is waited for; the loop's timer keeps it.
        self._future: weakref.ref[asyncio.Future[None]] | None = None

    @property
    def is_gone(self) -> bool:
        """Whether the task's loop is closed, so that nobody can be woken."""
        loop = self._loop()
        return loop is None or loop.is_closed()

    def ring(self) -> bool:
        """Wake the task, from any thread. Returns False if its loop is closed."""
        loop, future = self._loop(), None if self._future is None else self._future()
        if loop is None or future is None:
            return not self.is_gone
        return mailbox_of(loop).put(future)

    async def wait(self, wait: Wait) -> bool:
        """Take the step."""
        waiter, seconds = wait
        if not waiter.is_settled and seconds > 0:
            loop = asyncio.get_running_loop()
            future = loop.create_future()
            self._future = weakref.ref(future)
            if not waiter.is_settled:  # it is rung from now on
                timer = loop.call_later(seconds, settle, future)
                try:
                    await future
                finally:
                    timer.cancel()
            self._future = None
        return waiter.is_settled


async def take(steps: Steps[T], bell: Bell) -> T:
    """Take steps that may wait, and return what they lead to."""
    try:
        step = next(steps)
        while True:
            job = Job(step.function, step.args) if isinstance(step, Call) else None
            try:
                result = await _taken(step, job, bell)
            except BaseException as error:
                if job is not None and is_closing(error) and not job.is_finished:
                    _leave(job, steps)
                    raise
                step = steps.throw(error)
            else:
                step = steps.send(result)
    except StopIteration as end:
        led_to: T = end.value
        return led_to


async def _taken(step: Step, job: Job | None, bell: Bell) -> Any:
    if isinstance(step, Wait):
        return await bell.wait(step)
    if isinstance(step, Turn):
        line = line_of(step.lease)
        if line.is_idle:
            return step.take()
        return await call(step.lease, line, step.function, *step.args)
    assert job is not None  # noqa: S101  for the type checker
    return await _called(job, step.victim)


async def _called(job: Job, victim: Entry | None) -> Any:
    """Make a call that is no lease's. If it uses a connection, a cancelled one is ended, and waited
    for: its end has a time limit.
    """
    future = _future_of(job)
    crew.call(job.run_and_tell)
    try:
        await future
    except BaseException as error:
        if victim is not None and not job.is_finished:
            victim.link.stop()
        if isinstance(error, asyncio.CancelledError):
            while victim is not None and not job.is_finished:
                with contextlib.suppress(asyncio.CancelledError):
                    await _wait(job, GLANCE)
        raise
    return job.result()


def is_closing(error: BaseException | None) -> bool:
    """Return whether a coroutine with this error must not await: it is being closed. A closing that
    comes upon one that is under way is another error, and finds no loop.
    """
    if error is None or isinstance(error, GeneratorExit):
        return error is not None
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return True
    return False


def _leave(job: Job, steps: Steps[Any]) -> None:
    """Leave the steps to a worker that is at work for them: they end when its call has ended."""
    turns = deque([None])

    def close_once() -> None:
        with contextlib.suppress(IndexError):
            turns.pop()
            steps.close()

    job.when_done(close_once)
    if job.is_finished:  # then it may not see this
        close_once()
