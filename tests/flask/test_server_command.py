"""`flask pooled-db server`: the server's own list of the app's connections."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from harness.server import APP_PASSWORD_WORD, MariaDBServer
from harness.waiting import wait_until
from tests.flask.listing import Client, Site, read, run, site_of
from tests.support.pools import call

# The list


def test_list(mariadb: MariaDBServer, account: str, tmp_path: Path) -> None:
    """It lists each connection with what it does and whose it is, and their totals. The command's
    own process is no worker.
    """
    database = mariadb.create_database()
    mariadb.execute(f"CREATE TABLE `{database}`.t (a INT) ENGINE=InnoDB")
    url = mariadb.url("pymysql", database, user=account, password="")
    mariadb.execute(f"GRANT PROCESS ON *.* TO '{account}'@'%'")
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


def test_without_privilege(shop: Site) -> None:
    """Without the privilege to see transactions it says so, and does not guess."""
    result = run(shop)
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
    statement: str, shown: str, hidden: str, shop: Site, mariadb: MariaDBServer
) -> None:
    """A statement is one line, cut, and escaped; one that may hold a password is not shown."""
    with Client(mariadb, shop.database) as client:
        caller = call(client.run, statement)
        wait_until(lambda: read(shop)["totals"]["active"] == 2, "the statement")
        result = run(shop)
        told = json.dumps(read(shop), ensure_ascii=False)
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
