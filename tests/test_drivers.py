"""The drivers: what their errors mean, what they can't do, and what of theirs is relied upon."""

from __future__ import annotations

import ast
import contextlib
import functools
import inspect
import sqlite3
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import mariadb as mariadb_connector
import pymysql
import pytest

from flask_pooled_db import TransactionAborted, UsageError, db_connection_context
from flask_pooled_db.config import PoolConfig
from flask_pooled_db.drivers import Driver, Failure, make_driver, mariadbconnector
from flask_pooled_db.drivers import pymysql as pymysql_adapter
from flask_pooled_db.drivers.pymysql import TLSContexts, connection_class
from tests.support.apps import pooled_app
from tests.support.pools import call, wait_until
from tests.support.server import APP_USER, SCHEMES, MariaDBServer
from tests.support.tls import Certificates

MODULES = {"pymysql": pymysql, "mariadbconnector": mariadb_connector}
SLOW = "SELECT id FROM t WHERE SLEEP(60) = 0"


@dataclass
class Bench:
    """A driver, connections of it, and the server and the database they are connected to."""

    server: MariaDBServer
    database: str
    driver: Driver
    stack: contextlib.ExitStack

    def connect(self) -> Any:
        """A connection as the pool would have it, closed at the end."""
        raw = self.driver.connect()
        self.stack.callback(self.driver.terminate, raw)
        self.driver.set_up(raw)
        return raw

    def run(self, raw: Any, sql: str) -> None:
        """A statement, and its rows read."""
        cursor = self.driver.cursor(raw)
        cursor.execute(sql)
        if cursor.description:
            cursor.fetchall()
        cursor.close()

    def rows(self) -> list[int]:
        """What is committed."""
        return [id_ for (id_,) in self.server.query(f"SELECT id FROM `{self.database}`.t")]

    def id_of(self, raw: Any) -> int:
        """The server's number of a connection."""
        return int(raw.thread_id() if callable(getattr(raw, "thread_id", 0)) else raw.connection_id)


@contextlib.contextmanager
def bench_on(server: MariaDBServer, name: str) -> Iterator[Bench]:
    database = server.create_database()
    server.execute(f"CREATE TABLE `{database}`.t (id INT PRIMARY KEY) ENGINE=InnoDB")
    server.execute(f"INSERT INTO `{database}`.t VALUES (100), (200)")
    driver = make_driver(PoolConfig.from_mapping({"URL": server.url(name, database)}))
    with contextlib.ExitStack() as stack:
        yield Bench(server, database, driver, stack)


@pytest.fixture
def bench(mariadb: MariaDBServer, mariadb_driver: str) -> Iterator[Bench]:
    """Each MariaDB driver in turn, on the shared server."""
    with bench_on(mariadb, mariadb_driver) as bench:
        yield bench


# What errors mean, on the real server. Each of these makes a connection that has inserted the row 1
# fail, in its transaction.


def duplicate(bench: Bench, raw: Any) -> None:
    bench.run(raw, "INSERT INTO t VALUES (100)")


def syntax(bench: Bench, raw: Any) -> None:
    bench.run(raw, "SELEKT 1")


def no_table(bench: Bench, raw: Any) -> None:
    bench.run(raw, "SELECT * FROM nowhere")


def locked(bench: Bench, raw: Any) -> None:
    other = bench.connect()
    bench.run(other, "DELETE FROM t WHERE id = 100")
    bench.run(raw, "SET innodb_lock_wait_timeout = 0")
    bench.run(raw, "DELETE FROM t WHERE id = 100")


def statement_time(bench: Bench, raw: Any) -> None:
    bench.run(raw, "SET max_statement_time = 0.05")
    bench.run(raw, SLOW)


