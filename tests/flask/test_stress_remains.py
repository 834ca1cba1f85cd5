"""What `flask pooled-db stress` finds when something is wrong: servers, leaks, rows."""

from __future__ import annotations

import contextlib
import re
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from flask_pooled_db import PoolTimeout
from flask_pooled_db.flask.commands.stress.remains import quiet
from harness.server import MariaDBServer
from harness.waiting import PATIENCE, wait_until
from tests.flask.stressing import (
    Disturb,
    Site,
    has_moved,
    made,
    make,
    moves,
    tables,
    tables_on,
    told,
)


def test_stress_of_server_that_dies(private_mariadb: MariaDBServer, disturb: Disturb) -> None:
    """The server goes away and comes back: scopes fail or start over, and in the end all is well.
    It goes away for good: then it is said that nothing was checked, and which tables were left.
    """
    server = private_mariadb
    name = server.create_database()
    settings = {"url": server.url("pymysql", name), "acquire_timeout": 0.5, "connect_timeout": 1}

    def restart() -> None:
        server.kill()
        time.sleep(1.0)  # longer than callers wait for a connection
        server.start()
        wait_until(answers, "the end of the pauses after failed connects")

    def answers() -> bool:
        with site[0].app_context(), contextlib.suppress(PoolTimeout):
            return bool(site[1].fetch_value("SELECT 1"))
        return False

    site = make(**settings)
    result = disturb(site, restart, lambda: has_moved(server, name))
    found = told(result)
    assert (found["problems"], found["sum"]) == ([], found["expected_sum"])
    assert found["failed"] or found["started_over"]
    assert tables_on(server, name) == []

    result = disturb(site, server.kill, lambda: has_moved(server, name))
    assert result.exit_code == 1
    assert "The sum could not be checked" in result.stderr
    left = told(result)["left"]
    assert (left["rows_wrong"], left["connections_in_use"]) == (None, 0)
    assert len(left["tables"]) == 2
    assert all(table in result.stderr for table in left["tables"])
    site[1].close()
    server.start()
    assert sorted(left["tables"]) == tables_on(server, name)


def test_stress_starts_over(mariadb: MariaDBServer, database: str, disturb: Disturb) -> None:
    """Transactions that the server ends are started over, which is shown, and no failure."""
    app, db = make(url=mariadb.url("pymysql", database), maxconnections=2)

    def see_another_move() -> None:
        before = moves(mariadb, database)
        wait_until(lambda: moves(mariadb, database) > before, "another move")

    def kill() -> None:
        killed: set[int] = set()
        while len(killed) < 40:  # some of them amid a transaction, however the clients get on
            see_another_move()  # a new connection is not ended before it is used
            for connection in mariadb.connections(database=database):
                mariadb.kill_connection(connection)
                killed.add(connection)

    found = told(disturb((app, db), kill, lambda: has_moved(mariadb, database)))
    assert found["started_over"]
    assert (found["problems"], found["sum"]) == ([], found["expected_sum"])
    db.close()


# What is left behind is found


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("what", ["connections_in_use", "threads", "open_files"])
def test_something_left_behind(what: str, empty: Site, tmp_path: Path, disturb: Disturb) -> None:
    """A connection that stays out, a thread and a file that stay are found: the exit status is 1,
    and a line says what it is.
    """
    kept: list[Any] = []
    may_end = threading.Event()

    def harm() -> None:
        if what == "connections_in_use":
            kept.append(empty[1].pool().lease())
        elif what == "threads":
            kept.append(threading.Thread(target=may_end.wait))
            kept[0].start()
        else:
            kept.append((tmp_path / "left").open("w"))

    result = disturb(empty, harm, lambda: made(tmp_path / "shop.db"))
    may_end.set()
    kept[0].join() if what == "threads" else kept[0].close()
    assert result.exit_code == 1
    assert told(result)["left"][what] >= 1
    assert re.search(rf"Left behind: .*{what.replace('_', ' ')}: \d", result.stderr)


