"""The whole example app under gunicorn, beside the same app on Flask-SQLAlchemy.

Each is served by 2 workers of 4 threads; 8 clients ask at the same time, all on this machine.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.effort import Effort
from benchmarks.load import KINDS, Answered, get_order, order_of
from benchmarks.measure import OURS, Row, compare
from harness.gunicorn import GunicornServer
from harness.processes import PROJECT
from harness.server import MariaDBServer
from harness.waiting import PATIENCE

CLIENTS = 8
WARM_UP = 0.5
LONGER = 2  # windows of this benchmark, in those of the others
FIGURES = {"requests_a_second": "1/s", "median": "ms", "percentile_99": "ms"}

FLASK_SQLALCHEMY = "Flask-SQLAlchemy"
FLASK_SQLALCHEMY_PING = "Flask-SQLAlchemy, pre_ping"
APPS: dict[str, tuple[str, dict[str, str]]] = {
    OURS: ("example_app:create_app()", {}),
    FLASK_SQLALCHEMY: ("benchmarks.flask_sqlalchemy_app:create_app()", {}),
    FLASK_SQLALCHEMY_PING: ("benchmarks.flask_sqlalchemy_app:create_app()", {"PRE_PING": "1"}),
}


def run(effort: Effort) -> list[Row]:
    """Each kind of request on each app in turn."""
    seconds = LONGER * effort.seconds
    with ExitStack() as stack:
        server = stack.enter_context(MariaDBServer())
        database = server.create_database()
        environment = {**os.environ, "POOLED_DB_URL": server.url(database=database)}
        _make_tables(server, database, environment)
        ports = {
            name: stack.enter_context(_served(app, {**environment, **settings}))
            for name, (app, settings) in APPS.items()
        }
        for port in ports.values():
            for kind in KINDS:
                _load(port, kind, WARM_UP)
        return [row for kind in KINDS for row in _compare(kind, ports, effort.rounds, seconds)]


def _compare(kind: str, ports: dict[str, int], rounds: int, seconds: float) -> list[Row]:
    answered: dict[str, list[Answered]] = {name: [] for name in ports}
    for _ in range(rounds):
        for name, port in ports.items():
            answered[name].append(_load(port, kind, seconds))
    rows = []
    for figure, unit in FIGURES.items():
        samples = {
            name: [getattr(answers, figure) for answers in results]
            for name, results in answered.items()
        }
        rows += compare(f"{kind}, {figure.replace('_', ' ')}", unit, samples)
    return rows


def _load(port: int, kind: str, seconds: float) -> Answered:
    command = [sys.executable, "-m", "benchmarks.load", str(port), kind, str(CLIENTS), str(seconds)]
    done = subprocess.run(
        command, cwd=PROJECT, stdout=subprocess.PIPE, check=True, timeout=PATIENCE + seconds
    )
    return Answered(*json.loads(done.stdout))


def _make_tables(server: MariaDBServer, database: str, environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "flask", "--app", "example_app", "init-db"]
    subprocess.run(
        command, cwd=PROJECT, env=environment, check=True, timeout=PATIENCE, stdout=subprocess.PIPE
    )
    for client in range(CLIENTS):
        server.execute(
            f"INSERT INTO `{database}`.orders (code, target) VALUES (%s, 1000000)", order_of(client)
        )


@contextmanager
def _served(app: str, environment: dict[str, str]) -> Iterator[int]:
    """The port of an app under gunicorn."""
    options = ["--workers=2", "--worker-class=gthread", "--threads=4", app]
    with (
        tempfile.TemporaryDirectory(prefix="pooled-db-gunicorn-") as directory,
        GunicornServer(Path(directory), options, environment, ready=get_order(0).path) as served,
    ):
        yield served.port
