"""What drivers tell of their servers, and of the connections that those have."""

from __future__ import annotations

import contextlib
import importlib
import re
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg
import pytest

from flask_pooled_db.config import PoolConfig
from flask_pooled_db.drivers import make_driver, sockets
from flask_pooled_db.drivers.facts import Activity, ServerFacts, ServerSession
from flask_pooled_db.pool import Entry
from harness.server import MariaDBServer
from harness.waiting import wait_until
from tests.support.apps import pooled_app
from tests.support.pools import call, open_pool

PASSWORD = "Kolibri7Geheim"


@contextlib.contextmanager
def opened(**keys: Any) -> Iterator[Entry]:
    """A connection as a pool of these keys opens it, outside of the pool."""
    with open_pool(**keys) as pool:
        entry = pool.engine.open_outside()
        try:
            yield entry
        finally:
            entry.end()


def facts_of(entry: Entry) -> ServerFacts:
    facts = entry.driver.facts(entry.raw)
    assert facts is not None
    return facts


def sessions_of(entry: Entry) -> dict[int, ServerSession]:
    return {one.id: one for one in entry.driver.server_sessions(entry.raw)}


def id_of(entry: Entry) -> int:
    found = entry.link.server_id
    assert found is not None
    return found


def run(entry: Entry, sql: str) -> None:
    cursor = entry.raw.cursor()
    cursor.execute(sql)
    cursor.close()


@pytest.fixture
def account(mariadb: MariaDBServer) -> Iterator[str]:
    """The name of a user of the test's own, who may use every database."""
    name = f"user_{uuid4().hex[:8]}"
    mariadb.execute(f"CREATE USER '{name}'@'%%' IDENTIFIED BY %s", PASSWORD)
    mariadb.execute(f"GRANT ALL ON `test_%`.* TO '{name}'@'%'")
    yield name
    mariadb.execute(f"DROP USER '{name}'@'%'")


@pytest.fixture
def role(postgresql: str) -> Iterator[str]:
    """The URL of a role of the test's own, which may do what everybody may."""
    name = f"role_{uuid4().hex[:8]}"
    on_postgresql(postgresql, f"CREATE ROLE {name} LOGIN")
    yield postgresql.replace("postgres@", f"{name}@")
    on_postgresql(postgresql, f"DROP ROLE {name}")


def on_postgresql(url: str, sql: str) -> None:
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(sql.encode())


def name_in(url: str) -> str:
    return str(urlsplit(url).username)


# Facts


def test_facts_of_mariadb(server: MariaDBServer, mariadb_driver: str) -> None:
    """MariaDB tells its version, its limits and how many connections it has; and whether this one
    uses TLS.
    """
    keys = {"setsession": ["SET SESSION wait_timeout=77", "SET SESSION max_statement_time=1.5"]}
    with opened(url=server.url(mariadb_driver, server.create_database()), **keys) as entry:
        facts = facts_of(entry)
    ((most, version),) = server.query("SELECT @@max_connections, VERSION()")
    assert (facts.product, facts.version) == ("MariaDB", version)
    assert (facts.max_connections, facts.reserved) == (most, 0)
    assert 1 <= (facts.connections or 0) < most
    assert facts.idle_timeout == ("wait_timeout", 77.0)
    assert ("max_statement_time", 1.5) in facts.statement_timeouts
    assert ("idle_transaction_timeout", 0.0) in facts.transaction_timeouts
    assert facts.account_limits == ()
    assert not facts.changes_ids
    assert facts.tls is not None
    assert facts.tls.startswith("TLSv") is (server.certificates is not None)


def test_limit_of_mariadb_account(mariadb: MariaDBServer, account: str) -> None:
    """The limit of an account's connections is the account's own."""
    mariadb.execute(f"ALTER USER '{account}'@'%' WITH MAX_USER_CONNECTIONS 3")
    with opened(url=mariadb.url("pymysql", user=account, password=PASSWORD)) as entry:
        assert facts_of(entry).account_limits == (("max_user_connections", 3.0),)


def test_facts_of_postgresql(postgresql: str, role: str) -> None:
    """PostgreSQL tells the same: what it reserves, and the limits of the role and the database."""
    name = name_in(role)
    on_postgresql(postgresql, f"ALTER ROLE {name} SET idle_session_timeout = '77s'")
    on_postgresql(postgresql, f"ALTER ROLE {name} SET statement_timeout = 1500")
    on_postgresql(postgresql, f"ALTER ROLE {name} CONNECTION LIMIT 4")
    with opened(url=role) as entry:
        facts = facts_of(entry)
        version = entry.raw.info.server_version // 10000
    assert facts.product == "PostgreSQL"
    assert facts.version.startswith(f"{version}.")
    assert (facts.max_connections, facts.reserved, facts.tls) == (100, 3, "")
    assert facts.connections is not None
    assert facts.connections >= 1
    assert facts.idle_timeout == ("idle_session_timeout", 77.0)
    assert ("statement_timeout", 1.5) in facts.statement_timeouts
    assert ("idle_in_transaction_session_timeout", 0.0) in facts.transaction_timeouts
    assert [limit.value for limit in facts.account_limits] == [4.0]


