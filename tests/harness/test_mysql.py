"""The MySQL server of `pytest --mysql`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.mysql import URL_VARIABLE, account
from harness.processes import PROJECT, ServerError
from harness.sockets import free_port

pytestmark = pytest.mark.mariadb_only


class TestMySQL:
    """Another server for the tests of the promises: `make test-mysql`, `pytest --mysql`."""

    @pytest.fixture
    def environment(self) -> dict[str, str]:
        """This process's, without the name of a server, and as outside of make."""
        unwanted = (URL_VARIABLE, "MAKEFLAGS", "MFLAGS", "MAKELEVEL")
        return {name: value for name, value in os.environ.items() if name not in unwanted}

    @pytest.mark.parametrize(
        ("url", "port", "password"),
        [
            ("mysql://ann:Geheim@127.0.0.1:3307/", 3307, "Geheim"),
            ("mysql+pymysql://ann:Ge%2Fheim@127.0.0.1", 3306, "Ge/heim"),
            ("mysql://ann@127.0.0.1/", 3306, ""),
        ],
    )
    def test_url_names_an_account(
        self, monkeypatch: pytest.MonkeyPatch, url: str, port: int, password: str
    ) -> None:
        """The port and the password may be left out, and what is encoded is decoded."""
        monkeypatch.setenv(URL_VARIABLE, url)
        expected = {"host": "127.0.0.1", "port": port, "user": "ann", "password": password}
        assert account() == expected

    @pytest.mark.parametrize(
        "url",
        [
            "",
            "Geheim",
            "mariadb://ann:Geheim@127.0.0.1/",
            "mysql://ann:Geheim@127.0.0.1:port/",
            "mysql://ann:Geheim@127.0.0.1/shop",
            "mysql://ann:Geheim@127.0.0.1/?charset=utf8",
            "mysql://ann:Geheim@db.example/",
            "mysql://ann:Geheim@127.0.0.1,127.0.0.1:1/",
            "mysql://127.0.0.1/",
        ],
    )
    def test_malformed_url(self, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
        """The error about a malformed URL shows its form, and nothing of the text."""
        monkeypatch.setenv(URL_VARIABLE, url)
        with pytest.raises(ServerError, match=rf"^{URL_VARIABLE} must .* mysql://user:") as caught:
            account()
        assert "Geheim" not in repr(caught.value)

    @pytest.mark.parametrize("given", [[], [f"{URL_VARIABLE}=Geheim"]], ids=["none", "no URL"])
    def test_make_without_url(
        self, environment: dict[str, str], tmp_path: Path, given: list[str]
    ) -> None:
        """`make test-mysql` without a URL says what is missing, and does nothing else."""
        made = tmp_path / "venv"
        done = subprocess.run(
            ["make", "test-mysql", f"VENV={made}", *given],
            cwd=PROJECT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2
        assert done.stdout == ""
        assert done.stderr.startswith(f"Name a MySQL server: {URL_VARIABLE}=mysql://user:")
        assert "Geheim" not in done.stderr
        assert not made.exists()

    def pytest(self, environment: dict[str, str], *arguments: str) -> tuple[int, str]:
        """The exit code and the output of `pytest --mysql`, where no server is."""
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "--mysql", *arguments],
            cwd=PROJECT,
            env={**environment, URL_VARIABLE: f"mysql://ann:Geheim@127.0.0.1:{free_port()}/"},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    def test_server_down(self, environment: dict[str, str]) -> None:
        """One line names the variable and the driver's error, and not the password."""
        code, output = self.pytest(environment, "tests/lease")
        assert code == pytest.ExitCode.USAGE_ERROR
        assert output.count("\n") < 5
        assert f"ERROR: The server that {URL_VARIABLE} names: (2003," in output
        assert "Geheim" not in output

    def test_selection(self, environment: dict[str, str]) -> None:
        """`--mysql` runs what uses the shared server, and nothing on SQLite, on a server of its own
        or marked `mariadb_only`.
        """
        code, output = self.pytest(environment, "--collect-only", "-q", "tests/lease")
        assert code == pytest.ExitCode.OK, output
        assert "test_t1_commit[pymysql]" in output
        assert "test_t1_commit[sqlite]" not in output
        assert "test_t3_statement_sent_once[plain-mariadbconnector]" in output
        assert "test_t4_lock_wait_timeout" not in output
        assert "test_returning_is_committed" not in output
