"""Publishing, and looking for orders: once a second, in a thread of its own, from the first use of
a pool to the end.

The housekeeping says when, and waits for nothing. There is one thread at a time that writes: if the
disk hangs, no second one comes.
"""

from __future__ import annotations

import contextlib
import functools
import traceback
import weakref
from collections.abc import Callable
from dataclasses import replace
from time import monotonic, thread_time
from typing import Protocol

from flask_pooled_db.host import report
from flask_pooled_db.host.directory import Location, Unusable, silence
from flask_pooled_db.host.duties import CarryOut, Duties, refuse
from flask_pooled_db.host.giving import Giving
from flask_pooled_db.host.ledger import claim as settling
from flask_pooled_db.host.member import Member
from flask_pooled_db.host.presence import forget_own
from flask_pooled_db.host.records import Numbers
from flask_pooled_db.host.report import HostStats
from flask_pooled_db.host.trouble import Trouble
from flask_pooled_db.pool.census import Census
from flask_pooled_db.runtime import Errand, Job, Part, guard, housekeeper, join, workers

FIRST_INTERVAL, INTERVAL = 0.25, 1.0
"""Seconds from the first use to the first publication, and between two of them."""

MOST_WORK = 0.01
"""The share of a processor that publishing may take. What needs more is published less often."""

PACE = 0.25
"""Seconds between two looks while an order is carried out."""

PATIENCE = 1.0
"""Seconds that anybody waits for the disk."""


class Source(Protocol):
    """Where the numbers of a process come from, and how those of several are added up."""

    def collect(self) -> Numbers:
        """Return the numbers of this process. It is called by any thread, by one at a time."""

    def merge(self, totals: Numbers, numbers: Numbers) -> Numbers:
        """Return new totals of the counters; each of the two may be totals, or the first empty."""

    def after_fork(self) -> None:
        """In a forked child, forget what was counted in the parent."""


class Publisher:
    """Publishes the numbers of an app in this process, and reads those of all its processes."""

    def __init__(self, location: Location, source: Source, carry_out: CarryOut = refuse) -> None:
        """`carry_out` does what this process is ordered to."""
        self._source = source
        self._duties = Duties(carry_out)
        self._member = Member(location, source.merge)
        self._claim = self._member.claim  # whose holder uses the source as well
        self._trouble = Trouble()
        self._job: Job | None = None
        self._due = 0.0  # when it publishes next, by time.monotonic
        self._is_over = False
        publishing.know(self)

    def begin(self) -> None:
        """Publish from now on. It may be called often, and costs nothing then."""
        if (self._job is None or self._job.cancelled) and not self._is_over:
            publishing.add(self._member)  # first: an interruption may come before each line
            if self._member.started is None:
                self._member.started = monotonic()
            self._schedule(FIRST_INTERVAL)

    def _schedule(self, seconds: float) -> None:
        turn = functools.partial(_take_turn, weakref.ref(self), self._member)
        before, self._job = self._job, housekeeper.call_later(seconds, turn)
        if before is not None:
            before.cancel()

    def take_turn(self) -> None:
        """Publish, in another thread. The housekeeping calls this."""
        if self._is_over:
            return
        writer = self._claim.holder
        try:
            if writer is None or not writer.is_alive():
                workers.start("publisher", self._work)
            elif self._is_silent():
                workers.give_up_on(writer)  # a fork must not wait for it either
                self._trouble.tell(silence())
        except RuntimeError:  # the system has no more threads: next time it may
            pass
        finally:
            self._schedule(self._pause())

    def _pause(self) -> float:
        return min(INTERVAL, PACE) if self._duties.is_busy else INTERVAL

    def _is_silent(self) -> bool:
        """Whether somebody waits for the disk for too long. Then no other needs to."""
        writer, since = self._claim.holder, self._claim.since
        return writer is not None and writer.is_alive() and monotonic() - since > PATIENCE

    def _work(self) -> None:
        """Publish if it is time to, and look for orders."""
        is_due, began = monotonic() >= self._due, thread_time()
        with contextlib.suppress(Unusable):  # it was told
            self._at_work(self._publish_now if is_due else self._attend_now, 0.0)
        if is_due:
            interval = max(INTERVAL, (thread_time() - began) / MOST_WORK)
            self._due = monotonic() + interval - INTERVAL / 2  # no turn comes at its very time
        if self._duties.is_busy and not self._is_over:
            self._schedule(self._pause())

    def _publish_now(self) -> None:
        if not self._is_over:  # else it would be counted twice
            self._member.publish(self._source.collect(), self._duties.attend)
            self._trouble.end()

    def _attend_now(self) -> None:
        if not self._is_over:
            self._member.attend(self._duties.attend)

    def _at_work(self, work: Callable[[], object], patience: float) -> None:
        """Do what one thread may do at a time, unless another is at it. Tells what is wrong, and
        raises it as `Unusable`.
        """
        if not self._claim.take(patience):
            return
        try:
            work()
        except Unusable as error:
            self._trouble.tell(error)
            raise
        except Exception as error:
            text = f"collecting the numbers failed:\n{traceback.format_exc()}"
            self._trouble.tell(Unusable(type(error).__name__, text))
            raise Unusable("error", f"collecting the numbers failed: {error!r}") from error
        finally:
            self._claim.drop()

    # Those who ask, and the end

    def read(self) -> HostStats:
        """Return what all processes have published; this one publishes first, if it does so at all.
        So who asks one process after the other never sees less than before.
        """
        if guard.is_inside():
            return self._alone(
                "asked by what has interrupted the pool, which can't wait for a disk"
            )
        if self._is_silent():
            return self._alone(str(silence()))
        try:
            return Errand("reader", self._publish_and_read, lambda _: None).run(2 * PATIENCE)
        except TimeoutError:
            return self._alone(str(silence()))
        except Unusable as error:
            return self._alone(str(error))
        except Exception as error:  # noqa: BLE001  no request fails for it: threads may run out
            return self._alone(f"reading the numbers failed: {error!r}")

    def _publish_and_read(self) -> HostStats:
        trouble: Unusable | None = None
        if self._member.started is not None:
            try:
                self._at_work(self._publish_now, PATIENCE)
            except Unusable as error:
                trouble = error
        stats = report.read(self._member.location, self._source.merge)
        if trouble is None:
            return stats
        if all(one.token != self._member.token for one in stats.processes):
            raise trouble
        return replace(stats, problem=str(trouble))  # with what it has published before

    def _alone(self, problem: str) -> HostStats:
        try:
            numbers = self._source.collect()
        except Exception:  # noqa: BLE001  that it fails is logged where it is published
            numbers = {}
        return report.alone(numbers, self._source.merge, problem, self._member.started)

    def giving(self) -> Giving:
        """Return what gives an order to all processes of the app but this one."""
        return Giving(self._member.location, self._member.token)

    def end(self, seconds: float = PATIENCE) -> None:
        """Publish for the last time, and be counted among those that have ended. Waits up to
        `seconds` for the disk.
        """
        self._is_over = True
        self._duties.withdraw()
        job, self._job = self._job, None
        if job is None:
            return
        job.cancel()
        try:
            with contextlib.suppress(Unusable, TimeoutError):
                if guard.is_inside():  # nothing may wait there
                    workers.start("publisher", self._retire)
                else:
                    Errand("publisher", self._retire, lambda _: None).run(seconds)
        except RuntimeError:  # the system has no more threads
            _let_leave(self._member)

    def _retire(self) -> None:
        self._at_work(self._retire_now, PATIENCE)

    def _retire_now(self) -> None:
        self._duties.withdraw()  # again: one may have begun meanwhile
        self._member.retire(self._source.collect())
        publishing.remove(self._member)  # last: what is interrupted before is left to the exit

    def after_fork(self) -> None:
        """In a forked child, publish nothing before its own first use of a pool."""
        self._job = None
        self._member.after_fork()  # it has a token also if the parent has published nothing
        self._duties.after_fork()
        self._due = 0.0
        self._source.after_fork()


