"""A database for each workshop, opened by its name when a request needs it, closed when idle.

A workshop's name is one that the app has made itself. It is never used again, so that it means one
database for good, in each worker; and it may stand in a path and in SQL text.
"""

import re
import secrets
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from flask import Flask, current_app

from example_app.database import db, reading, transaction
from flask_pooled_db import UnknownBind, db_connection_context
from flask_pooled_db.signals import bind_closed, bind_opened

JOBS = """
    CREATE TABLE {} (
        id VARCHAR(16) NOT NULL PRIMARY KEY,
        bicycle VARCHAR(64) NOT NULL,
        work VARCHAR(200) NOT NULL,
        added_at VARCHAR(32) NOT NULL
    )
"""

_NAME = re.compile(r"workshop_[0-9a-f]{8}")


class Workshop(NamedTuple):
    """A row of `workshops`, in the app's main database."""

    name: str
    customer: str


class NoDatabase(Exception):
    """A database could not be made. It says what it takes, and `__cause__` what happened."""


def init_app(app: Flask) -> None:
    app.config.setdefault("WORKSHOPS_FOLDER", str(Path(app.instance_path, "workshops")))
    app.extensions["open_workshops"] = {}
    bind_opened.connect(_note_opened, app)
    bind_closed.connect(_note_closed, app)


@db.bind_loader
def settings(name: str) -> Mapping[str, Any] | None:
    """Return how to reach a workshop's database; None, and so `UnknownBind`, if there is none.

    This is asked at the first use in each worker, and again after the database was closed.
    """
    if find(name) is None:
        return None
    arguments = current_app.config.get("POOLED_DB_CONNECT_ARGS")
    return {"URL": _url(name), "CONNECT_ARGS": arguments, "MAXCONNECTIONS": 2}


def open_here() -> dict[str, datetime]:
    """Return which workshops' databases are open in this worker, and since when."""
    return dict(current_app.extensions["open_workshops"])


def _note_opened(app: Flask, bind: str, **_: object) -> None:
    app.extensions["open_workshops"][bind] = datetime.now(UTC)


def _note_closed(app: Flask, bind: str, **_: object) -> None:
    app.extensions["open_workshops"].pop(bind, None)


def find(name: str) -> Workshop | None:
    """Return a workshop; None if there is none. The name comes from outside, whatever it is."""
    if not _NAME.fullmatch(name):
        return None
    with reading() as cur:
        cur.execute("SELECT name, customer FROM workshops WHERE name = %s", (name,))
        row = cur.fetchone()
    return None if row is None else Workshop(*row)


@contextmanager
def existing(name: str) -> Iterator[Workshop]:
    """Yield a workshop for a block that uses its database; raise `UnknownBind` if there is none.

    Another worker may have removed it while it is open in this one, where the loader is not asked
    again. So the main database is, in each request, and what is open here of it is closed.
    """
    workshop = _found(name)
    try:
        yield workshop
    except Exception:
        _found(name)  # it may have been removed meanwhile: that is why, then
        raise


def _found(name: str) -> Workshop:
    workshop = find(name)
    if workshop is None:
        if _NAME.fullmatch(name):
            db.close_bind(name)
        raise UnknownBind("there is no such workshop", name)
    return workshop


def add(customer: str) -> Workshop:
    """Make a workshop. The row comes last: nobody opens the database before it is complete."""
    workshop = Workshop(f"workshop_{secrets.token_hex(4)}", customer)
    _make_database(workshop.name)
    transaction(_execute, "INSERT INTO workshops (name, customer) VALUES (%s, %s)", workshop)
    return workshop


def remove(name: str) -> None:
    """Remove a workshop and its database. The row goes first: nobody opens the database then."""
    _found(name)
    transaction(_execute, "DELETE FROM workshops WHERE name = %s", (name,))
    db.close_bind(name)
    _drop_database(name)


def _execute(conn: Any, sql: str, values: tuple[str, ...] = ()) -> None:
    with conn.cursor() as cur:
        cur.execute(sql, values)


def _url(name: str) -> Any:
    """Return the URL of a database: a file, or on the server of the app's main database."""
    if not _is_on_sqlite():
        return beside(_main_url(), name)
    # SQLite makes a file that is missing, also one that was removed, unless the mode is "rw".
    query = {"mode": "rw", "uri": "true"}
    return {"drivername": "sqlite", "database": _file(name).as_uri(), "query": query}


def beside(url: str, database: str) -> str:
    """Return the URL of another database on the same server."""
    return re.sub(r"^([a-z+]+://(?:.*@)?[^/?]*)(/[^?]*)?", rf"\1/{database}", url, count=1)


def _main_url() -> str:
    return str(current_app.config.get("POOLED_DB_URL", "sqlite:"))


def _is_on_sqlite() -> bool:
    return _main_url().startswith("sqlite:")


def _file(name: str) -> Path:
    return Path(current_app.config["WORKSHOPS_FOLDER"], f"{name}.sqlite").absolute()


def _make_database(name: str) -> None:
    if _is_on_sqlite():
        try:
            _file(name).parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(_file(name))) as file:
                file.execute(JOBS.format("jobs"))
        except (OSError, sqlite3.Error) as error:
            raise NoDatabase("the app has to be able to write to WORKSHOPS_FOLDER") from error
        return
    if not _main_url().startswith(("mariadb", "mysql")):  # or it is a mapping of a URL's parts
        raise NoDatabase("POOLED_DB_URL has to be the text of a URL of SQLite, MariaDB or MySQL")
    with db_connection_context() as conn, conn.cursor() as cur:
        try:
            cur.execute(f"CREATE DATABASE {name} CHARACTER SET utf8mb4")
            cur.execute(JOBS.format(f"{name}.jobs"))
        except conn.Error as error:
            grant = r"GRANT ALL ON `workshop\_%`.* TO app"
            raise NoDatabase(f"the app's user needs the right, as after {grant}") from error


def _drop_database(name: str) -> None:
    if _is_on_sqlite():
        for file in _file(name).parent.glob(f"{name}.sqlite*"):  # its journal too
            file.unlink(missing_ok=True)
    else:
        transaction(_execute, f"DROP DATABASE IF EXISTS {name}")
