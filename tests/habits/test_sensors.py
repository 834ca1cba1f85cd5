"""A dashboard of sensors, in the shape of an app on psycopg2, with a script that cron runs."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from flask import Flask

from harness.processes import PROJECT
from tests.habits.halves import HALVES, close, said, schema
from tests.support.sites import warnings_in

MARCH = [
    ("attic", "2026-03-01 11:00+00", 4.5),
    ("attic", "2026-03-01 12:00+00", 5.5),
    ("cellar", "2026-03-01 12:00+00", 9.25),
    ("attic", "2026-03-02 12:00+00", 6),
]
REFUSE = (
    "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
    " $$ BEGIN RAISE EXCEPTION 'refused'; END $$;"
    "CREATE TRIGGER refuse BEFORE DELETE ON reading EXECUTE FUNCTION refuse()"
)


@pytest.fixture
def url(postgresql: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The database, as the apps find it."""
    url = postgresql.replace("+psycopg", "")
    monkeypatch.setenv("DATABASE_URL", url)
    return url


@contextmanager
def sensors(half: str, url: str) -> Iterator[Flask]:
    """The app of one half on an empty database, as a new process has it."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")
        connection.execute(schema("sensors").encode())
    name = f"tests.habits.sensors.{half}"
    sys.modules.pop(name, None)
    module: Any = importlib.import_module(name)
    app = module.create_app()
    try:
        yield app
    finally:
        if half == "before":
            module.conn.close()
        close(app)


def stored(url: str, sql: str = "SELECT * FROM daily ORDER BY sensor, day") -> list[Any]:
    with psycopg.connect(url, autocommit=True) as connection:
        return connection.execute(sql.encode()).fetchall()


def run_script(half: str) -> int:
    """Run the app's file, as cron does."""
    command = [sys.executable, "-W", "error", "-m", f"tests.habits.sensors.{half}"]
    return subprocess.run(
        command, cwd=PROJECT, env=dict(os.environ), check=False, timeout=60, capture_output=True
    ).returncode


def measure(app: Flask) -> list[Any]:
    client = app.test_client()
    answers = [client.post("/cellar", json={"at": MARCH[2][1], "celsius": MARCH[2][2]})]
    answers += [client.post("/cellar", json={"at": "never", "celsius": 1})]
    answers += [client.post("/batch", json=[MARCH[0], MARCH[1], MARCH[3]])]
    answers += [client.post("/garage", json={"at": "2026-03-01", "celsius": 8})]
    answers += [client.delete("/garage"), client.get("/"), client.get("/attic")]
    return [said(answer) for answer in answers]


def test_sensors_answers(url: str, caplog: pytest.LogCaptureFixture) -> None:
    """Both halves answer and store the same, and so does the script outside of any app context."""
    results = {}
    for half in HALVES:
        with sensors(half, url) as app:
            answers = measure(app)
            assert run_script(half) == 0
            answers += [said(app.test_client().get(path)) for path in ("/attic", "/")]
        results[half] = answers, stored(url)
    assert results["after"] == results["before"]
    answers, rows = results["after"]
    assert [status for status, _ in answers] == [201, 500, 201, 201, 200, 200, 404, 200, 200]
    assert answers[4][1] == {"removed": 1}
    assert answers[5][1][1] == {"sensor": "cellar", "celsius": 9.25, "at": "2026-03-01 12:00"}
    assert answers[-2][1][0] == {"day": "01.03.2026", "readings": 2, "mean": 5.0}
    assert len(rows) == 3
    assert warnings_in(caplog) == []


def test_sensors_lost_connection(url: str) -> None:
    """Once the process's connection was lost, no page came any more."""
    statuses = {}
    for half in HALVES:
        with sensors(half, url) as app:
            client = app.test_client()
            client.get("/")
            stored(
                url,
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                " WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'",
            )
            statuses[half] = [client.get("/").status_code for _ in range(3)]
    assert statuses == {"before": [500] * 3, "after": [200] * 3}


def test_sensors_script_fails(url: str) -> None:
    """A night in which the script failed half way was counted twice."""
    counted = {}
    for half in HALVES:
        with sensors(half, url) as app:
            app.test_client().post("/batch", json=MARCH)
            stored_nothing(url, REFUSE)
            assert run_script(half) == 1
            stored_nothing(url, "DROP TRIGGER refuse ON reading; DROP FUNCTION refuse()")
            assert run_script(half) == 0
        counted[half] = sum(readings for _, _, readings, _ in stored(url))
    assert counted == {"before": 8, "after": 4}


def stored_nothing(url: str, sql: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(sql.encode())
