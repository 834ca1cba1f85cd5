"""The database: the app's one `PooledDB`, its tables, and the command that makes them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import click
from flask import Flask
from flask.cli import with_appcontext

from flask_pooled_db import PooledDB, PooledDBError, db_connection_context

T = TypeVar("T")

db = PooledDB()

# One text for SQLite, MariaDB and MySQL. A scan's number counts within its order, so no column
# needs AUTO_INCREMENT, which they spell differently. Codes are compared as they are stored: the
# app lets only upper-case ASCII in (see parsing.py), for which every collation agrees. The UNIQUE
# with saved_at stands for an index, which MySQL can't create "if not exists".
SCHEMA = (
    """
    CREATE TABLE IF NOT EXISTS orders (
        code VARCHAR(32) NOT NULL PRIMARY KEY,
        target INTEGER NOT NULL,
        approved INTEGER NOT NULL DEFAULT 0,
        rejected INTEGER NOT NULL DEFAULT 0
    )
    """,
    """
    CREATE TABLE IF NOT EXISTS scans (
        order_code VARCHAR(32) NOT NULL,
        number INTEGER NOT NULL,
        box VARCHAR(64) NOT NULL,
        quality VARCHAR(16) NOT NULL,
        operator VARCHAR(64) NOT NULL,
        saved_at VARCHAR(32) NOT NULL,
        PRIMARY KEY (order_code, number),
        UNIQUE (order_code, box),
        UNIQUE (saved_at, order_code, number),
        FOREIGN KEY (order_code) REFERENCES orders (code)
    )
    """,
    """
    CREATE TABLE IF NOT EXISTS workshops (
        name VARCHAR(32) NOT NULL PRIMARY KEY,
        customer VARCHAR(64) NOT NULL
    )
    """,
)

SAMPLE_ORDERS = (("A-1001", 48), ("A-1002", 120), ("B-2001", 500))


class DatabaseAway(Exception):
    """The database failed in the middle of a request; the same request may work in a moment."""


def init_app(app: Flask) -> None:
    db.init_app(app)
    app.cli.add_command(init_db)


@contextmanager
def reading(timeout: float | None = None, bind: str | None = None) -> Iterator[Any]:
    """Yield a cursor for reads alone; `timeout` is the wait for a connection, in seconds."""
    with (
        db_connection_context(bind, readonly=True, timeout=timeout) as conn,
        conn.cursor() as cur,
    ):
        try:
            yield cur
        except (conn.OperationalError, conn.InterfaceError) as error:
            raise DatabaseAway from error


def transaction(work: Callable[..., T], *args: Any, bind: str | None = None) -> T:
    """Return `work(conn, *args)`, run in a transaction that starts over where that may help."""
    # Every driver has error classes of its own; they are on its connections.
    failures: tuple[type[Exception], ...] = ()

    def attempt(conn: Any) -> T:
        nonlocal failures
        failures = (conn.OperationalError, conn.InterfaceError)
        return work(conn, *args)

    try:
        return db.run_transaction(attempt, bind=bind)
    except failures as error:
        raise DatabaseAway from error


@click.command("init-db")
@with_appcontext
def init_db() -> None:
    """Make the tables and a few sample orders; what is there already stays as it is."""
    try:
        _make_tables()
        _make_orders()
    except PooledDBError as error:  # no connection to be had: it says why
        raise click.ClickException(str(error)) from error
    click.echo("The database is ready.")


def _make_tables() -> None:
    with db_connection_context() as conn, conn.cursor() as cur:
        for statement in SCHEMA:
            cur.execute(statement)


def _make_orders() -> None:
    with db_connection_context() as conn, conn.cursor() as cur:
        for code, target in SAMPLE_ORDERS:
            cur.execute("SELECT 1 FROM orders WHERE code = %s", (code,))
            if cur.fetchone() is None:
                cur.execute("INSERT INTO orders (code, target) VALUES (%s, %s)", (code, target))
