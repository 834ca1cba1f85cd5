"""`flask pooled-db server`: the server's own list of the app's connections, and its orphans."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self
from uuid import uuid4

import click
import psycopg
import pymysql
import pytest
from click.testing import Result
from flask import Flask

from flask_pooled_db import PooledDB
from flask_pooled_db.drivers.psycopg import PsycopgDriver
from flask_pooled_db.flask.commands import orphans
from harness.proxy import Proxy
from harness.server import APP_PASSWORD_WORD, MariaDBServer
from harness.waiting import wait_until
from tests.host.meeting import Other
from tests.support.apps import pooled_app
from tests.support.pools import call

RESTED = orphans.MARGIN + 1.1
"""Seconds after which a connection is idle for certain, by a server that counts whole ones."""


class Site(NamedTuple):
    """An app, its database, and the folder where its processes meet."""

    app: Flask
    db: PooledDB
    database: str
    folder: Path


@contextlib.contextmanager
def site_of(url: str, database: str, folder: Path, **settings: Any) -> Iterator[Site]:
    (folder / "run").mkdir(mode=0o700, exist_ok=True)
    with pooled_app(url, runtime_dir=str(folder / "run"), **settings) as (app, db):
        yield Site(app, db, database, folder)


@pytest.fixture
def site(mariadb: MariaDBServer, tmp_path: Path) -> Iterator[Site]:
    """An app on MariaDB."""
    database = mariadb.create_database()
    with site_of(mariadb.url("pymysql", database), database, tmp_path) as site:
        yield site


def run(site: Site, *args: str, answer: str | None = None) -> Result:
    args = ("pooled-db", "server", *args)
    return site.app.test_cli_runner().invoke(args=args, input=answer)


def read(site: Site, *args: str) -> dict[str, Any]:
    """What the command tells of the only server, as JSON, with what it has ended."""
    result = run(site, "--json", *args)
    assert result.exit_code == 0, result.output
    told: dict[str, Any] = json.loads(result.stdout)
    (server,) = told["servers"]
    return {**server, "ended": told.get("ended")}


def owners(site: Site) -> dict[int, str]:
    """Whose each connection is, by its id."""
    return {one["id"]: one["whose"] for one in read(site)["sessions"]}


class Client:
    """Another program's connection: what no process of the app knows."""

    def __init__(self, mariadb: MariaDBServer, database: str, **arguments: Any) -> None:
        connect: Any = pymysql.connect
        self.raw = connect(**{**mariadb.connect_args(database), **arguments})
        self.id: int = self.raw.thread_id()

    def run(self, sql: str) -> None:
        self.raw.cursor().execute(sql)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(pymysql.Error, OSError):
            self.raw.close()


@pytest.fixture
def account(mariadb: MariaDBServer) -> Iterator[str]:
    """The name of another user, without a password, who may see everything."""
    name = f"user_{uuid4().hex[:8]}"
    mariadb.execute(f"CREATE USER '{name}'@'%'")
    mariadb.execute(f"GRANT ALL ON `test_%`.* TO '{name}'@'%'")
    mariadb.execute(f"GRANT PROCESS ON *.* TO '{name}'@'%'")
    yield name
    mariadb.execute(f"DROP USER '{name}'@'%'")


# The list


def test_list(mariadb: MariaDBServer, account: str, tmp_path: Path) -> None:
    """It lists each connection with what it does and whose it is, and their totals. The command's
    own process is no worker.
    """
    database = mariadb.create_database()
    mariadb.execute(f"CREATE TABLE `{database}`.t (a INT) ENGINE=InnoDB")
    url = mariadb.url("pymysql", database, user=account, password="")
    mine = {"user": account, "password": ""}
    with (
        site_of(url, database, tmp_path) as site,
        Client(mariadb, database, **mine) as busy,
        Client(mariadb, database, **mine) as idle,
        Client(mariadb, database) as other,
        site.db.connection_context() as conn,
    ):
        conn.cursor().execute("SELECT 1")
        busy.run("INSERT INTO t VALUES (1)")

        told: dict[str, Any] = {}

        def is_settled() -> bool:
            """The server's list of transactions is up to 0.1 s old, and a command's connection may
            be there for a moment when the command has ended.
            """
            told.update(read(site), text=run(site).stdout)
            totals = told["totals"]
            is_alone = totals["total"] == 4 and ": 4 connections" in told["text"]
            return is_alone and bool(totals["idle in transaction"])

        wait_until(is_settled, "the four connections")
    kinds = {one["id"]: (one["whose"], one["activity"]) for one in told["sessions"]}
    assert kinds[busy.id] == ("unknown", "idle in transaction")
    assert kinds[idle.id] == ("unknown", "idle")
    assert other.id not in kinds
    assert sorted(told["totals"].items()) == [
        *(("active", 1), ("idle", 2), ("idle in transaction", 1), ("total", 4), ("unknown", 0))
    ]
    assert [whose for whose, _ in kinds.values()].count("command") == 2
    head, columns, *rows = told["text"].splitlines()
    assert head.startswith("'default' at MariaDB 1")
    assert ": 4 connections of the app (1 active, 2 idle, 1 idle in transaction), " in head
    assert columns.split() == [
        *("ID", "WORKER", "USER", "HOST", "DATABASE"),
        *("STATE", "FOR", "TRANSACTION", "STATEMENT"),
    ]
    (row,) = [row for row in rows if row.startswith(f"{busy.id} ")]
    assert row.split()[1:4] == ["unknown", account, "127.0.0.1"]
    assert "idle in transaction" in row


