"""What is MySQL's own: TLS without being asked, and its limits for statements.

Run with `pytest --mysql`: `mariadb` is a MySQL here.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from flask_pooled_db.errors import ConnectFailed, PoolTimeout, TransactionAborted
from harness.server import MariaDBServer
from harness.tls import make_certificates
from harness.workloads import add, connection_id, run
from tests.runtime.forking import CHILDREN, FORKING, run_program
from tests.support.pools import open_pool
from tests.support.scenarios.base import assert_fit, must_raise
from tests.support.stages import UNTOUCHED, ServerStage

pytestmark = pytest.mark.mysql_only


def cipher(connection: Any) -> str:
    """What the server encrypts a connection with; nothing where it does not."""
    with connection.cursor() as cursor:
        cursor.execute("SHOW STATUS LIKE 'Ssl_cipher'")
        return str(cursor.fetchone()[1])


@pytest.mark.parametrize("options", [{}, {"ssl": "true"}], ids=["plain", "TLS"])
def test_p11_encryption(
    mariadb: MariaDBServer, mariadb_driver: str, options: dict[str, Any]
) -> None:
    """The server confirms that each connection is encrypted as requested."""
    with open_pool(url=mariadb.url(mariadb_driver, **options)) as pool:
        with pool.connection() as connection:
            assert bool(cipher(connection)) is bool(options)


def test_p11_unknown_ca(mariadb: MariaDBServer, mariadb_driver: str, tmp_path: Path) -> None:
    """A certificate of an unknown CA is refused if verification was requested."""
    ca = make_certificates(tmp_path).wrong_ca
    url = mariadb.url(mariadb_driver, ssl_ca=str(ca), ssl_verify_cert="true")
    with open_pool(url=url) as pool:
        with pytest.raises((PoolTimeout, ConnectFailed)) as caught:
            pool.lease(timeout=0.5)
        assert caught.value.__cause__ is not None


def test_p4_dead_tls_connection(mariadb: MariaDBServer, mariadb_driver: str) -> None:
    """A dead TLS connection is replaced."""
    with open_pool(url=mariadb.url(mariadb_driver, ssl="true")) as pool:
        numbers = []
        for _ in range(2):
            with pool.connection() as connection:
                assert cipher(connection)
                numbers.append(connection_id(connection))
        assert numbers[0] == numbers[1]
        mariadb.kill_connection(numbers[0])
        with pool.connection() as connection:
            assert connection_id(connection) != numbers[0]


@pytest.mark.parametrize("child", CHILDREN)
def test_p6_tls_connection(mariadb: MariaDBServer, mariadb_driver: str, child: str) -> None:
    """A child sends nothing on a TLS connection of its parent."""
    run_program(CHILDREN[child] + FORKING, mariadb.url(mariadb_driver, ssl="true"))


# MySQL's own limit, max_execution_time, is for SELECT alone, and SELECT SLEEP() answers 1 at its
# end, as if nothing were wrong. So the pool ends a statement by KILL QUERY.

STATEMENT_TOOK_TOO_LONG = 3024

SLOW = {
    "SELECT": "SELECT id FROM accounts WHERE SLEEP(20) = 0",
    "UPDATE": "UPDATE accounts SET balance = balance + SLEEP(20) WHERE id = 3",
    "SELECT SLEEP": "SELECT SLEEP(3)",
}


def number(error: Any) -> int:
    """The server's number of a driver's error."""
    return int(getattr(error, "errno", None) or error.args[0])


@pytest.mark.parametrize("what", SLOW)
def test_statement_timeout(stage: ServerStage, what: str) -> None:
    """A statement that exceeds its limit raises 3024, and its transaction is aborted."""
    with must_raise(TransactionAborted):
        with stage.db.connection_context(statement_timeout=0.3) as connection:
            add(connection, 1, -10)
            with pytest.raises(connection.OperationalError) as caught:
                run(connection, SLOW[what])
            assert number(caught.value) == STATEMENT_TOOK_TOO_LONG
            with pytest.raises(TransactionAborted):
                add(connection, 2, 10)
    assert stage.committed() == UNTOUCHED
    assert_fit(stage)


def test_statement_timeout_readonly(stage: ServerStage) -> None:
    """A limit in a readonly block raises the same error."""
    with must_raise(Exception) as caught:
        with stage.db.connection_context(readonly=True, statement_timeout=0.3) as connection:
            run(connection, SLOW["SELECT SLEEP"])
    assert isinstance(caught[0], connection.OperationalError)
    assert number(caught[0]) == STATEMENT_TOOK_TOO_LONG
    assert_fit(stage)


def test_statement_timeout_ends_with_lease(stage: ServerStage) -> None:
    """A limit that was not reached does not apply to the next lease of its connection."""
    with stage.db.connection_context(statement_timeout=0.3) as connection:
        before = connection_id(connection)
    with stage.db.connection_context() as connection:
        assert connection_id(connection) == before
        assert run(connection, "SELECT SLEEP(1)") == [(0,)]


def test_statement_timeout_spares_next_lease(stage: ServerStage) -> None:
    """The KILL QUERY of a slow statement never hits the next lease."""
    with must_raise(TransactionAborted):
        with stage.db.connection_context(statement_timeout=0.3) as connection:
            with pytest.raises(connection.OperationalError):
                run(connection, SLOW["UPDATE"])
    with stage.db.connection_context() as connection:
        assert run(connection, "SELECT SLEEP(1)") == [(0,)]


def test_statement_timeout_per_statement(stage: ServerStage) -> None:
    """The limit applies to each statement, not to their sum."""
    with stage.db.connection_context(statement_timeout=3) as connection:
        for _ in range(3):
            assert run(connection, "SELECT SLEEP(1.1)") == [(0,)]


def test_statement_timeout_of_next_result(stage: ServerStage) -> None:
    """Waiting for a further result of a statement has the same limit."""
    with stage.db.connection_context() as connection:
        run(connection, "DROP PROCEDURE IF EXISTS slow_second")
        run(connection, "CREATE PROCEDURE slow_second() BEGIN SELECT 1; SELECT SLEEP(20); END")
    with must_raise(TransactionAborted):
        with stage.db.connection_context(statement_timeout=0.5) as connection:
            cursor = connection.cursor()
            started = time.monotonic()
            with must_raise(connection.OperationalError) as caught:
                cursor.execute("CALL slow_second()")
                cursor.nextset()
                cursor.fetchall()
            assert time.monotonic() - started < 10
            assert number(caught[0]) == STATEMENT_TOOK_TOO_LONG
    assert_fit(stage)