def kill_while_it_runs(bench: Bench, raw: Any, how: str) -> None:
    id_ = bench.id_of(raw)
    find = "SELECT 1 FROM information_schema.processlist WHERE id = %s AND info = %s"
    caller = call(bench.run, raw, SLOW)
    wait_until(lambda: bench.server.query(find, id_, SLOW), "the statement runs")
    bench.server.execute(f"{how} %s", id_)
    caller.result()


def killed_query(bench: Bench, raw: Any) -> None:
    kill_while_it_runs(bench, raw, "KILL QUERY")


def killed_in_query(bench: Bench, raw: Any) -> None:
    kill_while_it_runs(bench, raw, "KILL")


def killed_before(bench: Bench, raw: Any) -> None:
    bench.server.kill_connection(bench.id_of(raw))
    bench.run(raw, "SELECT 1")


def closed_twice_used(bench: Bench, raw: Any) -> None:
    bench.server.kill_connection(bench.id_of(raw))
    with pytest.raises(bench.driver.Error):
        bench.run(raw, "SELECT 1")
    bench.run(raw, "SELECT 1")


def deadlock(bench: Bench, raw: Any) -> None:
    other = bench.connect()
    # The one that has changed less is the victim, whichever of them closes the circle.
    bench.run(other, f"INSERT INTO t VALUES {', '.join(f'({id_})' for id_ in range(1000, 2000))}")
    bench.run(other, "DELETE FROM t WHERE id = 200")
    bench.run(raw, "DELETE FROM t WHERE id = 100")
    caller = call(bench.run, other, "DELETE FROM t WHERE id = 100")
    try:
        bench.run(raw, "DELETE FROM t WHERE id = 200")
    finally:
        caller.result()


def write_when_read_only(bench: Bench, raw: Any) -> None:
    bench.run(raw, "COMMIT")
    bench.run(raw, "START TRANSACTION READ ONLY")
    bench.run(raw, "INSERT INTO t VALUES (2)")


Break = Callable[[Bench, Any], None]

# What is done, the numbers of its error, what it means, and whether the work before it can still
# be committed.
SCENARIOS: list[tuple[Break, set[int], Failure, bool]] = [
    (duplicate, {1062}, Failure.STATEMENT, True),
    (syntax, {1064}, Failure.STATEMENT, True),
    (no_table, {1146}, Failure.STATEMENT, True),
    (locked, {1205}, Failure.STATEMENT, True),
    (killed_query, {1317}, Failure.STATEMENT, True),
    (write_when_read_only, {1792}, Failure.STATEMENT, True),
    (deadlock, {1213}, Failure.ROLLED_BACK, False),
    (killed_before, {2006, 2013, 1927}, Failure.LOST, False),
    (killed_in_query, {2013, 1317, 1927}, Failure.LOST, False),
    (closed_twice_used, {0, 2006, 2013}, Failure.LOST, False),
]


@pytest.mark.parametrize(
    ("break_it", "numbers", "failure", "is_kept"),
    [
        *(pytest.param(*scenario, id=scenario[0].__name__) for scenario in SCENARIOS),
        pytest.param(
            *(statement_time, {1969}, Failure.STATEMENT, True),
            id="statement_time",
            marks=pytest.mark.mariadb_only,
        ),
    ],
)
def test_t4_an_error_means_what_the_server_did(
    bench: Bench, break_it: Break, numbers: set[int], failure: Failure, is_kept: bool
) -> None:
    """Only where the server kept the transaction is its error one of the statement alone."""
    raw = bench.connect()
    bench.run(raw, "INSERT INTO t VALUES (1)")
    with pytest.raises(bench.driver.Error) as caught:
        break_it(bench, raw)
    number = bench.driver.error_number(caught.value)  # type: ignore[attr-defined]
    assert number in numbers
    assert bench.driver.classify(raw, caught.value) is failure
    with contextlib.suppress(bench.driver.Error):
        raw.commit()
    assert (1 in bench.rows()) is is_kept


@pytest.fixture(scope="module")
def rolling_back_server() -> Iterator[MariaDBServer]:
    """A server on which a lock wait timeout ends the transaction."""
    with MariaDBServer(["--innodb-rollback-on-timeout=ON"]) as server:
        yield server


