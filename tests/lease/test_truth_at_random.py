"""T10 and P9: any sequence of statements from the table, in two leases after one another.

A model, which knows the server and nothing of the package, says what is committed.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, Phase, event, given, settings
from hypothesis import strategies as st

from flask_pooled_db import db_connection_context
from flask_pooled_db.errors import PooledDBError
from flask_pooled_db.lease.fate import verb_of
from harness.server import MariaDBServer
from tests.lease.test_truth import (
    COMMITS,
    ENDS,
    KEPT,
    ROWS,
    UNDOES,
    Row,
    Site,
    locks_of_others,
    run,
    site_on,
    state,
)

# What the rows of the table do that end transactions and are found out only afterwards.
ROUTINES = {
    "CALL commits()": COMMITS,
    "CALL undoes()": UNDOES,
    "CALL commits_and_goes_on()": COMMITS,
    "CALL makes_a_table()": COMMITS,
    "EXECUTE IMMEDIATE 'COMMIT'": COMMITS,
    "BEGIN NOT ATOMIC COMMIT; END": COMMITS,
    "/*! COMMIT */": COMMITS,
}
FAILING = (
    Row("DROP TABLE none_such", COMMITS),
    Row("CREATE TABLE {this}.t (a INT)", COMMITS),
    Row("CREATE TABLE ("),
    Row("INSERT INTO t VALUES (0)"),  # is there
    Row("SELECT * FROM none_such"),
    Row("CALL none_such()"),
)
# Elsewhere they would meet those of other tests.
ELSEWHERE = {"USE mysql": "USE {else}", "CREATE DATABASE IF NOT EXISTS another": "DROP VIEW none"}
TABLE = (*(row for row in ROWS if row.sql not in ELSEWHERE), Row("USE {else}", resets=True))


EACH = "switched autocommit on"  # so that what comes after it may be committed
FAIL_LATE = ("CALL commits_and_goes_on()", "CALL makes_a_table()")  # if so, they have committed
NOT_THERE = (1305,)  # a procedure
REFUSED = ("SET", "CALL", "SELECT s")  # what does nothing if it fails


class Step(NamedTuple):
    """Something that a block does: `what` is a row of the table, "insert", "commit", "rollback", or
    the steps of a nested block. If it fails, its error is caught at once, or leaves the block.
    """

    what: Any
    is_caught: bool


class Block(NamedTuple):
    """What a block does, whether an exception leaves it at its end, and, if it is the outermost
    one, whether it is readonly.
    """

    steps: list[Step]
    by_error: bool
    readonly: bool = False


def steps(inside: st.SearchStrategy[Any], most: int) -> st.SearchStrategy[Block]:
    step = st.builds(Step, inside, st.booleans())
    return st.builds(Block, st.lists(step, max_size=most), st.booleans())


STATEMENTS = st.sampled_from([*TABLE, *FAILING])
INSERT = st.just("insert")
NESTED = steps(st.one_of(INSERT, STATEMENTS), 4)
BY_HAND = st.sampled_from(["commit", "rollback"])
WRITING = steps(st.one_of(INSERT, INSERT, STATEMENTS, STATEMENTS, NESTED, BY_HAND), 6)
BEGINS = st.just(Row("START TRANSACTION READ WRITE", COMMITS))
READING = steps(st.one_of(INSERT, BEGINS, STATEMENTS, NESTED, BY_HAND), 6)
OUTERMOST = st.one_of(WRITING, WRITING, READING.map(lambda block: block._replace(readonly=True)))


class Model:
    """A session of the server, as its manual has it, and what a lease must not let pass."""

    def __init__(self, *, readonly: bool) -> None:
        self.readonly = readonly
        self.committed: set[int] = set()
        self.open: list[int] = []
        self.transaction = 0  # how many have ended
        self.autocommit, self.is_begun = readonly, False
        self.must_fail = False  # whether the block must not end well
        self.may_fail = False  # whether something gave the lease a reason to refuse
        # Since the last commit() or rollback() by hand: what has committed the last work, and what
        # may as well be said to have done so.
        self.told: list[str] = []
        self.has_committed = False

    def insert(self, number: int) -> None:
        if self.autocommit and not self.is_begun:
            self.committed.add(number)
            self.told.append(EACH)
            self.has_committed = True
        else:
            self.open.append(number)

    def commits(self, sql: str = "") -> None:
        if sql:
            self.has_committed = self.has_committed or bool(self.open)
            kept = [EACH] if EACH in self.told else []
            self.told = [*(kept if self.open else self.told), verb_of(sql)]
        self.committed |= set(self.open)
        self._end()

    def undoes(self) -> None:
        self._end()

    def _end(self) -> None:
        self.open, self.is_begun = [], False
        self.transaction += 1

    def begins_anew(self) -> None:
        self.told, self.has_committed = [], False

    def runs(self, row: Row, *, error: int, is_nested: bool) -> None:
        """A statement of the table was sent; `error` is the number of the server's."""
        sql, had_work = row.sql, bool(self.open)
        work = ROUTINES.get(sql, row.work) if row.work == ENDS else row.work
        has_begun = sql in FAIL_LATE and error not in NOT_THERE
        if error and not has_begun and (row.work == ENDS or sql.startswith(REFUSED)):
            work = KEPT
        if error and sql.startswith(("CALL", "SELECT s", "EXEC", "BEGIN N")):
            self.may_fail = True
        if work == COMMITS and not ("autocommit" in sql and self.autocommit):  # then it is on
            self.commits(sql)
        elif work == UNDOES:
            self.undoes()
        if work != KEPT:
            self.may_fail = True
            if had_work and (row.work == ENDS or (work == UNDOES and is_nested)):
                self.must_fail = True
        if error:
            return
        begins = sql.upper().startswith(("BEGIN", "START")) and "ATOMIC" not in sql
        self.is_begun = self.is_begun or begins or sql.upper().endswith("AND CHAIN")
        if "autocommit" in sql:
            self.autocommit = True


