"""What a driver knows of its server, beside what the pool needs."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import replace
from statistics import median
from time import monotonic
from typing import Any, ClassVar

from flask_pooled_db.drivers import sockets, unknown
from flask_pooled_db.drivers.facts import Ask, Server, ServerFacts, ServerLoad, ServerSession
from flask_pooled_db.drivers.mysql_server import MYSQL
from flask_pooled_db.drivers.postgresql_server import POSTGRESQL
from flask_pooled_db.drivers.sqlite_facts import SQLITE_FILE

_ROUND_TRIPS = 5


class ServerSide:
    """The part of a driver that asks its server what that knows.

    All of it is asked in SQL, so that it is the same for each driver of a server. The answers here
    are for a module that is not known: its connections show which server they are to.
    """

    server: ClassVar[Server | None] = None
    """How its servers are asked; None: only the connection tells."""

    def cursor(self, raw: Any) -> Any:
        """Return a cursor."""
        raise NotImplementedError

    def fileno(self, raw: Any) -> int | None:
        """Return the descriptor of a connection's socket."""
        raise NotImplementedError

    def plain_cursor(self, raw: Any) -> Any:
        """Return a cursor whose rows are tuples, whatever the application has configured."""
        return self.cursor(raw)

    def server_id(self, raw: Any) -> int | None:
        """Return what the server called a connection when it was opened, without asking; None if
        the module does not tell.
        """
        return unknown.server_id(raw)

    def ends(self, raw: Any) -> sockets.Ends | None:
        """Return where a connection begins and where it leads; None if it is no TCP connection, or
        if that is not known.
        """
        fileno = self.fileno(raw)
        return None if fileno is None else sockets.ends(fileno)

    def server_of(self, raw: Any) -> Server | None:
        """Return how the server of a connection is asked; None if nobody knows."""
        if self.server is not None:
            return self.server
        if unknown.is_local(raw):
            return SQLITE_FILE
        if unknown.keeps_transactions(raw):
            return MYSQL
        return POSTGRESQL if unknown.is_postgresql(raw) else None

    def ask(self, raw: Any) -> Ask:
        """Return what runs statements on a connection, which must not be a caller's. A transaction
        that one of them fails in, or has begun, is rolled back.
        """

        def ask(sql: str, parameters: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
            cursor = self.plain_cursor(raw)
            try:
                cursor.execute(sql, *([parameters] if parameters else []))
                rows = cursor.fetchall() if cursor.description else []
            finally:
                with contextlib.suppress(Exception):  # the statement's own error tells more
                    cursor.close()
                raw.rollback()
            return [tuple(row.values()) if isinstance(row, Mapping) else tuple(row) for row in rows]

        return ask

    def facts(self, raw: Any) -> ServerFacts | None:
        """Return what the server tells of itself; None if nobody knows how to ask it."""
        server = self.server_of(raw)
        if server is None:
            return None
        ask, told = self.ask(raw), self.server_id(raw)
        # Through a pooler, each transaction may have another one.
        changes = told is not None and any(server.id_of(ask) != told for _ in range(2))
        return replace(server.facts(ask), changes_ids=changes)

    def load(self, raw: Any) -> ServerLoad | None:
        """Return how many connections the server has; None if there is none, or nobody knows how to
        ask it.
        """
        server = self.server_of(raw)
        return None if server is None else server.load(self.ask(raw))

    def latency(self, raw: Any) -> float:
        """Return how long a round trip takes, in seconds: the median of a few."""
        cursor, times = self.plain_cursor(raw), []
        try:
            for _ in range(_ROUND_TRIPS + 1):
                began = monotonic()
                cursor.execute("SELECT 1")
                cursor.fetchall()
                times.append(monotonic() - began)
        finally:
            cursor.close()
            raw.rollback()
        return median(times[1:])  # the first one may have begun a transaction

    def server_sessions(self, raw: Any) -> list[ServerSession]:
        """Return the connections that the server has, as far as this account may see them."""
        server = self.server_of(raw)
        return [] if server is None else server.sessions(self.ask(raw))

    def end_session(self, raw: Any, session: ServerSession, least: float) -> bool:
        """End a connection if it still is that one and has run nothing for `least` seconds. Returns
        whether it did.
        """
        server = self.server_of(raw)
        return server is not None and server.end(self.ask(raw), session, least)
