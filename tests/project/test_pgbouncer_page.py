"""The settings in docs/pgbouncer.md work together."""

from __future__ import annotations

import configparser
import re
from typing import Any

import pytest

from flask_pooled_db import PooledDB
from flask_pooled_db.config import PoolConfig
from harness.pgbouncer import PgBouncer
from harness.processes import PROJECT
from tests.support.apps import pooled_app

PAGE = (PROJECT / "docs" / "pgbouncer.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    """The text of the page's block in a language."""
    (text,) = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    return str(text)


@pytest.fixture
def settings() -> dict[str, str]:
    """The page's settings of pgbouncer."""
    parser = configparser.ConfigParser()
    parser.read_string(block("ini"))
    return dict(parser["pgbouncer"])


def test_settings(shared_postgresql: str, settings: dict[str, str]) -> None:
    """A pgbouncer with these settings serves an app with these keys."""
    names: dict[str, Any] = {}
    exec(block("python"), names)
    keys = {name.removeprefix("POOLED_DB_").lower(): v for name, v in names["proxied"].items()}
    with PgBouncer(shared_postgresql, settings) as proxy:
        db: PooledDB
        with pooled_app(**{**keys, "url": proxy.url}) as (_, db):
            assert db.fetch_value("SELECT 1") == 1
    defaults = PoolConfig.from_mapping({"URL": "sqlite://"})
    assert float(settings["query_wait_timeout"]) < defaults.acquire_timeout