def test_t4_a_lock_wait_timeout_means_what_the_server_is_set_to(
    rolling_back_server: MariaDBServer, mariadb_driver: str
) -> None:
    """1205 with innodb_rollback_on_timeout has ended the transaction: the server is asked."""
    with bench_on(rolling_back_server, mariadb_driver) as bench:
        raw = bench.connect()
        bench.run(raw, "INSERT INTO t VALUES (1)")
        with pytest.raises(bench.driver.Error) as caught:
            locked(bench, raw)
        assert bench.driver.classify(raw, caught.value) is Failure.ROLLED_BACK
        raw.commit()
        assert bench.rows() == [100, 200]


def test_t4_a_write_on_a_read_only_server_failed_alone(
    private_mariadb: MariaDBServer, mariadb_driver: str
) -> None:
    """1290: the connection is good and reads on; its transaction is still there."""
    with bench_on(private_mariadb, mariadb_driver) as bench:
        raw = bench.connect()
        bench.run(raw, "SELECT * FROM t")
        bench.server.execute("SET GLOBAL read_only = ON")
        with pytest.raises(bench.driver.Error) as caught:
            bench.run(raw, "INSERT INTO t VALUES (1)")
        assert bench.driver.error_number(caught.value) == 1290  # type: ignore[attr-defined]
        assert bench.driver.classify(raw, caught.value) is Failure.STATEMENT
        bench.run(raw, "SELECT * FROM t")


@pytest.mark.parametrize("error", [TypeError(), OSError(), ValueError(), TimeoutError()])
def test_t6_an_error_that_is_not_the_driver_s_costs_the_connection(
    bench: Bench, error: Exception
) -> None:
    """It may have come up in the middle of an answer, the rest of which is still to come."""
    assert bench.driver.classify(bench.connect(), error) is Failure.LOST


def test_t5_a_command_that_was_never_sent_is_told_from_one_that_was(bench: Bench) -> None:
    """A connection that the driver knows to be closed sends nothing."""
    raw = bench.connect()
    bench.server.kill_connection(bench.id_of(raw))
    errors = []
    for _ in range(2):
        with pytest.raises(bench.driver.Error) as caught:
            raw.commit()
        errors.append(caught.value)
    assert bench.driver.never_sent(errors[-1])
    assert not bench.driver.never_sent(type(errors[0])(2013, "Lost connection during query"))


@pytest.mark.parametrize("sql", ["SELEKT 1", "INSERT INTO t VALUES (100)", "SELECT * FROM nowhere"])
def test_an_error_of_the_statement_s_own_is_not_worth_another_try(bench: Bench, sql: str) -> None:
    """The same statement would fail again."""
    raw = bench.connect()
    with pytest.raises(bench.driver.Error) as caught:
        bench.run(raw, sql)
    assert not bench.driver.is_retryable(caught.value)


@pytest.mark.parametrize(
    ("change", "is_transient"),
    [
        ({"password": "wrong"}, False),
        ({"user": "nobody"}, False),
        ({"database": "nowhere"}, False),
        ({"port": 1}, True),
    ],
)
def test_p10_what_a_failed_connect_means(
    mariadb: MariaDBServer, mariadb_driver: str, change: dict[str, Any], is_transient: bool
) -> None:
    """A server that is away may come back; wrong credentials stay wrong."""
    url = mariadb.url(mariadb_driver, **{"database": "mysql", **change})
    driver = make_driver(PoolConfig.from_mapping({"URL": url}))
    with pytest.raises(driver.Error) as caught:
        driver.connect()
    assert driver.is_transient(caught.value) is is_transient


