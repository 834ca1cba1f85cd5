"""A MariaDB database for each branch, which is made, used and dropped while the app runs."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Iterator
from typing import Any

import click
import pytest
from flask import Flask

from flask_pooled_db import ConnectFailed, PooledDB, UnknownBind, db_connection_context
from harness.server import MariaDBServer
from harness.waiting import wait_until
from tests.support.apps import pooled_app
from tests.support.pools import call


class Branches:
    """The branches of a company: their databases on a server, by their names."""

    def __init__(self, server: MariaDBServer, driver: str, app: Flask, db: PooledDB) -> None:
        self.server, self.app, self.db = server, app, db
        self.databases: dict[str, str] = {}
        self._driver = driver
        db.bind_loader(self.load)

    def load(self, name: str) -> str | None:
        database = self.databases.get(name)
        return None if database is None else self.server.url(self._driver, database)

    def make(self, name: str) -> None:
        self.databases[name] = self.server.create_database()
        with db_connection_context(name) as conn, conn.cursor() as cur:
            cur.execute("CREATE TABLE stock (item VARCHAR(20))")

    def add(self, name: str, item: str) -> None:
        with self.db.connection_context(name) as conn, conn.cursor() as cur:
            cur.execute("INSERT INTO stock VALUES (%s)", (item,))

    def stock(self, name: str) -> list[Any]:
        return self.db.fetch_all("SELECT item FROM stock", bind=name)

    def connections(self, name: str) -> int:
        return len(self.server.connections(database=self.databases[name]))

    def remove(self, name: str) -> str:
        """Close a branch and drop its database."""
        self.db.close_bind(name)
        database = self.databases.pop(name)
        self.server.execute(f"DROP DATABASE `{database}`")
        return database


@pytest.fixture
def branches(mariadb: MariaDBServer, mariadb_driver: str) -> Iterator[Branches]:
    """An app with branches, in its context."""
    with pooled_app("sqlite:///:memory:", bind_idle_timeout=1000) as (app, db):
        yield Branches(mariadb, mariadb_driver, app, db)


@pytest.mark.shared_server
def test_made_used_dropped(branches: Branches) -> None:
    """A branch is used as soon as it is made; after its drop nothing of ours is on the server, and
    nothing reconnects.
    """
    for name in ("north", "south"):
        branches.make(name)
        branches.add(name, f"of {name}")
    assert [branches.stock(name) for name in ("north", "south")] == [
        [("of north",)],
        [("of south",)],
    ]
    assert branches.connections("north") == 1
    database = branches.remove("north")
    wait_until(
        lambda: not branches.server.connections(database=database), "the end of its connections"
    )
    with pytest.raises(UnknownBind):
        branches.stock("north")
    assert branches.stock("south") == [("of south",)]
    assert branches.server.connections(database=database) == []


@pytest.mark.shared_server
def test_drop_is_not_held_up(branches: Branches) -> None:
    """DROP DATABASE does not wait for an idle connection of ours, not even one that was not closed
    first; a block that begins afterwards fails with the driver's error, and others go on.
    """
    branches.make("north")
    branches.add("north", "tea")
    branches.stock("north")
    database = branches.databases["north"]
    branches.server.execute("SET SESSION lock_wait_timeout=2")
    branches.server.execute(f"DROP DATABASE `{database}`")
    with pytest.raises(Exception, match=r"stock|database|DATABASE"):
        branches.stock("north")
    branches.db.close_bind("north")
    with pytest.raises(ConnectFailed):
        branches.stock("north")
    branches.db.close_bind("north")
    wait_until(lambda: not branches.server.connections(database=database), "the end of them all")


@pytest.mark.shared_server
def test_back_to_what_it_was(branches: Branches) -> None:
    """The server's connections are back to what they were after requests, a command and a forked
    job alike.
    """
    app, db, server = branches.app, branches.db, branches.server
    branches.make("north")
    db.close_bind("north")
    wait_until(lambda: not branches.connections("north"), "the end of the branch")

    app.add_url_rule("/<name>", view_func=lambda name: {"items": len(branches.stock(name))})
    app.cli.command("count")(lambda: click.echo(len(branches.stock("north"))))

    client = app.test_client()
    assert client.get("/north").json == {"items": 0}
    assert app.test_cli_runner().invoke(args=["count"]).output == "0\n"
    assert branches.connections("north") == 1

    def job() -> None:
        branches.add("north", "by a job")

    process = multiprocessing.get_context("fork").Process(target=job)
    process.start()
    process.join(30)
    assert process.exitcode == 0
    wait_until(lambda: branches.connections("north") == 1, "the end of the job's connection")
    assert branches.stock("north") == [("by a job",)]
    database = branches.remove("north")
    wait_until(lambda: not server.connections(database=database), "the end of all connections")


@pytest.mark.shared_server
def test_changed_password(branches: Branches, mariadb_driver: str) -> None:
    """After the password of a branch was changed, `replace_bind` is all there is to do: running
    blocks finish, and new ones use the new one.
    """
    server, db = branches.server, branches.db
    branches.make("north")
    database = branches.databases["north"]
    user = f"u_{database[5:]}"

    def url(password: str) -> str:
        base = server.url(mariadb_driver, database)
        return base.replace(base[base.index("://") + 3 : base.index("@")], f"{user}:{password}")

    server.execute(f"CREATE USER `{user}`@`%` IDENTIFIED BY 'first'")
    server.execute(f"GRANT ALL ON `{database}`.* TO `{user}`@`%`")
    try:
        passwords = ["first"]
        db.loader = lambda _: url(passwords[-1])
        db.replace_bind("north")
        branches.add("north", "before")
        with db_connection_context("north") as conn, conn.cursor() as cur:
            cur.execute("INSERT INTO stock VALUES ('meanwhile')")
            server.execute(f"ALTER USER `{user}`@`%` IDENTIFIED BY 'second'")
            passwords.append("second")
            db.replace_bind("north")
            call(branches.add, "north", "after").result()
        assert {item for (item,) in branches.stock("north")} == {"before", "meanwhile", "after"}
    finally:
        db.close_bind("north")
        server.execute(f"DROP USER `{user}`@`%`")


@pytest.mark.shared_server
def test_random_branches(branches: Branches) -> None:
    """Threads that use branches while these are closed and replaced lose no row, and find no row
    of another branch.
    """
    names = [f"b{i}" for i in range(4)]
    for name in names:
        branches.make(name)
    over, steps = threading.Event(), threading.Semaphore(0)

    def disturb() -> None:
        turn = 0
        while not over.is_set():
            # No faster than they get on: on a busy machine no branch would ever be open for long
            # enough.
            steps.acquire(timeout=0.1)
            turn += 1
            (branches.db.replace_bind if turn % 2 else branches.db.close_bind)(names[turn % 4])

    def work(seed: int) -> int:
        done = 0
        for step in range(60):
            name = names[(seed + step * 7) % 4]
            try:
                branches.add(name, f"{name} {seed} {step}")
            except Exception as error:
                if "was closed" not in str(error):
                    raise
            else:
                done += 1
            steps.release()
        return done

    disturber = call(disturb)
    workers = [call(work, seed) for seed in range(4)]
    done = sum(worker.result() for worker in workers)
    over.set()
    disturber.result()
    rows = [(name, item) for name in names for (item,) in branches.stock(name)]
    assert len(rows) == done
    assert all(item.startswith(f"{name} ") for name, item in rows)
