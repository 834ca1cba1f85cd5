"""Apps whose configuration is checked by `flask pooled-db check`, and what that found."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from click.testing import Result
from flask import Flask

from tests.support.apps import pooled_app

Found = list[tuple[str, str]]


@contextlib.contextmanager
def site(url: Any, folder: Path, **settings: Any) -> Iterator[Flask]:
    """An app that meets its processes in a folder of its own."""
    keys = {"runtime_dir": str(folder / "run"), "mincached": 0, **settings}
    (folder / "run").mkdir(mode=0o700, exist_ok=True)
    with pooled_app(url, **keys) as (app, _):
        yield app


def run(app: Flask, *args: str) -> Result:
    return app.test_cli_runner().invoke(args=["pooled-db", "check", *args])


def check(app: Flask, *args: str) -> dict[str, Any]:
    """What the command tells as JSON; its exit status is 1 exactly if there is an error."""
    result = run(app, "--json", *args)
    told: dict[str, Any] = json.loads(result.stdout)
    has_errors = any(one["severity"] == "error" for one in told["findings"])
    assert result.exit_code == int(has_errors), result.output
    return told


def found(told: dict[str, Any], topic: str, bind: str | None = None) -> Found:
    """The severities and texts of the findings of a topic."""
    return [
        (one["severity"], one["text"])
        for one in told["findings"]
        if one["topic"] == topic and bind in (None, one["bind"])
    ]
