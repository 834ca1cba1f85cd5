"""What the start of an app costs that names thousands of databases in its configuration."""

from __future__ import annotations

import time

import sqlalchemy
from flask import Flask

from benchmarks.effort import Effort
from benchmarks.measure import OURS, Bar, Row, compare, in_turn
from flask_pooled_db import PooledDB

BINDS = 10_000
ENGINES = "SQLAlchemy's create_engine(), each"
URL = "mysql+pymysql://app@127.0.0.1:3306/shop{}"
ROUNDS = 5  # each takes seconds, of which the collector's share varies most


def run(effort: Effort) -> list[Row]:
    """Ours, and an engine for each; neither connects."""
    binds = min(BINDS, effort.calls)  # fewer in the smallest run
    urls = {f"shop{number}": URL.format(number) for number in range(binds)}
    contenders = {OURS: lambda: _ours(urls), ENGINES: lambda: _engines(urls)}
    samples = in_turn(contenders, min(effort.rounds, ROUNDS))
    bars = {ENGINES: Bar(1.0, at_most=True, of_ratio=False)}
    return compare(f"the start of an app with {binds:,} binds", "s", samples, bars)


def _ours(urls: dict[str, str]) -> float:
    app = Flask("many")
    app.config["POOLED_DB_BINDS"] = urls
    began = time.perf_counter()
    db = PooledDB(app)
    took = time.perf_counter() - began
    db.close()
    return took


def _engines(urls: dict[str, str]) -> float:
    began = time.perf_counter()
    engines = [sqlalchemy.create_engine(url) for url in urls.values()]
    took = time.perf_counter() - began
    engines.clear()
    return took
