"""The errors of a pool, and the sentences in them. None of them holds a password."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

from flask_pooled_db.config import shown
from flask_pooled_db.drivers import words_of_asking
from flask_pooled_db.errors import (
    ConfigError,
    ConnectFailed,
    PoolClosed,
    PooledDBError,
    PoolTimeout,
    UsageError,
)
from flask_pooled_db.pool.holding import Holder

MOST_NAMED = 3
"""How many holders of connections a message names."""

WORDS = "pooled_db_words"
"""The attribute of a connect's error with what its driver says that is safe to show."""


class Snapshot(NamedTuple):
    """One consistent look at the state of a pool; `PoolStats` has the meaning of its fields."""

    open: int
    in_use: int
    idle: int
    waiting: int
    maxconnections: int
    longest_lease: float


class Shortage(NamedTuple):
    """What a limit over several pools has, and which pool has the most of it."""

    open: int
    limit: int
    bind: str
    most: int

    def __str__(self) -> str:
        return (
            f"all binds together have {self.open} of {self.limit} connections open "
            f"(POOLED_DB_BINDS_MAXCONNECTIONS), bind {shown(self.bind)} the most with {self.most}"
        )


def pool_timeout(
    bind: str,
    now: Snapshot,
    waited: float,
    cause: BaseException | None,
    *,
    may_wait: bool,
    outage: float = 0.0,
    shortage: Shortage | None = None,
    holders: Sequence[Holder] = (),
) -> PoolTimeout:
    """Return the error of a caller that got no connection, with the last connect error as cause.

    `outage` is for how many seconds connecting has failed, if callers are turned away for that,
    `shortage` what a limit over several pools has, if that was in the way; `holders` are those who
    hold connections, the longest first.
    """
    limit = now.maxconnections or "an unlimited number"
    what = f"in {waited:.1f} s" if may_wait else "without waiting any more"
    text = (
        f"no connection {what} from the pool of bind {shown(bind)}: of {limit}, "
        f"{now.in_use} are in use and {now.idle} idle, {now.waiting} others wait, "
        f"the longest lease is {now.longest_lease:.1f} s old"
    )
    if holders:
        text += held_by(holders)
    elif now.maxconnections and now.in_use >= now.maxconnections:
        text += "; with POOLED_DB_LEAK_THRESHOLD set, this would say who holds them"
    if shortage is not None:
        text += f"; {shortage}"
    if cause is not None and outage:
        since = time.strftime("%H:%M:%S", time.localtime(time.time() - outage))
        text += f"; connecting has failed for {outage:.0f} s, since {since}, "
        text += f"last with {describe(cause)}"
    elif cause is not None:
        text += f"; the last connect failed with {describe(cause)}"
    error = PoolTimeout(
        text,
        bind=bind,
        maxconnections=now.maxconnections,
        in_use=now.in_use,
        idle=now.idle,
        waiting=now.waiting,
        longest_lease=now.longest_lease,
        waited=waited,
        outage=outage,
        binds_maxconnections=shortage.limit if shortage is not None else 0,
        holders=holders,
    )
    error.__cause__ = cause
    return error


def held_by(holders: Sequence[Holder]) -> str:
    """Return what a message says of those who hold connections, the longest first."""
    return f"; held longest by {'; by '.join(map(str, holders[:MOST_NAMED]))}" if holders else ""


def connect_failed(bind: str, cause: BaseException) -> ConnectFailed:
    """Return the error of a caller for whom no connect can succeed."""
    error = ConnectFailed(
        f"connecting to the database of bind {shown(bind)} failed ({describe(cause)}), and trying "
        "again won't help: check its credentials and settings"
    )
    error.__cause__ = cause
    return error


def pool_closed(bind: str) -> PoolClosed:
    """Return the error of a caller that comes after the pool was closed."""
    return PoolClosed(
        f"the pool of bind {shown(bind)} was closed: it lends no connections any more"
    )


def name_tenant(error: PooledDBError, bind: str) -> None:
    """Have an error of a server's pool name the tenant that it is about, too."""
    if shown(bind) not in str(error):
        error.args = (f"bind {shown(bind)}: {error}",)
    if isinstance(error, PoolTimeout):
        error.bind = bind


def inside() -> UsageError:
    """Return the error of a finalizer or a signal handler that uses a connection in the middle of
    the pool's own work.
    """
    return UsageError(
        "a signal handler or a finalizer can't use the database at this moment: it interrupted the "
        "pool itself; do the work outside of it"
    )


class Trouble(NamedTuple):
    """What is wrong with connecting."""

    since: float
    """For how many seconds every connect has failed."""
    reason: str
    refuses: bool
    """Whether callers are refused at once."""


def describe(error: BaseException) -> str:
    """Return an error's class and number, and what its driver says of the connect arguments.

    The text of another's error may hold anything, even a password.
    """
    if words := words_of_asking(error):
        return f"{type(error).__name__}: {words}"
    if isinstance(error, ConfigError):
        return "; ".join(error.problems)
    number = getattr(error, "errno", None) or (error.args[0] if error.args else None)
    suffix = f" {number}" if isinstance(number, int) else ""
    words = getattr(error, WORDS, "")
    return f"{type(error).__name__}{suffix}{words and f': {words}'}"
