"""T9 and T1: what interrupts the entry and the exit of a block, and forks inside of one."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from flask_pooled_db.config import ScopeOptions
from flask_pooled_db.errors import PooledDBError
from flask_pooled_db.lease.home import Leases
from flask_pooled_db.lease.openscopes import scopes_of
from flask_pooled_db.lease.owner import current_owner
from flask_pooled_db.lease.scope import Scope
from tests.lease.databases import WITH_SAVEPOINT
from tests.runtime.forking import run_program
from tests.support.fake_driver import FakeDriver
from tests.support.pools import check_counts, open_pool
from tests.support.tracing import traced_by

LEASE_FILES = ("scope.py", "lease.py", "proxy.py", "preamble.py", "transaction.py", "enclosing.py")
FIRST_LINES = 3
"""Those of `__exit__` before it has begun: whoever interrupts there has not left the block."""


class Interrupted(BaseException):
    """What a signal handler raises."""


class AtLine:
    """Raises before the line of this number, counted in these modules of the lease."""

    def __init__(self, line: int, files: tuple[str, ...] = LEASE_FILES) -> None:
        self.left = line
        self.files = files

    def __call__(self, frame: FrameType, event: str, arg: object) -> Any:
        path = Path(frame.f_code.co_filename)
        if path.parent.name != "lease" or path.name not in self.files:
            return None
        if event == "line":
            if not self.left:
                self.left = -1
                raise Interrupted
            self.left -= 1
        return self

    def run(self, function: Callable[[], object]) -> bool:
        """Call it; return whether it was interrupted."""
        try:
            with traced_by(self):
                function()
        except Interrupted:
            return True
        return False


def interruptions(make: Callable[[], tuple[Callable[[], object], Callable[[], object]]]) -> int:
    """Interrupt a function before each of its lines in turn; what is cleaned up is checked."""
    for line in range(1000):
        act, check = make()
        was_interrupted = AtLine(line).run(act)
        if not was_interrupted:
            return line
        check()
    raise AssertionError("it never ends")


def open_scopes() -> list[Scope]:
    """Return the scopes that are open in this thread, the newest first."""
    return scopes_of(current_owner()).newest_first()


OPTIONS = [
    WITH_SAVEPOINT,
    ScopeOptions(readonly=True),
    ScopeOptions(isolation_level="SERIALIZABLE"),
]


class LevelDriver(FakeDriver):
    """A driver that knows isolation levels."""

    def isolation_statement(self, level: str) -> str:
        return f"SET TRANSACTION ISOLATION LEVEL {level}"


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("is_nested", [False, True])
def test_t9_interrupted_entry(options: ScopeOptions, is_nested: bool) -> None:
    """Whatever line of its entry an interruption comes at, a block leaves nothing behind."""
    if is_nested and (options.isolation_level or options.readonly):
        options = ScopeOptions(statement_timeout=3)
    scopes: list[Scope] = []
    with open_pool(LevelDriver(), maxconnections=2) as pool:

        def enter_and_check() -> tuple[Callable[[], object], Callable[[], object]]:
            holder = Leases()
            scope = Scope(pool.engine, holder, options)
            scopes.append(scope)
            before, in_use = open_scopes(), pool.stats().in_use

            def check() -> None:
                assert open_scopes() == before
                assert check_counts(pool).in_use == in_use
                assert not holder
                assert scope.frame is None

            return scope.__enter__, check

        with Scope(pool.engine, Leases()) if is_nested else contextlib.nullcontext() as outer:
            if outer is not None:
                outer.cursor().execute("INSERT")
                session = outer.session
            assert interruptions(enter_and_check) > 10
            # The last one was entered to its end.
            scopes[-1].__exit__(None, None, None)
            if outer is not None:
                assert outer.session == session
                outer.commit()  # no nested block is left on it


class InterruptedLeases(Leases):
    """Leases of a caller who is interrupted when one has been added."""

    def __setitem__(self, lease: Any, value: None) -> None:
        super().__setitem__(lease, value)
        raise Interrupted


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_t9_interrupted_lease(options: ScopeOptions) -> None:
    """A lease that only its holder knows is released too when its block's entry is interrupted."""
    with open_pool(LevelDriver(), maxconnections=1) as pool:
        holder = InterruptedLeases()
        with pytest.raises(Interrupted):
            Scope(pool.engine, holder, options).__enter__()
        assert not holder
        assert check_counts(pool).in_use == 0


@pytest.mark.parametrize("by_error", [False, True])
@pytest.mark.parametrize("is_nested", [False, True])
def test_t9_interrupted_exit(is_nested: bool, by_error: bool) -> None:
    """Whatever line of the end of a block an interruption comes at, the connection is given back,
    and an outer block does not commit what was interrupted.
    """
    fake = FakeDriver()
    with open_pool(fake, maxconnections=1) as pool:
        for line in range(FIRST_LINES, 1000):
            outer, scope = Scope(pool.engine, Leases()), Scope(pool.engine, Leases())
            if is_nested:
                outer.__enter__().cursor().execute("INSERT")
            scope.__enter__().cursor().execute("INSERT")
            error = LookupError() if by_error else None
            leave = functools.partial(scope.__exit__, type(error) if error else None, error, None)
            commits = fake.count("commit")
            was_interrupted = AtLine(line, ("scope.py",)).run(leave)
            if is_nested:
                with contextlib.suppress(PooledDBError):
                    outer.__exit__(None, None, None)
            assert check_counts(pool).in_use == 0
            if not was_interrupted:
                break
            assert fake.count("commit") == commits or not (is_nested or by_error)
        assert line >= FIRST_LINES + 5


FORK_IN_SCOPE = """
from flask import Flask
from flask_pooled_db import PooledDB, db_connection_context
import multiprocessing

app = Flask("forks")
app.config.update(POOLED_DB_URL=url, POOLED_DB_MINCACHED=0)
db = PooledDB(app)

def insert(n):
    with db_connection_context() as conn, conn.cursor() as cur:
        cur.execute("INSERT INTO t VALUES (%s)", (n,))
        with db_connection_context() as inner:
            assert inner is conn

def count():
    with db_connection_context(readonly=True) as conn:
        return ask(conn, "SELECT count(*) FROM t")

with app.app_context():
    with db_connection_context() as conn:
        conn.cursor().execute("CREATE TABLE t (a INTEGER)")
    with db_connection_context() as conn:
        ask(conn, "SELECT 1")
        with db_connection_context():
            process = multiprocessing.get_context("fork").Process(target=insert, args=(1,))
            process.start()
            process.join()
            assert process.exitcode == 0
            def child():
                insert(2)
                insert(3)
                os._exit(0)
            fork(child)
        insert(4)
    assert count() == 4, count()
db.close()
"""


def test_t9_fork_in_block(tmp_path: Path) -> None:
    """A block of a forked child passes over its parent's."""
    run_program(FORK_IN_SCOPE, f"sqlite:///{tmp_path}/db")