def test_facts_of_sqlite(tmp_path: Path) -> None:
    """SQLite has no server: it tells its version, the file and how that is written."""
    file = tmp_path / "shop.sqlite"
    with opened(url=f"sqlite:///{file}") as entry:
        facts = facts_of(entry)
        assert sessions_of(entry) == {}
        assert entry.link.server_id is None
    assert (facts.product, facts.file, facts.journal_mode) == ("SQLite", str(file), "wal")
    unknown = facts.max_connections, facts.connections, facts.idle_timeout, facts.tls
    assert unknown == (None, None, None, None)
    assert facts.statement_timeouts == (("busy_timeout", 5.0),)


def test_identity(mariadb: MariaDBServer, tls_mariadb: MariaDBServer) -> None:
    """A server is the same one whatever connects to it, and another one has another identity."""
    with (
        opened(url=mariadb.url("pymysql")) as one,
        opened(url=mariadb.url("mariadbconnector")) as same,
        opened(url=tls_mariadb.url("pymysql")) as other,
    ):
        assert facts_of(one).identity == facts_of(same).identity != facts_of(other).identity


def test_rows_of_any_shape(mariadb: MariaDBServer, postgresql: str) -> None:
    """It makes no difference what rows the application has configured."""
    with opened(url=mariadb.url("pymysql") + "?cursorclass=DictCursor") as entry:
        assert facts_of(entry).product == "MariaDB"
        assert id_of(entry) in sessions_of(entry)
    with opened(url=f"{postgresql}?row_factory=dict_row") as entry:
        assert facts_of(entry).product == "PostgreSQL"
        assert id_of(entry) in sessions_of(entry)


def test_latency(mariadb: MariaDBServer, tmp_path: Path) -> None:
    """A round trip takes its time."""
    for url in (mariadb.url("pymysql"), f"sqlite:///{tmp_path}/file"):
        with opened(url=url) as entry:
            assert 0.0 < entry.driver.latency(entry.raw) < 10.0


# Ids


def creators(mariadb: MariaDBServer, postgresql: str) -> dict[str, dict[str, Any]]:
    """The keys of each driver whose connections tell what the server calls them."""
    place = urlsplit(postgresql)
    of_postgresql = {
        "host": place.hostname,
        "port": place.port,
        "user": "postgres",
        "database": "postgres",
    }
    return {
        "pymysql": {"url": mariadb.url("pymysql")},
        "mariadb": {"url": mariadb.url("mariadbconnector")},
        "psycopg": {"url": postgresql},
        "mysql.connector": {"connect_args": mariadb.connect_args()},
        "psycopg2": {"connect_args": of_postgresql},
        "pg8000.dbapi": {"connect_args": of_postgresql},
    }


@pytest.mark.parametrize(
    "name", ["pymysql", "mariadb", "psycopg", "mysql.connector", "psycopg2", "pg8000.dbapi"]
)
def test_ids(name: str, mariadb: MariaDBServer, postgresql: str) -> None:
    """Each driver knows the server's id of a connection without asking, also one that the pool
    knows nothing else of; the server finds it under that.
    """
    keys = creators(mariadb, postgresql)[name]
    if "url" not in keys:
        keys["creator"] = importlib.import_module(name)
    with opened(**keys) as entry:
        facts = facts_of(entry)
        assert facts.product == ("PostgreSQL" if "p" in name[0] and "my" not in name else "MariaDB")
        own = sessions_of(entry)[id_of(entry)]
        assert own.activity is Activity.ACTIVE
        assert not facts.changes_ids
        ends = entry.driver.ends(entry.raw)
        assert ends is None or ends.own == (own.host, own.port)
        assert (ends is None) is (name in ("mysql.connector", "pg8000.dbapi"))


def test_unknown_module() -> None:
    """Nobody knows how to ask an unknown server."""

    class Connection:
        def cursor(self) -> None:
            raise NotImplementedError

        close = commit = rollback = cursor

    driver = make_driver(PoolConfig.from_mapping({"CREATOR": Connection}))
    raw = Connection()
    assert driver.facts(raw) is None
    assert driver.server_sessions(raw) == []
    assert driver.server_id(raw) is None


# Sessions