class Player:
    """Plays blocks, and tells the model what the server has been sent."""

    def __init__(self, site: Site, model: Model, first: int) -> None:
        self.site, self.model, self.number = site, model, first

    def play(self, conn: Any, block: Block, *, is_nested: bool = False) -> None:
        for step in block.steps:
            try:
                self.do(conn, step.what, is_nested=is_nested)
            except PooledDBError:
                assert self.model.may_fail or self.model.readonly, "it was refused for no reason"
                if not step.is_caught:
                    raise
            except (conn.Error, LookupError):
                if not step.is_caught:
                    raise
        if block.by_error:
            raise LookupError

    def do(self, conn: Any, what: Any, *, is_nested: bool) -> None:
        if isinstance(what, Block):
            self.nested(what)
        elif what == "insert":
            self.number += 1
            run(conn, f"INSERT INTO t VALUES ({self.number})")
            self.model.insert(self.number)
        elif what == "commit":
            conn.commit()
            self.model.commits()
            self.model.begins_anew()
        elif what == "rollback":
            conn.rollback()
            self.model.undoes()
            self.model.must_fail = False
            self.model.begins_anew()
        else:
            self.send(conn, what, is_nested=is_nested)

    def send(self, conn: Any, row: Row, *, is_nested: bool) -> None:
        this = self.site.database
        sql = self.site.text(row).replace("{this}", this).replace("{else}", f"{this}_else")
        was_refused = conn.is_over or self.model.must_fail
        try:
            run(conn, sql)
        except PooledDBError:
            if not was_refused:  # it was found out after it had been sent
                self.model.runs(row, error=0, is_nested=is_nested)
            raise
        except conn.Error as error:
            number = getattr(error, "errno", error.args[0])
            self.model.runs(row, error=number, is_nested=is_nested)
            raise
        self.model.runs(row, error=0, is_nested=is_nested)

    def nested(self, block: Block) -> None:
        model = self.model
        before, transaction = len(model.open), model.transaction
        try:
            with db_connection_context() as conn:
                self.play(conn, block, is_nested=True)
        except BaseException:
            if model.readonly:
                pass  # there are no savepoints
            elif transaction != model.transaction:
                model.must_fail = model.may_fail = True
            else:
                del model.open[before:]
            raise

    def lease(self, block: Block) -> None:
        """Play the block of a lease; its end is what the model says."""
        model = self.model
        error: BaseException | None = None
        try:
            with db_connection_context(readonly=block.readonly) as conn:
                self.play(conn, block)
        except Exception as caught:
            error = caught
        if error is None:
            assert not model.must_fail, "a part was lost and nobody was told"
            assert not (model.readonly and model.open), "what it wrote was lost"
            model.commits()
        else:
            model.undoes()
        if isinstance(error, PooledDBError):
            assert model.may_fail or model.readonly, "it failed for no reason"
            self.check_text(str(error))

    def check_text(self, text: str) -> None:
        """What was committed by itself is said, and nothing that is not so."""
        told = self.model.told
        if "readonly=True block" in text:
            return  # it is of the transaction that is open
        if "nothing of it was or will be committed" in text:
            assert not self.model.has_committed, text
        if EACH in told:
            assert EACH in text, text
        elif self.model.has_committed:
            assert any(verb in text for verb in told), f"{text}, and {told}"
        else:
            assert told or "committed what came before it" not in text, text


