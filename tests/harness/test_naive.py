"""The naive pool."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.naive import NaiveDB
from harness.server import MariaDBServer
from harness.workloads import balances, connection_id, create_accounts, transfer
from tests.harness.connections import fetch_one

pytestmark = pytest.mark.mariadb_only


class TestNaive:
    def test_transfer(self, mariadb: MariaDBServer, database: str, mariadb_driver: str) -> None:
        """A transfer commits, and rolls back on an error."""
        create_accounts(mariadb, database, n=2, amount=100)
        with NaiveDB.on_mariadb(mariadb, mariadb_driver, database) as db:
            with db.db_connection_context(timeout=5) as connection:
                transfer(connection, 1, 2, 30)
            with pytest.raises(ZeroDivisionError), db.db_connection_context() as connection:
                transfer(connection, 1, 2, 30, between=lambda: 1 / 0)
        assert balances(mariadb, database) == {1: 70, 2: 130}

    def test_transfer_on_killed_connection(
        self, mariadb: MariaDBServer, database: str, mariadb_driver: str
    ) -> None:
        """If the connection is killed between two UPDATEs, the first is lost and the second
        commits, without an error.
        """
        create_accounts(mariadb, database, n=2, amount=100)
        naive = NaiveDB.on_mariadb(mariadb, mariadb_driver, database)
        with naive, naive.db_connection_context() as connection:
            id_ = connection_id(connection)
            transfer(connection, 1, 2, 30, between=lambda: mariadb.kill_connection(id_))
        assert balances(mariadb, database) == {1: 100, 2: 130}

    def test_sqlite(self, tmp_path: Path) -> None:
        """The reference runs on SQLite as well."""
        with NaiveDB.on_sqlite(tmp_path / "naive.db") as db:
            with db.connection_context() as connection:
                connection.cursor().execute("CREATE TABLE t (x)")
                connection.cursor().execute("INSERT INTO t VALUES (1)")
            with db.connection_context() as connection:
                assert fetch_one(connection, "SELECT x FROM t") == 1
