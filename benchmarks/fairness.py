"""How long callers wait where there are many more of them than connections.

The driver does nothing, so that nothing but the pool makes one caller wait longer than another.
Where waiters are served in order, each waits for those before it: 7 ms, and hardly more. Where
they are not, those who just gave one back take it again, and others hardly ever get one.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

from benchmarks.contenders import Contender, pools_on_nothing
from benchmarks.effort import Effort
from benchmarks.measure import Row, compare, percentile

THREADS = 64
CONNECTIONS = 8
HELD = 0.001
LONGER = 3  # windows of this benchmark, in those of the others
CASE = f"{THREADS} threads on {CONNECTIONS} connections"
FIGURES = {"median wait": 50, "99th percentile of waits": 99, "worst wait": 100}


def run(effort: Effort) -> list[Row]:
    """Each pool in turn, with all threads on it."""
    with pools_on_nothing(CONNECTIONS) as contenders, ThreadPoolExecutor(THREADS) as executor:
        names = [contender.name for contender in contenders]
        rates: dict[str, list[float]] = {name: [] for name in names}
        fewest: dict[str, list[float]] = {name: [] for name in names}
        waits: dict[str, dict[str, list[float]]] = {
            figure: {name: [] for name in names} for figure in FIGURES
        }
        seconds = LONGER * effort.seconds
        for _ in range(effort.rounds):
            for contender in contenders:
                by_thread = _waits(executor, contender, seconds)
                waited = [wait for waits_of_one in by_thread for wait in waits_of_one]
                rates[contender.name].append(len(waited) / seconds)
                fewest[contender.name].append(min(map(len, by_thread)) / seconds)
                for figure, percent in FIGURES.items():
                    waits[figure][contender.name].append(percentile(waited, percent) * 1000)
    note = f"No wait can be longer than a window of the measurement, which is {seconds:.1f} s here."
    rows = [
        *compare(f"checkouts of all, {CASE}", "1/s", rates),
        *compare(f"checkouts of the thread that had fewest, {CASE}", "1/s", fewest),
    ]
    for figure in FIGURES:
        rows += compare(f"{figure}, {CASE}", "ms", waits[figure], note=note)
    return rows


def _waits(executor: ThreadPoolExecutor, contender: Contender, seconds: float) -> list[list[float]]:
    """The waits of each thread, in seconds."""
    start = threading.Barrier(THREADS)

    def work(_: int) -> list[float]:
        waits = []
        with contender.around():
            start.wait()
            end = time.monotonic() + seconds
            while (asked := time.monotonic()) < end:
                with contender.block():
                    waits.append(time.monotonic() - asked)
                    time.sleep(HELD)
        return waits

    # No task ends before all have begun, so each has a thread of its own.
    return list(executor.map(work, range(THREADS)))
