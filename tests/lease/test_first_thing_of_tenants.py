"""The first thing that a tenant's lease does is done in its schema, whatever it is."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.tenancy import BINDS, insert, opener, quoted


def _ways() -> Iterator[Any]:
    for driver in ("pymysql", "mariadbconnector", "psycopg"):
        marks = () if driver == "psycopg" else (pytest.mark.shared_server,)
        for way in WAYS[driver]:
            yield pytest.param(driver, way, marks=marks, id=f"{driver}-{way.__name__}")


def execute(conn: Any) -> None:
    insert(conn, "blue")


def executemany(conn: Any) -> None:
    conn.cursor().executemany("INSERT INTO t VALUES (%s)", [("blue",)])


def raw(conn: Any) -> None:
    conn.dbapi_connection.cursor().execute("INSERT INTO t VALUES ('blue')")


def raw_cursor(conn: Any) -> None:
    conn.cursor().connection.cursor().execute("INSERT INTO t VALUES ('blue')")


def query(conn: Any) -> None:
    conn.query("INSERT INTO t VALUES ('blue')")


def streaming(conn: Any) -> None:
    import pymysql.cursors

    conn.cursor(pymysql.cursors.SSCursor).execute("INSERT INTO t VALUES ('blue')")


def call_procedure(conn: Any) -> None:
    conn.cursor().callproc("put")


def prepared(conn: Any) -> None:
    cur = conn.cursor(binary=True)
    cur.execute("INSERT INTO t VALUES (?)", ("blue",))


def of_connection(conn: Any) -> None:
    conn.execute("INSERT INTO t VALUES ('blue')")


def copy(conn: Any) -> None:
    with conn.cursor() as cur, cur.copy("COPY t FROM STDIN") as rows:
        rows.write_row(("blue",))


def stream(conn: Any) -> None:
    with conn.cursor() as cur:
        assert list(cur.stream("INSERT INTO t VALUES ('blue') RETURNING v")) == [("blue",)]


def transaction(conn: Any) -> None:
    with conn.transaction():
        conn.execute("INSERT INTO t VALUES ('blue')")


def pipeline(conn: Any) -> None:
    with conn.pipeline():
        conn.execute("INSERT INTO t VALUES (%s)", ("blue",))


def declared(conn: Any) -> None:
    with conn.cursor(name="c") as cur:
        cur.execute("SELECT v FROM t")
        assert cur.fetchall() == []
    insert(conn, "blue")


def libpq(conn: Any) -> None:
    conn.pgconn.exec_(b"INSERT INTO t VALUES ('blue')")


def begin(conn: Any) -> None:
    conn.cursor().execute("BEGIN")
    insert(conn, "blue")


def chain(conn: Any) -> None:
    conn.cursor().execute("COMMIT AND CHAIN")
    insert(conn, "blue")


def read_only_before(conn: Any) -> None:
    conn.set_read_only(False)
    insert(conn, "blue")


COMMON = [execute, executemany, raw, raw_cursor, call_procedure, begin, chain]
WAYS: dict[str, list[Callable[[Any], None]]] = {
    "pymysql": [*COMMON, query, streaming],
    "mariadbconnector": [*COMMON, prepared],
    "psycopg": [
        *(execute, executemany, raw, raw_cursor, begin, chain),
        *(of_connection, copy, stream, transaction, pipeline, declared),
        *(libpq, read_only_before),
    ],
}


@pytest.mark.parametrize("kind", ["scope", "nested", "borrowed"])
@pytest.mark.parametrize(("driver", "way"), [*_ways()])
def test_p9_first_thing(
    request: pytest.FixtureRequest, driver: str, way: Callable[[Any], None], kind: str
) -> None:
    """In whatever way a lease begins to use its connection, it is in its schema then."""
    with opener(request, driver)(maxconnections=1) as tenancy:
        if driver != "psycopg":
            name = quoted(driver, tenancy.schemas["blue"])
            tenancy.query(f"CREATE PROCEDURE {name}.put() INSERT INTO t VALUES ('blue')")
        for before in BINDS:
            tenancy.where(before)
            if kind == "borrowed":
                with contextlib.closing(tenancy.db.pool("blue").lease()) as conn:
                    way(conn)
                    conn.commit()
            elif kind == "nested":
                with tenancy.db.connection_context("blue"):
                    with tenancy.db.connection_context("blue", savepoint=False) as conn:
                        way(conn)
            else:
                with tenancy.db.connection_context("blue") as conn:
                    way(conn)
            committed = tenancy.committed()
            assert committed.pop("blue") == ["blue"]
            assert not any(committed.values())
            tenancy.clear()
