"""What docs/commands.md shows of commands that ask servers, and run files, is what they print."""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import Result
from flask import Flask

from flask_pooled_db import PooledDB
from harness.gunicorn import GunicornServer
from harness.postgres import PostgreSQLServer
from harness.processes import PROJECT
from harness.server import MariaDBServer
from harness.waiting import wait_until
from tests.flask.listing import RESTED, Client
from tests.support import holding_app

PAGE = (PROJECT / "docs" / "commands.md").read_text(encoding="utf-8")


def shown(section: str) -> list[str]:
    """The lines that a section of the page shows, without what each run has of its own."""
    text = PAGE.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"```console\n([^`]+)```", text)
    return [
        plain(line) for block in blocks for line in block.splitlines() if line and line[0] != "$"
    ]


def plain(line: str) -> str:
    """A line without numbers, versions, names of programs, counts of states, and its columns."""
    line = re.sub(r"(MariaDB|PostgreSQL) [\w.+~:-]+( \(.*?\))?", r"\1 V", line)
    line = re.sub(r"(, of which| and) others use \d+ now|, which leaves \d+", "", line)
    line = re.sub(r"(Process \d+) \(.+?\)", r"\1 (P)", line)
    line = re.sub(r"/\S+/schema.sql", "/schema.sql", line)
    line = re.sub(r"\(\d+ active.*?\)", "(N active)", line)
    line = re.sub(r"(this account sees) .*", r"\1 N", line)
    return " ".join(re.sub(r"\d+(\.\d+)*", "N", line).split())


@pytest.fixture
def site(
    private_mariadb: MariaDBServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Flask, str]]:
    """An app that two workers serve, with a database on each kind of server; the first one's."""
    database = private_mariadb.create_database()
    private_mariadb.execute("GRANT PROCESS ON *.* TO 'app'@'%'")
    monkeypatch.delenv("WEB_CONCURRENCY", raising=False)
    monkeypatch.delenv("GUNICORN_CMD_ARGS", raising=False)
    (tmp_path / "run").mkdir(mode=0o700)
    with PostgreSQLServer() as postgresql:
        postgresql.query("SELECT 1")
        env = {
            "FLASK_POOLED_DB_URL": private_mariadb.url("pymysql", database),
            "FLASK_POOLED_DB_BINDS": json.dumps({"log": postgresql.url()}),
            "FLASK_POOLED_DB_MAXCONNECTIONS": "80",
            "FLASK_POOLED_DB_MINCACHED": "0",
            "FLASK_POOLED_DB_RUNTIME_DIR": str(tmp_path / "run"),
        }
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        app = holding_app.create_app()
        app.extensions["pooled_db"].extension.pool().drain()  # it only looks
        config = ["--config", "python:tests.support.holding_app", "--workers=2", "--threads=8"]
        with GunicornServer(tmp_path, config, env) as server:

            def serves() -> bool:
                with contextlib.closing(server.connect()) as connection:
                    connection.request("GET", "/")
                    connection.getresponse().read()
                told = json.loads(run(app, "status", "--json").stdout)
                return {one["pid"] for one in told["processes"]} >= {*server.workers()}

            wait_until(serves, "both workers")
            yield app, database
        app.extensions["pooled_db"].extension.close()


def run(app: Flask, *args: str, answer: str | None = None) -> Result:
    return app.test_cli_runner().invoke(args=["pooled-db", *args], input=answer)


@pytest.mark.slow
def test_page(site: tuple[Flask, str], private_mariadb: MariaDBServer) -> None:
    """Of `check` the page has all that is printed, and no more; of `server` each line."""
    app, database = site
    result = run(app, "check")
    printed = [plain(line.replace(database, "shop")) for line in result.stdout.splitlines() if line]
    assert sorted(printed) == sorted(shown("check"))
    with Client(private_mariadb, database):
        time.sleep(RESTED)
        args = ("--bind", "default", "--kill-orphans", "--idle", "0")
        result = run(app, "server", *args, answer="y\n")
    assert result.exit_code == 0, result.output
    printed = [plain(line.replace(database, "shop")) for line in result.stdout.splitlines() if line]
    assert set(printed) <= set(shown("server"))
    assert any("has N open" in line for line in printed)


def test_page_of_run(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of `run` it has what is printed, and what of a file that fails."""
    (tmp_path / "schema.sql").write_text("CREATE TABLE t (a INT);\nINSERT INTO t VALUES (1);\n")
    app = Flask("app_under_test")
    app.config.update(POOLED_DB_URL=url, POOLED_DB_RUNTIME_DIR=False, POOLED_DB_MINCACHED=0)
    db = PooledDB(app)
    monkeypatch.chdir(tmp_path)
    first, second = run(app, "run", "schema.sql"), run(app, "run", "schema.sql")
    db.close()
    assert (first.exit_code, second.exit_code) == (0, 1)
    printed = [plain(line) for line in (first.stdout + second.stderr).splitlines()]
    assert set(printed) == set(shown("run and binds"))
