"""What commands that order all workers refuse, whom they can't reach, and how they end.

The workers are apps in this process; `tests/host/test_orders_under_gunicorn.py` has real ones.
"""

from __future__ import annotations

import contextlib
import json
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from flask import Flask

from flask_pooled_db import PooledDB
from flask_pooled_db.flask.commands import group, ordering
from harness.signals import handled
from harness.waiting import wait_until
from tests.flask.workers import Host, drained, lines_of


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("resize", "Missing option '--maxconnections'"),
        ("resize --maxconnections -1", "it must be a whole number, 0 or more"),
        ("resize --maxconnections 3000000000", "it must be a whole number, 0 or more"),
        ("resize --maxconnections many", "'many' is not a valid integer"),
        ("resize --maxconnections 5 --maxcached 6", "MAXCACHED (6) is more than MAXCONNECTIONS"),
        ("resize --maxconnections 5 --mincached 6", "MINCACHED (6) is more than MAXCONNECTIONS"),
        (
            "resize --maxconnections 9 --maxcached 3 --mincached 4",
            "MINCACHED (4) is more than MAXCACHED (3)",
        ),
        ("resize --maxconnections 5 --wait 0", "--wait must be more than 0"),
        ("resize --maxconnections 5 --wait nan", "it must be a number of seconds"),
        ("drain --over -1", "it must be a number of seconds"),
        ("drain --over inf", "it must be a number of seconds"),
        ("drain --over soon", "'soon' is not a valid float"),
        ("drain --over 5 --wait 5", "--wait must be longer than --over"),
        ("drain --wait 0", "--wait must be longer than --over"),
        ("drain --bind mysql://u:Geheim7@h/d", "a URL was given where the name of a bind is"),
        ("resize --maxconnections 5 --bind red", "is a tenant: its connections are those of the"),
        ("drain --bind red", "is a tenant: its connections are those of the bind 'srv'"),
    ],
)
def test_wrong_values(
    make_host: Callable[..., Host], args: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A value that can't be used is one error, before anything is ordered."""
    binds = {
        "srv": "mysql+pymysql://u:Geheim7@127.0.0.1:1/d",
        "red": {"SERVER": "srv", "SCHEMA": "red"},
    }
    host = make_host(binds=binds)
    monkeypatch.setattr(ordering, "order", None)
    result = host.run(*args.split())
    assert result.exit_code in (1, 2), result.output
    assert message in result.stderr
    assert result.stderr.count("Error: ") == 1
    assert "Geheim7" not in result.output


def test_unknown_bind(make_host: Callable[..., Host]) -> None:
    """Without a bind_loader, a name that is not configured is an error at once."""
    app = Flask("app_under_test")
    app.config.update(POOLED_DB_URL="sqlite://")
    db = PooledDB(app)
    result = app.test_cli_runner().invoke(args=["pooled-db", "drain", "--bind", "lgo"])
    db.close()
    assert result.exit_code == 1
    assert "no bind 'lgo'" in result.stderr


@pytest.mark.parametrize("command", ["drain", "resize --maxconnections 5"])
def test_without_extension(command: str) -> None:
    """In an app without the extension the error is one line."""
    app = Flask("app_under_test")
    app.cli.add_command(group)
    result = app.test_cli_runner().invoke(args=["pooled-db", *command.split()])
    assert result.exit_code == 1
    assert "PooledDB is not initialised" in result.stderr
    assert len(result.stderr.splitlines()) == 1


# Those who can't be reached


def test_nobody(make_host: Callable[..., Host]) -> None:
    """Where no process of the app has used a database, the command says so."""
    result = make_host().run("drain")
    assert result.exit_code == 1
    assert (
        "found no running process of this app that has used a database on this host"
        in result.stderr
    )


def test_nowhere_to_meet(make_host: Callable[..., Host]) -> None:
    """Without a directory in which processes meet, the command says why it reaches none."""
    result = make_host(runtime_dir=False).run("drain")
    assert result.exit_code == 1
    assert "POOLED_DB_RUNTIME_DIR is False" in result.stderr


def test_unusable_directory(make_host: Callable[..., Host], tmp_path: Path) -> None:
    """A directory that can't be used is told with its remedy."""
    (tmp_path / "link").symlink_to(tmp_path)
    result = make_host(runtime_dir=tmp_path / "link").run("drain")
    assert result.exit_code == 1
    assert "is a link, which is never followed" in result.stderr


def test_silent_worker(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that does not answer is named, and the exit status is 1."""
    state = next(iter(host.workers[0].states))
    assert state.publisher is not None
    monkeypatch.setattr(state.publisher, "take_turn", lambda: None)
    time.sleep(0.1)  # a turn may be under way
    result = host.run("drain", "--wait", "1.5")
    assert result.exit_code == 1
    assert sorted(lines_of(result)) == [
        "did not answer within 1.5 s",
        "replaced 2 connections",
    ]


def test_other_version(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that does not know the order refuses it."""
    from flask_pooled_db.flask.commands import drain as module

    monkeypatch.setattr(module, "DRAIN", "rinse")
    result = host.run("drain")
    assert result.exit_code == 1
    assert (
        lines_of(result)
        == ["refused: it runs a version of flask_pooled_db that does not know this order"] * 2
    )


# The command's own end


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("command", ["drain --over 20", "resize --maxconnections 1"])
def test_interrupted(
    host: Host, command: str, signum: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C withdraws the order, and so does the end of the terminal, or of the session. The
    command says so, and what each worker has done.
    """
    folder, calls = host.settings["runtime_dir"], []

    def interrupt(seconds: float) -> None:
        """Once the command has seen that both are at work."""
        time.sleep(seconds)
        answers = [json.loads(path.read_text()) for path in folder.glob("*/answer-*.json")]
        calls.extend([1] if len(answers) == 2 and all(each["total"] for each in answers) else [])
        if len(calls) == 2:
            signal.raise_signal(signum)

    monkeypatch.setattr(ordering, "sleep", interrupt)
    with contextlib.ExitStack() as stack:
        if signum is not signal.SIGINT:
            stack.enter_context(handled(signum, signal.SIG_DFL))  # also under nohup
        for db in host.workers:
            for _ in range(2):
                stack.enter_context(db.connection_context(independent=True)).execute("SELECT 1")
        result = host.run(*command.split())
    assert result.exit_code == 1
    assert "Interrupted. The order is withdrawn: workers that have begun stop" in result.stdout
    wanted = (
        "replaced 0 of 2 connections"
        if "drain" in command
        else "has the new limits and 1 connection too many"
    )
    assert len(lines_of(result)) == 2
    assert all(line.startswith(wanted) for line in lines_of(result)), result.stdout
    assert list(folder.glob("*/order-*")) == []
    wait_until(lambda: not list(folder.glob("*/answer-*")))


def test_progress_in_lines(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a terminal, the progress comes in lines."""
    monkeypatch.setattr(ordering, "LINES", 0.0)
    result = host.run("drain", "--over", "1")
    found = re.findall(r"^drain: .*?, (\d) of 2 done \((\d+)%\)$", result.stdout, re.MULTILINE)
    assert found[0] == ("0", "0")
    assert found[-1] == ("2", "100")
    assert any(0 < int(percent) < 100 for _, percent in found)


def test_command_that_has_used_a_database(host: Host) -> None:
    """A command whose app uses a database while it is loaded is no worker to itself."""
    with host.app() as (app, db):
        host.use(db, 1)
        db.host_stats()
        result = app.test_cli_runner().invoke(args=["pooled-db", "drain"])
        assert (len(lines_of(result)), drained(db)) == (2, 0)
        assert result.exit_code == 0