@pytest.mark.parametrize("kind", ["module", "its connect", "partial of it"])
def test_every_form_of_a_creator_connects(
    mariadb: MariaDBServer, database: str, mariadb_driver: str, kind: str
) -> None:
    """A driver's module, its `connect` (with PyMySQL a class), and a partial of that."""
    module = MODULES[mariadb_driver]
    creator = {
        "module": module,
        "its connect": module.connect,
        "partial of it": functools.partial(module.connect, database=database),
    }[kind]
    arguments = mariadb.connect_args(None if "partial" in kind else database)
    with pooled_app(creator=creator, connect_args=arguments) as (_, db):
        with db_connection_context(readonly=True) as conn, conn.cursor() as cur:
            cur.execute("SELECT DATABASE()")
            assert cur.fetchone()[0] == database
            assert conn.Error is module.Error
        assert db.pool().driver.name == module.__name__


def test_a_creator_that_hides_its_driver_is_told_what_it_lacks(raw_file: Path) -> None:
    """`conn.IntegrityError` can't be had of a function alone, and the message says how it can."""

    def connect(database: str) -> sqlite3.Connection:
        return sqlite3.connect(database, check_same_thread=False)

    with pooled_app(creator=connect, connect_args={"database": str(raw_file)}):
        with db_connection_context() as conn:
            with pytest.raises(AttributeError, match="attribute `dbapi`"):
                _ = conn.IntegrityError
    connect.dbapi = sqlite3  # type: ignore[attr-defined]
    with pooled_app(creator=connect, connect_args={"database": str(raw_file)}):
        with db_connection_context() as conn:
            assert conn.IntegrityError is sqlite3.IntegrityError


def test_t1_a_creator_of_one_s_own_does_not_switch_transactions_off(
    mariadb: MariaDBServer, database: str, mariadb_driver: str
) -> None:
    """A partial that asks for autocommit gets a scope that rolls back all the same."""
    mariadb.execute(f"CREATE TABLE `{database}`.t (id INT PRIMARY KEY) ENGINE=InnoDB")
    connect = functools.partial(MODULES[mariadb_driver].connect, autocommit=True)
    with pooled_app(creator=connect, connect_args=mariadb.connect_args(database)):
        with contextlib.suppress(LookupError), db_connection_context() as conn:
            conn.cursor().execute("INSERT INTO t VALUES (1)")
            raise LookupError
    assert mariadb.query(f"SELECT id FROM `{database}`.t") == []


# A DB-API 2 module that nothing is known about


def rawdb(**more: Any) -> ModuleType:
    """A module with the names that PEP 249 asks for and no others: sqlite3 in disguise."""
    module = ModuleType("rawdb")
    names = {name for name in vars(sqlite3) if name.endswith("Error")}
    module.__dict__.update({name: vars(sqlite3)[name] for name in names})
    module.__dict__.update(
        apilevel="2.0",
        threadsafety=1,
        paramstyle="qmark",
        connect=functools.partial(sqlite3.connect, check_same_thread=False),
        **more,
    )
    return module


@pytest.fixture
def raw_file(tmp_path: Path) -> Path:
    """A file with an empty table."""
    path = tmp_path / "raw.db"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY)")
    return path


def committed(path: Path) -> list[int]:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return [id_ for (id_,) in connection.execute("SELECT id FROM t ORDER BY id")]


@pytest.fixture
def raw_app(raw_file: Path) -> Iterator[Path]:
    """An app on such a module, inside its context; the file."""
    with pooled_app(creator=rawdb(), connect_args={"database": str(raw_file)}):
        yield raw_file


def test_t1_an_unknown_module_s_scope_commits_and_rolls_back(raw_app: Path) -> None:
    """Whatever DB-API 2 module it is, a scope is a transaction."""
    with db_connection_context() as conn:
        conn.cursor().execute("INSERT INTO t VALUES (1)")
    with contextlib.suppress(LookupError), db_connection_context() as conn:
        conn.cursor().execute("INSERT INTO t VALUES (2)")
        raise LookupError
    with db_connection_context() as conn:
        conn.cursor().execute("INSERT INTO t VALUES (3)")
    assert committed(raw_app) == [1, 3]


