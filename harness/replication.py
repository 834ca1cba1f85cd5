"""A primary and its replica, whose roles can be exchanged."""

from __future__ import annotations

from contextlib import ExitStack

from harness.processes import Managed, ServerError
from harness.server import MariaDBServer

_CATCH_UP_TIMEOUT = 20


class ReplicatedPair(Managed):
    """Two servers, one of which is `primary`, the other `replica`; a context manager."""

    def __init__(self) -> None:
        self.servers = [
            MariaDBServer(
                [
                    f"--server-id={number}",
                    "--log-bin=binlog",
                    "--log-slave-updates",
                    "--gtid-strict-mode=1",
                    "--binlog-format=ROW",
                ]
            )
            for number in (1, 2)
        ]
        self.primary, self.replica = self.servers
        self._stack = ExitStack()

    def start(self) -> None:
        """Start both servers, and have the replica follow."""
        for server in self.servers:
            self._stack.enter_context(server)
            server.execute("RESET MASTER")  # each made the application's user by itself
        self._follow()

    def close(self) -> None:
        """End both servers."""
        self._stack.close()

    def demote(self) -> None:
        """Have the primary refuse writes: COMMITs in flight as well."""
        self.primary.execute("SET GLOBAL read_only=1")

    def promote(self) -> None:
        """Have the replica take over, with all that the primary has, and this follow it."""
        self.wait_until_caught_up()
        self.replica.execute("STOP SLAVE")
        self.replica.execute("RESET SLAVE ALL")
        self.replica.execute("SET GLOBAL read_only=0")
        self.primary, self.replica = self.replica, self.primary
        self._follow()

    def wait_until_caught_up(self) -> None:
        """Return when the replica has all that the primary has."""
        position = self.primary.query("SELECT @@gtid_binlog_pos")[0][0]
        waited = self.replica.query("SELECT MASTER_GTID_WAIT(%s, %s)", position, _CATCH_UP_TIMEOUT)
        if waited[0][0] != 0:
            raise ServerError(f"The replica did not catch up within {_CATCH_UP_TIMEOUT} s.")

    def _follow(self) -> None:
        position = self.replica.query("SELECT @@gtid_binlog_pos")[0][0]
        self.replica.execute("SET GLOBAL read_only=1")
        self.replica.execute("SET GLOBAL gtid_slave_pos=%s", position)
        self.replica.execute(
            "CHANGE MASTER TO MASTER_HOST=%s, MASTER_PORT=%s, MASTER_USER='root',"
            " MASTER_USE_GTID=slave_pos, MASTER_CONNECT_RETRY=1,"
            " MASTER_SSL=0, MASTER_SSL_VERIFY_SERVER_CERT=0",  # both are on by default from 11.4 on
            self.primary.host,
            self.primary.port,
        )
        self.replica.execute("START SLAVE")
