"""`python -m faults`: break things, print the report, and keep that of a whole run."""

from __future__ import annotations

import ctypes
import logging
import multiprocessing
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from faults.catalog import FAULTS
from faults.runs import FULL, QUICK, Effort, Outcome
from faults.systems import SYSTEMS
from faults.table import render
from harness.processes import children, kill_all
from harness.program import Program
from harness.report import machine_facts
from harness.signals import unwind_on_signals

_TIME_LIMIT = 120.0
_END_TIMEOUT = 10.0
_PR_SET_CHILD_SUBREAPER = 36  # of linux/prctl.h
PROGRAM = Program(
    "faults",
    FAULTS,
    kind="fault",
    about=__doc__,
    quick=(QUICK, "shorter"),
    full=FULL,
    page="reliability.md",
)
PROGRAM.parser.add_argument(
    "--system", choices=SYSTEMS, help="on this system alone; writes no file"
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the faults that are named, or all of them, each on each system in a new process."""
    order = PROGRAM.order(arguments)
    system = order.options.system
    _adopt_orphans()
    with tempfile.TemporaryDirectory(prefix="pooled-db-faults-") as directory:
        _use_directory(directory)
        report = _make_report(order.names, system, order.effort)
    PROGRAM.publish(report, keep=order.is_whole and not system)


def _make_report(names: Sequence[str], system: str | None, effort: Effort) -> str:
    facts = machine_facts()
    results = {
        name: {
            kind: _run_apart(name, kind, effort)
            for kind in ([system] if system else FAULTS[name].systems)
        }
        for name in names
    }
    return render(results, facts)


def _use_directory(directory: str) -> None:
    """Have temporary files there, the servers' own as well."""
    Path(directory).chmod(0o711)  # PostgreSQL runs as a user of its own where this is root
    tempfile.tempdir = os.environ["TMPDIR"] = directory


def _run_apart(name: str, kind: str, effort: Effort) -> Outcome | str:
    """The outcome of a run in a forked process, which may crash or hang without harm."""
    started = time.monotonic()
    forking = multiprocessing.get_context("fork")
    receiving, sending = forking.Pipe(duplex=False)
    with tempfile.TemporaryDirectory(prefix="pooled-db-run-") as directory:
        arguments = (name, kind, effort, directory, sending)
        process = forking.Process(target=_run_here, args=arguments)
        process.start()
        try:
            sending.close()
            return _receive(receiving, process)
        except BaseException:
            process.terminate()  # nobody waits for its outcome any more
            raise
        finally:
            receiving.close()
            process.join(_END_TIMEOUT)
            process.terminate()
            process.join(_END_TIMEOUT)
            process.kill()  # a thread that is stuck in a driver may keep it from ending
            process.join()
            _end_orphans()
            sys.stderr.write(f"{name}, {kind}: {time.monotonic() - started:.0f} s\n")


def _adopt_orphans() -> None:
    """Become the parent of what is left by a child that crashed: servers."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _end_orphans() -> None:
    """End them, where there are any."""
    orphans = children(os.getpid())
    kill_all(orphans)
    for orphan in orphans:
        os.waitpid(orphan, 0)


def _receive(receiving: Connection, process: BaseProcess) -> Outcome | str:
    if not receiving.poll(_TIME_LIMIT):
        return "the run hung"
    try:
        outcome: Outcome | str = receiving.recv()
    except EOFError:
        process.join()
        code = process.exitcode or 0
        ended = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return f"the process crashed ({ended})"
    return outcome


def _run_here(name: str, kind: str, effort: Effort, directory: str, sending: Connection) -> None:
    _use_directory(directory)
    logging.disable()
    try:
        outcome: Outcome | str = FAULTS[name].run(kind, effort)
    except Exception as error:
        traceback.print_exc()
        outcome = f"the run failed ({type(error).__name__})"
    sending.send(outcome)
    sending.close()


if __name__ == "__main__":
    unwind_on_signals()  # the forked processes of the runs, too
    main()
