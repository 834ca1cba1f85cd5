"""Setting up the example app."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from flask import Flask

from example_app import create_app
from example_app.database import SAMPLE_ORDERS
from harness.sockets import free_port
from tests.example_app.requests import PACKAGE, SCAN, close, rows
from tests.support.pools import fail_to_connect


def test_init_db_runs_twice(app: Flask, file: Path) -> None:
    """A second init-db succeeds and changes nothing, counters included."""
    runner = app.test_cli_runner()
    assert "ready" in runner.invoke(args=["init-db"]).output
    assert app.test_client().post("/scans", json=SCAN).status_code == 201
    before = rows(file, "SELECT * FROM orders"), rows(file, "SELECT * FROM scans")
    second = runner.invoke(args=["init-db"])
    assert (second.exit_code, second.exception) == (0, None)
    assert (rows(file, "SELECT * FROM orders"), rows(file, "SELECT * FROM scans")) == before
    assert len(before[0]) == len(SAMPLE_ORDERS)


def test_init_db_database_down() -> None:
    """While the database is down, init-db prints one line with the driver's error and without the
    password.
    """
    away = create_app(
        {
            "POOLED_DB_URL": f"mariadb+pymysql://scan:geheim@127.0.0.1:{free_port()}/scans",
            "POOLED_DB_ACQUIRE_TIMEOUT": 0.2,
        }
    )
    fail_to_connect(away.extensions["pooled_db"].pool(None))
    result = away.test_cli_runner().invoke(args=["init-db"])
    assert result.exit_code == 1
    assert result.output.startswith("Error: no connection in 0.")
    assert "OperationalError 2003" in result.output
    assert "geheim" not in result.output
    close(away)


def test_default_database(tmp_path: Path) -> None:
    """Without any setting, init-db makes an SQLite file in the instance folder, wherever it is."""
    project = tmp_path / "my app %41?"
    shutil.copytree(PACKAGE, project / PACKAGE.name)
    env = {name: value for name, value in os.environ.items() if name != "POOLED_DB_URL"}
    env["PYTHONPATH"] = str(PACKAGE.parent)
    command = [sys.executable, "-m", "flask", "--app", "example_app", "init-db"]
    subprocess.run(command, cwd=project, env=env, check=True, timeout=30)
    assert len(list((project / "instance").glob("*.sqlite"))) == 1


def test_config_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FLASK_ variables and POOLED_DB_URL count, and the argument outranks both."""
    url = f"sqlite:///{tmp_path / 'a.sqlite'}"
    monkeypatch.setenv("FLASK_POOLED_DB_MAXCONNECTIONS", "7")
    monkeypatch.setenv("FLASK_POOLED_DB_URL", "sqlite:///not-this-one")
    monkeypatch.setenv("POOLED_DB_URL", url)
    app = create_app()
    assert app.config["POOLED_DB_URL"] == url
    assert app.config["POOLED_DB_MAXCONNECTIONS"] == 7
    assert create_app({"POOLED_DB_URL": "sqlite://"}).config["POOLED_DB_URL"] == "sqlite://"
