"""gunicorn with `--preload`, and what its workers did with the connections."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, NamedTuple

from harness.gunicorn import GunicornServer
from harness.server import MariaDBServer
from harness.waiting import wait_until
from tests.support.token_app import SQLITE_SESSION, ready

WORKERS, THREADS, CLIENTS = 4, 8, 32
REQUESTS_PER_CONNECTION = 10
MAXCONNECTIONS = 4  # a worker's threads have to wait for each other

WORKER_CLASSES = {
    "sync": ("--worker-class=sync",),
    "gthread": ("--worker-class=gthread", f"--threads={THREADS}"),
    "gevent": ("--worker-class=gevent",),
}

REQUESTS = {
    "pymysql": 5_000,
    "pymysql-tls": 500,
    "mariadbconnector": 500,
    "mariadbconnector-tls": 500,
    "sqlite": 500,
}

ON_MARIADB = [driver for driver in REQUESTS if driver != "sqlite"]

MARIADB_TABLE = """
    CREATE TABLE `{}`.tokens (
        id BIGINT AUTO_INCREMENT PRIMARY KEY,
        token VARCHAR(40) NOT NULL, session BIGINT NOT NULL, process INT NOT NULL
    )
"""

SQLITE_TABLE = """
    CREATE TABLE tokens (
        id INTEGER PRIMARY KEY,
        token TEXT NOT NULL, session TEXT NOT NULL, process INTEGER NOT NULL
    )
"""

SENT = "SELECT token, session, process FROM {} ORDER BY id"


class Database(NamedTuple):
    """Where tokens are sent to: the app's settings, and a way to look in from outside."""

    env: dict[str, str]
    sent: Callable[[], list[tuple[Any, ...]]]
    server: MariaDBServer | None
    name: str


class Answer(NamedTuple):
    """What a client was told about a token."""

    token: str
    status: int
    text: str


class Session(NamedTuple):
    """A connection as the server and the operating system see it."""

    last_statement: int
    """The number the server gave to the last statement of this connection."""
    holders: frozenset[int]
    """The processes that have the client's end open."""


@dataclass(frozen=True)
class Run:
    """What is left of a gunicorn that has served tokens and was stopped."""

    arbiter: int
    workers: list[int]
    tokens: list[str]
    answers: list[Answer]
    sent: list[tuple[Any, ...]]
    """Token, connection and process, as they were committed."""
    before: dict[int, Session]
    """The server's connections before the first token came; of SQLite there are none to see."""
    after: dict[int, Session]
    """And after the last one, with all processes still there."""
    exit_code: int
    log: str

    def connections(self, token: str) -> Counter[Any]:
        """The connections by which this token was sent."""
        return Counter(session for sent, session, _ in self.sent if sent == token)

    def users(self) -> dict[Any, set[int]]:
        """The processes that used each connection."""
        users = defaultdict(set)
        for _, session, process in self.sent:
            users[session].add(process)
        return dict(users)


def mariadb_database(server: MariaDBServer, driver: str) -> Database:
    name = server.create_database()
    server.execute(MARIADB_TABLE.format(name))
    env = {"FLASK_POOLED_DB_URL": server.url(driver, name)}
    return Database(env, lambda: server.query(SENT.format(f"`{name}`.tokens")), server, name)


def sqlite_database(directory: Path) -> Database:
    file = directory / "tokens.sqlite"

    def run(sql: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(file)) as connection:
            return connection.execute(sql).fetchall()

    run(SQLITE_TABLE)
    env = {
        "FLASK_POOLED_DB_URL": f"sqlite:///{file}",
        "FLASK_POOLED_DB_SETSESSION": json.dumps([SQLITE_SESSION]),
    }
    return Database(env, lambda: run(SENT.format("tokens")), None, "")


def serve(database: Database, directory: Path, *options: str, **settings: Any) -> GunicornServer:
    """The token app under gunicorn."""
    env = {f"FLASK_POOLED_DB_{key.upper()}": str(value) for key, value in settings.items()}
    config = ["--config", "python:tests.support.token_app", "--keep-alive=30"]
    return GunicornServer(directory, [*config, *options], {**database.env, **env})


