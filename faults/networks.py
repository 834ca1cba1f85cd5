"""Faults of the network: it goes deaf in the middle of a COMMIT."""

from __future__ import annotations

import time

from faults.load import THREADS
from faults.runs import Effort, Outcome, Scene, Setting, run

OUTAGE = 3.0


def deaf(kind: str, effort: Effort) -> Outcome:
    """The answers to COMMITs lost, one by one; then 3 s in which nothing gets through, begun in the
    middle of a COMMIT, after which the connections are reset.
    """

    def strike(scene: Scene) -> None:
        proxy = scene.proxy
        for _ in range(effort.times(5)):
            proxy.hold_replies_to(b"COMMIT", times=THREADS)
            time.sleep(0.3)
        with scene.outage():
            proxy.reset_counts()
            proxy.wait_for_command(b"COMMIT")
            proxy.deaf()
            time.sleep(OUTAGE)
            proxy.cut()
            proxy.hear()

    return run(kind, effort, strike, Setting(behind_proxy=True))
