"""An app under a real server, on a MariaDB database of its own."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Any

from harness.gunicorn import GunicornServer
from harness.server import MariaDBServer
from harness.waiting import wait_until

MAXCONNECTIONS = 5


class Served:
    """The app, whose `GET /` tells its pool's numbers, and the database behind it.

    `table` is the statement that makes its table, `serve` makes the server from its environment.
    """

    def __init__(
        self,
        mariadb: MariaDBServer,
        table: str,
        serve: Callable[[Mapping[str, str]], GunicornServer],
    ) -> None:
        self._mariadb, self._database = mariadb, mariadb.create_database()
        mariadb.execute(table.format(self._database))
        self.server = serve(
            {
                "FLASK_POOLED_DB_URL": mariadb.url("pymysql", self._database),
                "FLASK_POOLED_DB_MAXCONNECTIONS": str(MAXCONNECTIONS),
                "FLASK_POOLED_DB_LEAK_THRESHOLD": "0.2",
            }
        )

    def get(self, path: str) -> bytes:
        """The body of an answer, on a connection of its own."""
        with closing(self.server.connect()) as connection:
            connection.request("GET", path)
            return connection.getresponse().read()

    def leave(self, path: str, *, after: int = 0) -> None:
        """Send a request, and go when so many bytes of its answer have come."""
        with closing(self.server.connect()) as connection:
            connection.request("GET", path)
            if after:
                self.read(connection, after)

    @staticmethod
    def read(connection: http.client.HTTPConnection, count: int) -> None:
        """Read so many bytes of an answer, which has not ended."""
        with closing(connection.getresponse()) as answer:
            assert len(answer.read(count)) == count

    @property
    def in_use(self) -> int:
        """How many connections the app has lent."""
        return int(json.loads(self.get("/"))["in_use"])

    def wait_for_connections(self) -> None:
        """Wait until all that the app has lent are back."""
        wait_until(lambda: self.in_use == 0, "connections to come back")

    def connections(self) -> list[int]:
        """The app's connections, as the server knows them."""
        return self._mariadb.connections(database=self._database)

    def wait_for_end_of(self, connections: list[int]) -> None:
        """Wait until the server has seen the end of these."""
        wait_until(lambda: not set(connections) & set(self.connections()), "the end of connections")

    def transactions(self) -> set[int]:
        """Those of them that have a transaction open."""
        rows = self._mariadb.query("SELECT trx_mysql_thread_id FROM information_schema.innodb_trx")
        return {id_ for (id_,) in rows} & set(self.connections())

    def query(self, sql: str, *params: object) -> list[Any]:
        """The first column of what is committed; `{}` stands for the database."""
        rows = self._mariadb.query(sql.format(f"`{self._database}`"), *params)
        return [row[0] for row in rows]
