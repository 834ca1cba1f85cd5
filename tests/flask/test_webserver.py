"""How `flask pooled-db check` learns of gunicorn's workers, threads and timeouts."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from tests.support.apps import pooled_app

FILE = "gunicorn.conf.py"


@pytest.fixture
def app(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Flask]:
    """An app in a directory of its own, around which nothing tells of gunicorn."""
    monkeypatch.delenv("WEB_CONCURRENCY", raising=False)
    monkeypatch.delenv("GUNICORN_CMD_ARGS", raising=False)
    monkeypatch.chdir(tmp_path)
    with pooled_app(url, runtime_dir=False) as (app, _):
        yield app


def check(app: Flask, *args: str) -> dict[str, Any]:
    result = app.test_cli_runner().invoke(args=["pooled-db", "check", "--json", *args])
    told: dict[str, Any] = json.loads(result.stdout)
    return told


def settings(app: Flask, *args: str) -> dict[str, tuple[Any, str]]:
    """Each setting, and what has told it."""
    told = check(app, *args)["gunicorn"]
    return {name: (one["value"], one["where"]) for name, one in told.items()}


def texts(app: Flask, topic: str, *args: str) -> list[str]:
    return [one["text"] for one in check(app, *args)["findings"] if one["topic"] == topic]


def test_nothing_tells(app: Flask) -> None:
    """Where nothing tells, gunicorn's defaults are assumed, and it is said so."""
    told = settings(app)
    assert told["workers"] == (1, "gunicorn's default")
    assert told["threads"] == (1, "gunicorn's default")
    assert told["timeout"] == (30, "gunicorn's default")
    assert "1 is assumed" in texts(app, "gunicorn")[0]
    assert texts(app, "gunicorn", "--workers=2") == []


def test_order(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several that tell the same the last one counts: the number of processes wanted, the file,
    gunicorn's own variable, the command's options.
    """
    monkeypatch.setenv("WEB_CONCURRENCY", "2")
    assert settings(app)["workers"] == (2, "WEB_CONCURRENCY")
    Path(FILE).write_text("import os\nworkers = 1 + 2\nthreads = 4\ntimeout = 50\n")
    told = settings(app)
    assert told["workers"] == (3, FILE)
    assert told["timeout"] == (50, FILE)
    monkeypatch.setenv("GUNICORN_CMD_ARGS", "-w 4 --timeout=60 --access-logfile '-'")
    told = settings(app)
    assert told["workers"] == (4, "GUNICORN_CMD_ARGS")
    assert told["timeout"] == (60, "GUNICORN_CMD_ARGS")
    assert told["threads"] == (4, FILE)
    told = settings(app, "--workers=5", "--threads=6", "--timeout=7")
    assert [told[name] for name in ("workers", "threads", "timeout")] == [
        *((5, "--workers"), (6, "--threads"), (7, "--timeout"))
    ]


@pytest.mark.parametrize("way", ["option", "variable"])
def test_named_file(way: str, app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another file is named by the command, or by gunicorn's variable."""
    Path(FILE).write_text("workers = 3")
    Path("other.py").write_text("workers = 8\nprint('Hello.')")
    if way == "variable":
        monkeypatch.setenv("GUNICORN_CMD_ARGS", "--config other.py")
    args = ("--gunicorn-config", "other.py") if way == "option" else ()
    assert settings(app, *args)["workers"] == (8, "other.py")


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("worker_class = 'sync'", "error"),
        ("worker_class = 'gthread'", "ok"),
        ("threads = 2", "ok"),  # gunicorn then takes gthread
        ("worker_class = 'gevent'", "ok"),
        ("worker_class = 'gunicorn.workers.gthread.ThreadWorker'", "ok"),
        ("class Worker: pass\nworker_class = Worker", "ok"),
        ("worker_class = 'uvicorn.workers.UvicornWorker'", "ok"),
    ],
)
def test_worker_class(line: str, kind: str, url: str, app: Flask) -> None:
    """Only a sync worker is killed for a slow request."""
    Path(FILE).write_text(f"{line}\ntimeout = 5\ngraceful_timeout = 60")
    told = check(app)
    (severity,) = [one["severity"] for one in told["findings"] if one["topic"] == "waiting"]
    assert severity == kind


def test_greenlets(app: Flask) -> None:
    """Of greenlets more wait than there are connections: that is no finding."""
    Path(FILE).write_text("worker_class = 'gevent'\nworker_connections = 500")
    assert settings(app)["worker_connections"] == (500, FILE)
    assert texts(app, "threads") == []


@pytest.mark.parametrize(
    "content", ["workers = 1 / 0", "import sys\nsys.exit(3)", "workers = 'many'", "workers ="]
)
def test_file_that_can_not_be_read(content: str, app: Flask) -> None:
    """A file that gunicorn would not take is a warning."""
    Path(FILE).write_text(content)
    (told,) = (text for text in texts(app, "gunicorn") if f"{FILE} can't be read" in text)
    assert "correct it, or give --workers, --threads and --timeout" in told
    text = texts(app, "gunicorn", "--gunicorn-config", "nowhere.py")
    assert any("nowhere.py can't be read (FileNotFoundError)" in one for one in text)


@pytest.mark.parametrize("value", ["--workers many", "--workers '1"])
def test_variable_that_can_not_be_read(
    value: str, app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So is a variable."""
    monkeypatch.setenv("GUNICORN_CMD_ARGS", value)
    assert any("GUNICORN_CMD_ARGS can't be read" in text for text in texts(app, "gunicorn"))


def test_without_gunicorn(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where gunicorn is not installed its variable tells, and its file is not read."""
    monkeypatch.setitem(sys.modules, "gunicorn", None)
    monkeypatch.delitem(sys.modules, "gunicorn.config", raising=False)
    monkeypatch.setenv("GUNICORN_CMD_ARGS", "-w 4 --preload -k gthread app:app")
    Path(FILE).write_text("workers = 3")
    told = settings(app)
    assert told["workers"] == (4, "GUNICORN_CMD_ARGS")
    assert told["worker_class"] == ("gthread", "GUNICORN_CMD_ARGS")
    assert any(f"{FILE} was not read" in text for text in texts(app, "gunicorn"))
