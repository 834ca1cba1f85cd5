"""The example app under real gunicorn, on SQLite and on MariaDB, with many clients at once."""

from __future__ import annotations

import contextlib
import http.client
import random
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import pymysql
import pytest

from harness.server import MariaDBServer
from harness.waiting import PATIENCE
from tests.example_app.served import Gunicorn

CLIENTS = 8
SCANS = 200
DUPLICATES = 40
POLL_INTERVAL = 0.02

COUNTERS_OFF = """
    SELECT code FROM orders
    WHERE approved + rejected <> (SELECT COUNT(*) FROM scans WHERE order_code = code)
"""


class Database:
    """The database behind the app, seen from outside the app."""

    def __init__(self, url: str, connect: Any) -> None:
        self.url = url
        self._connect = connect

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """The rows of one statement: one view of the data."""
        with contextlib.closing(self._connect()) as connection:
            with contextlib.closing(connection.cursor()) as cursor:
                cursor.execute(sql)
                return list(cursor.fetchall())


@pytest.fixture(params=["sqlite", "pymysql", "mariadbconnector"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    if request.param == "sqlite":
        file = tmp_path / "scans.sqlite"
        return Database(f"sqlite:///{file}", lambda: sqlite3.connect(file))
    server: MariaDBServer = request.getfixturevalue("mariadb")
    name = server.create_database()
    arguments = {**server.connect_args(name), "ssl_disabled": True}
    return Database(server.url(request.param, name), lambda: pymysql.connect(**arguments))


@pytest.fixture(params=["sync", "gthread"])
def gunicorn(
    request: pytest.FixtureRequest, tmp_path: Path, database: Database
) -> Iterator[Gunicorn]:
    gunicorn = Gunicorn(tmp_path, database.url, GUNICORN_WORKER_CLASS=request.param)
    gunicorn.init_db()
    if request.param == "sync":  # on each database, a second time changes nothing
        gunicorn.init_db()
    with gunicorn:
        yield gunicorn


def make_scans(count: int) -> list[dict[str, str]]:
    """Scans of different boxes, spread over two orders and all qualities, always the same ones."""
    choose = random.Random(7)
    return [
        {
            "order": choose.choice(["A-1001", "A-1002"]),
            "box": f"BOX-{number}",
            "quality": choose.choice(["ok", "ok", "ok", "dent", "label"]),
            "operator": "Zoë 😀",
        }
        for number in range(count)
    ]


@pytest.mark.slow
def test_counters_are_exact(gunicorn: Gunicorn, database: Database) -> None:
    """200 scans from 8 clients, some sent twice: each is counted once, at every moment."""
    scans = make_scans(SCANS)
    sent = scans + scans[:DUPLICATES]
    random.Random(11).shuffle(sent)

    with ThreadPoolExecutor(CLIENTS) as clients:
        answers = [clients.submit(gunicorn.request, "POST", "/scans", scan) for scan in sent]
        while wait(answers, POLL_INTERVAL).not_done:
            assert database.rows(COUNTERS_OFF) == []
    statuses = Counter(answer.result()[0] for answer in answers)

    assert statuses == {201: SCANS, 409: DUPLICATES}, gunicorn.log
    for code in ("A-1001", "A-1002"):
        of_order = [scan for scan in scans if scan["order"] == code]
        approved = sum(scan["quality"] == "ok" for scan in of_order)
        order = gunicorn.get(f"/orders/{code}")
        assert (order["approved"], order["rejected"]) == (approved, len(of_order) - approved)
        listed = gunicorn.get(f"/scans?order={code}&limit=500")["scans"]
        assert [scan["number"] for scan in listed] == list(range(len(of_order), 0, -1))
        keys = ("order", "box", "quality", "operator")
        assert {tuple(scan[key] for key in keys) for scan in listed} == {
            tuple(scan[key] for key in keys) for scan in of_order
        }
    assert database.rows(COUNTERS_OFF) == []
    assert gunicorn.stop() == 0
    assert "[ERROR]" not in gunicorn.log
    assert "Traceback" not in gunicorn.log


@pytest.mark.slow
def test_sigterm_under_load(gunicorn: Gunicorn, database: Database) -> None:
    """SIGTERM under load ends with exit code 0, and each scan answered with 201 is saved."""
    confirmed: list[str] = []
    enough = threading.Event()

    def scan_until_refused(scans: list[dict[str, str]]) -> None:
        for scan in scans:
            try:
                status, text = gunicorn.request("POST", "/scans", scan)
            except (OSError, http.client.HTTPException):
                return
            assert status == 201, text
            confirmed.append(scan["box"])
            if len(confirmed) >= 5 * CLIENTS:
                enough.set()

    scans = make_scans(100_000)
    with ThreadPoolExecutor(CLIENTS) as clients:
        ended = [clients.submit(scan_until_refused, scans[i::CLIENTS]) for i in range(CLIENTS)]
        assert enough.wait(PATIENCE)
        assert gunicorn.stop() == 0
    for end in ended:
        end.result()

    saved = {box for (box,) in database.rows("SELECT box FROM scans")}
    assert set(confirmed) <= saved
    assert database.rows(COUNTERS_OFF) == []
    assert "Traceback" not in gunicorn.log


@pytest.mark.slow
@pytest.mark.parametrize(
    ("worker_class", "driver"), [("gthread", "pymysql"), ("sync", "mariadbconnector")]
)
def test_database_outages_under_load(
    private_mariadb: MariaDBServer, tmp_path: Path, worker_class: str, driver: str
) -> None:
    """MariaDB crashes, then stops: clients that try again get every scan in, each counted once."""
    server = private_mariadb
    name = server.create_database()
    gunicorn = Gunicorn(
        tmp_path,
        server.url(driver, name),
        GUNICORN_WORKER_CLASS=worker_class,
        FLASK_POOLED_DB_ACQUIRE_TIMEOUT="0.5",
    )
    gunicorn.init_db()
    deadline = time.monotonic() + 2 * PATIENCE
    statuses: Counter[int] = Counter()
    answered = threading.Condition()  # guards `statuses`; notified at each answer

    def scan_until_saved(scan: dict[str, str]) -> None:
        status = 0
        while status not in (201, 409):
            assert time.monotonic() < deadline, gunicorn.log
            status, text = gunicorn.request("POST", "/scans", scan)
            assert status in (201, 409, 503), text
            with answered:
                statuses[status] += 1
                answered.notify_all()

    def wait_for_answers(status: int, count: int) -> None:
        with answered:
            enough = statuses[status] + count
            while statuses[status] < enough:
                assert answered.wait(PATIENCE), gunicorn.log

    scans = make_scans(3 * SCANS)
    with gunicorn:
        with ThreadPoolExecutor(CLIENTS) as clients:
            ended = [clients.submit(scan_until_saved, scan) for scan in scans]
            for outage in (server.kill, server.stop):
                wait_for_answers(201, SCANS // 2)
                outage()
                wait_for_answers(503, CLIENTS)
                server.start()
        for end in ended:
            end.result()
        assert gunicorn.stop() == 0

    rows = server.query(f"SELECT box FROM `{name}`.scans")
    assert sorted(rows) == sorted((scan["box"],) for scan in scans)
    assert server.query(f"SELECT SUM(approved + rejected) FROM `{name}`.orders") == [(len(scans),)]
    assert "Traceback" not in gunicorn.log