def test_an_unknown_module_s_nested_scope_is_a_savepoint(raw_app: Path) -> None:
    """Savepoints are standard SQL, and are had."""
    with db_connection_context() as conn:
        conn.cursor().execute("INSERT INTO t VALUES (1)")
        with contextlib.suppress(LookupError), db_connection_context() as inner:
            inner.cursor().execute("INSERT INTO t VALUES (2)")
            raise LookupError
    assert committed(raw_app) == [1]


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"readonly": True}, "readonly=True"),
        ({"statement_timeout": 1.0}, "statement_timeout"),
        ({"isolation_level": "SERIALIZABLE"}, "isolation_level"),
    ],
)
def test_an_unknown_module_s_lesser_guarantees_are_told(
    raw_app: Path, options: dict[str, Any], word: str
) -> None:
    """An option that can't be had is refused by name, and the statement is not run without it."""
    with pytest.raises(UsageError, match=f"rawdb does not support {word}: "):
        with db_connection_context(**options) as conn:
            conn.cursor().execute("INSERT INTO t VALUES (1)")
    assert committed(raw_app) == []


def test_a_refused_option_does_not_harm_the_next_scope(raw_app: Path) -> None:
    """The connection is as it was."""
    with pytest.raises(UsageError), db_connection_context(readonly=True) as conn:
        conn.cursor().execute("SELECT 1")
    with db_connection_context() as conn:
        conn.cursor().execute("INSERT INTO t VALUES (1)")
    assert committed(raw_app) == [1]


def test_t4_an_unknown_module_s_operational_error_costs_the_connection(raw_app: Path) -> None:
    """What it means can't be told: the worst is assumed."""

    def swallow() -> None:
        with db_connection_context() as conn:
            conn.cursor().execute("INSERT INTO t VALUES (1)")
            with contextlib.suppress(conn.OperationalError):
                conn.cursor().execute("SELECT * FROM nowhere")

    with pytest.raises(TransactionAborted):
        swallow()
    assert committed(raw_app) == []


def test_t4_an_unknown_module_s_integrity_error_costs_the_statement(raw_app: Path) -> None:
    """That one is known to be the statement's own."""
    with db_connection_context() as conn:
        conn.cursor().execute("INSERT INTO t VALUES (1)")
        with contextlib.suppress(conn.IntegrityError):
            conn.cursor().execute("INSERT INTO t VALUES (1)")
    assert committed(raw_app) == [1]


def test_psycopg_is_known_by_its_url() -> None:
    """A PostgreSQL URL gives psycopg its own argument names."""
    pytest.importorskip("psycopg")
    made = PoolConfig.from_mapping({"URL": "postgresql+psycopg://ann:pw@h:1/d?sslmode=require"})
    driver = make_driver(made)
    assert driver.name == "psycopg"
    assert driver._arguments == {
        "host": "h",
        "port": 1,
        "user": "ann",
        "password": "pw",
        "dbname": "d",
        "sslmode": "require",
    }


# TLS with PyMySQL