def test_without_privilege(site: Site) -> None:
    """Without the privilege to see transactions it says so, and does not guess."""
    result = run(site)
    assert (
        "Which of them are idle in a transaction is not known: it takes the privilege PROCESS"
        in (result.stdout)
    )


@pytest.mark.parametrize(
    ("statement", "shown", "hidden"),
    [
        ("SELECT 'a\x1b[31mred\x07', SLEEP(20)", "SELECT 'a\\x1b[31mred\\x07', SLEEP(20)", "\x1b"),
        ("SELECT SLEEP(20), 'password=Kolibri'", "SELECT ... (not shown", "Kolibri"),
        (f"SELECT SLEEP(20), '{'x' * 500}'", f"SELECT SLEEP(20), '{'x' * 90}", "x" * 200),
        ("SELECT\n  SLEEP(20)", "SELECT SLEEP(20)", "SELECT\n"),
    ],
)
def test_statements(
    statement: str, shown: str, hidden: str, site: Site, mariadb: MariaDBServer
) -> None:
    """A statement is one line, cut, and escaped; one that may hold a password is not shown."""
    with Client(mariadb, site.database) as client:
        caller = call(client.run, statement)
        wait_until(lambda: read(site)["totals"]["active"] == 2, "the statement")
        result = run(site)
        told = json.dumps(read(site), ensure_ascii=False)
        mariadb.kill_connection(client.id)
        caller.wait()
    assert shown in result.stdout
    assert hidden not in result.stdout
    assert hidden not in told
    assert APP_PASSWORD_WORD not in result.stdout


def test_hostile_name(mariadb: MariaDBServer, tmp_path: Path) -> None:
    """So is the name of a user."""
    name = f"u\x1b[2J{uuid4().hex[:6]}"
    mariadb.execute("CREATE USER %s@'%%'", name)
    try:
        with site_of(mariadb.url("pymysql", user=name, password=""), "", tmp_path) as site:
            result = run(site)
    finally:
        mariadb.execute("DROP USER %s@'%%'", name)
    assert "u\\x1b[2J" in result.stdout
    assert "\x1b" not in result.stdout


def test_no_server(url: str, tmp_path: Path) -> None:
    """SQLite has no server, and that is no error."""
    with site_of(url, "", tmp_path) as site:
        result = run(site)
        assert (result.exit_code, result.stdout) == (0, "'default': SQLite has no server\n")
        result = run(site, "--kill-orphans", "--yes")
        assert result.exit_code == 0
        assert "Nothing is ended" in result.stdout


def test_server_that_is_away(mariadb: MariaDBServer, tmp_path: Path) -> None:
    """A bind that can't be reached is said to be away, and the others are listed."""
    url = mariadb.url("pymysql", mariadb.create_database())
    with site_of(url, "", tmp_path, binds={"log": "mysql://127.0.0.1:9/x"}) as site:
        result = run(site)
        assert result.exit_code == 1
        assert "'log': it can't be reached: OperationalError 2003" in result.stdout
        assert "'default' at MariaDB" in result.stdout
        assert run(site, "--bind", "default").exit_code == 0


