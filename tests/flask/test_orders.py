"""`flask pooled-db drain` and `resize`: what all workers do, as the command tells it.

The workers are apps in this process; `tests/host/test_orders_under_gunicorn.py` has real ones.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from flask import Flask

from flask_pooled_db import PooledDB
from flask_pooled_db.flask import ordered
from flask_pooled_db.flask.commands import group, ordering
from flask_pooled_db.flask.ordered import carry_out
from flask_pooled_db.host import Duty, publisher
from flask_pooled_db.host.orders import Order
from flask_pooled_db.pool import Engine
from flask_pooled_db.pool.draining import Draining
from harness.processes import PROJECT
from harness.waiting import PATIENCE, wait_until

ME = os.getpid()


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publisher, "FIRST_INTERVAL", 0.01)
    monkeypatch.setattr(publisher, "INTERVAL", 0.05)
    monkeypatch.setattr(publisher, "MOST_WORK", 1.0)
    monkeypatch.setattr(ordering, "GLANCE", 0.02)


class Site:
    """The workers of an app, and the command line beside them."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.settings = {"runtime_dir": folder / "run", **settings}
        self.workers: list[PooledDB] = []
        self._stack = contextlib.ExitStack()

    def add(self, count: int = 1, *binds: str) -> None:
        """Let workers begin, and open connections."""
        for _ in range(count):
            _, db = self._stack.enter_context(self.app())
            self.workers.append(db)
            self.use(db, 2, *binds)
            db.host_stats()

    @contextlib.contextmanager
    def app(self) -> Iterator[tuple[Flask, PooledDB]]:
        app = Flask("app_under_test")
        keys = {"mincached": 0, **self.settings}
        app.config.update({f"POOLED_DB_{name.upper()}": value for name, value in keys.items()})
        db = PooledDB(app)
        db.bind_loader(self.load)
        try:
            yield app, db
        finally:
            db.close(PATIENCE)

    @staticmethod
    def use(db: PooledDB, connections: int, *binds: str) -> None:
        """Open so many connections of each bind."""
        for bind in binds or (None,):
            with contextlib.ExitStack() as stack:
                for _ in range(connections):
                    scope = db.connection_context(bind, independent=True)
                    stack.enter_context(scope).execute("SELECT 1")

    def load(self, name: str) -> Any:
        return self.settings["url"].replace("shop", "other") if name == "other" else None

    def run(self, *args: str) -> Result:
        with self.app() as (app, _):
            return app.test_cli_runner().invoke(args=["pooled-db", *args])

    def close(self) -> None:
        self._stack.close()


@pytest.fixture
def make_site(tmp_path: Path, url: str) -> Iterator[Callable[..., Site]]:
    with contextlib.ExitStack() as stack:

        def make(**settings: Any) -> Site:
            site = Site(tmp_path, {"url": url, **settings})
            stack.callback(site.close)
            return site

        yield make


@pytest.fixture
def site(make_site: Callable[..., Site]) -> Site:
    """One with two workers, which have two connections each."""
    site = make_site()
    site.add(2)
    return site


def lines_of(result: Result) -> list[str]:
    """What was printed of the workers, without their ids."""
    found = [line for line in result.stdout.splitlines() if line.startswith("worker ")]
    return [re.sub(rf"^worker {ME} ", "", line) for line in found]


def drained(db: PooledDB, bind: str | None = None) -> int:
    return db.stats(bind).evictions.get("drained", 0)


# Drain


def test_drain(site: Site) -> None:
    """All connections of all workers are replaced. The command has a line for each worker."""
    result = site.run("drain")
    assert (result.exit_code, result.stderr) == (0, "")
    assert lines_of(result) == ["replaced 2 connections"] * 2
    for db in site.workers:
        assert (drained(db), db.stats().open) == (2, 0)


