"""What the errors of the MariaDB drivers mean for the transaction and the connection."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from flask_pooled_db.config import PoolConfig
from flask_pooled_db.drivers import Driver, Failure, make_driver
from harness.server import MariaDBServer
from harness.waiting import wait_until
from tests.support.pools import call

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


def locked_without_wait(bench: Bench, raw: Any) -> None:
    other = bench.connect()
    bench.run(other, "DELETE FROM t WHERE id = 100")
    bench.run(raw, "SELECT id FROM t WHERE id = 100 FOR UPDATE NOWAIT")


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
    (locked_without_wait, {1205, 3572}, Failure.STATEMENT, True),
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
def test_t4_meaning_of_errors(
    bench: Bench, break_it: Break, numbers: set[int], failure: Failure, is_kept: bool
) -> None:
    """An error counts as the statement's only if the server kept the transaction."""
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


@pytest.mark.parametrize("break_it", [locked, locked_without_wait, deadlock])
def test_retryable_locks(bench: Bench, break_it: Break) -> None:
    """A lock that another transaction has may be free at the next try, waited for or not."""
    with pytest.raises(bench.driver.Error) as caught:
        break_it(bench, bench.connect())
    assert bench.driver.is_retryable(caught.value)


@pytest.fixture(scope="module")
def rolling_back_server() -> Iterator[MariaDBServer]:
    """A server on which a lock wait timeout ends the transaction."""
    with MariaDBServer(["--innodb-rollback-on-timeout=ON"]) as server:
        yield server


def test_t4_meaning_of_lock_wait_timeout(
    rolling_back_server: MariaDBServer, mariadb_driver: str
) -> None:
    """With innodb_rollback_on_timeout, 1205 means that the transaction is lost: the server is
    asked.
    """
    with bench_on(rolling_back_server, mariadb_driver) as bench:
        raw = bench.connect()
        bench.run(raw, "INSERT INTO t VALUES (1)")
        with pytest.raises(bench.driver.Error) as caught:
            locked(bench, raw)
        assert bench.driver.classify(raw, caught.value) is Failure.ROLLED_BACK
        raw.commit()
        assert bench.rows() == [100, 200]


def test_t4_meaning_of_read_only_server(
    private_mariadb: MariaDBServer, mariadb_driver: str
) -> None:
    """Error 1290 leaves the connection and its transaction alive."""
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
def test_t6_meaning_of_foreign_error(bench: Bench, error: Exception) -> None:
    """An error that is not the driver's costs the connection: an answer may have been cut off."""
    assert bench.driver.classify(bench.connect(), error) is Failure.LOST


def test_t5_command_never_sent(bench: Bench) -> None:
    """A connection that the driver knows to be closed sends nothing."""
    raw = bench.connect()
    bench.server.kill_connection(bench.id_of(raw))
    errors = []
    for _ in range(2):
        with pytest.raises(bench.driver.Error) as caught:
            raw.commit()
        errors.append(caught.value)
    assert bench.driver.never_sent(raw, errors[-1])
    lost = bench.driver.new_error(2013, "Lost connection")  # type: ignore[attr-defined]
    assert not bench.driver.never_sent(raw, lost)


def test_t5_unknown_error_of_closed_connection(bench: Bench) -> None:
    """An error without a number is no proof that nothing was sent, on a closed connection too."""
    raw = bench.connect()
    bench.driver.close(raw)
    for error in map(bench.driver.dbapi.__dict__.get, ("InternalError", "OperationalError")):
        assert bench.driver.classify(raw, error("broken")) is Failure.LOST  # type: ignore[misc]
        assert not bench.driver.never_sent(raw, error("broken"))  # type: ignore[misc]


def too_many_values(bench: Bench, cursor: Any) -> None:
    cursor.execute("SELECT %s", (1, 2))


def closed_cursor(bench: Bench, cursor: Any) -> None:
    cursor.close()
    cursor.execute("SELECT 1")


@pytest.mark.parametrize("misuse", [too_many_values, closed_cursor])
def test_t4_refused_by_driver(bench: Bench, misuse: Break) -> None:
    """What the driver refuses before it sends anything costs neither transaction nor connection."""
    raw = bench.connect()
    bench.run(raw, "INSERT INTO t VALUES (1)")
    with pytest.raises(Exception) as caught:  # noqa: PT011  each driver has its own
        misuse(bench, bench.driver.cursor(raw))
    if not isinstance(caught.value, TypeError):  # PyMySQL's own, which may be a converter's
        assert bench.driver.classify(raw, caught.value) is Failure.STATEMENT
    raw.commit()
    assert 1 in bench.rows()


@pytest.mark.parametrize("sql", ["SELEKT 1", "INSERT INTO t VALUES (100)", "SELECT * FROM nowhere"])
def test_statement_error_not_retryable(bench: Bench, sql: str) -> None:
    """An error of the statement itself is not worth another attempt."""
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
def test_p10_meaning_of_connect_errors(
    mariadb: MariaDBServer, mariadb_driver: str, change: dict[str, Any], is_transient: bool
) -> None:
    """A server that is down may come back; wrong credentials are permanent."""
    url = mariadb.url(mariadb_driver, **{"database": "mysql", **change})
    driver = make_driver(PoolConfig.from_mapping({"URL": url}))
    with pytest.raises(driver.Error) as caught:
        driver.connect()
    assert driver.is_transient(caught.value) is is_transient
