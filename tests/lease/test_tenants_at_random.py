"""Random leases of tenants that share a server, and not one row in another's schema."""

from __future__ import annotations

import contextlib
import random
from collections import Counter
from typing import Any

import pytest

from flask_pooled_db import PooledDBError
from tests.support.pools import call
from tests.support.tenancy import BINDS, DRIVERS, SERVER, TENANTS, Tenancy, insert, opener

LEASES = 60
WALKERS = 3

GO_AWAY = """
CREATE OR REPLACE FUNCTION public.go_away(name text) RETURNS text LANGUAGE plpgsql AS
  $$ BEGIN RETURN set_config('search_path', name, false); END $$
"""


class Away(Exception):
    """What leaves a block."""


class Stopped(BaseException):
    """What a signal or a timeout raises."""


class Walk:
    """One thread's leases; how many rows it is sure to have committed, and how many it tried."""

    def __init__(self, tenancy: Tenancy, seed: int) -> None:
        self.tenancy = tenancy
        self.seed = seed
        self.random = random.Random(seed)
        self.sure: Counter[str] = Counter()
        self.tried: Counter[str] = Counter()
        driver: Any = tenancy.db.pool(SERVER).driver
        self.ends = (Away, Stopped, PooledDBError, driver.Error)
        self.steps = [self.look, self.fail, self.leave, self.kill, self.change, self.inside]

    def run(self) -> Walk:
        for _ in range(LEASES):
            self.lease(self.random.choice(BINDS))
        return self

    def lease(self, bind: str, *, is_inner: bool = False) -> None:
        """Take a lease of a bind, and do this and that with it."""
        kinds = [self.scope, self.scope, self.borrowed, self.script, self.read]
        with contextlib.suppress(*self.ends):
            self.sure[bind] += self.random.choice(kinds)(bind, is_inner)

    def scope(self, bind: str, is_inner: bool) -> int:
        with self.tenancy.db.connection_context(bind) as conn:
            return self.work(conn, bind, is_inner)

    def borrowed(self, bind: str, is_inner: bool) -> int:
        with contextlib.closing(self.tenancy.db.pool(bind).lease()) as conn:
            count = self.work(conn, bind, is_inner)
            conn.commit()
            return count

    def script(self, bind: str, is_inner: bool) -> int:
        self.tried[bind] += 1
        self.tenancy.db.run_script(f"INSERT INTO t VALUES ('{bind}'); SELECT 1", bind)
        return 1

    def read(self, bind: str, is_inner: bool) -> int:
        rows = self.tenancy.db.fetch_all("SELECT DISTINCT v FROM t", bind=bind)
        assert {tuple(row) for row in rows} <= {(bind,)}, self.seed
        return 0

    def work(self, conn: Any, bind: str, is_inner: bool) -> int:
        """Do this and that; how many rows are to be there once it is committed."""
        count = 0
        for _ in range(self.random.randrange(5)):
            if self.random.random() < 0.6:
                count += self.insert(conn, bind)
            else:
                self.random.choice(self.steps)(conn, bind, is_inner)
        if self.random.random() < 0.3:
            self.go_away(conn)
        return count

    def insert(self, conn: Any, bind: str) -> int:
        self.tried[bind] += 1
        if self.random.random() < 0.7:
            insert(conn, bind)
            return 1
        before = self.tenancy.db.connection_context(bind, savepoint=self.random.random() < 0.5)
        with before as inner:
            insert(inner, bind)
        return int(inner is conn)  # else it is committed already, whatever becomes of this lease

    def look(self, conn: Any, bind: str, is_inner: bool) -> None:
        with conn.cursor() as cur:
            assert self.tenancy.current(cur) == self.tenancy.schemas[bind]

    def fail(self, conn: Any, bind: str, is_inner: bool) -> None:
        with conn.cursor() as cur:
            cur.execute("SELECT nothing FROM nowhere")

    def leave(self, conn: Any, bind: str, is_inner: bool) -> None:
        raise self.random.choice([Away, Stopped])

    def kill(self, conn: Any, bind: str, is_inner: bool) -> None:
        with conn.cursor() as cur:
            self.tenancy.kill(cur)
        with contextlib.suppress(*self.ends):
            insert(conn, bind)

    def change(self, conn: Any, bind: str, is_inner: bool) -> None:
        is_postgresql = self.tenancy.driver == "psycopg"
        text = "SET application_name = 'x'" if is_postgresql else "SET @x = 1"
        conn.cursor().execute(text)

    def inside(self, conn: Any, bind: str, is_inner: bool) -> None:
        if not is_inner:
            self.lease(
                self.random.choice([other for other in BINDS if other != bind]), is_inner=True
            )

    def go_away(self, conn: Any) -> None:
        """Leave the schema, and do nothing there."""
        name = self.tenancy.schemas[self.random.choice(BINDS)]
        if self.tenancy.driver == "psycopg":
            conn.cursor().execute(f"SELECT public.go_away('{name}')")
        else:
            conn.cursor().execute(f"USE `{name}`")
        if self.random.random() < 0.5:
            raise Away


@pytest.mark.slow
@pytest.mark.parametrize("reset", ["changed", "session"])
@pytest.mark.parametrize("driver", DRIVERS)
def test_p9_tenants_at_random(request: pytest.FixtureRequest, driver: str, reset: str) -> None:
    """Whatever leases of tenants do, together and one after the other, each row is in the table of
    the tenant that wrote it, and what was committed is there.
    """
    seed = random.randrange(2**32)
    settings: dict[str, Any] = {"maxconnections": 2 * WALKERS, "reset": reset}
    with opener(request, driver)(**settings) as tenancy:
        if driver == "psycopg":
            tenancy.query(GO_AWAY)
        app = tenancy.app

        def walk(number: int) -> Walk:
            with app.app_context():
                return Walk(tenancy, seed + number).run()

        walks = [caller.result() for caller in [call(walk, n) for n in range(WALKERS)]]
        committed = {bind: Counter(rows) for bind, rows in tenancy.committed().items()}
        for bind in BINDS:
            assert set(committed[bind]) <= {bind}, f"of seed {seed}"
            sure = sum(one.sure[bind] for one in walks)
            assert sure <= committed[bind][bind] <= sum(one.tried[bind] for one in walks)
        assert all(committed[bind] for bind in TENANTS)
        for bind in BINDS:
            assert tenancy.where(bind) == tenancy.schemas[bind]
