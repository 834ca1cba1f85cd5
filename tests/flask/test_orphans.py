"""`flask pooled-db server --kill-orphans`: what it ends, and what it spares."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import click
import psycopg
import pytest

from flask_pooled_db.drivers.psycopg import PsycopgDriver
from flask_pooled_db.flask.commands.servers import orphans
from harness.proxy import Proxy
from harness.server import MariaDBServer
from harness.waiting import wait_until
from tests.flask.listing import RESTED, Client, Site, owners, read, run, site_of
from tests.host.meeting import Other
from tests.support.apps import pooled_app
from tests.support.pools import call


def test_orphans(mariadb: MariaDBServer, shop: Site, account: str) -> None:
    """What no living process knows and has rested for long enough is ended, after asking. What runs
    a statement is not, nor what was used since, nor what is another user's, in another database, or
    from another machine.
    """
    args, name = ("--kill-orphans", "--idle", "0"), shop.database
    mariadb.execute(f"CREATE TABLE `{name}`.t (a INT) ENGINE=InnoDB")
    with (
        Client(mariadb, name) as idle,
        Client(mariadb, name) as open_,
        Client(mariadb, name) as busy,
        Client(mariadb, name) as fresh,
        Client(mariadb, name, user=account, password="") as others,
        Client(mariadb, mariadb.create_database()) as elsewhere,
        Client(mariadb, name, bind_address="127.0.0.2") as remote,
        shop.db.connection_context() as conn,
        fresh.in_use(),
    ):
        conn.cursor().execute("SELECT 1")
        open_.run("INSERT INTO t VALUES (1)")
        caller = call(busy.run, "SELECT SLEEP(60)")
        time.sleep(RESTED)
        assert {owners(shop)[one.id] for one in (idle, open_, busy, fresh)} == {"unknown"}
        assert owners(shop)[remote.id] == "elsewhere"
        assert owners(shop).keys().isdisjoint({others.id, elsewhere.id})
        result = run(shop, *args, answer="n\n")
        assert result.exit_code == 1
        assert f"Orphans of 'default': {idle.id}, {open_.id}\n" in result.stdout
        assert "End these 2 connections? [y/N]" in result.stdout
        for one in (idle, open_):
            line = rf"Process {os.getpid()} \(.+\) has {one.id} open\.\n"
            assert re.search(line, result.stdout)
        result = run(shop, *args, "--yes")
        assert (
            f"{idle.id} is spared: it takes an answer, without --yes, to end it." in result.stdout
        )
        assert "0 of 0 ended." in result.stdout
        assert {idle.id, open_.id} <= set(mariadb.connections())
        result = run(shop, *args, answer="y\n")
        assert result.exit_code == 0, result.output
        assert "2 of 2 ended." in result.stdout
        wait_until(lambda: {idle.id, open_.id}.isdisjoint(mariadb.connections()), "the end of both")
        spared = {one.id for one in (busy, fresh, others, elsewhere, remote)}
        assert spared <= set(mariadb.connections())
        assert conn.cursor().execute("SELECT 1") == 1
        mariadb.kill_connection(busy.id)
        caller.wait()
        assert read(shop, *args, "--yes", "--idle", "60")["ended"] == []


def test_looked_at_again(
    mariadb: MariaDBServer, shop: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is looked at again right before its end: what was used while the command asked is
    spared, and so is what a process has published since.
    """
    used, known = Client(mariadb, shop.database), Client(mariadb, shop.database)
    numbers = shop.app.extensions["pooled_db"].numbers
    collect = numbers.collect

    def with_known() -> dict[str, Any]:
        return {**collect(), "server_ids": {"default": [known.id]}}

    def answer(*_: object, **__: object) -> bool:
        used.run("SELECT 1")
        monkeypatch.setattr(numbers, "collect", with_known)
        return True

    with used, known, shop.db.connection_context() as conn:
        conn.cursor().execute("SELECT 1")  # so that this process publishes
        time.sleep(RESTED)
        monkeypatch.setattr(click, "confirm", answer)
        result = run(shop, "--kill-orphans", "--idle", "0")
        assert "0 of 2 ended." in result.stdout, result.output
        assert f"{used.id} is spared" in result.stdout
        assert f"{known.id} is spared" in result.stdout
        assert {used.id, known.id} <= set(mariadb.connections())