def count_contexts(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """One entry for each TLS context that is built from now on."""
    built: list[None] = []
    make = ssl.create_default_context

    def create(*args: Any, **kwargs: Any) -> ssl.SSLContext:
        built.append(None)
        return make(*args, **kwargs)

    monkeypatch.setattr(ssl, "create_default_context", create)
    return built


@pytest.mark.mariadb_only  # the URL of a MySQL asks for no TLS
def test_the_tls_context_is_built_once_a_pool(
    mariadb: MariaDBServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyMySQL builds one for each connection, from the system's CA file."""
    built = count_contexts(monkeypatch)
    pool_of = [PoolConfig.from_mapping({"URL": mariadb.url()}) for _ in range(2)]
    for made in map(make_driver, pool_of):
        for _ in range(3):
            made.close(made.connect())
    assert len(built) == 2


TLS_ARGUMENTS: dict[str, Callable[[Certificates], dict[str, Any]]] = {
    "preferred": lambda made: {},
    "disabled": lambda made: {"ssl_disabled": True},
    "disabled against all": lambda made: {"ssl_disabled": True, "ssl_ca": str(made.ca)},
    "a CA": lambda made: {"ssl_ca": str(made.ca)},
    "no check": lambda made: {"ssl_verify_cert": False, "ssl_ca": str(made.ca)},
    "a check": lambda made: {"ssl_verify_cert": True, "ssl_ca": str(made.ca)},
    "the identity": lambda made: {"ssl_verify_identity": True, "ssl_ca": str(made.ca)},
    "a certificate": lambda made: {
        "ssl_cert": str(made.server_certificate),
        "ssl_key": str(made.server_key),
    },
    "a mapping": lambda made: {"ssl": {"ca": str(made.ca)}},
    "optional": lambda made: {"ssl": {"ca": str(made.ca), "verify_mode": "optional"}},
    "a name unchecked": lambda made: {"ssl": {"ca": str(made.ca), "check_hostname": False}},
    "ciphers": lambda made: {"ssl": {"cipher": "ECDHE-RSA-AES256-GCM-SHA384"}},
}


def tls_of(connection: Any) -> dict[str, Any]:
    """All that a connection would do about TLS."""
    context: Any = getattr(connection, "ctx", None)
    of_context = context and {
        "verify_mode": context.verify_mode,
        "check_hostname": context.check_hostname,
        "verify_flags": context.verify_flags,
        "options": context.options,
        "minimum_version": context.minimum_version,
        "ca": sorted(map(str, context.get_ca_certs())),
        "ciphers": [cipher["name"] for cipher in context.get_ciphers()],
    }
    return {
        "ssl": connection.ssl,
        "required": connection._ssl_required,
        "flags": connection.client_flag,
        "context": of_context,
    }


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", TLS_ARGUMENTS)
def test_p11_tls_means_what_it_means_in_pymysql(name: str, certificates: Certificates) -> None:
    """A context that is shared is the one PyMySQL would have built, however TLS was asked for."""
    arguments = TLS_ARGUMENTS[name](certificates)
    ours = connection_class(pymysql, TLSContexts())
    made = [ours(defer_connect=True, **arguments) for _ in range(2)]
    expected = tls_of(pymysql.Connection(defer_connect=True, **arguments))
    assert [tls_of(connection) for connection in made] == [expected, expected]
    assert getattr(made[0], "ctx", None) is getattr(made[1], "ctx", None)


def test_p11_a_context_of_the_application_s_own_is_taken_as_it_is() -> None:
    """An `ssl.SSLContext` is used, not copied."""
    own = ssl.create_default_context()
    assert connection_class(pymysql, TLSContexts())(defer_connect=True, ssl=own).ctx is own


def test_p11_other_arguments_have_another_context(certificates: Certificates) -> None:
    """Contexts are shared between connections with the same TLS arguments alone."""
    ours = connection_class(pymysql, TLSContexts())
    checked = ours(defer_connect=True, ssl_ca=str(certificates.ca), ssl_verify_cert=True)
    unchecked = ours(defer_connect=True, ssl_ca=str(certificates.ca), ssl_verify_cert=False)
    assert checked.ctx is not unchecked.ctx
    assert (checked.ctx.verify_mode, unchecked.ctx.verify_mode) == (
        ssl.CERT_REQUIRED,
        ssl.CERT_NONE,
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", ["preferred", "disabled", "a check", "the identity"])
def test_p11_every_connection_of_a_pool_is_as_encrypted_as_asked(
    name: str, tls_mariadb: MariaDBServer, certificates: Certificates
) -> None:
    """With a server that has TLS, the second connection is like the first."""
    arguments = {
        **tls_mariadb.connect_args(ask_for_tls=False),
        **TLS_ARGUMENTS[name](certificates),
    }
    driver = make_driver(PoolConfig.from_mapping({"CREATOR": pymysql, "CONNECT_ARGS": arguments}))
    ciphers = []
    for _ in range(2):
        raw = driver.connect()
        with raw.cursor() as cursor:
            cursor.execute("SHOW STATUS LIKE 'Ssl_cipher'")
            ciphers.append(bool(cursor.fetchone()[1]))
        driver.close(raw)
    assert ciphers == [name != "disabled"] * 2


# What of the drivers' private parts is relied upon. A test here that fails after an upgrade of a
# driver says which of them has to be looked at.

PYMYSQL_PRIVATE = {
    "_sock",
    "_result",
    "_read_timeout",
    "_write_timeout",
    "_force_close",
    "_execute_command",
    "_read_ok_packet",
    "_read_packet",
    "_create_ssl_ctx",
}
PYMYSQL_RESULT_PRIVATE = {"_finish_unbuffered_query"}
PYMYSQL_OWN = {"_connect_deadline", "_read_packet_in_time"}
MARIADB_PRIVATE = {"_closed", "_get_socket"}


def private_names(module: ModuleType, of: str) -> set[str]:
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
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("raw", "raw._result"):
            names |= {node.attr} if node.attr.startswith("_") else set()
    return names


def test_the_private_names_of_pymysql_are_listed_and_exist(mariadb: MariaDBServer) -> None:
    """The adapter touches no private name of PyMySQL's that isn't watched over here."""
    touched = private_names(pymysql_adapter, "Connection") - PYMYSQL_OWN
    assert touched == PYMYSQL_PRIVATE | PYMYSQL_RESULT_PRIVATE, (
        "keep the list of private names complete"
    )
    raw: Any = pymysql.connect(**mariadb.connect_args(), ssl_disabled=True)
    try:
        missing = sorted(name for name in PYMYSQL_PRIVATE if not hasattr(raw, name))
        assert not missing, f"PyMySQL {pymysql.VERSION_STRING} has no more {missing}"
        assert not any(hasattr(raw, name) for name in PYMYSQL_OWN), "PyMySQL now has one itself"
        raw.query("SELECT 1")
        for name in ("unbuffered_active", "has_next", *PYMYSQL_RESULT_PRIVATE):
            assert hasattr(raw._result, name), f"PyMySQL's result has no more {name}"
    finally:
        raw.close()
    assert raw._sock is None, "PyMySQL keeps the socket of a closed connection"


def test_pymysql_reads_its_timeouts_when_it_reads() -> None:
    """The bound on the handshake rests on this: each read takes the timeout of that moment."""
    connection: Any = pymysql.Connection
    assert "self._read_timeout" in inspect.getsource(connection._read_bytes)
    assert "self._read_packet" in inspect.getsource(connection._get_server_information)


def test_the_private_names_of_the_connector_are_listed_and_exist(mariadb: MariaDBServer) -> None:
    """The adapter touches no private name of the connector's that isn't watched over here."""
    touched = private_names(mariadbconnector, "")
    assert touched == MARIADB_PRIVATE, "keep the list of private names complete"
    raw = mariadb_connector.connect(**mariadb.connect_args())
    try:
        missing = sorted(name for name in MARIADB_PRIVATE if not hasattr(raw, name))
        assert not missing, f"the connector {mariadb_connector.__version__} has no more {missing}"
        assert raw._closed is False or raw._closed == 0
        assert raw._get_socket() > 0
    finally:
        raw.close()
    assert raw._closed


def test_every_scheme_of_the_tests_is_known() -> None:
    """The URLs of the test server are for the drivers they name."""
    for name, scheme in SCHEMES.items():
        url = f"{scheme}://{APP_USER}@h/d"
        driver = make_driver(PoolConfig.from_mapping({"URL": url}))
        assert driver.dbapi is MODULES[name]