def test_drain_takes_its_time(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """With --over the connections are replaced one after the other, the workers in turn."""
    spreads: list[tuple[float, float]] = []

    class Noted(Draining):
        def __init__(self, pool: Engine, seconds: float, offset: float) -> None:
            spreads.append((seconds, offset))
            super().__init__(pool, seconds, offset)

    monkeypatch.setattr(ordered, "Draining", Noted)
    began = time.monotonic()
    result = site.run("drain", "--over", "0.8")
    assert lines_of(result) == ["replaced 2 connections"] * 2, result.output
    assert time.monotonic() - began > 0.6  # when the last one's time is
    assert sorted(offset for _, offset in spreads) == [0.25, 0.75]
    assert all(0 < seconds <= 0.8 for seconds, _ in spreads)


def test_drain_begins_late(make_site: Callable[..., Site]) -> None:
    """A worker that begins late is ready in time all the same."""
    site, now = make_site(), time.monotonic()
    site.add(1)
    (state,) = site.workers[0].states
    arguments = {"bind": None, "over": 60.0}
    order = Order("a" * 16, "b" * 16, "drain", arguments, now - 60.0, now + PATIENCE, ())
    result = carry_out(state.numbers, Duty(order, 0.5))
    assert result["drained"] == {"default": 2}


def test_drain_waits_for_use(site: Site) -> None:
    """A connection in use is replaced when it comes back, and waited for until then."""
    with site.workers[0].connection_context() as conn:
        result = site.run("drain", "--wait", "1.5")
        assert result.exit_code == 1
        late, done = sorted(lines_of(result))
        assert late == (
            "replaced 1 of 2 connections: it was not done within 1.5 s, and what is still in use "
            "is closed when it comes back"
        )
        assert done == "replaced 2 connections"
        conn.execute("SELECT 1")
    assert drained(site.workers[0]) == 2


def test_drain_one_bind(make_site: Callable[..., Site], tmp_path: Path) -> None:
    """With --bind the others keep their connections; without it all are drained, and counted."""
    site = make_site(binds={"log": f"sqlite:///{tmp_path}/log.db"})
    site.add(1, "default", "log")
    (db,) = site.workers
    assert lines_of(site.run("drain", "--bind", "log")) == ["replaced 2 connections"]
    assert (drained(db), drained(db, "log")) == (0, 2)
    site.use(db, 1, "log")
    assert lines_of(site.run("drain")) == ["replaced 3 connections ('default' 2, 'log' 1)"]


def test_drain_by_name(make_site: Callable[..., Site]) -> None:
    """A bind that is loaded by its name is drained where it is open."""
    site = make_site()
    site.add(1, "other")
    site.add(1)
    result = site.run("drain", "--bind", "other")
    assert result.exit_code == 0
    assert sorted(lines_of(result)) == ["does not have it open", "replaced 2 connections"]


@pytest.mark.parametrize("command", ["drain", "resize --maxconnections 3"])
def test_bind_that_is_open_nowhere(site: Site, command: str) -> None:
    """A bind that no worker has open is told as such."""
    result = site.run(*command.split(), "--bind", "other")
    assert result.exit_code == 1
    assert lines_of(result) == ["does not have it open"] * 2
    assert result.stderr == "Error: no worker has the bind 'other' open\n"


@pytest.mark.parametrize("command", ["drain", "resize --maxconnections 3"])
def test_bind_of_the_configuration_alone(
    make_site: Callable[..., Site], tmp_path: Path, command: str
) -> None:
    """A bind that workers have, and have not used yet, is no error."""
    site = make_site(binds={"log": f"sqlite:///{tmp_path}/log.db"})
    site.add(1)
    result = site.run(*command.split(), "--bind", "log")
    assert result.exit_code == 0, result.output
    assert lines_of(result) != ["does not have it open"]


def test_drain_in_memory(make_site: Callable[..., Site]) -> None:
    """Where a database ends with its last connection, none is closed, and the line says so."""
    site = make_site(url="sqlite:///file:orders?mode=memory&cache=shared&uri=true")
    site.add(1)
    (db,) = site.workers
    with db.connection_context() as conn:
        conn.execute("CREATE TABLE t (a INT)")
    (line,) = lines_of(site.run("drain"))
    assert line == (
        "replaced 0 connections; those of 'default' stay: the database is in memory, and would "
        "end with them"
    )
    assert db.fetch_all("SELECT * FROM t") == []


# Resize


def test_resize(site: Site) -> None:
    """The limits are those of all workers from then on. The command says for how long, and what
    to configure.
    """
    result = site.run("resize", "--maxconnections", "5", "--mincached", "1")
    assert (result.exit_code, result.stderr) == (0, "")
    text = (
        "has maxconnections 5, maxcached 5, mincached 1 "
        "(before: maxconnections 20, maxcached 10, mincached 0)"
    )
    assert lines_of(result) == [text, text]
    assert result.stdout.splitlines()[-1] == (
        "This lasts until a worker restarts: a new one has what is configured. To keep it, set "
        "POOLED_DB_MAXCACHED = 5, POOLED_DB_MAXCONNECTIONS = 5 and POOLED_DB_MINCACHED = 1."
    )
    for db in site.workers:
        now = db.stats()
        assert (now.maxconnections, now.maxcached, now.mincached) == (5, 5, 1)


def test_resize_begins_anew(site: Site) -> None:
    """What is left out is as configured, whatever an earlier order has made of it."""
    site.run("resize", "--maxconnections", "2")
    (line, _) = lines_of(site.run("resize", "--maxconnections", "30"))
    assert line.startswith("has maxconnections 30, maxcached 10, mincached 0 (before: max")


def test_smaller(make_site: Callable[..., Site]) -> None:
    """A smaller limit is waited for: idle connections are closed at once, those in use when they
    come back.
    """
    site = make_site()
    site.add(1)
    (db,) = site.workers
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(db.connection_context(independent=True)).execute("SELECT 1")
        result = site.run("resize", "--maxconnections", "1", "--wait", "1.5")
        assert result.exit_code == 1
        (line,) = lines_of(result)
        assert line == (
            "has set it, and has 2 connections more than that: it was not done within 1.5 s, and "
            "what is still in use is closed when it comes back"
        )
        assert "To keep it, set POOLED_DB_MAXCONNECTIONS = 1." in result.stdout
    assert db.stats().open == 1
    assert site.run("resize", "--maxconnections", "1").exit_code == 0


@pytest.mark.parametrize(
    ("bind", "where"),
    [
        ("log", "MAXCACHED to 4 and MAXCONNECTIONS to 4 in POOLED_DB_BINDS['log']"),
        ("other", "MAXCACHED to 4 and MAXCONNECTIONS to 4 in what the bind_loader returns for"),
    ],
)
def test_resize_a_bind(
    make_site: Callable[..., Site], tmp_path: Path, bind: str, where: str
) -> None:
    """With --bind it is said where that bind is configured."""
    site = make_site(binds={"log": f"sqlite:///{tmp_path}/log.db"})
    site.add(1, "default", bind)
    result = site.run("resize", "--maxconnections", "4", "--bind", bind)
    assert result.exit_code == 0, result.output
    assert where in result.stdout
    assert [site.workers[0].stats(one).maxconnections for one in (None, bind)] == [20, 4]


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
    make_site: Callable[..., Site], args: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A value that can't be used is one error, before anything is ordered."""
    binds = {
        "srv": "mysql+pymysql://u:Geheim7@127.0.0.1:1/d",
        "red": {"SERVER": "srv", "SCHEMA": "red"},
    }
    site = make_site(binds=binds)
    monkeypatch.setattr(ordering, "order", None)
    result = site.run(*args.split())
    assert result.exit_code in (1, 2), result.output
    assert message in result.stderr
    assert result.stderr.count("Error: ") == 1
    assert "Geheim7" not in result.output


def test_unknown_bind(make_site: Callable[..., Site]) -> None:
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


def test_nobody(make_site: Callable[..., Site]) -> None:
    """Where no process of the app has used a database, the command says so."""
    result = make_site().run("drain")
    assert result.exit_code == 1
    assert "no process of this app on this host that has used a database" in result.stderr


def test_nowhere_to_meet(make_site: Callable[..., Site]) -> None:
    """Without a directory in which processes meet, the command says why it reaches none."""
    result = make_site(runtime_dir=False).run("drain")
    assert result.exit_code == 1
    assert "POOLED_DB_RUNTIME_DIR is False" in result.stderr


def test_unusable_directory(make_site: Callable[..., Site], tmp_path: Path) -> None:
    """A directory that can't be used is told with its remedy."""
    (tmp_path / "link").symlink_to(tmp_path)
    result = make_site(runtime_dir=tmp_path / "link").run("drain")
    assert result.exit_code == 1
    assert "is a link, which is never followed" in result.stderr


def test_silent_worker(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that does not answer is named, and the exit status is 1."""
    state = next(iter(site.workers[0].states))
    assert state.publisher is not None
    monkeypatch.setattr(state.publisher, "take_turn", lambda: None)
    time.sleep(0.1)  # a turn may be under way
    result = site.run("drain", "--wait", "1.5")
    assert result.exit_code == 1
    assert sorted(lines_of(result)) == [
        "did not answer within 1.5 s",
        "replaced 2 connections",
    ]


def test_other_version(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that does not know the order refuses it."""
    from flask_pooled_db.flask.commands import drain as module

    monkeypatch.setattr(module, "DRAIN", "rinse")
    result = site.run("drain")
    assert result.exit_code == 1
    assert (
        lines_of(result)
        == ["refused: it runs a version of flask_pooled_db that does not know this order"] * 2
    )


# The command's own end


@pytest.mark.parametrize("command", ["drain --over 20", "resize --maxconnections 1"])
def test_interrupted(site: Site, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C withdraws the order. The command says so, and what each worker has done."""
    folder, calls = site.settings["runtime_dir"], []

    def interrupt(seconds: float) -> None:
        """Once the command has seen that both are at work."""
        time.sleep(seconds)
        answers = [json.loads(path.read_text()) for path in folder.glob("*/answer-*.json")]
        calls.extend([1] if len(answers) == 2 and all(each["total"] for each in answers) else [])
        if len(calls) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(ordering, "sleep", interrupt)
    with contextlib.ExitStack() as stack:
        for db in site.workers:
            for _ in range(2):
                stack.enter_context(db.connection_context(independent=True)).execute("SELECT 1")
        result = site.run(*command.split())
    assert result.exit_code == 1
    assert "Interrupted. The order was withdrawn: workers that had begun stop" in result.stdout
    wanted = "replaced 0 of 2 connections" if "drain" in command else "has set it, and has 1 conn"
    assert len(lines_of(result)) == 2
    assert all(line.startswith(wanted) for line in lines_of(result)), result.stdout
    assert list(folder.glob("*/order-*")) == []
    wait_until(lambda: not list(folder.glob("*/answer-*")))


def test_progress_in_lines(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a terminal, the progress comes in lines."""
    monkeypatch.setattr(ordering, "LINES", 0.0)
    result = site.run("drain", "--over", "1")
    found = re.findall(r"^drain: .*?, (\d) of 2 ready \((\d+)%\)$", result.stdout, re.MULTILINE)
    assert found[0] == ("0", "0")
    assert found[-1] == ("2", "100")
    assert any(0 < int(percent) < 100 for _, percent in found)


def test_command_that_has_used_a_database(site: Site) -> None:
    """A command whose app uses a database while it is loaded is no worker to itself."""
    with site.app() as (app, db):
        site.use(db, 1)
        db.host_stats()
        result = app.test_cli_runner().invoke(args=["pooled-db", "drain"])
        assert (len(lines_of(result)), drained(db)) == (2, 0)
        assert result.exit_code == 0


# The page


def without_numbers(text: str) -> set[str]:
    return {re.sub(r"\d+", "N", line) for line in text.splitlines()}


def test_page(make_site: Callable[..., Site]) -> None:
    """What docs/commands.md shows is what the commands print."""
    page = (PROJECT / "docs" / "commands.md").read_text(encoding="utf-8")
    section = page.partition("\n## drain and resize\n")[2].partition("\n## ")[0]
    site = make_site(mincached=3)
    site.add(2)
    for args in (("drain",), ("resize", "--maxconnections", "5")):
        result = site.run(*args)
        assert without_numbers(result.stdout) <= without_numbers(section), result.stdout
    words = " ".join(section.split())
    assert f"by default {ordering.MORE:g} more than `--over`" in words
    assert f"for {ordering.MORE:g} seconds unless `--wait` says otherwise" in words