def test_connect_that_began_after_the_drain(empty: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a connect brings that had not begun when the pool was drained is no file left behind."""
    app, db = empty
    pool, drain = db.pool(), db.pool().drain

    def drain_and_connect() -> None:
        drain()
        monkeypatch.undo()
        db.execute("SELECT 1")

    monkeypatch.setattr(pool, "drain", drain_and_connect)
    with app.app_context(), quiet([pool]):
        assert (pool.stats().open, pool.stats().idle) == (0, 0)
    assert pool.stats().connects == 1


MOVES = "SELECT COUNT(*) FROM {1}"
ROLLED_BACK = """
    SELECT client, number + 1 FROM {1} AS one WHERE
    NOT EXISTS (SELECT 1 FROM {1} WHERE client = one.client AND number = one.number + 1)
    AND EXISTS (SELECT 1 FROM {1} WHERE client = one.client AND number > one.number + 1)
"""
"""The moves of which later ones are stored, so that they never will be."""


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (
            "UPDATE {0} SET amount = amount + 7 WHERE id = 1",
            "reads saw a wrong sum.\nThe sum is 100007",
        ),
        ("UPDATE {0} SET amount = amount + id WHERE id IN (0, 1)", "1 accounts do not hold what"),
        ("DELETE FROM {1} WHERE rowid IN (SELECT MIN(rowid) FROM {1})", "1 moves that were commit"),
        (
            f"INSERT INTO {{1}} SELECT *, 1, 2, 0 FROM ({ROLLED_BACK}) LIMIT 1",
            "1 that were rolled back",
        ),
    ],
)
def test_wrong_rows(harm: str, message: str, empty: Site, tmp_path: Path, disturb: Disturb) -> None:
    """Money that was made, a move that is lost and one that has come back are found: the exit
    status is 1.
    """
    file = tmp_path / "shop.db"

    def ask(text: str) -> list[Any]:
        with contextlib.closing(sqlite3.connect(file, timeout=PATIENCE)) as other, other:
            return other.execute(text.format(*tables(file))).fetchall()

    def spoil() -> None:
        ask(harm)
        ((before,),) = ask(MOVES)
        wait_until(lambda: ask(MOVES)[0][0] > before + 20, "reads, too")

    result = disturb(empty, spoil, lambda: made(file) and ask(ROLLED_BACK))
    assert result.exit_code == 1
    assert message in result.stderr
    assert told(result)["left"]["rows_wrong"] > 0


@pytest.mark.usefixtures("hasty")
def test_left_on_server(empty_postgresql: str, disturb: Disturb) -> None:
    """A connection that the server still has, and its transaction, are found."""
    app, db = make(url=empty_postgresql, maxconnections=2)
    kept: list[Any] = []

    def harm() -> None:
        conn = db.pool().lease(timeout=PATIENCE)
        conn.cursor().execute("SELECT 1")
        kept.append(conn)

    with psycopg.connect(empty_postgresql.replace("+psycopg", ""), autocommit=True) as other:

        def has_moved() -> bool:
            ours = "SELECT tablename FROM pg_tables WHERE tablename LIKE 'pooled_db_stress_%moves'"
            found = other.execute(ours).fetchall()
            # So many moves of each that the connection opened last has had its share.
            query = sql.SQL("SELECT 1 FROM {} GROUP BY client HAVING COUNT(*) >= 10")
            tables = (sql.Identifier(name) for (name,) in found)
            return any(len(other.execute(query.format(table)).fetchall()) == 2 for table in tables)

        result = disturb((app, db), harm, has_moved)
    kept[0].close()
    assert result.exit_code == 1
    left = told(result)["left"]
    assert (left["connections_on_the_server"], left["transactions_on_the_server"]) == (1, 1)
    assert left["connections_in_use"] == 1
    db.close()
