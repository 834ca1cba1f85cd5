"""P6 under real gunicorn, with an arbiter that has connected before the fork; P2 under gevent."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from functools import cache
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support.gunicorn import GunicornServer
from tests.support.pools import wait_until
from tests.support.server import MariaDBServer
from tests.support.token_app import (
    AT_END,
    AT_START,
    CONNECTIONS_AT_START,
    SQLITE_SESSION,
    ready,
    threads_at_a_fork,
)

pytestmark = pytest.mark.slow

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
    for file in _open_files(process):
        if file.startswith("socket:["):
            yield int(file[len("socket:[") : -1])


def _open_files(process: int) -> Iterator[str]:
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


@pytest.fixture(scope="module")
def preloaded(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str], Run]:
    """A run of gunicorn for a worker class and a driver, perhaps over TLS, made when first asked
    for.
    """

    @cache
    def run(worker_class: str, driver: str) -> Run:
        directory = tmp_path_factory.mktemp(f"{worker_class}-{driver}")
        if driver == "sqlite":
            database = sqlite_database(directory)
        else:
            name, _, tls = driver.partition("-")
            server = request.getfixturevalue("tls_mariadb" if tls else "mariadb")
            database = mariadb_database(server, name)
        return run_preloaded(database, directory, worker_class, REQUESTS[driver])

    return run


Preloaded = Callable[[str, str], Run]

each_worker_class = pytest.mark.parametrize("worker_class", list(WORKER_CLASSES))
each_driver = pytest.mark.parametrize("driver", list(REQUESTS))


@each_driver
@each_worker_class
def test_p6_preload_every_token_is_right(
    preloaded: Preloaded, worker_class: str, driver: str
) -> None:
    """Each client gets back the token it sent, and each token was committed once."""
    run = preloaded(worker_class, driver)

    assert wrong(run.answers) == [], run.log
    assert len(run.answers) == len(run.tokens) == REQUESTS[driver]
    arrived = Counter(token for token, _, _ in run.sent if token not in (AT_START, AT_END))
    assert arrived == Counter(run.tokens)


@each_driver
@each_worker_class
def test_p6_preload_no_connection_serves_two_processes(
    preloaded: Preloaded, worker_class: str, driver: str
) -> None:
    """Every connection is used by the process that opened it, an arbiter's by no worker."""
    run = preloaded(worker_class, driver)

    users = run.users()
    assert [session for session, processes in users.items() if len(processes) > 1] == []
    processes = {process for _, _, process in run.sent}
    assert processes <= {run.arbiter, *run.workers}
    assert len(processes) > 2, "one worker did all the work"
    mine = run.connections(AT_START)
    assert len(mine) == CONNECTIONS_AT_START
    mine += run.connections(AT_END)
    assert {session for session, who in users.items() if who == {run.arbiter}} == set(mine)


@pytest.mark.parametrize("driver", ON_MARIADB)
@each_worker_class
def test_p6_preload_the_server_hears_nothing_on_an_arbiters_connection(
    preloaded: Preloaded, worker_class: str, driver: str
) -> None:
    """While the workers serve, no statement arrives by a connection of the arbiter."""
    run = preloaded(worker_class, driver)

    mine = run.connections(AT_START)
    before = {session: run.before[session].last_statement for session in mine}
    after = {session: run.after[session].last_statement for session in mine}
    assert after == before


@pytest.mark.parametrize("driver", ON_MARIADB)
@each_worker_class
def test_p6_preload_no_socket_is_held_by_two_processes(
    preloaded: Preloaded, worker_class: str, driver: str
) -> None:
    """A worker holds no end of an arbiter's connection, and nobody one of a worker's."""
    run = preloaded(worker_class, driver)

    users = run.users()
    assert set(run.connections(AT_START)) <= set(run.after)
    assert any(users.get(session) != {run.arbiter} for session in run.after)
    for session, seen in run.after.items():
        assert len(seen.holders) == 1, f"connection {session} is held by {set(seen.holders)}"
        assert users.get(session, seen.holders) == seen.holders


@each_driver
@each_worker_class
def test_p6_preload_the_arbiters_connections_outlive_the_workers(
    preloaded: Preloaded, worker_class: str, driver: str
) -> None:
    """When all workers have ended, the arbiter works on by the connections it opened first.

    On SQLite by new ones: those were closed before the fork, as a child would have harmed them.
    """
    run = preloaded(worker_class, driver)

    assert len(run.connections(AT_START)) == len(run.connections(AT_END)) == CONNECTIONS_AT_START
    kept = run.connections(AT_END) == run.connections(AT_START)
    assert kept == (driver != "sqlite"), run.log


