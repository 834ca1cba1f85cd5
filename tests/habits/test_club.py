"""A club, in the shape of an app on flask_mysqldb."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from flask import Flask

from harness.server import APP_PASSWORD, APP_USER, MariaDBServer
from tests.habits.halves import HALVES, make_tables, running, said, source
from tests.support.sites import warnings_in

ANN = {"name": "Ann", "email": "ann@example.org"}
BOB = {"name": "Bob", "email": "bob@example.org"}
EVENTS = [{"title": "Regatta", "places": 2}, {"title": "Ball", "places": 1}]


@contextmanager
def club(half: str, server: MariaDBServer) -> Iterator[tuple[Flask, str]]:
    """The app, and its database."""
    name = server.create_database()
    make_tables(server, name, "club")
    config = {
        "MYSQL_HOST": server.host,
        "MYSQL_PORT": server.port,
        "MYSQL_USER": APP_USER,
        "MYSQL_PASSWORD": APP_PASSWORD,
        "MYSQL_DB": name,
    }
    with running("club", half, config) as app:
        yield app, name


def meet(app: Flask) -> list[Any]:
    client = app.test_client()
    answers = [client.post("/members", json=member) for member in (BOB, ANN, ANN)]
    answers += [client.post("/events", json=EVENTS)]
    answers += [client.post("/events/1/signups", json=members) for members in ([1, 1, 99], [3, 2])]
    answers += [client.post("/events/2/signups", json=[1, 2])]
    answers += [client.post("/events/3/signups", json=[1])]
    answers += [client.get(path) for path in ("/members", "/members/A", "/members/X", "/events")]
    return [said(answer) for answer in answers]


def test_club_answers(mariadb: MariaDBServer, caplog: pytest.LogCaptureFixture) -> None:
    """Both halves answer and store the same, also where a view catches an error of the database."""
    results = {}
    for half in HALVES:
        with club(half, mariadb) as (app, name):
            answers = meet(app)
        signups = mariadb.query(f"SELECT * FROM {name}.signups ORDER BY event_id, member_id")
        results[half] = answers, signups, mariadb.query(f"SELECT name FROM {name}.members")
    assert results["after"] == results["before"]
    answers, signups, _ = results["after"]
    statuses = [status for status, _ in answers]
    assert statuses == [201, 201, 409, 201, 201, 201, 409, 404, 200, 200, 404, 200]
    assert (answers[0][1], answers[4][1]) == ({"id": 1}, {"missing": [1, 99]})
    assert answers[-1][1] == [
        {"title": "Ball", "places": 1, "taken": 0},
        {"title": "Regatta", "places": 2, "taken": 2},
    ]
    assert signups == [(1, 1), (1, 2)]
    assert not [warning for warning in warnings_in(caplog) if "not given back" in warning]


def test_club_connections(mariadb: MariaDBServer) -> None:
    """Each request had a connection of its own; after the move they share a few."""
    opened = {}
    for half in HALVES:
        with club(half, mariadb) as (app, _):
            before = connects(mariadb)
            client = app.test_client()
            assert {client.get("/members").status_code for _ in range(20)} == {200}
            opened[half] = connects(mariadb) - before
    assert opened["before"] == 20
    assert opened["after"] <= 3


def connects(server: MariaDBServer) -> int:
    ((_, number),) = server.query("SHOW GLOBAL STATUS LIKE 'Connections'")
    return int(number)


def test_club_forgotten_commit(mariadb: MariaDBServer, caplog: pytest.LogCaptureFixture) -> None:
    """The visits were never stored, in silence. After the move a warning names the line."""
    for half in HALVES:
        with club(half, mariadb) as (app, name):
            client = app.test_client()
            client.post("/members", json=ANN)
            caplog.clear()
            client.get("/members/Ann")
        assert mariadb.query(f"SELECT visits FROM {name}.members") == [(0,)]
        warnings = warnings_in(caplog)
        assert len(warnings) == (half == "after")
    (warning,) = warnings
    lines = source("club", "after.py").read_text(encoding="utf-8").splitlines()
    line = next(number for number, line in enumerate(lines, 1) if "def member(" in line) + 1
    assert re.search(rf"UPDATE.*rolled back.*club/after\.py:{line}.*'club\.member'", warning)
