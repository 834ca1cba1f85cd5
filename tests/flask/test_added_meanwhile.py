"""P12: what looks through all apps, or pools, of a process does so while others are made."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from flask import Flask
from opentelemetry.metrics import CallbackOptions

from flask_pooled_db import PooledDB
from flask_pooled_db.flask.context import OutsideAppContext
from flask_pooled_db.host import publisher
from flask_pooled_db.pool.upkeep import Upkeep
from flask_pooled_db.telemetry import measures
from flask_pooled_db.telemetry.conventions import COUNTERS
from tests.host.meeting import publisher_in
from tests.support.fake_driver import FakeDriver
from tests.support.pools import open_pool
from tests.support.tracing import traced_by

LISTING = ("_weakrefset.py", "census.py", "serving.py", "extension.py")
"""Where objects are listed, by the standard library or by the package."""

LINES = 15
"""More than there are before the second of two objects is reached."""


class Meanwhile:
    """Calls something before a line of what lists objects, as if another thread did."""

    def __init__(self, line: int, add: Callable[[], object]) -> None:
        self._left = line
        self._add = add
        self.is_done = False

    def __call__(self, frame: FrameType, event: str, arg: object) -> Any:
        if not frame.f_code.co_filename.endswith(LISTING):
            return None
        if event == "line" and not self.is_done:
            self._left -= 1
            if self._left < 0:
                self.is_done = True
                self._add()
        return self


def at_each_line(add: Callable[[], object], work: Callable[[], object]) -> None:
    """Do some work again and again, with something added at a later line of it each time."""
    for line in range(LINES):
        meanwhile = Meanwhile(line, add)
        with traced_by(meanwhile):
            work()
        assert meanwhile.is_done or line > 1


def test_p12_app_initialised_meanwhile(tmp_path: Path) -> None:
    """An app that is initialised while another thread asks for the only one, or closes all."""
    db = PooledDB()
    apps: list[Flask] = []

    def make() -> None:
        app = Flask(f"app{len(apps)}", instance_path=str(tmp_path))
        app.config.update(POOLED_DB_URL="sqlite://", POOLED_DB_RUNTIME_DIR=False)
        db.init_app(app)
        apps.append(app)

    def ask() -> None:
        with contextlib.suppress(OutsideAppContext):  # there are several
            db.pool()

    make()
    at_each_line(make, ask)
    at_each_line(make, db.close)


def test_p12_publisher_made_meanwhile(tmp_path: Path) -> None:
    """An app that is made while the process ends."""
    made = [publisher_in(tmp_path)]
    at_each_line(lambda: made.append(publisher_in(tmp_path)), publisher.publishing.at_exit)


def test_p12_measures_made_meanwhile() -> None:
    """An app that is made while OpenTelemetry collects the numbers of all."""
    made = [measures.Measures()]

    def collect() -> None:
        measures._observations(made[0].provider, COUNTERS[0], CallbackOptions())

    at_each_line(lambda: made.append(measures.Measures()), collect)


def test_p12_pool_made_meanwhile() -> None:
    """A pool that is made while the numbers of all are added up."""
    upkeep = Upkeep()
    with contextlib.ExitStack() as stack:

        def make() -> None:
            upkeep.add(stack.enter_context(open_pool(FakeDriver())).engine)

        make()
        at_each_line(make, upkeep.open_connections)
