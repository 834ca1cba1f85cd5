"""The errors of this package: one root, and one subclass for each decision a caller can take.

A driver's error for a statement reaches the caller unchanged. The classes here say what no driver
can: that the pool is exhausted, that a transaction is lost, or that nobody knows whether a COMMIT
took place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class PooledDBError(Exception):
    """Any error of this package."""


class ConfigError(PooledDBError):
    """The configuration can't be used: correct it.

    `problems` holds every problem that was found, each with its key and its remedy.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        count = len(self.problems)
        noun = "problem" if count == 1 else "problems"
        lines = "".join(f"\n  - {problem}" for problem in self.problems)
        super().__init__(f"{count} {noun} in the configuration:{lines}")

    def __reduce__(self) -> tuple[type[ConfigError], tuple[tuple[str, ...]]]:
        return type(self), (self.problems,)


class UsageError(PooledDBError):
    """The code uses the package in a way that can't work: correct the code."""


class UnknownBind(UsageError):
    """There is no bind of this name: the loader knows none, or the configuration does not.

    An app whose names come from outside may turn it into a 404. `bind` is the name.
    """

    def __init__(self, message: str, bind: object = None) -> None:
        super().__init__(message)
        self.bind = bind


class PoolTimeout(PooledDBError):
    """No connection became available in time: try again later, or shed load.

    `__cause__` is the last connect failure, if there was one. The attributes are the state of the
    pool at that moment: `bind`, `maxconnections` (0: no limit), `in_use`, `idle`, `waiting`,
    `longest_lease` (the age in seconds of the lease that has been out longest), `waited` (seconds).
    `outage` is for how many seconds every connect has failed, if that is why nobody waits; else 0.
    `binds_maxconnections` is the limit of all binds together, if that was in the way; else 0.
    `holders` says who holds connections, the longest first, where that is known; see
    POOLED_DB_LEAK_THRESHOLD.
    """

    def __init__(
        self,
        message: str,
        *,
        bind: str = "default",
        maxconnections: int = 0,
        in_use: int = 0,
        idle: int = 0,
        waiting: int = 0,
        longest_lease: float = 0.0,
        waited: float = 0.0,
        outage: float = 0.0,
        binds_maxconnections: int = 0,
        holders: Sequence[Any] = (),
    ) -> None:
        super().__init__(message)
        self.bind = bind
        self.maxconnections = maxconnections
        self.in_use = in_use
        self.idle = idle
        self.waiting = waiting
        self.longest_lease = longest_lease
        self.waited = waited
        self.outage = outage
        self.binds_maxconnections = binds_maxconnections
        self.holders = tuple(holders)


class DeadlineExceeded(PooledDBError):
    """Nothing is left of the time that the request, or a block, has for its databases: answer so.

    Raised where a statement is ended by a deadline, or would begin after it. Starting over needs
    time as well. `seconds` is the time there was. `__cause__` is the driver's error, if a statement
    was ended; else nothing was sent.
    """

    seconds: float = 0.0


class PoolClosed(PooledDBError):
    """The pool was closed: it has no more connections to lend."""


class ConnectFailed(PooledDBError):
    """Connecting failed for good: correct the settings.

    The credentials, the database's name or a connect argument are wrong. `__cause__` is the
    driver's error.
    """


class TransactionAborted(PooledDBError):
    """The transaction is lost and nothing of it was committed: start it over, or report it.

    Raised for every use of a connection after it was lost, after the server rolled the transaction
    back, or after an inner scope aborted it, and at the end of the scope if the first error was
    swallowed. `__cause__` is that first error.
    """


class CommitOutcomeUnknown(PooledDBError):
    """COMMIT was sent but never answered: look at the data before starting over.

    The transaction took place as a whole or not at all. `__cause__` is the driver's error.
    """
