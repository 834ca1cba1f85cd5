"""Faults of gevent: 1,000 greenlets on 10 connections, with random timeouts.

The greenlets run in a process of their own, this module, which is patched before anything else is
imported; the server, and who looks at it, stay outside.
"""

from __future__ import annotations

if __name__ == "__main__":
    from gevent import monkey

    monkey.patch_all()

import itertools
import json
import random
import subprocess
import sys
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from faults.bank import Ledger, Transfer, open_bank, random_transfer
from faults.databases import Place, running_server
from faults.load import ACCOUNTS, Tally
from faults.runs import Effort, Outcome, connections, open_files, open_ledger, wait_to_settle
from faults.systems import SYSTEMS, System
from harness.processes import PROJECT

GREENLETS = 1_000
CONNECTIONS = 10
SECONDS = 7.0
_END_TIMEOUT = 10.0


def random_timeouts(kind: str, effort: Effort) -> Outcome:
    """gevent: 1,000 greenlets on 10 connections, with timeouts at random moments."""
    with ExitStack() as stack:
        server = stack.enter_context(running_server(SYSTEMS[kind].database))
        database = open_bank(server, ACCOUNTS)
        ledger = stack.enter_context(open_ledger())
        task = {
            "kind": kind,
            "hosts": [(server.host, server.port)],
            "database": database,
            "ledger": str(ledger.path),
            "seconds": max(2.0, SECONDS * effort.scale),
        }
        command = [sys.executable, "-m", __name__, json.dumps(task)]
        child = stack.enter_context(
            subprocess.Popen(
                command,
                cwd=PROJECT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        )
        stack.callback(child.kill)
        assert child.stdin is not None
        assert child.stdout is not None
        report: dict[str, Any] = json.loads(child.stdout.readline())
        wait_to_settle(lambda: connections(server) <= CONNECTIONS)
        outcome = Outcome(
            audit=ledger.audit(server, database), server_connections=connections(server), **report
        )
        child.stdin.write("close\n")
        child.stdin.close()
        outcome.files_after = int(child.stdout.readline())
        return outcome


def play(task: dict[str, Any]) -> None:
    """In the patched process: run the greenlets, say what came of it, wait, close, say what is
    left.
    """
    import gevent

    ledger = Ledger(Path(task["ledger"]))
    gevent.sleep(0.01)  # the hub opens its files now
    files = open_files()
    place = Place([(host, port) for host, port in task["hosts"]], task["database"])
    system = SYSTEMS[task["kind"]](place, maxconnections=CONNECTIONS)
    tally = Tally(ledger, system.is_ours, own=(gevent.Timeout,))
    numbers = itertools.count(1)
    end = time.monotonic() + task["seconds"]

    def work() -> None:
        while time.monotonic() < end:
            transfer = random_transfer(next(numbers), ACCOUNTS)
            tally.attempt(transfer.number, partial(_in_time, system, transfer))

    greenlets = [gevent.spawn(work) for _ in range(GREENLETS)]
    gevent.joinall(greenlets, timeout=task["seconds"] + _END_TIMEOUT)
    wait_to_settle(lambda: system.in_use() == 0)
    report = {
        "errors": dict(tally.errors),
        "undocumented": sorted(tally.undocumented),
        "stuck": sum(not greenlet.dead for greenlet in greenlets),
        "in_use": system.in_use(),
        "maxconnections": system.maxconnections,
        "files_before": files,
    }
    sys.stdout.write(json.dumps(report) + "\n")
    sys.stdout.flush()
    sys.stdin.readline()
    system.close()
    wait_to_settle(lambda: open_files() <= files)
    sys.stdout.write(f"{open_files()}\n")


def _in_time(system: System, transfer: Transfer) -> None:
    """A transfer with a timeout that strikes while it waits for a connection, or while it works."""
    import gevent

    timeouts = []
    if random.random() < 0.5:
        timeouts.append(gevent.Timeout.start_new(random.uniform(0.0, 3.0)))

    def work(connection: Any) -> None:
        if not timeouts:
            timeouts.append(gevent.Timeout.start_new(random.uniform(0.0, 0.02)))
        transfer(connection)

    try:
        with system.app.app_context():
            system.transact(work)
    finally:
        for timeout in timeouts:
            timeout.close()


if __name__ == "__main__":
    play(json.loads(sys.argv[1]))
