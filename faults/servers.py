"""Faults of the whole server: it crashes, restarts, freezes."""

from __future__ import annotations

import time

from faults import databases
from faults.runs import Effort, Outcome, Scene, run

OUTAGE = 3.0


def crash(kind: str, effort: Effort) -> Outcome:
    """kill -9 of the server and restart, ten times."""

    def strike(scene: Scene) -> None:
        for _ in range(effort.times(10)):
            with scene.outage():
                databases.crash(scene.server)
                scene.server.start()

    return run(kind, effort, strike)


def restart(kind: str, effort: Effort) -> Outcome:
    """A clean stop, 3 s without a server, and a start."""

    def strike(scene: Scene) -> None:
        with scene.outage():
            scene.server.stop()
            time.sleep(OUTAGE)
            scene.server.start()

    return run(kind, effort, strike)


def freeze(kind: str, effort: Effort) -> Outcome:
    """SIGSTOP of the server for 3 s."""

    def strike(scene: Scene) -> None:
        with scene.outage():
            scene.server.pause()
            time.sleep(OUTAGE)
            scene.server.resume()

    return run(kind, effort, strike)
