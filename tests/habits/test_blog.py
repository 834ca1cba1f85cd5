"""A blog in the shape of Flask's tutorial."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from tests.habits.halves import HALVES, each_half, import_half, running, said
from tests.support.sites import warnings_in


@contextmanager
def blog(half: str, file: Path) -> Iterator[Flask]:
    with running("blog", half, {"DATABASE": file, "POOLED_DB_URL": f"sqlite:///{file}"}) as app:
        assert (
            app.test_cli_runner().invoke(args=["init-db"]).output == "Initialized the database.\n"
        )
        yield app


def stored(file: Path, sql: str) -> list[Any]:
    with closing(sqlite3.connect(file)) as connection, connection:
        return connection.execute(sql).fetchall()


def write_posts(app: Flask, file: Path) -> list[Any]:
    """Have a user register, log in and write. Returns all answers."""
    client = app.test_client()
    ann = {"username": "ann", "password": "secret"}
    answers = [client.post("/register", data=ann), client.post("/register", data=ann)]
    answers += [client.post("/login", data={**ann, "password": "guess"})]
    answers += [client.post("/login", data=ann)]
    for title in ("100% cotton", "a draft", "Tuesday", "Wednesday"):
        answers.append(client.post("/create", data={"title": title, "body": "?"}))
    stored(file, "UPDATE post SET created = '2026-02-0' || id || ' 10:00:00'")
    answers += [client.post("/3/delete"), client.post("/3/delete"), client.get("/")]
    answers += [client.get("/archive/2026-02"), client.get("/archive/2026-03")]
    return [said(answer) for answer in answers]


def test_blog_answers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Both halves answer and store the same, and the one that moved warns of nothing."""
    results = {}
    for half in HALVES:
        file = tmp_path / half
        with blog(half, file) as app:
            answers = write_posts(app, file)
        results[half] = answers, stored(file, "SELECT id, author_id, title, body FROM post")
    assert results["after"] == results["before"]
    answers, posts = results["after"]
    assert [status for status, _ in answers] == [201, 409, 403, 200, *[201] * 4, *[200] * 5]
    assert answers[-2][1] == ["100% cotton", "Wednesday"]
    assert [(post["day"], post["year"]) for post in answers[-3][1]] == [
        ("04.02.2026", 2026),
        ("02.02.2026", 2026),
        ("01.02.2026", 2026),
    ]
    assert posts[-1] == (4, 1, "Wednesday", "?")
    assert warnings_in(caplog) == []


@each_half
def test_blog_tables(half: str, tmp_path: Path) -> None:
    """`flask init-db` makes the tables, also where there are some already."""
    with blog(half, tmp_path / "blog") as app:
        write_posts(app, tmp_path / "blog")
        assert app.test_cli_runner().invoke(args=["init-db"]).exit_code == 0
    assert stored(tmp_path / "blog", "SELECT * FROM user") == []


def test_blog_orphans(tmp_path: Path) -> None:
    """Plain sqlite3 takes a post without an author; after the move foreign keys are on."""
    statuses = {}
    for half in HALVES:
        with blog(half, tmp_path / half) as app:
            client = app.test_client()
            with client.session_transaction() as session:
                session["user_id"] = 99  # has been deleted meanwhile
            statuses[half] = client.post("/create", data={"title": "-", "body": "-"}).status_code
    assert statuses == {"before": 201, "after": 500}


@each_half
def test_blog_closed(half: str, tmp_path: Path) -> None:
    """A request has one connection, which is closed at its end: the tutorial has a test of that."""
    get_db = import_half("blog", half).get_db
    with blog(half, tmp_path / "blog") as app:
        with app.app_context():
            db = get_db()
            assert db is get_db()
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            db.execute("SELECT 1")
