"""An encrypted file for each of many users, whose sessions come and go."""

from __future__ import annotations

import functools
import random
import threading
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from flask_pooled_db import ConnectFailed, PooledDB, db_connection_context
from harness.waiting import wait_until
from tests.support.apps import pooled_app
from tests.support.cipher import opened
from tests.support.handles import handles
from tests.support.pools import call

USERS = [f"user{number:02}" for number in range(50)]
ROUNDS = 200
PER_CONNECTION = 3  # descriptors: of the file, its WAL and the WAL's index


def key_of(user: str) -> str:
    """The user's key: a raw one, from which nothing is derived."""
    return f"x'{user.encode().hex():0<64}'"


def settings_of(user: str, folder: Path) -> dict[str, Any]:
    """What the app knows of a user's database."""
    url = f"sqlite+sqlcipher:///{folder / user}.db"
    return {"URL": url, "CONNECT_ARGS": {"key": key_of(user)}, "MINCACHED": 0}


def visit(user: str) -> int:
    """What a request of the user does. Returns how often it has been done."""
    with db_connection_context(user) as conn:
        conn.execute("CREATE TABLE IF NOT EXISTS visits (name TEXT)")
        conn.execute("INSERT INTO visits VALUES (%s)", (user,))
        rows = conn.execute("SELECT name FROM visits").fetchall()
    assert set(rows) == {(user,)}
    return len(rows)


def log_out(db: PooledDB, user: str) -> None:
    """The session ends, and with it what is open of the user's database."""
    db.pool(user).drain()


def is_theirs(folder: Path, active: set[str]) -> bool:
    """Whether what is open, and what lies beside the files, belongs to these users. (A drain in the
    background may be closing a connection of another one.)
    """
    logs = {path.name.partition(".")[0] for path in folder.iterdir() if path.suffix != ".db"}
    return logs <= active and handles(folder) <= PER_CONNECTION * len(active)


@pytest.fixture
def site(tmp_path: Path) -> Any:
    """An app with a database for each user, inside its context."""
    binds = {user: settings_of(user, tmp_path) for user in USERS}
    keys = {"setsession": ["PRAGMA synchronous=OFF"], "drain_interval": 0.2}
    for settings in binds.values():
        settings.update({name.upper(): value for name, value in keys.items()})
    with pooled_app(binds=binds) as pair:
        yield pair


def test_sessions_over_200_rounds(site: tuple[Flask, PooledDB], tmp_path: Path) -> None:
    """Over 200 rounds, what is open belongs to the users whose sessions are: neither descriptors
    nor WAL files pile up, and each user sees what is theirs.
    """
    _, db = site
    random_ = random.Random(7)
    threads = threading.active_count()
    active: set[str] = set()
    visits = dict.fromkeys(USERS, 0)
    for _ in range(ROUNDS):
        for user in random_.sample(USERS, 3):
            active.add(user)
            visits[user] += 1
            assert visit(user) == visits[user]
        for user in random_.sample(sorted(active), min(len(active), random_.randint(1, 5))):
            active.discard(user)
            log_out(db, user)
        wait_until(functools.partial(is_theirs, tmp_path, active))
    for user in active:
        log_out(db, user)
    wait_until(lambda: handles(tmp_path) == 0)
    assert {path.suffix for path in tmp_path.iterdir()} == {".db"}
    assert threading.active_count() <= threads + 2  # what logs, and what sweeps
    for user in USERS:
        assert b"visits" not in (tmp_path / f"{user}.db").read_bytes()
        with opened(tmp_path / f"{user}.db", key_of(user)) as other:
            assert other.execute("SELECT count(*) FROM visits").fetchone() == (visits[user],)


def test_users_at_once(site: tuple[Flask, PooledDB], tmp_path: Path) -> None:
    """Requests of many users in many threads leave nothing open once the sessions have ended."""
    app, db = site

    def requests(number: int) -> None:
        random_ = random.Random(number)
        for _ in range(25):
            with app.app_context():
                user = random_.choice(USERS)
                visit(user)
                if random_.random() < 0.5:
                    log_out(db, user)

    for caller in [call(requests, number) for number in range(8)]:
        caller.result()
    for user in USERS:
        log_out(db, user)
    wait_until(lambda: handles(tmp_path) == 0)
    assert {path.suffix for path in tmp_path.iterdir()} == {".db"}


def test_key_of_another(tmp_path: Path) -> None:
    """With the key of another user nothing is read, and nothing is left open."""
    binds = {user: settings_of(user, tmp_path) for user in USERS[:2]}
    with pooled_app(binds=binds):
        visit(USERS[0])
    binds[USERS[0]]["CONNECT_ARGS"] = {"key": key_of(USERS[1])}
    with pooled_app(binds=binds):
        for _ in range(3):
            with pytest.raises(ConnectFailed, match="the key is wrong"):
                visit(USERS[0])
        assert handles(tmp_path) == 0