def _take_turn(reference: weakref.ref[Publisher], member: Member) -> None:
    """Have an app publish, or tidy up if it is garbage."""
    publisher = reference()
    if publisher is not None:
        publisher.take_turn()
        return
    _let_leave(member)


def _let_leave(member: Member) -> None:
    """Have a member leave, in a thread of its own, as soon as the system has one."""
    try:
        workers.start("publisher", functools.partial(_leave, member))
    except RuntimeError:
        housekeeper.call_later(INTERVAL, functools.partial(_let_leave, member))


def _leave(member: Member) -> None:
    """Have a member leave, unless the last thread of its app is still at work with it."""
    if not member.claim.take(PATIENCE):
        return
    try:
        with contextlib.suppress(Unusable):
            member.retire(None)
        publishing.remove(member)  # last: what did not come so far is left to the exit
    finally:
        member.claim.drop()


class Publishing(Part):
    """All that publish in this process."""

    def __init__(self) -> None:
        self._publishers: Census[Publisher] = Census()
        self._members: set[Member] = set()  # those that have files, or will have

    def know(self, publisher: Publisher) -> None:
        """Take part in forks for one."""
        self._publishers.add(publisher)

    def add(self, member: Member) -> None:
        """Remember that it may have files, also when its app is garbage."""
        with guard.lock:
            self._members.add(member)

    def remove(self, member: Member) -> None:
        """It has no files any more."""
        with guard.lock:
            self._members.discard(member)

    def after_fork_in_child(self) -> None:
        settling.after_fork()
        for member in list(self._members):
            member.after_fork()
        forget_own()
        self._members.clear()
        for publisher in self._publishers.members():
            publisher.after_fork()

    def at_exit(self) -> None:
        deadline = monotonic() + PATIENCE  # of all together
        for publisher in self._publishers.members():
            with contextlib.suppress(Exception):
                publisher.end(max(deadline - monotonic(), 0.0))
        for member in list(self._members):  # of garbage, or interrupted as they left
            with contextlib.suppress(Exception):
                leave = functools.partial(_leave, member)
                Errand("publisher", leave, lambda _: None).run(max(deadline - monotonic(), 0.0))


publishing = Publishing()
join(5, publishing)
