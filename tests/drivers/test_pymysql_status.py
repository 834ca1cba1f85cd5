"""PyMySQL's status is true after every statement, and where it can't be, nothing relies on it."""

from __future__ import annotations

import contextlib
import importlib
import inspect
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pymysql
import pytest
from pymysql.cursors import SSCursor

from flask_pooled_db import TransactionAborted, db_connection_context
from flask_pooled_db.drivers import pymysql_status
from flask_pooled_db.drivers.mysql import CLIENT_SESSION_TRACK, STATUS_IN_TRANS
from harness.proxy import Proxy
from harness.server import MariaDBServer
from tests.support.apps import pooled_app

protocol: Any = importlib.import_module("pymysql.protocol")
PlainResult: Any = pymysql.connections.MySQLResult

RELIED_ON = (
    "PyMySQL has changed {}, which drivers/pymysql_status.py relies on: with this release the pool "
    "sends a COMMIT too many, and knows changed sessions by the statements' texts alone. Adapt it, "
    "and this test"
)


def test_contract() -> None:
    """What is relied on is there, in this release of PyMySQL."""
    connections: Any = pymysql.connections
    result, connection = connections.MySQLResult, connections.Connection
    parameters = {
        "MySQLResult._check_packet_is_eof": ["self", "packet"],
        "MySQLResult.__init__": ["self", "connection"],
        "MySQLResult.read": ["self"],
        "MySQLResult.init_unbuffered_query": ["self"],
        "Connection._read_query_result": ["self", "unbuffered"],
    }
    for name, expected in parameters.items():
        owner, _, method = name.partition(".")
        function = getattr(getattr(connections, owner), method, None)
        assert function is not None, RELIED_ON.format(name)
        assert list(inspect.signature(function).parameters) == expected, RELIED_ON.format(name)
    packet = protocol.MysqlPacket(b"\xfe\x03\x00\x0b\x00", "utf8")
    end = connections.EOFPacketWrapper(packet)
    found = end.warning_count, end.server_status, bool(end.has_next)
    assert found == (3, 11, True), RELIED_ON.format("EOFPacketWrapper")
    sets = "self.server_status ="
    for function in (connection._get_server_information, connection._read_query_result):
        assert sets in inspect.getsource(function), RELIED_ON.format(function.__qualname__)
    reads = inspect.getsource(connection._read_query_result)
    assert "MySQLResult(self)" in reads, RELIED_ON.format("Connection._read_query_result")
    for method in ("_read_rowdata_packet", "_read_rowdata_packet_unbuffered"):
        source = inspect.getsource(getattr(result, method))
        assert "_check_packet_is_eof" in source, RELIED_ON.format(f"MySQLResult.{method}")
    assert pymysql_status.fits(pymysql), RELIED_ON.format("something")


def another_release(**changes: Any) -> Any:
    """A module like PyMySQL with other classes in it."""
    names = {name: getattr(pymysql, name) for name in dir(pymysql) if not name.startswith("__")}
    connections = SimpleNamespace(**vars(pymysql.connections))
    vars(connections).update(changes)
    for name in [name for name, value in changes.items() if value is None]:
        delattr(connections, name)
    return SimpleNamespace(**{**names, "connections": connections})


class OtherResult(PlainResult):  # type: ignore[misc]
    """One whose method takes something else."""

    def _check_packet_is_eof(self, packet: Any, more: Any = None) -> Any:
        return super()._check_packet_is_eof(packet)


@pytest.mark.parametrize("changes", [{"MySQLResult": OtherResult}, {"EOFPacketWrapper": None}])
def test_another_release(changes: dict[str, Any]) -> None:
    """In a release that has something else there, PyMySQL's own class is used as it is."""
    other = another_release(**changes)
    assert pymysql_status.with_true_status(other) is other.connections.Connection


@pytest.fixture
def raw(mariadb: MariaDBServer) -> Iterator[Any]:
    """A connection of the class with the true status, to a database with the table `t`."""
    database = mariadb.create_database()
    make = pymysql_status.with_true_status(pymysql)
    arguments = {**mariadb.connect_args(database), "client_flag": CLIENT_SESSION_TRACK}
    with contextlib.closing(make(**arguments, ssl_disabled=True)) as raw:
        for sql in (
            "CREATE TABLE t (id INT PRIMARY KEY) ENGINE=InnoDB",
            "INSERT INTO t VALUES (1), (2), (3)",
            "COMMIT",
            "CREATE PROCEDURE selects() BEGIN SELECT 1; SELECT * FROM t; SELECT 2; END",
            "CREATE PROCEDURE commits() BEGIN SELECT * FROM t; COMMIT; SELECT 1; END",
        ):
            raw.query(sql)
        yield raw


