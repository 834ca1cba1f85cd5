"""Apps whose connections `flask pooled-db server` lists, and what it told of them."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self

import pymysql
from click.testing import Result
from flask import Flask

from flask_pooled_db import PooledDB
from flask_pooled_db.flask.commands.servers import orphans
from harness.server import MariaDBServer
from tests.support.apps import pooled_app
from tests.support.pools import call

RESTED = orphans.MARGIN + 1.1
"""Seconds after which a connection is idle for certain, by a server that counts whole ones."""


class Site(NamedTuple):
    """An app, its database, and the folder where its processes meet."""

    app: Flask
    db: PooledDB
    database: str
    folder: Path


@contextlib.contextmanager
def site_of(url: str, database: str, folder: Path, **settings: Any) -> Iterator[Site]:
    (folder / "run").mkdir(mode=0o700, exist_ok=True)
    with pooled_app(url, runtime_dir=str(folder / "run"), **settings) as (app, db):
        yield Site(app, db, database, folder)


def run(site: Site, *args: str, answer: str | None = None) -> Result:
    args = ("pooled-db", "server", *args)
    return site.app.test_cli_runner().invoke(args=args, input=answer)


def read(site: Site, *args: str) -> dict[str, Any]:
    """What the command tells of the only server, as JSON, with what it has ended."""
    result = run(site, "--json", *args)
    assert result.exit_code == 0, result.output
    told: dict[str, Any] = json.loads(result.stdout)
    (server,) = told["servers"]
    return {**server, "ended": told.get("ended")}


def owners(site: Site) -> dict[int, str]:
    """Whose each connection is, by its id."""
    return {one["id"]: one["whose"] for one in read(site)["sessions"]}


class Client:
    """Another program's connection: what no process of the app knows."""

    def __init__(self, mariadb: MariaDBServer, database: str, **arguments: Any) -> None:
        connect: Any = pymysql.connect
        self.raw = connect(**{**mariadb.connect_args(database), **arguments})
        self.id: int = self.raw.thread_id()

    def run(self, sql: str) -> None:
        self.raw.cursor().execute(sql)

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Have it used again and again during a block, however long that takes."""
        ends = threading.Event()

        def use() -> None:
            while not ends.wait(0.1):
                self.run("SELECT 1")

        user = call(use)
        try:
            yield
        finally:
            ends.set()
            user.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(pymysql.Error, OSError):
            self.raw.close()
