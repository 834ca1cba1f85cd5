"""The workers of an app, as apps in this process, and the command line beside them."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from click.testing import Result
from flask import Flask

from flask_pooled_db import PooledDB
from harness.waiting import PATIENCE

ME = os.getpid()


class Host:
    """The workers of an app, and the command line beside them."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.settings = {"runtime_dir": folder / "run", **settings}
        self.workers: list[PooledDB] = []
        self._stack = contextlib.ExitStack()

    def add(self, count: int = 1, *binds: str) -> None:
        """Let workers begin, and open connections."""
        for _ in range(count):
            _, db = self._stack.enter_context(self.app())
            self.workers.append(db)
            self.use(db, 2, *binds)
            db.host_stats()

    @contextlib.contextmanager
    def app(self) -> Iterator[tuple[Flask, PooledDB]]:
        app = Flask("app_under_test")
        keys = {"mincached": 0, **self.settings}
        app.config.update({f"POOLED_DB_{name.upper()}": value for name, value in keys.items()})
        db = PooledDB(app)
        db.bind_loader(self.load)
        try:
            yield app, db
        finally:
            db.close(PATIENCE)

    @staticmethod
    def use(db: PooledDB, connections: int, *binds: str) -> None:
        """Open so many connections of each bind."""
        for bind in binds or (None,):
            with contextlib.ExitStack() as stack:
                for _ in range(connections):
                    scope = db.connection_context(bind, independent=True)
                    stack.enter_context(scope).execute("SELECT 1")

    def load(self, name: str) -> Any:
        return self.settings["url"].replace("shop", "other") if name == "other" else None

    def run(self, *args: str) -> Result:
        with self.app() as (app, _):
            return app.test_cli_runner().invoke(args=["pooled-db", *args])

    def close(self) -> None:
        self._stack.close()


def lines_of(result: Result) -> list[str]:
    """What was printed of the workers, without their ids."""
    found = [line for line in result.stdout.splitlines() if line.startswith("worker ")]
    return [re.sub(rf"^worker {ME} ", "", line) for line in found]


def drained(db: PooledDB, bind: str | None = None) -> int:
    return db.stats(bind).evictions.get("drained", 0)