def test_sessions_of_mariadb(mariadb: MariaDBServer, account: str) -> None:
    """Without PROCESS only the account's own connections are seen, and nobody knows of their
    transactions; with it, all are. A transaction is as old as it is in any time zone.
    """
    database = mariadb.create_database()
    url = mariadb.url("pymysql", database, user=account, password=PASSWORD)
    mariadb.execute(f"CREATE TABLE `{database}`.t (a INT) ENGINE=InnoDB")
    with (
        opened(url=mariadb.url("pymysql", database)),
        opened(url=url) as own,
        opened(url=url) as entry,
    ):
        run(own, "INSERT INTO t VALUES (1)")
        seen = sessions_of(entry)
        assert seen.keys() == {id_of(own), id_of(entry)}
        assert seen[id_of(own)].activity is Activity.IDLE
        assert not facts_of(entry).sees_others
        mariadb.execute(f"GRANT PROCESS ON *.* TO '{account}'@'%'")
    with opened(url=url) as own, opened(url=url) as entry:
        run(own, "INSERT INTO t VALUES (1)")
        run(entry, "SET time_zone='+05:00'")

        def is_seen() -> bool:  # the server's list of transactions is up to 0.1 s old
            return sessions_of(entry)[id_of(own)].activity is Activity.IN_TRANSACTION

        wait_until(is_seen, "the transaction")
        found = sessions_of(entry)[id_of(own)]
        assert (found.user, found.host, found.database) == (account, "127.0.0.1", database)
        assert 0.0 <= (found.transaction_seconds or 0.0) < 60.0
        assert facts_of(entry).sees_others
        assert any(one.user != account for one in sessions_of(entry).values())


def test_sessions_of_postgresql(postgresql: str, role: str) -> None:
    """Without pg_monitor nothing is told of what other accounts' connections do; with it, all is.
    The label is the application's name.
    """
    with (
        opened(url=postgresql) as other,
        opened(url=role, bind="shop") as own,
        opened(url=role) as entry,
    ):
        run(other, "SELECT 7")
        run(own, "SELECT 8")
        seen = sessions_of(entry)
        assert seen[id_of(own)].activity is Activity.IN_TRANSACTION
        assert seen[id_of(own)].statement == "SELECT 8"
        assert str(seen[id_of(own)].label).endswith("] shop")
        assert seen[id_of(other)].activity is Activity.UNKNOWN
        assert seen[id_of(other)].statement == ""
        assert not facts_of(entry).sees_others
        on_postgresql(postgresql, f"GRANT pg_monitor TO {name_in(role)}")
        assert facts_of(entry).sees_others
        assert sessions_of(entry)[id_of(other)].statement == "SELECT 7"


@pytest.mark.parametrize("kind", ["mariadb", "postgresql"])
def test_end(kind: str, request: pytest.FixtureRequest) -> None:
    """A connection is ended if it still is the same one, runs nothing, and has not for so long. It
    may have ended by itself.
    """
    made = request.getfixturevalue(kind)
    url = made if kind == "postgresql" else made.url("pymysql", made.create_database())
    with opened(url=url) as victim, opened(url=url) as entry:

        def end(session: ServerSession, least: float = 0.0) -> bool:
            return entry.driver.end_session(entry.raw, session, least)

        found = sessions_of(entry)[id_of(victim)]
        others = [{"database": "another"}, {"user": "another"}, {"id": 2**31 - 1}]
        assert not any(end(replace(found, **other)) for other in others)  # type: ignore[arg-type]
        assert not end(found, 60.0)
        assert id_of(victim) in sessions_of(entry)
        assert end(found)
        wait_until(lambda: id_of(victim) not in sessions_of(entry), "its end")
        assert not end(found)


@pytest.mark.parametrize("kind", ["mariadb", "postgresql"])
def test_end_spares_statements(kind: str, request: pytest.FixtureRequest) -> None:
    """A connection that runs a statement is not ended."""
    made = request.getfixturevalue(kind)
    url = made if kind == "postgresql" else made.url("pymysql")
    slow = "SELECT pg_sleep(30)" if kind == "postgresql" else "SELECT SLEEP(30)"
    with opened(url=url) as victim, opened(url=url) as entry:
        found = sessions_of(entry)[id_of(victim)]
        caller = call(run, victim, slow)

        def runs() -> bool:
            return sessions_of(entry)[id_of(victim)].activity is Activity.ACTIVE

        wait_until(runs, "the statement")
        assert not entry.driver.end_session(entry.raw, found, 0.0)
        assert runs()
        end = victim.driver.ending(victim.raw)
        assert end is not None
        end(lambda: entry.raw)
        caller.wait()


def test_ends_of_local_socket(tmp_path: Path) -> None:
    """A local socket has no addresses, and neither has a descriptor that is none."""
    one, two = socket.socketpair()
    with one, two:
        assert sockets.ends(one.fileno()) is None
    with (tmp_path / "file").open("w") as file:
        assert sockets.ends(file.fileno()) is None


def test_states_in_check(postgresql: str) -> None:
    """`check` says what the server's connections do, and how old idle transactions are."""
    with pooled_app(postgresql) as (app, db):
        with db.connection_context() as conn:
            conn.execute("SELECT 1")
            result = app.test_cli_runner().invoke(args=["pooled-db", "check"])
    assert re.search(r"connections, this account sees [1-9]\d* active", result.stdout)
    assert "idle in transaction (the oldest transaction of these for " in result.stdout
