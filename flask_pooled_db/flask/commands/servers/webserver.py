"""How many workers and threads gunicorn has, and when it ends them: from whatever tells."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import os
import runpy
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from flask_pooled_db.flask.commands.servers.processes import Running
from flask_pooled_db.telemetry.shown import shown

USUAL_FILE = "gunicorn.conf.py"
_VARIABLE, _CONCURRENCY = "GUNICORN_CMD_ARGS", "WEB_CONCURRENCY"
_DEFAULT = "gunicorn's default"

_DEFAULTS: dict[str, Any] = {
    "workers": 1,
    "threads": 1,
    "timeout": 30,
    "graceful_timeout": 30,
    "worker_class": "sync",
    "worker_connections": 1000,
}
# As gunicorn itself has them, for where it is not installed: https://docs.gunicorn.org/en/stable/settings.html
_FLAGS = {
    "workers": ("-w", "--workers"),
    "threads": ("--threads",),
    "timeout": ("-t", "--timeout"),
    "graceful_timeout": ("--graceful-timeout",),
    "worker_class": ("-k", "--worker-class"),
    "worker_connections": ("--worker-connections",),
}
_ONE_THREAD, _THREADS = "sync", "gthread"
_GREENLETS = ("gevent", "eventlet")


class Told(NamedTuple):
    """A setting of gunicorn's, and what told it."""

    value: Any
    where: str


class WebServer(NamedTuple):
    """What is known of gunicorn."""

    settings: Mapping[str, Told]
    notes: Sequence[str] = ()
    """What could not be read."""

    @property
    def workers(self) -> int:
        """How many processes serve."""
        return int(self.settings["workers"].value)

    @property
    def is_known(self) -> bool:
        """Whether anything tells how many these are."""
        return self.settings["workers"].where != _DEFAULT

    @property
    def kind(self) -> str:
        """The class of its workers, in a word."""
        name = str(self.settings["worker_class"].value)
        short = name.rpartition(".")[2].lower().removesuffix("worker")
        names = (*_GREENLETS, _ONE_THREAD, _THREADS)
        kind = next((one for one in names if one in name.lower()), short)
        is_threaded = kind == _ONE_THREAD and int(self.settings["threads"].value) > 1
        return _THREADS if is_threaded or short == "thread" else kind

    @property
    def at_once(self) -> int:
        """How many requests a worker serves at the same time."""
        if self.kind in _GREENLETS:
            return int(self.settings["worker_connections"].value)
        return 1 if self.kind == _ONE_THREAD else int(self.settings["threads"].value)

    @property
    def counts_threads(self) -> bool:
        """Whether these are threads, and not as many as there may be connections."""
        return self.kind not in _GREENLETS

    @property
    def patience(self) -> float:
        """The seconds after which it kills a worker whose request is not done; 0: it does not."""
        return float(self.settings["timeout"].value) if self.kind == _ONE_THREAD else 0.0

    @property
    def grace(self) -> float:
        """The seconds that requests get to be done when it reloads, or stops."""
        return float(self.settings["graceful_timeout"].value)


def learn(
    options: Mapping[str, Any], running: Running, file: str | None, folder: Path
) -> WebServer:
    """Return what is known of gunicorn. Of several that tell the same the last one counts: its
    defaults, its file, the environment, the command line of one that runs, the command's own
    `options`. `folder` is the current one.
    """
    notes: list[str] = []
    settings = {name: Told(value, _DEFAULT) for name, value in _DEFAULTS.items()}
    concurrency = os.environ.get(_CONCURRENCY, "")
    if concurrency.isdecimal():
        settings["workers"] = Told(int(concurrency), _CONCURRENCY)
    variable = _parsed(_split(os.environ.get(_VARIABLE, ""), notes), _VARIABLE, notes)
    line = _parsed(running.arguments, running.where, notes) if running.arguments else {}
    named = [found.pop("config") for found in (variable, line) if "config" in found]
    if file is None:
        settings |= _from_file(named[-1].value if named else None, running.folder or folder, notes)
    else:
        settings |= _from_file(file, folder, notes)
    settings |= variable
    settings |= line
    settings |= {
        name: Told(value, f"--{name}") for name, value in options.items() if value is not None
    }
    known, alive = settings["workers"], running.workers
    if known.where != "--workers" and alive >= known.value + (known.where != _DEFAULT):
        settings["workers"] = Told(alive, "as many are alive")
    found = WebServer(settings, notes)
    if found.kind == _THREADS and settings["worker_class"].value == _ONE_THREAD:
        settings["worker_class"] = Told(_THREADS, "for there are threads")
    return found


def _split(text: str, notes: list[str]) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError:
        notes.append(f"{_VARIABLE} can't be read: its quotes have no end")
        return []


def _parsed(arguments: Sequence[str], where: str, notes: list[str]) -> dict[str, Told]:
    """Return the settings among the arguments of a command line."""
    config = _gunicorn("config")
    if config is None:
        parser = argparse.ArgumentParser(add_help=False)
        for name, flags in _FLAGS.items():
            parser.add_argument(*flags, dest=name, type=type(_DEFAULTS[name]))
        parser.add_argument("-c", "--config")
    else:
        parser = config.Config().parser()
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            found, _ = parser.parse_known_args(list(arguments))
    except (Exception, SystemExit):  # noqa: BLE001  the parser ends the program
        notes.append(f"{where} can't be read: gunicorn would not take it")
        return {}
    wanted = (*_DEFAULTS, "config")
    given = {name: value for name in wanted if (value := getattr(found, name, None)) is not None}
    return {name: Told(value, where) for name, value in given.items()}


def _from_file(name: str | None, folder: Path, notes: list[str]) -> dict[str, Told]:
    """Return the settings in gunicorn's file: the named one, or the usual one if it is there."""
    path = folder / (name or USUAL_FILE).removeprefix("file:")
    if name is None and not path.exists():
        return {}
    where, config = shown(name or USUAL_FILE), _gunicorn("config")
    if config is None:
        notes.append(f"{where} was not read: gunicorn is not installed here")
        return {}
    try:
        with contextlib.redirect_stdout(sys.stderr):
            if name is not None and name.startswith("python:"):
                values = vars(importlib.import_module(name.removeprefix("python:")))
            else:
                values = runpy.run_path(str(path), run_name="__config__")
        cfg = config.Config()
        given = [each for each in _DEFAULTS if each in values]
        for each in given:
            cfg.set(each, values[each])
    except (Exception, SystemExit) as error:  # noqa: BLE001  it is the application's own code
        notes.append(f"{where} can't be read ({type(error).__name__})")
        return {}
    return {each: Told(_named(cfg.settings[each].get()), where) for each in given}


def _named(value: Any) -> Any:
    return value.__name__ if isinstance(value, type) else value


def _gunicorn(module: str) -> Any:
    try:
        return importlib.import_module(f"gunicorn.{module}")
    except ImportError:
        return None
