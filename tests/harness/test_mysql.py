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
    def test_another_text_is_refused_and_not_repeated(
        self, monkeypatch: pytest.MonkeyPatch, url: str
    ) -> None:
        """The message has the form of the URL, and nothing of what was given."""
        monkeypatch.setenv(URL_VARIABLE, url)
        with pytest.raises(ServerError, match=rf"^{URL_VARIABLE} must .* mysql://user:") as caught:
            account()
        assert "Geheim" not in repr(caught.value)

    @pytest.mark.parametrize("given", [[], [f"{URL_VARIABLE}=Geheim"]], ids=["none", "no URL"])
    def test_make_asks_for_the_url_before_it_installs(
        self, environment: dict[str, str], tmp_path: Path, given: list[str]
    ) -> None:
        """Without one, `make test-mysql` says what is missing, and does nothing else."""
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

    def test_server_that_is_not_there_is_said_in_one_line(
        self, environment: dict[str, str]
    ) -> None:
        """It names the variable and the driver's error, and not the password."""
        code, output = self.pytest(environment, "tests/lease")
        assert code == pytest.ExitCode.USAGE_ERROR
        assert output.count("\n") < 5
        assert f"ERROR: The server that {URL_VARIABLE} names: (2003," in output
        assert "Geheim" not in output

    def test_what_uses_the_shared_server_is_run_and_no_more(
        self, environment: dict[str, str]
    ) -> None:
        """Not what runs on SQLite, or on a MariaDB of its own, or is marked as MariaDB's own."""
        code, output = self.pytest(environment, "--collect-only", "-q", "tests/lease")
        assert code == pytest.ExitCode.OK, output
        assert "test_t1_left_normally_it_commits[pymysql]" in output
        assert "test_t1_left_normally_it_commits[sqlite]" not in output
        assert "test_t3_no_statement_is_sent_twice[plain-mariadbconnector]" in output
        assert "test_t4_a_lock_wait_timeout_costs_the_statement_alone" not in output
        assert "test_rows_returned_by_a_write_are_committed" not in output
