"""The files of docs/jobs.md, and a database that tells which connections their jobs use."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from redis import Redis

from harness.processes import PROJECT, without_coverage
from harness.redis import RedisServer
from harness.server import MariaDBServer
from harness.waiting import PATIENCE, wait_until
from harness.workers import Worker

PAGE = (PROJECT / "docs" / "jobs.md").read_text(encoding="utf-8")
BLOCKS = re.findall(
    r"^```python\n# (\w+\.py)(?:, too)?\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE
)

ORDERS = """
import contextlib, {module} as module, shop
for code in {codes!r}:
    module.order(code)
with contextlib.suppress(LookupError), shop.db.connection_context():
    module.order("never")
    raise LookupError
"""


class Site:
    """A folder with the page's files, and an empty database for them."""

    def __init__(
        self, folder: Path, server: MariaDBServer, redis: RedisServer, number: int
    ) -> None:
        """`number` is that of a database of Redis."""
        self.folder = folder
        self.server = server
        self.database = server.create_database()
        self.redis_url = f"{redis.url}/{number}"
        self.env = {
            **without_coverage(),
            "PYTHONPATH": os.pathsep.join([str(folder), str(PROJECT)]),
            "FLASK_POOLED_DB_URL": server.url(database=self.database),
            "REDIS_URL": self.redis_url,
        }

    def write(self, name: str, text: str) -> None:
        """Add a file."""
        (self.folder / name).write_text(text, encoding="utf-8")

    def create_tables(self) -> None:
        """Make the page's table, and one that has a row for each change of it, with the id of the
        connection that made it.
        """
        self.run("-m", "flask", "--app", "shop", "create-tables")
        self.execute("CREATE TABLE {0}.seen (code VARCHAR(20), connection BIGINT)")
        for event in ("INSERT", "UPDATE"):
            self.execute(
                f"CREATE TRIGGER {{0}}.on_{event} AFTER {event} ON {{0}}.orders FOR EACH ROW"
                " INSERT INTO {0}.seen VALUES (NEW.code, CONNECTION_ID())"
            )

    def execute(self, sql: str, *params: object) -> None:
        """Run a statement; `{0}` stands for the database."""
        self.server.execute(sql.format(self.database), *params)

    def run(self, *arguments: str) -> str:
        """Run a Python program to its good end; what it has written."""
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=self.folder,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    def order(self, module: str, codes: Sequence[str]) -> None:
        """Place orders by a module of the page, and one that is rolled back."""
        self.run("-c", ORDERS.format(module=module, codes=list(codes)))

    @contextlib.contextmanager
    def worker(self, *arguments: str, **env: str) -> Iterator[Worker]:
        """A worker, to be ended by the caller, or at the end at the latest."""
        with Worker(arguments, self.folder, {**self.env, **env}) as worker:
            try:
                yield worker
            except BaseException:
                sys.stderr.write(worker.log)
                raise

    def redis(self) -> Redis:
        """A client, to be closed by the caller."""
        return Redis.from_url(self.redis_url)

    def packed(self) -> dict[str, int]:
        """How often each order was packed."""
        rows = self.server.query(f"SELECT code, packed FROM {self.database}.orders ORDER BY code")
        return dict(rows)

    def wait_until_packed(self, codes: Sequence[str]) -> None:
        """Return when each of these was packed, once, and there are no others."""
        wait_until(lambda: self.packed() == dict.fromkeys(codes, 1), f"{codes} to be packed")

    def used(self) -> dict[str, list[int]]:
        """The connections that have changed each order, in their order."""
        used: dict[str, list[int]] = {}
        for code, connection in self.server.query(f"SELECT * FROM {self.database}.seen"):
            used.setdefault(code, []).append(connection)
        return used

    def connections(self) -> list[int]:
        """The connections that are open."""
        return self.server.connections(database=self.database)

    def wait_until_none_is_left(self) -> None:
        """Return when the server has no connection any more."""
        wait_until(lambda: not self.connections(), "the last connection to end")

    def aborted(self) -> int:
        """How many connections have ended without a goodbye."""
        log = self.server.error_log(lines=100_000)
        return len(re.findall(f"Aborted connection .* to db: '{self.database}'", log))


def write_page(folder: Path) -> None:
    """Write the page's blocks to the files that they name."""
    for name, text in BLOCKS:
        with (folder / name).open("a", encoding="utf-8") as file:
            file.write(text)
