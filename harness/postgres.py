"""A throw-away PostgreSQL of the test run's own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import psycopg

from harness.owned import OwnServer
from harness.postgres_programs import OWNER, new_directory, program_of, run, template
from harness.processes import (
    ServerError,
    children,
    end,
    is_alive,
    kill_all,
    signal_all,
    start,
    wait_until_ready,
)
from harness.sockets import DATABASE_PORTS
from harness.tls import Certificates
from harness.waiting import PATIENCE, holds_within

_KILL_TIMEOUT = 5.0


class PostgreSQLServer(OwnServer):
    """A private PostgreSQL on a free port of 127.0.0.1; a context manager that ends it for good.

    `options` are settings, such as `max_connections=10`. The data survive `stop()` and `kill()`
    until `close()`. It trusts whoever comes, and its clients are its superuser. All methods may be
    called by any thread.

    What the tests call a database of it is a schema, which takes a fraction of the time to make:
    its URLs ask for the search path.

    With `certificates` it offers TLS, and its URLs ask for a connection that is encrypted and
    verified.
    """

    many_rows = "SELECT generate_series(1, 200000)"
    """A statement with 200,000 rows, from 1 on."""

    def __init__(
        self, options: Sequence[str] = (), *, certificates: Certificates | None = None
    ) -> None:
        super().__init__(new_directory("pooled-db-pg-"), options, certificates)
        self._side: psycopg.Connection[Any] | None = None

    # -- life and death ------------------------------------------------------------------------

    def start(self) -> None:
        """Start the server, on the same port as before, and return when it takes connections."""
        if not self._data.exists():
            self._fill(self._data)
        self._launch()
        DATABASE_PORTS.add(self.port)

    def stop(self) -> None:
        """Shut the server down: it tells its clients why it ends their sessions."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """End the server as a crash would: no checkpoint, no goodbye to its clients."""
        self._end(signal.SIGQUIT)

    def crash(self) -> None:
        """End all of its processes by SIGKILL: nobody is told, nothing is cleaned up."""
        others = self._pause_postmaster()  # it begins no more of them
        kill_all(others)  # before they see that it is gone, and say so
        self._end(signal.SIGKILL)
        # The next one can't start while one of them has the shared memory.
        if not holds_within(PATIENCE, lambda: not any(map(is_alive, others))):
            raise ServerError(f"Some of PostgreSQL's processes did not end: {others}")

    def pause(self) -> None:
        """Freeze the server: its sockets stay open (and the kernel accepts), nothing answers."""
        signal_all(self._pause_postmaster(), signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused server go on."""
        signal_all([*children(self.pid), self.pid], signal.SIGCONT)

    # -- for the code under test ---------------------------------------------------------------

    def url(
        self,
        driver: str = "psycopg",
        database: str | None = None,
        *,
        port: int | None = None,
        **query: str,
    ) -> str:
        """The URL of the server, or of a database here; `port` may be a proxy's."""
        if database is not None:
            query["options"] = f"-csearch_path={database}"
        if "sslmode" not in query:
            query |= self._tls
        options = f"?{urlencode(query, quote_via=quote)}" if query else ""
        return f"postgresql+{driver}://{OWNER}@{self.host}:{port or self.port}/postgres{options}"

    # -- the tests' own hand in the server -------------------------------------------------------

    def sql(self, text: str) -> str:
        """A statement that was written for MariaDB, in the words of this server."""
        for theirs, ours in _WORDS.items():
            text = text.replace(theirs, ours)
        return text

    def query(self, sql: str, *params: object) -> list[tuple[Any, ...]]:
        """The rows of a statement run on the side connection, committed at once."""
        with self._side_lock:
            cursor = self._run(sql, params)
            return list(cursor.fetchall())

    def execute(self, sql: str, *params: object) -> int:
        """Run a statement on the side connection, committed at once; the number of rows changed."""
        with self._side_lock:
            return self._run(sql, params).rowcount

    def create_database(self) -> str:
        """Make an empty database, which is a schema, and return its name."""
        name = f"test_{uuid.uuid4().hex[:12]}"
        self.execute(f"CREATE SCHEMA {name}")
        return name

    def connections(self, user: str | None = None) -> list[int]:
        """Return the process ids of the clients, or of a user's, the side connection left out."""
        rows = self.query(
            "SELECT pid, usename FROM pg_stat_activity"
            " WHERE pid <> pg_backend_pid() AND backend_type = 'client backend' ORDER BY pid"
        )
        return [pid for pid, name in rows if user in (None, name)]

    def kill_connection(self, id_: int) -> None:
        """End a client's connection and wait until it is gone; one gone before is no error."""
        self.execute("SELECT pg_terminate_backend(%s)", id_)
        # Waiting itself, the server would look ten times a second.
        if not holds_within(_KILL_TIMEOUT, lambda: id_ not in self.connections()):
            raise ServerError(f"Connection {id_} outlived its end by {_KILL_TIMEOUT} s.")

    def statements(self) -> list[str]:
        """The statements of its clients that it is at work on."""
        rows = self.query(
            "SELECT query FROM pg_stat_activity"
            " WHERE state = 'active' AND pid <> pg_backend_pid()"
            " AND backend_type = 'client backend'"
        )
        return [query for (query,) in rows]

    def standby(self) -> PostgreSQLServer:
        """A server that follows this one and takes no writes, not yet started."""
        return _Standby(self)

    def promote(self) -> None:
        """Have a standby take writes."""
        self.execute("SELECT pg_promote()")

    # -- inside --------------------------------------------------------------------------------

    def _pause_postmaster(self) -> list[int]:
        """Freeze the process that begins all others, and return what is left: the others."""
        postmaster = self._alive()
        postmaster.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, postmaster.pid, os.WSTOPPED)
        return children(postmaster.pid)

    @property
    def _tls(self) -> dict[str, str]:
        if self.certificates is None:
            return {}
        return {"sslmode": "verify-full", "sslrootcert": str(self.certificates.ca)}

    def _fill(self, data: Path) -> None:
        subprocess.run(["cp", "-a", str(template()), str(data)], check=True)  # owners, too

    def _launch(self) -> None:
        settings = [
            f"port={self.port}",
            f"unix_socket_directories={self._directory}",
            f"listen_addresses={self.host}",
            "fsync=off",
            "shared_buffers=16MB",
            "max_wal_senders=2",
            "deadlock_timeout=100ms",
            *self._tls_settings(),
            *self.options,
        ]
        command = [program_of("postgres"), "-D", str(self._data)]
        command += [part for setting in settings for part in ("-c", setting)]
        self._process = start(command, self._log, user=OWNER if os.geteuid() == 0 else None)
        try:
            wait_until_ready(self._process, self._is_ready, "PostgreSQL", self.error_log)
        except BaseException:
            self.kill()
            raise

    def _tls_settings(self) -> list[str]:
        if self.certificates is None:
            return []
        own = []
        for name, path in _files_of(self.certificates):
            copied = self._directory / f"server.{name}"
            shutil.copy(path, copied)
            copied.chmod(0o600)
            if os.geteuid() == 0:
                shutil.chown(copied, OWNER)
            own.append(f"ssl_{name}_file={copied}")
        return ["ssl=on", *own]

    def _is_ready(self) -> bool:
        # Its last line is the state: https://www.postgresql.org/docs/current/storage-file-layout.html
        with contextlib.suppress(OSError):
            lines = (self._data / "postmaster.pid").read_text().splitlines()
            is_its_own = lines[:1] == [str(self._process.pid)] if self._process else False
            return is_its_own and len(lines) > 7 and lines[7].strip() == "ready"
        return False

    def _end(self, how: signal.Signals) -> None:
        with self._side_lock:
            side, self._side = self._side, None
            if side is not None:
                side.close()
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            signal_all(children(process.pid), signal.SIGCONT)  # paused ones see no other signal
        if not end(process, how):
            raise ServerError(f"PostgreSQL did not stop in time. Its log:\n{self.error_log()}")

    def _run(self, sql: str, params: tuple[object, ...]) -> psycopg.Cursor[Any]:
        if self._side is None or self._side.closed:
            self._side = psycopg.connect(
                host=str(self._directory),  # the leak detector watches the sockets of TCP
                port=self.port,
                user=OWNER,
                dbname=OWNER,
                autocommit=True,
                prepare_threshold=None,
                options="-cidle_session_timeout=0",
            )
        return self._side.execute(self.sql(sql), params or None)


class _Standby(PostgreSQLServer):
    """A server that follows another one."""

    def __init__(self, primary: PostgreSQLServer) -> None:
        super().__init__(primary.options, certificates=primary.certificates)
        self._primary = primary

    def _fill(self, data: Path) -> None:
        where = f"--host={self._primary.host}", f"--port={self._primary.port}"
        options = "--checkpoint=fast", "--wal-method=fetch", "--write-recovery-conf", "--no-sync"
        run(program_of("pg_basebackup"), *where, f"--username={OWNER}", f"-D{data}", *options)


_WORDS = {
    "`": '"',
    " ENGINE=InnoDB": "",
    "CONNECTION_ID()": "pg_backend_pid()",
    "SELECT SLEEP(": "SELECT pg_sleep(",
}


def _files_of(certificates: Certificates) -> Iterator[tuple[str, Path]]:
    yield "cert", certificates.server_certificate
    yield "key", certificates.server_key


@contextmanager
def postgres() -> Iterator[str]:
    """A server on a free port of 127.0.0.1: the URL of a database of its superuser."""
    with PostgreSQLServer() as server:
        yield server.url()
