"""A throw-away MariaDB server that belongs to the test run and to nobody else."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

import pymysql
import pymysql.cursors

from harness.owned import OwnServer
from harness.processes import ServerError, end, start, wait_until_ready
from harness.sockets import DATABASE_PORTS, free_port
from harness.tls import Certificates
from harness.waiting import holds_within

T = TypeVar("T")

APP_USER = "app"
# The word survives quoting, escaping and repr(): look for it where no password may appear.
APP_PASSWORD_WORD = "Kolibri7Geheim"
# Every character that a URL, a format string or a quoted literal could trip over.
APP_PASSWORD = APP_PASSWORD_WORD + "@:/?#[]%41%s{}&=+ '\"\\!"

SCHEMES = {"pymysql": "mysql+pymysql", "mariadbconnector": "mariadb+mariadbconnector"}

_KILL_TIMEOUT = 5.0
_SIDE_TIMEOUT = 30
_UNKNOWN_THREAD = 1094
_SMALL_LOG = "--innodb-log-file-size=8M"


class MariaDBServer(OwnServer):
    """A private MariaDB on a free port of 127.0.0.1; a context manager that ends it for good.

    `options` are further command line options of mariadbd, such as `--max-connections=10`. The
    data survive `stop()` and `kill()` until `close()`. All methods may be called by any thread.

    With `certificates` the server offers TLS, and its URLs and arguments ask for a connection that
    is encrypted and verified. Without them it speaks plaintext alone, whatever its version would do
    by default.

    The application's user may do anything in any database, but has no administrative right: limits
    such as `max_connections` and `read_only` apply to it. The tests' own statements run as root on
    a side connection to MariaDB's extra port, which takes none of the `max_connections`; it is
    never encrypted, so `--require-secure-transport` is not for these servers.
    """

    many_rows = "SELECT seq FROM seq_1_to_200000"
    """A statement with 200,000 rows, from 1 on."""

    def __init__(
        self, options: Sequence[str] = (), *, certificates: Certificates | None = None
    ) -> None:
        super().__init__(Path(tempfile.mkdtemp(prefix="pooled-db-")), options, certificates)
        self._side_port = free_port()
        self._pid_file = self._directory / "pid"
        self._side: pymysql.Connection[pymysql.cursors.Cursor] | None = None

    # -- life and death ------------------------------------------------------------------------

    def start(self) -> None:
        """Start the server, on the same port as before, and return when it takes connections."""
        if self.running:
            raise ServerError(f"{self!r} is running already.")
        first = not self._data.exists()
        if first:
            shutil.copytree(_template(), self._data)
        self._launch()
        DATABASE_PORTS.add(self.port)
        if first:
            self._create_app_user()

    def stop(self) -> None:
        """Shut the server down in good order; a server that is not running stays so."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End the server as a crash would: SIGKILL, no goodbye to its clients."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """Freeze the server: its sockets stay open (and the kernel accepts), nothing answers."""
        process = self._alive()
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)

    def resume(self) -> None:
        """Let a paused server go on."""
        self._alive().send_signal(signal.SIGCONT)

    # -- for the code under test ---------------------------------------------------------------

    def url(
        self,
        driver: str = "pymysql",
        database: str | None = None,
        user: str | None = None,
        password: str | None = None,
        *,
        port: int | None = None,
        ask_for_tls: bool = True,
        **query: str,
    ) -> str:
        """The URL of a database here, as the application's user; `port` may be a proxy's.

        Arguments for TLS in `query` replace those that the server's certificates would add.
        `ask_for_tls=False` leaves TLS to the driver's default, also where the server offers it.
        """
        if ask_for_tls and not any(name.startswith("ssl") for name in query):
            query = {**self._ssl_arguments("true"), **query}
        user = quote(APP_USER if user is None else user, safe="")
        password = quote(APP_PASSWORD if password is None else password, safe="")
        place = f"{self.host}:{port or self.port}/{quote(database or '', safe='')}"
        options = f"?{urlencode(query, quote_via=quote)}" if query else ""
        return f"{SCHEMES[driver]}://{user}:{password}@{place}{options}"

    def connect_args(
        self, database: str | None = None, *, port: int | None = None, ask_for_tls: bool = True
    ) -> dict[str, Any]:
        """The same as keyword arguments that PyMySQL and the MariaDB connector both take."""
        arguments: dict[str, Any] = {
            "host": self.host,
            "port": port or self.port,
            "user": APP_USER,
            "password": APP_PASSWORD,
        }
        if database is not None:
            arguments["database"] = database
        return {**arguments, **self._ssl_arguments(True)} if ask_for_tls else arguments

    # -- the tests' own hand in the server -------------------------------------------------------

    def sql(self, text: str) -> str:
        """A statement written for MariaDB, in the words of this server."""
        return text

    def query(self, sql: str, *params: object) -> list[tuple[Any, ...]]:
        """The rows of a statement run on the side connection, committed at once."""
        with self._side_lock, self._side_connection().cursor() as cursor:
            cursor.execute(sql, params or None)
            return list(cursor.fetchall())

    def execute(self, sql: str, *params: object) -> int:
        """Run a statement on the side connection, committed at once; the number of rows changed."""
        with self._side_lock, self._side_connection().cursor() as cursor:
            return cursor.execute(sql, params or None)

    def create_database(self) -> str:
        """Make an empty database and return its name."""
        name = f"test_{uuid.uuid4().hex[:12]}"
        self.execute(f"CREATE DATABASE `{name}` CHARACTER SET utf8mb4")
        return name

    def connections(self, user: str | None = None, database: str | None = None) -> list[int]:
        """Return the ids of the clients connected now, the side connection left out.

        Each argument narrows them down: to a user's, to those whose current database it is.
        """
        rows = self.query(
            "SELECT id, user, db FROM information_schema.processlist"
            " WHERE id <> CONNECTION_ID() AND user NOT IN ('system user', 'event_scheduler')"
            " ORDER BY id"
        )
        return [
            id_
            for id_, name, current in rows
            if user in (None, name) and database in (None, current)
        ]

    def kill_connection(self, id_: int) -> None:
        """End a client's connection and wait until it is gone; one gone before is no error."""
        try:
            self.execute("KILL %s", id_)
        except pymysql.err.OperationalError as error:
            if error.args[0] != _UNKNOWN_THREAD:
                raise
        if not holds_within(_KILL_TIMEOUT, lambda: id_ not in self.connections()):
            raise ServerError(f"Connection {id_} outlived its KILL by {_KILL_TIMEOUT} s.")

    # -- inside --------------------------------------------------------------------------------

    def _ssl_arguments(self, yes: T) -> dict[str, str | T]:
        if self.certificates is None:
            return {}
        return {"ssl_ca": str(self.certificates.ca), "ssl_verify_cert": yes}

    def _launch(self) -> None:
        command = [
            find_program("mariadbd"),
            "--no-defaults",
            *user_option(),
            f"--datadir={self._data}",
            # Servers that share a directory for temporary tables remove each other's.
            f"--tmpdir={self._directory}",
            f"--port={self.port}",
            f"--socket={self._directory / 'sock'}",
            f"--pid-file={self._pid_file}",
            f"--bind-address={self.host}",
            f"--extra-port={self._side_port}",
            "--extra-max-connections=10",
            "--skip-name-resolve",
            _SMALL_LOG,
            "--innodb-buffer-pool-size=32M",
            "--innodb-flush-log-at-trx-commit=2",
            "--performance-schema=OFF",
            *(self.certificates.server_options if self.certificates else ["--skip-ssl"]),
            *self.options,
        ]
        self._pid_file.unlink(missing_ok=True)  # a killed server leaves it
        self._process = start(command, self._log)
        try:
            wait_until_ready(self._process, self._answers, "MariaDB", self.error_log)
        except BaseException:
            self.kill()
            raise

    def _answers(self) -> bool:
        if not self._pid_file.exists():  # it is written when the server has its ports
            return False
        try:
            self.query("SELECT 1")
        except pymysql.err.Error:  # a node that joins a cluster may end connections again
            return False
        return True

    def _create_app_user(self) -> None:
        self.execute(f"CREATE USER '{APP_USER}'@'%%' IDENTIFIED BY %s", APP_PASSWORD)
        self.execute(f"GRANT ALL ON `%`.* TO '{APP_USER}'@'%'")

    def _end(self, how: signal.Signals) -> None:
        with self._side_lock:
            self._drop_side_connection()
        process, self._process = self._process, None
        if process is None:
            return
        if not end(process, how):
            raise ServerError(
                f"MariaDB did not stop in time and was killed. Its log ends:\n{self.error_log()}"
            )

    def _side_connection(self) -> pymysql.Connection[pymysql.cursors.Cursor]:
        if self._side is not None:
            try:
                self._side.ping(reconnect=False)
            except pymysql.err.Error:
                self._drop_side_connection()
        if self._side is None:
            self._side = pymysql.connect(
                **self._side_arguments(),
                autocommit=True,
                connect_timeout=_SIDE_TIMEOUT,
                read_timeout=_SIDE_TIMEOUT,
                write_timeout=_SIDE_TIMEOUT,
            )
        return self._side

    def _side_arguments(self) -> dict[str, Any]:
        return {"host": self.host, "port": self._side_port, "user": "root", "ssl_disabled": True}

    def _drop_side_connection(self) -> None:
        side, self._side = self._side, None
        if side is not None:
            with contextlib.suppress(pymysql.err.Error, OSError):
                side.close()


def find_program(name: str) -> str:
    """The path of a program of MariaDB's server, which lives outside an ordinary user's PATH."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])
    found = shutil.which(name, path=path)
    if found is None:
        raise ServerError(f"{name} not found: install MariaDB (Debian: apt install mariadb-server)")
    return found


def user_option() -> list[str]:
    """MariaDB refuses to run as root unless told to."""
    return ["--user=root"] if os.geteuid() == 0 else []


@functools.cache
def _template() -> Path:
    """A fresh data directory, made once a session: copying it is eight times faster."""
    owner, directory = os.getpid(), Path(tempfile.mkdtemp(prefix="pooled-db-template-"))

    @atexit.register
    def remove() -> None:
        if os.getpid() == owner:
            shutil.rmtree(directory, ignore_errors=True)

    with tempfile.TemporaryDirectory(prefix="pooled-db-tmp-") as temporary:
        done = subprocess.run(  # its output says why it failed; CalledProcessError would not
            [
                find_program("mariadb-install-db"),
                "--no-defaults",
                f"--datadir={directory}",
                f"--tmpdir={temporary}",
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
                _SMALL_LOG,
                *user_option(),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
    if done.returncode:
        raise ServerError(f"mariadb-install-db failed:\n{done.stdout}")
    return directory
