"""The private names of the drivers that the adapters rely on."""

from __future__ import annotations

import ast
import inspect
import re
import sqlite3
from pathlib import Path
from types import ModuleType
from typing import Any

import mariadb as mariadb_connector
import pg8000.core
import psycopg
import pymysql
import pytest
from mariadb.constants import INFO

from flask_pooled_db.drivers import (
    mariadbconnector,
    psycopg_connection,
    pymysql_connection,
    unknown,
)
from flask_pooled_db.drivers import psycopg as psycopg_adapter
from flask_pooled_db.drivers import pymysql as pymysql_adapter
from flask_pooled_db.drivers.sqlite_connection import WatchedConnection
from flask_pooled_db.errors import ConnectFailed
from harness.server import MariaDBServer
from tests.support.pools import open_pool

# What of the drivers' private parts is relied upon. A test here that fails after an upgrade of a
# driver says which of them has to be looked at.

PYMYSQL_PRIVATE = {
    "_sock",
    "_secure",
    "_result",
    "_read_timeout",
    "_write_timeout",
    "_force_close",
    "_execute_command",
    "_read_ok_packet",
    "_read_packet",
    "_create_ssl_ctx",
}

PYMYSQL_RESULT_PRIVATE = {"_check_packet_is_eof"}
PYMYSQL_CURSOR_PRIVATE = {"_result"}
PYMYSQL_OWN = {
    "_connect_deadline",
    "_read_packet_in_time",
    "_dial",
    "_shake_hands",
    "_tls_contexts",
}
PSYCOPG_PRIVATE = {
    "_exec_command",
    "_pipeline",
    "_start_query",
    "_enqueue_sync",
    "_communicate_gen",
    "_conn",
    "_exit",
    "_fetch_gen",
}
MARIADB_PRIVATE = {"_closed", "_get_socket", "_mariadb_get_info"}
MARIADB_CURSOR_PRIVATE = {"_text", "_initresult"}


def private_names(
    module: ModuleType, of: str, objects: tuple[str, ...] = ("raw", "raw._result", "result")
) -> set[str]:
    """The private attributes of the driver's objects that an adapter touches."""
    names = set()
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(node, ast.ClassDef) and node.name == of:
            names |= {
                inner.attr
                for inner in ast.walk(node)
                if isinstance(inner, ast.Attribute)
                and inner.attr.startswith("_")
                and not inner.attr.startswith("__")
            }
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in objects:
            names |= {node.attr} if node.attr.startswith("_") else set()
    return names


def test_private_names_of_pymysql(mariadb: MariaDBServer) -> None:
    """The list has every private name of PyMySQL that the adapter uses, and each exists."""
    touched = private_names(pymysql_connection, "Connection") - PYMYSQL_OWN
    touched |= private_names(pymysql_adapter, "")
    assert touched == PYMYSQL_PRIVATE | PYMYSQL_RESULT_PRIVATE, (
        "keep the list of private names complete"
    )
    raw: Any = pymysql.connect(**mariadb.connect_args(), ssl_disabled=True)
    try:
        missing = sorted(name for name in PYMYSQL_PRIVATE if not hasattr(raw, name))
        assert not missing, f"PyMySQL {pymysql.VERSION_STRING} has no more {missing}"
        assert not any(hasattr(raw, name) for name in PYMYSQL_OWN), "PyMySQL now has one itself"
        raw.query("SELECT 1")
        for name in ("unbuffered_active", "has_next", "connection", *PYMYSQL_RESULT_PRIVATE):
            assert hasattr(raw._result, name), f"PyMySQL's result has no more {name}"
        touched = private_names(pymysql_adapter, "", ("cursor", "cursor._result"))
        assert touched == PYMYSQL_CURSOR_PRIVATE, "keep the list of private names complete"
        for name in (*PYMYSQL_CURSOR_PRIVATE, pymysql_adapter.RUNS_QUERY):
            assert hasattr(raw.cursor(), name), f"PyMySQL's cursor has no more {name}"
    finally:
        raw.close()
    assert raw._sock is None, "PyMySQL keeps the socket of a closed connection"


def test_pymysql_timeout_per_read() -> None:
    """PyMySQL applies the current timeout at each read: the bound on the
    handshake relies on this.
    """
    connection: Any = pymysql.Connection
    assert "self._read_timeout" in inspect.getsource(connection._read_bytes)
    assert "self._read_packet" in inspect.getsource(connection._get_server_information)


