"""The commands `flask pooled-db ...`."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskCliRunner

from flask_pooled_db import PooledDB
from flask_pooled_db.flask.commands import group
from harness.server import MariaDBServer
from tests.support.sites import bare_app, ids


@pytest.fixture
def runner(site: tuple[Flask, PooledDB]) -> FlaskCliRunner:
    return site[0].test_cli_runner()


def test_run_command(
    runner: FlaskCliRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`flask pooled-db run` runs a file, and says how many statements ran."""
    monkeypatch.chdir(tmp_path)
    Path("one.sql").write_text("INSERT INTO t VALUES (1, 'x')")
    Path("two.sql").write_text("INSERT INTO t VALUES (2, 'x'); INSERT INTO t VALUES (3, 'x');")
    result = runner.invoke(args=["pooled-db", "run", "one.sql"])
    assert (result.exit_code, result.stdout) == (0, "1 statement ran.\n")
    result = runner.invoke(args=["pooled-db", "run", str(tmp_path / "two.sql")])
    assert (result.exit_code, result.stdout) == (0, "2 statements ran.\n")
    monkeypatch.chdir(os.sep)
    runner.app.extensions["pooled_db"].root_path = str(tmp_path)
    Path(tmp_path, "two.sql").write_text("")
    result = runner.invoke(args=["pooled-db", "run", "two.sql"])
    assert (result.exit_code, result.stdout) == (0, "0 statements ran.\n")
    with runner.app.app_context():
        assert ids() == [1, 2, 3]


def test_run_command_with_bind(tmp_path: Path) -> None:
    """`--bind` names the database."""
    (tmp_path / "one.sql").write_text("CREATE TABLE made (a INT)")
    binds = {"log": f"sqlite:///{tmp_path / 'log'}"}
    with bare_app(url=f"sqlite:///{tmp_path / 'shop'}", binds=binds) as (app, db):
        args = ["pooled-db", "run", str(tmp_path / "one.sql"), "--bind", "log"]
        assert app.test_cli_runner().invoke(args=args).exit_code == 0
        assert db.fetch_all("SELECT * FROM made", bind="log") == []
        result = app.test_cli_runner().invoke(args=[*args[:-1], "lgo"])
        assert (result.exit_code, result.stdout) == (1, "")
        assert "no bind 'lgo'" in result.stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("INSERT INTO t VALUES (1, 'x');\n\nINSERT INTO nowhere\nVALUES (2)", "at line 3"),
        (None, "No such file"),
        (b"\xff", "is to be UTF-8"),
        ("INSERT INTO t VALUES (1, 'x');".encode("utf-16-le"), "a NUL character at line 1"),
        ("INSERT INTO t VALUES (1, 'x'); SAVEPOINT a; PRAGMA query_only=1;CREATE", "statement 4"),
    ],
)
def test_run_command_that_fails(
    text: str | bytes | None, message: str, runner: FlaskCliRunner, tmp_path: Path
) -> None:
    """A failure is one line on stderr and the exit code 1, and nothing is stored."""
    path = tmp_path / "bad.sql"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    result = runner.invoke(args=["pooled-db", "run", str(path)])
    assert (result.exit_code, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: ")
    assert message in line
    assert "bad.sql" in line
    with runner.app.app_context():
        assert ids() == []


def test_run_command_from_standard_input(runner: FlaskCliRunner) -> None:
    """`-` stands for standard input."""
    script = "INSERT INTO t VALUES (1, 'ä');\nINSERT INTO t VALUES (2, 'x')"
    result = runner.invoke(args=["pooled-db", "run", "-"], input=script.encode())
    assert (result.exit_code, result.stdout) == (0, "2 statements ran.\n")
    result = runner.invoke(args=["pooled-db", "run", "-"], input="SELECT 1; SELEC 2")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "SELEC, at line 1. Nothing of the script is stored." in result.stderr
    with runner.app.app_context():
        assert ids() == [1, 2]


@pytest.mark.parametrize("error", [RuntimeError, sqlite3.Warning, UnicodeError])
def test_run_command_with_any_error(error: type[Exception], tmp_path: Path) -> None:
    """What a driver raises beside its own errors is one line, too."""

    class Connection(sqlite3.Connection):
        def cursor(self, *args: Any, **kwargs: Any) -> Any:
            raise error("the library\nis missing")

    (tmp_path / "one.sql").write_text("SELECT 1")
    app = Flask("app_under_test")
    app.config["POOLED_DB_CREATOR"] = lambda: Connection(":memory:", check_same_thread=False)
    db = PooledDB(app)
    args = ["pooled-db", "run", str(tmp_path / "one.sql")]
    result = app.test_cli_runner().invoke(args=args)
    db.close()
    assert (result.exit_code, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    assert "the library is missing" in line


def test_run_command_with_long_name(runner: FlaskCliRunner) -> None:
    """A name that no file can have is one line, too."""
    result = runner.invoke(args=["pooled-db", "run", "x" * 300])
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert "too long" in line


def test_run_command_without_extension() -> None:
    """In an app without the extension it is one line, too."""
    app = Flask("app_under_test")
    app.cli.add_command(group)
    result = app.test_cli_runner().invoke(args=["pooled-db", "run", "one.sql"])
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 1


def test_a3_run_command_without_database(mariadb: MariaDBServer, tmp_path: Path) -> None:
    """Without a connection it is one line, too, and no password is in it."""
    (tmp_path / "one.sql").write_text("SELECT 1")
    app = Flask("app_under_test")
    app.config["POOLED_DB_URL"] = mariadb.url("pymysql", "nothing", password="Wrong7Geheim")
    db = PooledDB(app)
    args = ["pooled-db", "run", str(tmp_path / "one.sql")]
    result = app.test_cli_runner().invoke(args=args)
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 1
    assert "ConnectFailed" in result.stderr
    assert "Wrong7Geheim" not in result.stderr
    db.close()


@pytest.mark.parametrize(
    ("args", "wanted"),
    [
        ("stress --seconds 0", "more than 0"),
        ("stress --seconds nan", "more than 0"),
        ("top --interval 0.05", "0.1 or more"),
        ("server --idle inf", "0 or more"),
        ("server --idle -1", "0 or more"),
        ("drain --over nan", "0 or more"),
        ("resize --maxconnections 5 --wait -1", "0 or more"),
    ],
)
def test_duration(runner: FlaskCliRunner, args: str, wanted: str) -> None:
    """What is no duration, or one that makes no sense, is refused with what is wanted."""
    option, _ = args.split()[-2:]
    result = runner.invoke(args=["pooled-db", *args.split()])
    assert (result.exit_code, result.stdout) == (2, "")
    told = f"Error: Invalid value for '{option}': it must be a number of seconds, {wanted}\n"
    assert result.stderr.endswith(told)