@pytest.fixture
def nobody_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """No process of this machine has what the server has: a network went away, and took the ends
    along.
    """
    monkeypatch.setattr(orphans, "holders", lambda *_: {})


@pytest.mark.usefixtures("nobody_holds")
def test_other_binds_of_a_server(mariadb: MariaDBServer, database: str, tmp_path: Path) -> None:
    """What workers have is spared, whichever bind it is of: one that is left out, and one that was
    closed while a lease of it goes on.
    """
    url = mariadb.url("pymysql", database)
    args = ("--kill-orphans", "--yes", "--idle", "0", "--bind", "other")
    with site_of(url, database, tmp_path, binds={"other": url, "third": url}) as site:
        site.db.bind_loader(lambda _: url)
        with (
            site.db.connection_context() as one,
            site.db.connection_context("third") as two,
            site.db.connection_context("branch") as three,
            Client(mariadb, database) as orphan,
        ):
            for conn in (one, two, three):
                conn.cursor().execute("SELECT 1")
            site.db.close_bind("branch")
            time.sleep(RESTED)
            assert read(site, *args)["ended"] == [orphan.id]
            for conn in (one, two, three):
                conn.cursor().execute("SELECT 1")


@pytest.mark.usefixtures("nobody_holds")
def test_orphans_on_postgresql(postgresql: str, tmp_path: Path) -> None:
    """On PostgreSQL too; there what calls itself otherwise is another program's."""
    # The other tests' pgbouncer has connections of the server's own account.
    with psycopg.connect(postgresql.replace("+psycopg", ""), autocommit=True) as root:
        root.execute("DROP ROLE IF EXISTS has_orphans")
        root.execute("CREATE ROLE has_orphans LOGIN")
    url = postgresql.replace("postgres@", "has_orphans@")
    plain = url.replace("+psycopg", "")
    with (
        site_of(url, "", tmp_path) as site,
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


@pytest.mark.usefixtures("nobody_holds")
def test_stopped_process(shop: Site, mariadb: MariaDBServer) -> None:
    """A process that is stopped lives: what it has is spared, and so is what it may have opened
    since it published.
    """
    location = next(iter((shop.folder / "run").iterdir()), None)
    with (
        Client(mariadb, shop.database) as its,
        Client(mariadb, shop.database) as orphan,
        shop.db.connection_context() as conn,
    ):
        conn.cursor().execute("SELECT 1")
        shop.db.host_stats()
        (location,) = (shop.folder / "run").iterdir()
        numbers = {"pools": {"default": {"server_ids": [its.id]}}}
        with Other(shop.folder / "run") as other:
            other.run("from flask_pooled_db.host import Location")
            other.run(f"member = Member(Location(str(folder), {location.name!r}), Counting.merge)")
            other.run(f"member.publish({numbers!r})")
            other.send(signal.SIGSTOP)
            time.sleep(RESTED)
            told = read(shop, "--kill-orphans", "--yes", "--idle", "0")
            assert told["ended"] == []
            whose = {one["id"]: (one["whose"], one["pid"]) for one in told["sessions"]}
            assert whose[its.id] == ("worker", other.pid)
            assert whose[orphan.id] == ("unknown", None)
            other.send(signal.SIGKILL)
        wait_until(lambda: owners(shop)[its.id] == "unknown", "its end")
        ended = read(shop, "--kill-orphans", "--yes", "--idle", "0")["ended"]
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


def test_nobody_publishes(shop: Site, mariadb: MariaDBServer) -> None:
    """Where no process publishes at all, that is said before it asks."""
    with Client(mariadb, shop.database):
        time.sleep(RESTED)
        result = run(shop, "--kill-orphans", "--idle", "0", answer="n\n")
    assert "No process of the app publishes anything here." in result.stdout
    assert "End this connection? [y/N]" in result.stdout


def test_json_can_not_ask(shop: Site) -> None:
    """JSON comes without a question."""
    result = run(shop, "--kill-orphans", "--json")
    assert result.exit_code == 2
    assert "--json can't ask: add --yes" in result.stderr