def run(raw: Any, sql: str, kind: Any = None) -> None:
    with raw.cursor(kind) as cur:
        cur.execute(sql)
        while True:
            cur.fetchall()
            if not cur.nextset():
                return


def stream(raw: Any, sql: str) -> None:
    run(raw, sql, SSCursor)


def stream_row_by_row(raw: Any, sql: str) -> None:
    with raw.cursor(SSCursor) as cur:
        cur.execute(sql)
        while True:
            while cur.fetchone():
                pass
            if not cur.nextset():
                return


def leave_stream(raw: Any, sql: str) -> None:
    if "CALL" in sql or ";" in sql:  # PyMySQL would leave the rows of the second result
        stream(raw, sql)
        return
    cur = raw.cursor(SSCursor)
    cur.execute(sql)
    cur.fetchone()
    cur.close()  # reads on to the end


def fail(raw: Any, sql: str) -> None:
    with contextlib.suppress(pymysql.Error):
        run(raw, sql)


def is_open(raw: Any) -> bool:
    return bool(raw.server_status & STATUS_IN_TRANS)


WAYS = [run, stream, stream_row_by_row, leave_stream]
STATEMENTS = {
    "SELECT 1": False,
    "SELECT * FROM t": True,
    "SELECT * FROM t WHERE id = 99": True,
    "SELECT * FROM t FOR UPDATE": True,
    "SHOW TABLES": False,
    "CALL selects()": True,
    "CALL commits()": False,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("sql", STATEMENTS)
def test_status_after_rows(raw: Any, sql: str, way: Callable[[Any, str], None]) -> None:
    """The status is that after the last row, however the rows were read."""
    way(raw, sql)
    assert is_open(raw) is STATEMENTS[sql]
    run(raw, "INSERT INTO t VALUES (50)")
    assert is_open(raw)
    way(raw, sql)
    assert is_open(raw) is (sql != "CALL commits()")
    raw.rollback()
    assert not is_open(raw)
    way(raw, "SELECT 1")
    assert not is_open(raw)


@pytest.mark.parametrize("way", WAYS)
def test_status_after_several_results(mariadb: MariaDBServer, way: Any) -> None:
    """Several statements at once end with the status of the last one."""
    make = pymysql_status.with_true_status(pymysql)
    flags = CLIENT_SESSION_TRACK | pymysql.constants.CLIENT.MULTI_STATEMENTS
    arguments = {**mariadb.connect_args("mysql"), "client_flag": flags}
    with contextlib.closing(make(**arguments, ssl_disabled=True)) as raw:
        way(raw, "SELECT 1; SELECT * FROM innodb_index_stats LIMIT 1")
        assert is_open(raw)
        way(raw, "SELECT 1; COMMIT; SELECT 2")
        assert not is_open(raw)


def test_status_after_errors(raw: Any) -> None:
    """An error packet has no flags: the status stays, and the next statement's is true."""
    run(raw, "INSERT INTO t VALUES (50)")
    fail(raw, "INSERT INTO t VALUES (50)")
    assert is_open(raw)
    fail(raw, "CREATE TABLE t (a INT)")  # it has committed
    run(raw, "DO 0")
    assert not is_open(raw)


def test_status_of_ansi_quotes(raw: Any) -> None:
    """Flags beyond the fifteenth bit are read too."""
    run(raw, "SET sql_mode = 'ANSI_QUOTES,NO_BACKSLASH_ESCAPES'")
    for sql in ("SELECT * FROM t", "SELECT 1"):
        run(raw, sql)
        assert raw.server_status > 0
        assert is_open(raw)
    raw.rollback()
    run(raw, "SELECT 1")
    assert not is_open(raw)


def test_session_change_in_rows(raw: Any) -> None:
    """A change that comes with a result is noted."""
    run(raw, "SET session_track_state_change = ON")
    raw.is_session_changed = False
    run(raw, "SELECT * FROM t")
    assert not raw.is_session_changed
    run(raw, "CREATE FUNCTION f() RETURNS INT BEGIN SET @x = 5; RETURN 1; END")
    assert not raw.is_session_changed
    stream(raw, "SELECT f()")
    assert raw.is_session_changed


# -- Plain connections, of an application's own function -------------------------------------------


@pytest.fixture
def plain(mariadb: MariaDBServer) -> Iterator[tuple[Proxy, Callable[[], list[int]]]]:
    """A pool whose connections are PyMySQL's own, through a proxy; what is committed."""
    database = mariadb.create_database()
    mariadb.execute(f"CREATE TABLE `{database}`.t (id INT PRIMARY KEY) ENGINE=InnoDB")
    with Proxy(mariadb.host, mariadb.port) as proxy:

        def connect() -> Any:
            arguments = mariadb.connect_args(database, port=proxy.port)
            return pymysql.connect(**arguments, ssl_disabled=True)

        connect.dbapi = pymysql  # type: ignore[attr-defined]
        with pooled_app(creator=connect, maxconnections=1):
            yield (
                proxy,
                lambda: [id_ for (id_,) in mariadb.query(f"SELECT id FROM `{database}`.t")],
            )


@pytest.mark.usefixtures("plain")
def test_plain_is_told_apart() -> None:
    """The connections of the next tests are plain ones."""
    with db_connection_context() as conn:
        assert not hasattr(conn, "has_true_status")


@pytest.mark.parametrize(
    "sql", ["SELECT 1", "SELECT * FROM t", "INSERT INTO t VALUES (1)", "SELECT * FROM t FOR UPDATE"]
)
def test_plain_sends_commit(plain: tuple[Proxy, Callable[[], list[int]]], sql: str) -> None:
    """COMMIT is sent after whatever was sent: the status may be an old one."""
    proxy, _ = plain
    with db_connection_context() as conn:
        run(conn, "SELECT 1")
    proxy.reset_counts()
    with db_connection_context() as conn:
        run(conn, sql)
    assert proxy.commands[-1].starts_with(b"COMMIT")
    with db_connection_context() as conn:  # it sees what has been committed since
        run(conn, sql.replace("(1)", "(2)"))


def test_plain_loses_nothing(plain: tuple[Proxy, Callable[[], list[int]]]) -> None:
    """A write between reads is committed, and rolled back by an exception."""
    _, committed = plain
    for number in (1, 2):
        with contextlib.suppress(LookupError), db_connection_context() as conn:
            run(conn, "SELECT 1")
            run(conn, f"INSERT INTO t VALUES ({number})")
            run(conn, "SELECT 1")
            if number == 2:
                raise LookupError
    assert committed() == [1]


@pytest.mark.parametrize(
    ("sql", "kept"),
    [("COMMIT", [1, 2]), ("CREATE TABLE t (a INT)", [1, 2]), ("DROP TABLE IF EXISTS u", [1, 2])],
)
def test_plain_says_may(
    plain: tuple[Proxy, Callable[[], list[int]]], sql: str, kept: list[int]
) -> None:
    """Errors never say that nothing was committed when it may have been."""
    _, committed = plain

    def work() -> None:
        with db_connection_context() as outer:
            run(outer, "INSERT INTO t VALUES (1)")
            with contextlib.suppress(LookupError, outer.Error), db_connection_context() as inner:
                run(inner, "INSERT INTO t VALUES (2)")
                run(inner, sql)
                raise LookupError
            run(outer, "INSERT INTO t VALUES (3)")

    with pytest.raises(TransactionAborted, match=r"committed what came before|may have committed"):
        work()
    assert committed() == kept


@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize(
    ("sql", "look"),
    [
        ("SET @x = 5", "SELECT @x"),
        ("SELECT @x := 5", "SELECT @x"),
        ("USE mysql", "SELECT DATABASE()"),
        ("SET SESSION TRANSACTION READ ONLY", "SELECT @@tx_read_only"),
    ],
)
def test_plain_changed_by_text(sql: str, look: str) -> None:
    """The texts tell changes of the session, without a word of the server's."""

    def value(conn: Any) -> Any:
        with conn.cursor() as cur:
            cur.execute(look)
            return cur.fetchone()

    with db_connection_context() as conn:
        fresh = value(conn)
    with db_connection_context() as conn:
        run(conn, sql)
    with db_connection_context() as conn:
        assert value(conn) == fresh