def test_private_names_of_connector(mariadb: MariaDBServer) -> None:
    """The list has every private name of the connector that the adapter uses, and each exists."""
    touched = private_names(mariadbconnector, "")
    assert touched == MARIADB_PRIVATE, "keep the list of private names complete"
    raw = mariadb_connector.connect(**mariadb.connect_args())
    try:
        missing = sorted(name for name in MARIADB_PRIVATE if not hasattr(raw, name))
        assert not missing, f"the connector {mariadb_connector.__version__} has no more {missing}"
        assert raw._closed is False or raw._closed == 0
        assert raw._get_socket() > 0
        assert raw._mariadb_get_info(INFO.SQLSTATE) == "00000"
        assert mariadbconnector.SQLSTATE == INFO.SQLSTATE
        touched = private_names(mariadbconnector, "", ("cursor",))
        assert touched == MARIADB_CURSOR_PRIVATE, "keep the list of private names complete"
        for name in MARIADB_CURSOR_PRIVATE:
            assert hasattr(raw.cursor(), name), f"the connector's cursor has no more {name}"
    finally:
        raw.close()
    assert raw._closed


def test_private_names_of_psycopg(shared_postgresql: str) -> None:
    """The list has every private name of psycopg that the adapter uses, and each exists: else each
    transaction takes a round trip more, and a session that was changed is closed.
    """
    touched = private_names(psycopg_connection, "Connection", ())
    touched |= private_names(psycopg_connection, "Together", ())
    assert touched == PSYCOPG_PRIVATE, "keep the list of private names complete"
    assert private_names(psycopg_adapter, "", ("raw", "raw.pgconn")) == set()
    assert psycopg_connection.fits(psycopg)
    with psycopg.connect(shared_postgresql.replace("+psycopg", "")) as raw:
        assert raw._pipeline is None
        assert not hasattr(raw, "is_begun"), "psycopg now has one itself"
        assert psycopg_connection.forgetting_prepared(raw) is not None
        for _ in range(8):
            raw.execute("SELECT 1")
        assert raw._prepared._names
        with raw.pipeline() as pipeline:
            assert raw._pipeline is pipeline


def test_psycopg_of_another_release(monkeypatch: pytest.MonkeyPatch) -> None:
    """A release that does not fit has its own connections, and its own transactions."""
    monkeypatch.delattr("psycopg._pipeline_base.BasePipeline._exit_gen")
    assert psycopg_connection.connection_class.__wrapped__(psycopg, object) is psycopg.Connection


def test_private_names_of_pg8000() -> None:
    """pg8000 keeps the status of the protocol, by which its transactions are known, and what the
    server calls the connection.
    """
    touched = set(re.findall(r'getattr\(raw, "(_\w+)"', inspect.getsource(unknown)))
    assert touched == {"_transaction_status", "_backend_key_data"}
    for name in touched:
        assert f"self.{name} = data" in inspect.getsource(pg8000.core.CoreConnection)


def test_sqlite3_calls_the_connection() -> None:
    """sqlite3 has its connection compile each statement, whatever runs it, if it keeps none: this
    is how the adapter comes to know of every one. It is in no documentation.
    """
    seen = []

    class Watching(sqlite3.Connection):
        def __call__(self, sql: str) -> Any:
            seen.append(sql)
            return super().__call__(sql)

    raw = sqlite3.connect(":memory:", factory=Watching, cached_statements=0)
    for _ in range(2):
        raw.execute("CREATE TEMP TABLE IF NOT EXISTS t (a)")
        raw.executemany("INSERT INTO t VALUES (?)", [(1,), (2,)])
        sqlite3.Cursor(raw).execute("SELECT 1")
    assert [sql.split()[0] for sql in seen] == ["CREATE", "INSERT", "SELECT"] * 2
    raw.close()


def test_t1_sqlite3_that_calls_no_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Python that does not is refused when the pool connects."""
    monkeypatch.delattr(WatchedConnection, "__call__")
    with open_pool(url=f"sqlite:///{tmp_path}/file") as pool:
        with pytest.raises(ConnectFailed) as caught:
            pool.lease()
    assert "use another Python" in str(caught.value.__cause__)


def functions_of(*modules: ModuleType) -> set[str]:
    """The names of all functions in some modules, and of what a generator expression is called."""
    trees = [ast.parse(inspect.getsource(module)) for module in modules]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    return {node.name for node in nodes if isinstance(node, ast.FunctionDef)} | {"<genexpr>"}


def test_functions_that_errors_come_through() -> None:
    """The functions of the drivers by which the adapters know what an error proves are there."""
    of_pymysql = functions_of(pymysql.cursors, pymysql.connections)
    adapter: Any = pymysql_adapter
    names = adapter.CONVERTS | adapter.GOES_THROUGH_ROWS | adapter.PREPARES | adapter.SENDS
    assert names | {adapter.READS_ROW, adapter.READS_RESULT} <= of_pymysql
    of_connector = functions_of(mariadb_connector.cursors, mariadb_connector.connections)
    assert of_connector >= mariadbconnector.CONVERTS | mariadbconnector.PREPARES
