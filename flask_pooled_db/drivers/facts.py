"""What a server tells of itself and of its connections, as values."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

Ask = Callable[..., list[tuple[Any, ...]]]
"""Runs a statement, with parameters if they are given, and returns its rows."""


class Limit(NamedTuple):
    """A setting of the server's that limits this account, by the name that the server has for it.

    0: no limit. Times are seconds.
    """

    name: str
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFacts:
    """What a server told through one connection. None: it does not tell, or there is no such."""

    product: str
    """ "MariaDB", "MySQL", "PostgreSQL" or "SQLite"."""
    version: str
    identity: str
    """What tells it from other servers; nothing to be shown."""
    tls: str | None = None
    """Protocol and cipher of this connection; "" in plaintext; None without a network."""
    max_connections: int | None = None
    reserved: int = 0
    """How many of these are not for this account."""
    connections: int | None = None
    """How many there are now, of all accounts."""
    sees_others: bool = True
    """Whether this account may see what the connections of other accounts do."""
    privilege: str = ""
    """What lets an account see them."""
    account_limits: tuple[Limit, ...] = ()
    """How many connections the account may have, or the database."""
    idle_timeout: Limit | None = None
    """When the server ends a connection that is idle."""
    transaction_timeouts: tuple[Limit, ...] = ()
    """When it ends one that is idle in a transaction, or a transaction."""
    statement_timeouts: tuple[Limit, ...] = ()
    """When it ends a statement, or its waiting for a lock."""
    changes_ids: bool = False
    """Whether connections have other ids here than at the server: then a proxy is in between."""
    file: str | None = None
    """Of SQLite: the database's; "" in memory."""
    journal_mode: str | None = None
    """Of SQLite."""


class ServerLoad(NamedTuple):
    """How many connections a server has, of all accounts, and what they do as far as this account
    is told.
    """

    connections: int
    max_connections: int
    """Without those that are not for this account."""
    active: int
    idle: int
    in_transaction: int | None
    """How many are idle in a transaction; None if the server does not tell this account."""
    oldest: float | None
    """How many seconds the oldest transaction of these is old; None if there is none."""


class Activity(enum.StrEnum):
    """What a connection does, as its server sees it."""

    ACTIVE = "active"
    IDLE = "idle"
    IN_TRANSACTION = "idle in transaction"
    UNKNOWN = "unknown"
    """The server does not tell this account, or it is something else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSession:
    """A connection, as its server sees it. All texts are the client's own, and not escaped."""

    id: int
    user: str
    host: str
    """Where the client is: an address or a name; "" on a local socket."""
    port: int | None
    """Of the client; None on a local socket."""
    database: str | None
    label: str | None
    """What the client calls itself; None if it does not, or nobody knows."""
    activity: Activity
    seconds: float | None
    """For how long it has done that."""
    transaction_seconds: float | None = None
    """How old its transaction is; None if it has none, or nobody knows."""
    statement: str = ""
    """What it runs, or in an open transaction ran last, as far as the server tells."""
    began: str = ""
    """When it was opened, if its server uses the same id again."""

    @property
    def is_at_rest(self) -> bool:
        """Whether it runs no statement."""
        return self.activity in (Activity.IDLE, Activity.IN_TRANSACTION)

    def is_still(self, other: ServerSession) -> bool:
        """Return whether the two are the same connection."""
        mine, others = (
            (one.id, one.user, one.host, one.port, one.database, one.began) for one in (self, other)
        )
        return mine == others


class Server(Protocol):
    """How servers of one kind are asked."""

    has_sessions: bool
    tables: str
    """The statement that counts the tables and views of the connection's database, in all schemas,
    without the system's own and those of a session."""
    table_suffix: str
    """What CREATE TABLE ends in, so that the table has transactions."""

    def id_of(self, ask: Ask) -> int | None:
        """Return the server's number for the connection that asks."""

    def facts(self, ask: Ask) -> ServerFacts:
        """Return what it tells of itself."""

    def load(self, ask: Ask) -> ServerLoad | None:
        """Return how many connections it has, in few round trips; None if there is no server."""

    def sessions(self, ask: Ask) -> list[ServerSession]:
        """Return its connections, as far as this account may see them."""

    def end(self, ask: Ask, session: ServerSession, least: float) -> bool:
        """End a connection if it still is that one and has run nothing for `least` seconds. Returns
        whether it did.
        """


def numbers(rows: Sequence[Sequence[Any]]) -> dict[str, str]:
    """Return rows of names and values as texts by name."""
    return {str(name).lower(): str(value) for name, value, *_ in rows}