def settled(gunicorn: GunicornServer, count: int) -> bool:
    """Whether so many workers serve, and none of them is about to end or has just been forked: it
    would not hear a SIGTERM.
    """
    workers, log = gunicorn.workers(), gunicorn.log
    return len(workers) == count and all(
        ready(pid) in log and f"[{pid}] [INFO] Autorestarting" not in log for pid in workers
    )


def ask(connection: HTTPConnection, path: str) -> tuple[int, str]:
    connection.request("GET", path)
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def send(server: GunicornServer, tokens: Iterable[str]) -> list[Answer]:
    """Send tokens from many clients at once, each of which keeps its connection for a while."""
    left = deque(tokens)

    def client() -> list[Answer]:
        answers = []
        with closing(server.connect()) as connection:
            while left:
                try:
                    token = left.popleft()
                except IndexError:  # another client was faster
                    break
                answers.append(Answer(token, *ask(connection, f"/tokens/{token}")))
                if len(answers) % REQUESTS_PER_CONNECTION == 0:
                    connection.close()  # the next one may go to another worker
        return answers

    with ThreadPoolExecutor(CLIENTS) as clients:
        ended = [clients.submit(client) for _ in range(CLIENTS)]
        return [answer for end in ended for answer in end.result()]


def send_at_once(server: GunicornServer, tokens: Iterable[str]) -> list[Answer]:
    """Send every token by a connection of its own before the first answer is read."""
    with ExitStack() as stack:
        clients = {token: stack.enter_context(closing(server.connect())) for token in tokens}
        for client in clients.values():
            client.connect()
        for token, client in clients.items():
            client.request("GET", f"/tokens/{token}")
        answers = {token: client.getresponse() for token, client in clients.items()}
        return [Answer(token, got.status, got.read().decode()) for token, got in answers.items()]


def look(database: Database, processes: Iterable[int]) -> dict[int, Session]:
    """The connections to a database by number, and which of these processes hold them."""
    if database.server is None:
        return {}
    # In this order: what the server knows is still there when its client's end is looked for.
    rows = database.server.query(
        "SELECT id, query_id, host FROM information_schema.processlist WHERE db = %s",
        database.name,
    )
    inodes = _client_sockets(database.server.port)
    holders = defaultdict(set)
    for process in processes:
        for inode in _sockets(process):
            holders[inode].add(process)
    return {
        id_: Session(query_id, frozenset(holders[inodes[int(host.rpartition(":")[2])]]))
        for id_, query_id, host in rows
    }


def _sockets(process: int) -> Iterator[int]:
    """Inodes of the sockets that a process has open."""
    for file in open_files(process):
        if file.startswith("socket:["):
            yield int(file[len("socket:[") : -1])


def open_files(process: int) -> Iterator[str]:
    """What the descriptors of a process stand for."""
    for descriptor in Path(f"/proc/{process}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            yield str(descriptor.readlink())


def _client_sockets(server_port: int) -> dict[int, int]:
    """Inodes of the clients' ends of all connections to a port, by the clients' own ports."""
    # Columns of /proc/net/tcp: 1 and 2 are the two addresses ("0100007F:1F90"), 9 is the inode.
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    ports = [(*(int(row[i].rpartition(":")[2], 16) for i in (1, 2)), int(row[9])) for row in rows]
    return {near: inode for near, far, inode in ports if far == server_port}


def run_preloaded(database: Database, directory: Path, worker_class: str, requests: int) -> Run:
    tokens = [f"{worker_class}-{number}" for number in range(requests)]
    options = ["--preload", f"--workers={WORKERS}", *WORKER_CLASSES[worker_class]]
    with serve(database, directory, *options, maxconnections=MAXCONNECTIONS) as gunicorn:
        wait_until(lambda: settled(gunicorn, WORKERS), "all workers")
        arbiter, workers = gunicorn.pid, gunicorn.workers()
        before = look(database, [arbiter, *workers])
        answers = send(gunicorn, tokens)
        after = look(database, [arbiter, *workers])
        exit_code = gunicorn.stop()
    sent = database.sent()
    return Run(arbiter, workers, tokens, answers, sent, before, after, exit_code, gunicorn.log)


def wrong(answers: Iterable[Answer]) -> list[Answer]:
    """Those that don't bring back what was sent."""
    return [
        answer
        for answer in answers
        if answer.status != 200 or json.loads(answer.text) != {"token": answer.token}
    ]
