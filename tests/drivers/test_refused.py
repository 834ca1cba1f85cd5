"""T1 and P9: what a driver can do that would work against the lease, and is refused."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import mysql.connector
import psycopg
import pytest

from flask_pooled_db import UsageError, db_connection_context
from harness.server import MariaDBServer
from tests.drivers.generic import MODULES, keys
from tests.support.apps import pooled_app

Misuse = Callable[[Any], object]


@dataclass(frozen=True)
class Place:
    """A driver's database with an empty table `t`, and looks at it that take no part."""

    committed: Callable[[], list[int]]
    prepared: Callable[[], int]


@contextlib.contextmanager
def on_mariadb(server: MariaDBServer, driver: str) -> Iterator[Place]:
    database = server.create_database()
    server.execute(f"CREATE TABLE `{database}`.t (id INT PRIMARY KEY) ENGINE=InnoDB")
    found: dict[str, Any] = {"creator": mysql.connector}
    if driver == "mysql.connector":
        found["connect_args"] = {**server.connect_args(database), "use_pure": True}
    else:
        found = {"url": server.url(driver, database)}
    with pooled_app(**found, maxconnections=1):
        yield Place(
            lambda: [id_ for (id_,) in server.query(f"SELECT id FROM `{database}`.t ORDER BY id")],
            lambda: len(server.query("XA RECOVER")),
        )


@contextlib.contextmanager
def on_postgresql(url: str, driver: str) -> Iterator[Place]:
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as own:
        own.execute("DROP TABLE IF EXISTS t")
        own.execute("CREATE TABLE t (id INT PRIMARY KEY)")
        found = keys(MODULES[driver], url) if driver in MODULES else {"url": url}
        with pooled_app(**found, maxconnections=1):
            yield Place(
                lambda: [id_ for (id_,) in own.execute("SELECT id FROM t ORDER BY id")],
                lambda: len(own.execute("SELECT 1 FROM pg_prepared_xacts").fetchall()),
            )


def sends(sql: str) -> Misuse:
    return lambda conn: conn.cursor().execute(sql)


def calls(name: str, *args: Any, **kwargs: Any) -> Misuse:
    return lambda conn: getattr(conn, name)(*args, **kwargs)


RESETS = {
    "mariadbconnector": (calls("reset"), calls("change_user", "app", "x", "y")),
    "mysql.connector": (
        *(calls("reset_session"), calls("cmd_reset_connection")),
        calls("cmd_change_user", "app", "x", "y"),
    ),
    "psycopg2": (calls("reset"),),
    "psycopg": (calls("set_autocommit", True),),
}
XA = ("XA START 'x'", "/* c */ xa begin 'x'", "XA END 'x'", "XA PREPARE 'x'", "XA COMMIT 'x'")
TWO_PHASE = (
    *(calls("tpc_begin", "x"), calls("tpc_prepare"), calls("tpc_commit", "x")),
    calls("tpc_rollback", "x"),
)
PREPARE = (sends("PREPARE TRANSACTION 'x'"), sends("COMMIT PREPARED 'x'"))
DISTRIBUTED = {
    "pymysql": (*map(sends, XA), calls("query", "XA START 'x'")),
    "mariadbconnector": (*map(sends, XA), *TWO_PHASE),
    "mysql.connector": (*map(sends, XA), calls("cmd_query", "XA START 'x'")),
    "psycopg": (*TWO_PHASE, *PREPARE, calls("execute", "PREPARE TRANSACTION 'x'")),
    "psycopg2": (*TWO_PHASE, *PREPARE),
    "pg8000": (*TWO_PHASE, *PREPARE),
}
ROWS = [
    pytest.param(driver, misuse, match, id=f"{driver}-{kind}-{number}")
    for kind, match, table in (
        ("resets", "the pool's|the scope's", RESETS),
        ("distributes", "distributed", DISTRIBUTED),
    )
    for driver, misuses in table.items()
    for number, misuse in enumerate(misuses)
]
ON_MARIADB = ("pymysql", "mariadbconnector", "mysql.connector")


@pytest.fixture
def place(request: pytest.FixtureRequest, driver: str) -> Iterator[Place]:
    if driver in ON_MARIADB:
        opened = on_mariadb(request.getfixturevalue("mariadb"), driver)
    else:
        opened = on_postgresql(request.getfixturevalue("postgresql"), driver)
    with opened as place:
        yield place


@pytest.mark.shared_server
@pytest.mark.parametrize("comes_first", [True, False])
@pytest.mark.parametrize(("driver", "misuse", "match"), ROWS)
def test_t1_refused_methods(place: Place, misuse: Misuse, match: str, comes_first: bool) -> None:
    """What would end or change the session or its transaction behind the lease's back is refused
    before it is sent: the block goes on, and is undone as a whole or committed as a whole.
    """
    for fails in (True, False):
        with contextlib.suppress(LookupError), db_connection_context() as conn:
            if not comes_first:
                conn.cursor().execute("INSERT INTO t VALUES (1)")
            with pytest.raises(UsageError, match=match):
                misuse(conn)
            conn.cursor().execute("INSERT INTO t VALUES (2)")
            if fails:
                raise LookupError
        assert place.committed() == ([] if fails else [2] if comes_first else [1, 2])
    assert place.prepared() == 0


@pytest.mark.parametrize("driver", ["mariadbconnector"])
@pytest.mark.shared_server
def test_t1_distributed_transaction(place: Place) -> None:
    """A distributed transaction is done with the driver's own connection."""
    with db_connection_context() as conn:
        own = conn.dbapi_connection
        own.tpc_begin(own.xid(0, "of a test", "x"))
        own.cursor().execute("INSERT INTO t VALUES (1)")
        own.tpc_prepare()
        own.tpc_commit()
    assert (place.committed(), place.prepared()) == ([1], 0)
    with db_connection_context() as conn:
        conn.cursor().execute("INSERT INTO t VALUES (2)")
    assert place.committed() == [1, 2]