@each_driver
@each_worker_class
def test_p6_preload_warns_once(preloaded: Preloaded, worker_class: str, driver: str) -> None:
    """The log has one warning, of the connections that were open at the fork, and no error."""
    run = preloaded(worker_class, driver)

    warning = f"Forking with {CONNECTIONS_AT_START} open database connections"
    assert run.log.count(warning) == 1, run.log
    assert run.log.count("Forking with") == 1, run.log
    for trouble in ("[ERROR]", "[WARNING]", "[CRITICAL]", "Traceback"):
        assert trouble not in run.log, run.log


@each_driver
@each_worker_class
def test_p6_preload_no_thread_is_alive_at_a_fork(
    preloaded: Preloaded, worker_class: str, driver: str
) -> None:
    """The arbiter, which has connected, forks as a process with one thread."""
    run = preloaded(worker_class, driver)

    said = [line for line in run.log.splitlines() if "Threads at a fork" in line]
    assert said == [f"[{run.arbiter}] {threads_at_a_fork(1)}"] * WORKERS, run.log


@each_driver
@each_worker_class
def test_p6_preload_stops_in_good_order(
    preloaded: Preloaded, worker_class: str, driver: str
) -> None:
    """SIGTERM ends arbiter and workers, with exit code 0."""
    run = preloaded(worker_class, driver)

    assert run.exit_code == 0, run.log
    assert [pid for pid in run.workers if Path(f"/proc/{pid}").exists()] == []


@each_worker_class
def test_p6_preload_workers_forked_later_inherit_nothing(
    mariadb: MariaDBServer, tmp_path: Path, worker_class: str
) -> None:
    """Workers that replace others, forked from an arbiter long at work, do as the first ones."""
    database = mariadb_database(mariadb, "pymysql")
    tokens = [f"token-{number}" for number in range(900)]
    options = ["--preload", "--workers=2", "--max-requests=100", *WORKER_CLASSES[worker_class]]
    answers = []

    with serve(database, tmp_path, *options, maxconnections=MAXCONNECTIONS) as gunicorn:
        arbiter = gunicorn.pid
        for start in range(0, len(tokens), 300):
            answers += send(gunicorn, tokens[start : start + 300])
            wait_until(lambda: settled(gunicorn, 2), "a worker in the place of each that ended")
        workers = gunicorn.workers()
        exit_code = gunicorn.stop()
    run = Run(arbiter, workers, tokens, answers, database.sent(), {}, {}, exit_code, gunicorn.log)

    assert wrong(run.answers) == [], run.log
    assert len(run.answers) == len(tokens)
    assert [session for session, users in run.users().items() if len(users) > 1] == []
    assert len({process for _, _, process in run.sent} - {arbiter}) > 2, "no worker was replaced"
    assert run.connections(AT_END) == run.connections(AT_START)
    assert run.exit_code == 0
    assert run.log.count("Forking with") == 1, run.log
    assert "Traceback" not in run.log


def test_p2_gevent_serves_200_requests_at_once_by_5_connections(
    mariadb: MariaDBServer, tmp_path: Path
) -> None:
    """In one gevent worker, 200 requests at the same time are all answered, by 5 connections."""
    database = mariadb_database(mariadb, "pymysql")
    options = ["--workers=1", *WORKER_CLASSES["gevent"]]
    tokens = [f"token-{number}" for number in range(200)]

    with serve(database, tmp_path, *options, maxconnections=5) as gunicorn:
        answers = send_at_once(gunicorn, tokens)
        with closing(gunicorn.connect()) as client:
            status, stats = ask(client, "/stats")
        exit_code = gunicorn.stop()

    assert wrong(answers) == [], gunicorn.log
    assert len(answers) == len(tokens)
    assert (status, json.loads(stats)) == (200, {"open": 5, "in_use": 0, "waiting": 0})
    assert len({session for _, session, _ in database.sent()}) == 5
    assert exit_code == 0
    assert "Traceback" not in gunicorn.log


def test_p6_preload_an_arbiter_that_closes_takes_nothing_from_its_workers_on_sqlite(
    tmp_path: Path,
) -> None:
    """What a worker commits stays, also when the arbiter has closed its idle connections.

    Whoever closes a database in WAL mode as the last one removes the log, and with it what others
    go on to write there. SQLite's locks tell who is the last; a child doesn't inherit them.
    """
    database = sqlite_database(tmp_path)
    options = ["--preload", "--workers=1", *WORKER_CLASSES["sync"]]
    answers: list[Answer] = []

    with serve(database, tmp_path, *options, mincached=0, idle_timeout=0.5) as gunicorn:

        def closed_by_arbiter() -> bool:
            # The worker is kept at work: it must not close its connection as idle too.
            answers.extend(send(gunicorn, [f"token-{len(answers)}"]))
            return not any("tokens.sqlite" in file for file in _open_files(gunicorn.pid))

        wait_until(closed_by_arbiter, "the arbiter's idle connections closed")
        answers += send(gunicorn, [f"later-{number}" for number in range(20)])
        sent = {token for token, _, _ in database.sent()}

    assert wrong(answers) == [], gunicorn.log
    assert {answer.token for answer in answers} - sent == set()