def test_binds_of_one_server(mariadb: MariaDBServer, tmp_path: Path) -> None:
    """Binds that have a server in common have one list."""
    urls = [mariadb.url("pymysql", mariadb.create_database()) for _ in range(2)]
    with (
        site_of(urls[0], "", tmp_path, binds={"log": urls[1]}) as site,
        site.db.connection_context("log") as conn,
    ):
        conn.cursor().execute("SELECT 1")
        told = read(site)
    assert told["binds"] == ["default", "log"]
    assert told["totals"]["total"] == 3


# Orphans


def test_orphans(mariadb: MariaDBServer, site: Site, account: str) -> None:
    """What no living process knows and has rested for long enough is ended, after asking. What runs
    a statement is not, nor what was used since, nor what is another user's, in another database, or
    from another machine.
    """
    args, name = ("--kill-orphans", "--idle", "0"), site.database
    mariadb.execute(f"CREATE TABLE `{name}`.t (a INT) ENGINE=InnoDB")
    with (
        Client(mariadb, name) as idle,
        Client(mariadb, name) as open_,
        Client(mariadb, name) as busy,
        Client(mariadb, name) as fresh,
        Client(mariadb, name, user=account, password="") as others,
        Client(mariadb, mariadb.create_database()) as elsewhere,
        Client(mariadb, name, bind_address="127.0.0.2") as remote,
        site.db.connection_context() as conn,
    ):
        conn.cursor().execute("SELECT 1")
        open_.run("INSERT INTO t VALUES (1)")
        caller = call(busy.run, "SELECT SLEEP(60)")
        time.sleep(RESTED)
        fresh.run("SELECT 1")
        assert {owners(site)[one.id] for one in (idle, open_, busy, fresh)} == {"unknown"}
        assert owners(site)[remote.id] == "elsewhere"
        assert owners(site).keys().isdisjoint({others.id, elsewhere.id})
        result = run(site, *args, answer="n\n")
        assert result.exit_code == 1
        assert f"Orphans of 'default': {idle.id}, {open_.id}\n" in result.stdout
        assert "End these 2 connections? [y/N]" in result.stdout
        for one in (idle, open_):
            line = rf"Process {os.getpid()} \(.+\), which is none of the app's, has {one.id}\.\n"
            assert re.search(line, result.stdout)
        assert {idle.id, open_.id} <= set(mariadb.connections())
        result = run(site, *args, answer="y\n")
        assert result.exit_code == 0, result.output
        assert "2 of 2 ended." in result.stdout
        wait_until(lambda: {idle.id, open_.id}.isdisjoint(mariadb.connections()), "the end of both")
        spared = {one.id for one in (busy, fresh, others, elsewhere, remote)}
        assert spared <= set(mariadb.connections())
        assert conn.cursor().execute("SELECT 1") == 1
        mariadb.kill_connection(busy.id)
        caller.wait()
        assert read(site, *args, "--yes", "--idle", "60")["ended"] == []


