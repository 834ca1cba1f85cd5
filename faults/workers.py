"""Faults of gunicorn's workers: killed, stopped by their timeout, reloaded, recycled."""

from __future__ import annotations

import http.client
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from flask import Flask

from faults.bank import Transfer, open_bank
from faults.databases import running_server
from faults.load import ACCOUNTS, Load, OutcomeUnknown, Tally
from faults.runs import Effort, Outcome, Scene, measure, open_files, open_ledger, wait_to_settle
from faults.systems import SYSTEMS, System, Work
from faults.webapp import DOCUMENTED, ERROR, TASK, UNKNOWN
from harness.gunicorn import GunicornServer
from harness.processes import Managed
from harness.waiting import wait_until

WORKERS = 2
THREADED = ("--worker-class=gthread", "--threads=4")
_TIMEOUT = 2
_THINKING = 0.04  # a request costs more than a transfer
_REQUEST_TIMEOUT = 5.0
# Never used for a transfer of the load.
_HANGING = Transfer(1_000_000_000, ACCOUNTS + 1, ACCOUNTS + 2, 1)


class Told(Exception):
    """The application answered with an error of a documented class."""

    def __init__(self, called: str) -> None:
        super().__init__(called)
        self.called = called


class Served(System, Managed):
    """One of the systems behind gunicorn, as its clients see it; a context manager."""

    title = "gunicorn"

    def __init__(
        self, kind: str, task: dict[str, Any], options: Sequence[str], directory: Path
    ) -> None:
        self.app = Flask("faults")  # the real one is in the workers
        self.is_one_of_ours = SYSTEMS[kind].is_ours
        self.maxconnections = WORKERS * SYSTEMS[kind].maxconnections
        mine = (f"--workers={WORKERS}", "--graceful-timeout=3", "faults.webapp:create_app()")
        self._gunicorn = GunicornServer(directory, [*options, *mine], {TASK: json.dumps(task)})

    def start(self) -> None:
        """Start gunicorn; return when all its workers serve."""
        self._gunicorn.start()
        wait_until(lambda: len(self.states()) == WORKERS)

    @property
    def arbiter(self) -> int:
        """The arbiter's process id."""
        return self._gunicorn.pid

    @property
    def workers(self) -> list[int]:
        """The process ids of its workers, the oldest first."""
        return self._gunicorn.workers()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the arbiter."""
        os.kill(self.arbiter, number)

    def states(self) -> dict[int, int]:
        """How many connections are in use, by worker, of those workers that happen to answer."""
        found: dict[int, int] = {}
        for _ in range(10 * WORKERS):
            try:
                state = json.loads(self._request("GET", "/")[1])
                found[state["pid"]] = state["in_use"]
            except (OSError, http.client.HTTPException, ValueError):
                break
        return found

    def is_served_without(self, workers: set[int]) -> bool:
        """Whether others serve now than these."""
        return bool(now := set(self.states())) and not now & workers

    def perform(self, transfer: Transfer) -> None:
        """Do a transfer by a request; raises what became of it where it is not known as done."""
        self.send("transfer", transfer)

    def send(self, what: str, transfer: Transfer) -> None:
        """Post a request about a transfer."""
        path = f"/{what}/{transfer.number}/{transfer.source}/{transfer.target}/{transfer.amount}"
        try:
            answer, _ = self._request("POST", path)
        except (OSError, http.client.HTTPException) as error:
            raise OutcomeUnknown from error
        if answer.status == 200:
            return
        called = answer.headers.get(ERROR)
        if called is None or answer.headers[UNKNOWN] == "1":
            raise OutcomeUnknown
        raise (Told if answer.headers[DOCUMENTED] == "1" else RuntimeError)(called)

    def _request(self, method: str, path: str) -> tuple[http.client.HTTPResponse, bytes]:
        connection = self._gunicorn.connect(_REQUEST_TIMEOUT)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            return answer, answer.read()
        finally:
            connection.close()

    def transact(self, work: Work) -> None:
        raise NotImplementedError("the workers do that")

    def in_use(self) -> int:
        return sum(self.states().values())

    def close(self) -> None:
        if self._gunicorn.is_running:
            self._gunicorn.stop()


def _serve(
    kind: str,
    effort: Effort,
    strike: Callable[[Scene, Served], None],
    options: Sequence[str] = THREADED,
    *,
    preload: bool,
) -> Outcome:
    with ExitStack() as stack:
        server = stack.enter_context(running_server(SYSTEMS[kind].database))
        database = open_bank(server, ACCOUNTS + 2)
        task = {"kind": kind, "hosts": [(server.host, server.port)], "database": database}
        ledger = stack.enter_context(open_ledger())
        files = open_files()
        options = [*options, "--preload"] if preload else options
        directory = Path(stack.enter_context(TemporaryDirectory(prefix="pooled-db-faults-")))
        served = stack.enter_context(Served(kind, task, options, directory))
        arbiters_files = _open_files_of(served.arbiter)
        tally = Tally(ledger, served.is_one_of_ours, own=(Told, OutcomeUnknown))
        load = Load(tally, served.perform, thinking=_THINKING)
        scene = Scene(server, database, None, served, load, effort)

        def strike_and_count(scene: Scene) -> None:
            strike(scene, served)
            # It keeps a file for each worker, old ones that still end included.
            wait_to_settle(lambda: _open_files_of(served.arbiter) <= arbiters_files)
            opened.append(_open_files_of(served.arbiter))

        opened: list[int] = []
        outcome = measure(scene, strike_and_count, files)
        outcome.files_before, outcome.files_after = arbiters_files, opened[0]
        return outcome


def _open_files_of(process: int) -> int:
    return len(os.listdir(f"/proc/{process}/fd"))  # noqa: PTH208  as for our own


def kill_worker(kind: str, effort: Effort, *, preload: bool) -> Outcome:
    """SIGKILL of a worker of gunicorn, several times."""

    def strike(scene: Scene, served: Served) -> None:
        for _ in range(effort.times(5)):
            with scene.outage():
                os.kill(served.workers[0], signal.SIGKILL)

    return _serve(kind, effort, strike, preload=preload)


def stop_by_timeout(kind: str, effort: Effort, *, preload: bool) -> Outcome:
    """A worker of gunicorn that hangs in a transaction, stopped by `--timeout`."""

    def strike(scene: Scene, served: Served) -> None:
        hang = partial(served.send, "hang", _HANGING)
        tally = scene.load.tally
        hanging = threading.Thread(target=tally.attempt, args=(_HANGING.number, hang), daemon=True)
        with scene.outage():
            hanging.start()
            hanging.join()

    options = ("--worker-class=sync", f"--timeout={_TIMEOUT}")
    return _serve(kind, effort, strike, options, preload=preload)


def reload(kind: str, effort: Effort, *, preload: bool) -> Outcome:
    """A graceful reload of gunicorn."""

    def strike(scene: Scene, served: Served) -> None:
        for _ in range(effort.times(3)):
            before = set(served.states())
            with scene.outage():
                served.signal(signal.SIGHUP)
                scene.wait_for(partial(served.is_served_without, before), "new workers")

    return _serve(kind, effort, strike, preload=preload)


def max_requests(kind: str, effort: Effort, *, preload: bool) -> Outcome:
    """`max_requests` restarts of gunicorn's workers, all the time."""

    def strike(scene: Scene, served: Served) -> None:
        with scene.outage():
            time.sleep(5.0 * effort.scale)
            # All may have been recycled just now: how long they take to start is no pool's doing.
            scene.wait_for(served.states, "a worker")

    options = (*THREADED, "--max-requests=100", "--max-requests-jitter=50")
    return _serve(kind, effort, strike, options, preload=preload)
