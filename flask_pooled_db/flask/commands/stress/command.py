"""`flask pooled-db stress`: what the pool does under load, and what is left behind."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from typing import Any

import click
from flask import Flask, current_app

from flask_pooled_db.config import shown
from flask_pooled_db.flask.commands.group import Seconds, group, in_one_line
from flask_pooled_db.flask.commands.stopping import Stopping
from flask_pooled_db.flask.commands.stress.ground import EXPECTED, Ground, Verdict
from flask_pooled_db.flask.commands.stress.load import Load
from flask_pooled_db.flask.commands.stress.remains import (
    Left,
    OnServer,
    footprint,
    left_on_server,
    left_since,
    quiet,
)
from flask_pooled_db.flask.commands.stress.results import (
    left_behind,
    lines_of_findings,
    of_times,
)
from flask_pooled_db.flask.commands.stress.sockets import SocketRun
from flask_pooled_db.flask.commands.stress.tally import Tally, total
from flask_pooled_db.flask.context import AppState, current


@group.command()
@click.option("--clients", type=click.IntRange(1), default=20, show_default=True, help="Threads.")
@click.option("--seconds", type=Seconds(0.0, is_above=True), default=10.0, show_default=True)
@click.option("--bind", metavar="NAME", help="Which database; the default one if left out.")
@click.option("--yes", is_flag=True, help="Don't ask before a database is used that has tables.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--sockets", type=click.IntRange(1), help="Open websockets to the app at --url instead."
)
@click.option("--url", default="http://127.0.0.1:8000", show_default=True)
@click.option(
    "--message", default="A-1001", show_default=True, help="What each socket sends and sends again."
)
def stress(
    clients: int,
    seconds: float,
    bind: str | None,
    yes: bool,
    as_json: bool,
    sockets: int | None,
    url: str,
    message: str,
) -> None:
    """Put a database under load, in tables of its own, with the pool that the app has: money is
    moved, read, and moved in blocks that raise and in nested ones. Says how fast it was, and what
    was left behind: if anything was, or if money was lost or made, the exit status is 1.
    """
    stopping = Stopping()
    try:
        state = current()[0]
        if sockets:
            run = SocketRun(state.extension, url, message, sockets)
            found = _over_sockets(run, seconds, stopping)
        else:
            found = _on_database(Run(state, state.name(bind)), clients, seconds, stopping, yes=yes)
    except (click.ClickException, click.Abort):
        raise
    except Exception as error:  # drivers raise more than their own classes
        raise click.ClickException(in_one_line(error)) from error
    click.echo(json.dumps(found, indent=2) if as_json else "\n".join(lines_of_findings(found)))
    for problem in found["problems"]:
        click.echo(problem, err=True)
    if found["problems"] or stopping.is_asked():
        sys.exit(1 if found["problems"] else 128 + stopping.signum)


def _over_sockets(run: SocketRun, seconds: float, stopping: Stopping) -> dict[str, Any]:
    with stopping.noting():
        run.work(seconds, stopping)
        return run.findings(stopping)


def _on_database(
    run: Run, clients: int, seconds: float, stopping: Stopping, *, yes: bool
) -> dict[str, Any]:
    run.ask(yes=yes)
    try:
        with stopping.noting():
            run.work(clients, seconds, stopping)
            return run.findings(stopping)
    except BaseException:
        run.tell_tables()
        raise


_TOLD_BEFORE = ("rows_wrong", "tables")  # what has a sentence of its own


class Run:
    """One run: its load, and what becomes of it."""

    def __init__(self, state: AppState, bind: str) -> None:
        app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]
        self._db: Any = state.extension
        self._bind = bind
        self._ground = Ground(self._db, bind)
        self._load = Load(app, self._db, bind, self._ground)
        self._pools = pools_of(state, bind)
        self._problems: list[str] = []
        self._left = Left()
        self._on_server = OnServer()
        self._verdict: Verdict | None = None

    def ask(self, *, yes: bool) -> None:
        """Ask whether a database may be used that has tables."""
        count = self._ground.count_tables()
        if yes or count == 0:
            return
        known = "an unknown number of tables" if count is None else f"{count} tables"
        known = "1 table" if count == 1 else known
        has = f"The database of bind {shown(self._bind)} has {known}"
        if not sys.stdin.isatty():
            raise click.UsageError(f"{has}, and nobody can be asked here: pass --yes to go on.")
        click.confirm(f"{has}. Make two more, and put it under load?", abort=True, err=True)

    def work(self, clients: int, seconds: float, stopping: Stopping) -> None:
        """Make the tables, have the clients work, and look at what they have left."""
        self._db.host_stats()  # from its first use on, the process has a file of its own open
        with quiet(self._pools):
            before = footprint(self._pools)
        try:
            self._ground.make()
            self._load.run(clients, seconds, stopping)
            if late := self._load.wait_for_end():
                self._problems.append(f"{late} clients have not ended: they hang in a call.")
            self._check()
        except Exception:  # whoever interrupts it twice does not want to wait for this either
            self._remove()
            raise
        self._remove()
        with quiet(self._pools):
            self._left = left_since(before, self._pools)
            used = self._tally().connections
            with self._trying("What the server has left could not be asked"):
                self._on_server = left_on_server(self._db.pool(self._bind), used)

    def _check(self) -> None:
        with self._trying("The sum could not be checked"):
            self._verdict = self._ground.check(self._load.clients.all)

    def _remove(self) -> None:
        with self._trying("The tables could not be removed"):
            self._ground.remove()
        if self._ground.left:
            self._problems.append(f"{left_over(self._ground)}.")

    @contextlib.contextmanager
    def _trying(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # noqa: BLE001  the rest is told all the same
            self._problems.append(f"{what}: {in_one_line(error)}")

    def _tally(self) -> Tally:
        return total(client.tally for client in self._load.clients.all)

    def tell_tables(self) -> None:
        """Say which tables were left, if there are any."""
        if self._ground.left:
            click.echo(f"{left_over(self._ground)}.", err=True)

    def findings(self, stopping: Stopping) -> dict[str, Any]:
        """Return all that is to be told."""
        tally, seconds = self._tally(), self._load.clients.seconds
        pool = self._db.pool(self._bind)
        verdict = self._verdict
        rows = None if verdict is None else verdict.wrong + tally.wrong_reads
        scopes = {name: of_times(times, seconds) for name, times in sorted(tally.scopes.items())}
        scopes["all"] = of_times(tally.all_scopes(), seconds)
        scopes["wait for a connection"] = of_times(tally.waits, seconds)
        left = {
            "connections_in_use": self._left.connections,
            "threads": self._left.threads,
            "open_files": self._left.files,
            "connections_on_the_server": self._on_server.connections,
            "transactions_on_the_server": self._on_server.transactions,
            "rows_wrong": rows,
            "tables": list(self._ground.left),
        }
        self._judge(tally, left)
        return {
            "bind": self._bind,
            "driver": pool.driver.title,
            "maxconnections": pool.stats().maxconnections,
            "clients": len(self._load.clients.all),
            "seconds": round(seconds, 2),
            "interrupted": stopping.is_asked(),
            "unit": "scopes",
            "times": scopes,
            "failed": dict(tally.failed),
            "started_over": dict(tally.started_over),
            "left": left,
            "server_not_known": self._on_server.why,
            "sum": None if verdict is None else verdict.total,
            "expected_sum": EXPECTED,
            "problems": self._problems,
        }

    def _judge(self, tally: Tally, left: dict[str, Any]) -> None:
        """Note what must not be."""
        verdict = self._verdict
        if not tally.all_scopes().count:
            self._problems.append("No scope has come to its end.")
        if tally.wrong_reads:
            self._problems.append(f"{tally.wrong_reads} reads saw a wrong sum.")
        if verdict is not None and (verdict.wrong or verdict.total != EXPECTED):
            self._problems.append(
                f"The sum is {verdict.total}, and has to be {EXPECTED}. {verdict.lost} moves that "
                f"were committed are lost, {verdict.stayed} that were rolled back are stored, and "
                f"{verdict.accounts} accounts do not hold what their moves say."
            )
        if kept := left_behind({k: v for k, v in left.items() if k not in _TOLD_BEFORE}):
            self._problems.append(kept)


def pools_of(state: AppState, bind: str) -> list[Any]:
    """Return the pools that scopes of a bind take connections of: a tenant's are its server's, and
    those that read may be a replica's.
    """
    pool = state.pool(bind)
    if pool.config.server is not None:
        pool = state.pool(pool.config.server)
    replica = pool.config.replica
    return [pool] if replica is None else [pool, state.pool(replica)]


def left_over(ground: Ground) -> str:
    """Return what is said of tables that were left."""
    return f"These tables may be left, remove them by DROP TABLE: {', '.join(ground.left)}"