def play_two(site: Site, fresh: dict[str, Any], blocks: tuple[Block, Block]) -> None:
    site.server.execute(f"CREATE OR REPLACE TABLE `{site.database}`.other (a INT) ENGINE=InnoDB")
    site.server.execute(f"DELETE FROM `{site.database}`.t WHERE id > 0")
    expected = {0}
    for place, block in enumerate(blocks):
        model = Model(readonly=block.readonly)
        Player(site, model, first=100 * (place + 1)).lease(block)
        expected |= model.committed
        assert locks_of_others(site) == [None, None]
        assert set(site.committed()) == expected
        with db_connection_context() as conn:
            assert state(conn) == fresh
        event("its end: " + ("refused" if model.must_fail else "as it was left"))


@contextlib.contextmanager
def site_to_play_on(server: MariaDBServer, driver: str) -> Iterator[tuple[Site, dict[str, Any]]]:
    logger = logging.getLogger("flask_pooled_db")
    with site_on(server, driver) as site:
        server.execute(f"CREATE DATABASE `{site.database}_else`")
        server.execute(f"INSERT INTO `{site.database}`.t VALUES (0)")
        with db_connection_context() as conn:
            fresh = state(conn)
        logger.setLevel(logging.CRITICAL)
        try:
            yield site, fresh
        finally:
            logger.setLevel(logging.NOTSET)
            server.execute(f"DROP DATABASE `{site.database}_else`")


def play_many(server: MariaDBServer, driver: str, examples: int) -> None:
    with site_to_play_on(server, driver) as (site, fresh):

        @settings(
            max_examples=examples,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
        )
        @given(st.tuples(OUTERMOST, OUTERMOST))
        def play(blocks: tuple[Block, Block]) -> None:
            play_two(site, fresh, blocks)

        play()


def test_t10_any_statements(mariadb: MariaDBServer, mariadb_driver: str) -> None:
    """Whatever statements come in whatever order, what is committed is what the server's manual
    and the ends of the blocks say, errors say nothing that is not so, and the next lease finds a
    session as good as new.
    """
    play_many(mariadb, mariadb_driver, 100)


@pytest.mark.slow
def test_t10_any_statements_at_length(mariadb: MariaDBServer, mariadb_driver: str) -> None:
    """The same with many more of them."""
    play_many(mariadb, mariadb_driver, 1200)