def test_looked_at_again(
    mariadb: MariaDBServer, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is looked at again right before its end: what was used while the command asked is
    spared, and so is what a process has published since.
    """
    used, known = Client(mariadb, site.database), Client(mariadb, site.database)
    numbers = site.app.extensions["pooled_db"].numbers
    collect = numbers.collect

    def with_known() -> dict[str, Any]:
        return {**collect(), "server_ids": {"default": [known.id]}}

    def answer(*_: object, **__: object) -> bool:
        used.run("SELECT 1")
        monkeypatch.setattr(numbers, "collect", with_known)
        return True

    with used, known, site.db.connection_context() as conn:
        conn.cursor().execute("SELECT 1")  # so that this process publishes
        time.sleep(RESTED)
        monkeypatch.setattr(click, "confirm", answer)
        result = run(site, "--kill-orphans", "--idle", "0")
        assert "0 of 2 ended." in result.stdout, result.output
        assert f"{used.id} is spared" in result.stdout
        assert f"{known.id} is spared" in result.stdout
        assert {used.id, known.id} <= set(mariadb.connections())


def test_orphans_on_postgresql(postgresql: str, tmp_path: Path) -> None:
    """On PostgreSQL too; there what calls itself otherwise is another program's."""
    plain = postgresql.replace("+psycopg", "")
    with (
        site_of(postgresql, "", tmp_path) as site,
        psycopg.connect(plain, application_name="gunicorn[1] default") as orphan,
        psycopg.connect(plain, application_name="gunicorn[1] other") as other,
        psycopg.connect(plain, application_name="psql") as human,
    ):
        for one in (orphan, other, human):
            one.execute("SELECT 1")
        ids = [one.info.backend_pid for one in (orphan, other, human)]
        assert owners(site).keys() & set(ids) == {ids[0]}
        assert read(site, "--kill-orphans", "--yes", "--idle", "60")["ended"] == []
        time.sleep(orphans.MARGIN + 0.1)
        assert read(site, "--kill-orphans", "--yes", "--idle", "0")["ended"] == ids[:1]
        wait_until(lambda: ids[0] not in owners(site), "its end")
        with pytest.raises(psycopg.OperationalError):
            orphan.execute("SELECT 1")
        human.execute("SELECT 1")


def test_stopped_process(site: Site, mariadb: MariaDBServer) -> None:
    """A process that is stopped lives: what it has is spared, and so is what it may have opened
    since it published.
    """
    location = next(iter((site.folder / "run").iterdir()), None)
    with (
        Client(mariadb, site.database) as its,
        Client(mariadb, site.database) as orphan,
        site.db.connection_context() as conn,
    ):
        conn.cursor().execute("SELECT 1")
        site.db.host_stats()
        (location,) = (site.folder / "run").iterdir()
        numbers = {"pools": {"default": {"server_ids": [its.id]}}}
        with Other(site.folder / "run") as other:
            other.run("from flask_pooled_db.host import Location")
            other.run(f"member = Member(Location(str(folder), {location.name!r}), Counting.merge)")
            other.run(f"member.publish({numbers!r})")
            other.send(signal.SIGSTOP)
            time.sleep(RESTED)
            told = read(site, "--kill-orphans", "--yes", "--idle", "0")
            assert told["ended"] == []
            whose = {one["id"]: (one["whose"], one["pid"]) for one in told["sessions"]}
            assert whose[its.id] == ("worker", other.pid)
            assert whose[orphan.id] == ("unknown", None)
            other.send(signal.SIGKILL)
        wait_until(lambda: owners(site)[its.id] == "unknown", "its end")
        ended = read(site, "--kill-orphans", "--yes", "--idle", "0")["ended"]
        assert ended == [its.id, orphan.id]


def test_proxy(mariadb: MariaDBServer, tmp_path: Path) -> None:
    """Behind a proxy the server can't tell machines apart: nothing is ended."""
    database = mariadb.create_database()
    with Proxy(mariadb.host, mariadb.port) as proxy:
        url = mariadb.url("pymysql", database, port=proxy.port)
        with site_of(url, database, tmp_path) as site:
            assert read(site)["totals"]["total"] == 1
            result = run(site, "--kill-orphans", "--yes")
    assert result.exit_code == 1
    assert (
        "no orphan of 'default' is ended: the server sees the command's connection come from"
        in (result.stderr)
    )


def test_proxy_that_changes_ids(
    postgresql: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy that gives connections other ids is known by its own: it is said, and nothing is
    ended.
    """
    monkeypatch.setattr(PsycopgDriver, "server_id", lambda *_: 7)
    with site_of(postgresql, "", tmp_path) as site:
        result = run(site, "--kill-orphans", "--yes")
        checked = site.app.test_cli_runner().invoke(args=["pooled-db", "check"])
    assert result.exit_code == 1
    assert "no orphan of 'default' is ended: a proxy is in between" in result.stderr
    assert "a proxy is in between that gives connections other ids" in checked.stdout


def test_processes_that_can_not_be_read(mariadb: MariaDBServer) -> None:
    """Where nobody can tell what living processes have, nothing is ended."""
    with pooled_app(mariadb.url("pymysql"), runtime_dir=False) as (app, db):
        result = run(Site(app, db, "", Path()), "--kill-orphans", "--yes")
    assert result.exit_code == 1
    assert "no orphan is ended, for it is not known what living processes have" in result.stderr


def test_nobody_publishes(site: Site, mariadb: MariaDBServer) -> None:
    """Where no process publishes at all, that is said before it asks."""
    with Client(mariadb, site.database):
        time.sleep(RESTED)
        result = run(site, "--kill-orphans", "--idle", "0", answer="n\n")
    assert "No process of the app publishes anything here." in result.stdout
    assert "End this connection? [y/N]" in result.stdout


def test_json_can_not_ask(site: Site) -> None:
    """JSON comes without a question."""
    result = run(site, "--kill-orphans", "--json")
    assert result.exit_code == 2
    assert "--json can't ask: add --yes" in result.stderr
