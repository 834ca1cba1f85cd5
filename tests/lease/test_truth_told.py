"""T10: what the error of a lost transaction says of what SQL text had done before."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from flask_pooled_db import TransactionAborted, db_connection_context
from harness.server import MariaDBServer
from tests.lease.test_truth import Site, insert, run, site_on


@pytest.fixture
def site(mariadb: MariaDBServer, mariadb_driver: str) -> Iterator[Site]:
    with site_on(mariadb, mariadb_driver) as site:
        yield site


def told_of(work: Callable[[Any], None], *steps: str) -> str:
    """What the outer block ends with when a nested block, after these steps, fails."""
    number = 10

    def fail() -> None:
        nonlocal number
        with db_connection_context() as outer:
            work(outer)
            with contextlib.suppress(LookupError, TransactionAborted):
                with db_connection_context() as inner:
                    insert(inner, number)
                    for sql in steps:
                        run(inner, sql)
                        number += 1
                        insert(inner, number)
                    raise LookupError
            run(outer, "SELECT 1")

    with pytest.raises(TransactionAborted) as caught:
        fail()
    return str(caught.value)


def test_t10_committed_twice(site: Site) -> None:
    """Of two statements that committed, the last one is named: nothing after it is committed."""
    text = told_of(lambda conn: insert(conn, 1), "COMMIT", "CREATE TABLE made (a INT)")
    assert "CREATE TABLE at" in text
    assert "nothing of what came after that" in text
    assert site.committed() == [1, 10, 11]


def test_t10_committed_and_undone(site: Site) -> None:
    """Where one statement committed and the next one rolled back, both are named."""
    text = told_of(lambda conn: insert(conn, 1), "COMMIT", "ROLLBACK")
    assert "COMMIT at" in text
    assert "ROLLBACK at" in text
    assert site.committed() == [1, 10]


def test_t10_told_of_this_transaction(site: Site) -> None:
    """What was done to a transaction that commit() has ended is not told of the next one."""

    def work(conn: Any) -> None:
        insert(conn, 1)
        run(conn, "CREATE TABLE made (a INT)")
        insert(conn, 2)
        conn.commit()

    text = told_of(work, "COMMIT")
    assert "CREATE TABLE" not in text
    assert site.committed() == [1, 2, 10]


@pytest.mark.parametrize("comes_first", [True, False])
def test_t10_autocommit_by_text(site: Site, comes_first: bool) -> None:
    """With autocommit, which text has switched on, a nested block can't be undone, and the error
    does not say that nothing was committed.
    """

    def work(conn: Any) -> None:
        if not comes_first:
            insert(conn, 1)
        run(conn, "SET autocommit = 1")

    text = told_of(work)
    assert "switched autocommit on" in text
    assert "nothing of" not in text
    assert 10 in site.committed()


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_t10_autocommit_before_the_last_end(end: str) -> None:
    """What autocommit had committed before the last commit() or rollback() by hand is not told of
    the transaction that came after it.
    """

    def work(conn: Any) -> None:
        insert(conn, 1)
        run(conn, "SET autocommit = 1")
        getattr(conn, end)()

    text = told_of(work)
    assert "switched autocommit on: what came after it may be committed" in text
    assert "committed what came before it" not in text


def test_t10_nested_block_under_autocommit(site: Site) -> None:
    """A nested block that ends well there does not ask for a savepoint that can't be set."""
    with db_connection_context() as outer:
        run(outer, "SET autocommit = 1")
        with db_connection_context() as inner:
            insert(inner, 1)
    assert site.committed() == [1]


@pytest.mark.parametrize("routine", ["undoes", "commits"])
def test_t10_routine_after_ddl(site: Site, routine: str) -> None:
    """What a routine may have committed is told beside what DDL has committed before it, also if an
    error left the nested block before anybody asked what became of its transaction.
    """

    def work() -> None:
        with db_connection_context() as outer:
            insert(outer, 1)
            with contextlib.suppress(LookupError), db_connection_context() as inner:
                run(inner, "ALTER TABLE t ADD COLUMN IF NOT EXISTS x INT")
                run(inner, "INSERT INTO t (id) VALUES (2)")
                run(inner, f"CALL {routine}()")
                raise LookupError

    names = rf"ALTER TABLE at .* committed what .*, and CALL {routine} at .* may have committed"
    with pytest.raises(TransactionAborted, match=names):
        work()
    assert site.committed() == ([1, 2] if routine == "commits" else [1])


@pytest.mark.parametrize("routine", ["undoes", "commits"])
def test_t10_routine_in_readonly_block(site: Site, routine: str) -> None:
    """A readonly block whose writes a routine has committed or undone does not end well."""

    def work() -> None:
        with db_connection_context(readonly=True) as conn:
            run(conn, "START TRANSACTION READ WRITE")
            insert(conn, 1)
            run(conn, f"CALL {routine}()")

    with pytest.raises(TransactionAborted, match="committed or rolled back"):
        work()
    assert site.committed() == ([1] if routine == "commits" else [])
