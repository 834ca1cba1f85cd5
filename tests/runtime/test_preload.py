"""P6 under real gunicorn, with an arbiter that has connected before the fork; P2 under gevent."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from functools import cache
from pathlib import Path

import pytest

from harness.server import MariaDBServer
from harness.waiting import wait_until
from tests.runtime.preloading import (
    MAXCONNECTIONS,
    ON_MARIADB,
    REQUESTS,
    WORKER_CLASSES,
    WORKERS,
    Answer,
    Run,
    ask,
    mariadb_database,
    open_files,
    run_preloaded,
    send,
    send_at_once,
    serve,
    settled,
    sqlite_database,
    wrong,
)
from tests.support.token_app import AT_END, AT_START, CONNECTIONS_AT_START, threads_at_a_fork

pytestmark = pytest.mark.slow


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
def test_p6_preload_tokens(preloaded: Preloaded, worker_class: str, driver: str) -> None:
    """Each client gets back the token it sent, and each token was committed once."""
    run = preloaded(worker_class, driver)

    assert wrong(run.answers) == [], run.log
    assert len(run.answers) == len(run.tokens) == REQUESTS[driver]
    arrived = Counter(token for token, _, _ in run.sent if token not in (AT_START, AT_END))
    assert arrived == Counter(run.tokens)


@each_driver
@each_worker_class
def test_p6_preload_users_of_connections(
    preloaded: Preloaded, worker_class: str, driver: str
) -> None:
    """Every connection is used only by the process that opened it."""
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
def test_p6_preload_arbiters_connections_silent(
    preloaded: Preloaded, worker_class: str, driver: str
) -> None:
    """While the workers serve, no statement arrives on a connection of the arbiter."""
    run = preloaded(worker_class, driver)

    mine = run.connections(AT_START)
    before = {session: run.before[session].last_statement for session in mine}
    after = {session: run.after[session].last_statement for session in mine}
    assert after == before


@pytest.mark.parametrize("driver", ON_MARIADB)
@each_worker_class
def test_p6_preload_holders_of_sockets(
    preloaded: Preloaded, worker_class: str, driver: str
) -> None:
    """No socket of a connection is held by two processes."""
    run = preloaded(worker_class, driver)

    users = run.users()
    assert set(run.connections(AT_START)) <= set(run.after)
    assert any(users.get(session) != {run.arbiter} for session in run.after)
    for session, seen in run.after.items():
        assert len(seen.holders) == 1, f"connection {session} is held by {set(seen.holders)}"
        assert users.get(session, seen.holders) == seen.holders


@each_driver
@each_worker_class
def test_p6_preload_arbiters_connections_survive(
    preloaded: Preloaded, worker_class: str, driver: str
) -> None:
    """After the end of its workers, the arbiter still uses the connections it opened first. On
    SQLite it opens new ones: the old ones were closed before the fork.
    """
    run = preloaded(worker_class, driver)

    assert len(run.connections(AT_START)) == len(run.connections(AT_END)) == CONNECTIONS_AT_START
    kept = run.connections(AT_END) == run.connections(AT_START)
    assert kept == (driver != "sqlite"), run.log


@each_driver
@each_worker_class
def test_p6_preload_warning(preloaded: Preloaded, worker_class: str, driver: str) -> None:
    """The log has one warning about connections open at the fork, and no error."""
    run = preloaded(worker_class, driver)

    warning = f"Forking with {CONNECTIONS_AT_START} open database connections"
    assert run.log.count(warning) == 1, run.log
    assert run.log.count("Forking with") == 1, run.log
    for trouble in ("[ERROR]", "[WARNING]", "[CRITICAL]", "Traceback"):
        assert trouble not in run.log, run.log


@each_driver
@each_worker_class
def test_p6_preload_threads_at_fork(preloaded: Preloaded, worker_class: str, driver: str) -> None:
    """An arbiter that has connected forks with a single thread."""
    run = preloaded(worker_class, driver)

    said = [line for line in run.log.splitlines() if "Threads at a fork" in line]
    assert said == [f"[{run.arbiter}] {threads_at_a_fork(1)}"] * WORKERS, run.log


@each_driver
@each_worker_class
def test_p6_preload_sigterm(preloaded: Preloaded, worker_class: str, driver: str) -> None:
    """SIGTERM ends arbiter and workers with exit code 0."""
    run = preloaded(worker_class, driver)

    assert run.exit_code == 0, run.log
    assert [pid for pid in run.workers if Path(f"/proc/{pid}").exists()] == []


@each_worker_class
def test_p6_preload_later_workers(
    mariadb: MariaDBServer, tmp_path: Path, worker_class: str
) -> None:
    """Workers that replace others inherit nothing, either."""
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


def test_p2_gevent_requests(mariadb: MariaDBServer, tmp_path: Path) -> None:
    """A gevent worker answers 200 simultaneous requests on no more than 5 connections."""
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
    told = json.loads(stats)
    assert (status, told["in_use"], told["waiting"]) == (200, 0, 0)
    # On a busy machine some have done their work before the next one is there.
    used = {session for _, session, _ in database.sent()}
    assert 1 < len(used) <= told["open"] <= 5
    assert exit_code == 0
    assert "Traceback" not in gunicorn.log


def test_p6_preload_arbiter_closes_sqlite(
    tmp_path: Path,
) -> None:
    """What a worker commits survives the arbiter's closing of its idle SQLite connections. Closing
    the last connection of a database in WAL mode removes the log, and with it later writes; SQLite
    tells by its locks which connection is the last, and a child does not inherit them.
    """
    database = sqlite_database(tmp_path)
    options = ["--preload", "--workers=1", *WORKER_CLASSES["sync"]]
    answers: list[Answer] = []

    with serve(database, tmp_path, *options, mincached=0, idle_timeout=0.5) as gunicorn:

        def closed_by_arbiter() -> bool:
            # The worker is kept at work: it must not close its connection as idle too.
            answers.extend(send(gunicorn, [f"token-{len(answers)}"]))
            return not any("tokens.sqlite" in file for file in open_files(gunicorn.pid))

        wait_until(closed_by_arbiter, "the arbiter's idle connections closed")
        answers += send(gunicorn, [f"later-{number}" for number in range(20)])
        sent = {token for token, _, _ in database.sent()}

    assert wrong(answers) == [], gunicorn.log
    assert {answer.token for answer in answers} - sent == set()
