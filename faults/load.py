"""Threads of transfers, and a tally of what their callers were told."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from faults.bank import Ledger, Transfer, random_transfer
from faults.systems import is_documented, name_of
from flask_pooled_db import CommitOutcomeUnknown

THREADS = 8
ACCOUNTS = 64
THINKING = 0.01
"""Seconds that a thread rests between two transfers: what is measured is the pool, and not how many
statements this machine can run."""

JOIN_TIMEOUT = 15.0


def worker_name(number: int) -> str:
    """The name of one of the load's threads."""
    return f"faults worker {number}"


class OutcomeUnknown(Exception):
    """A caller was told nothing: its connection to whoever did the work is gone."""


class Tally:
    """What callers tried, and what came of it."""

    def __init__(self, ledger: Ledger, is_ours: bool, own: tuple[type[BaseException], ...] = ()):
        self.ledger = ledger
        self.errors: Counter[str] = Counter()
        self.undocumented: set[str] = set()
        self.successes: list[float] = []
        self._is_ours = is_ours
        self._own = own  # errors that the callers make themselves
        self._lock = threading.Lock()  # guards the errors

    def attempt(self, number: int, function: Callable[[], object]) -> None:
        """Call a function that does this transfer; note how it ended."""
        self.ledger.write("begun", number)
        try:
            function()
        except (CommitOutcomeUnknown, OutcomeUnknown) as error:
            self.ledger.write("unknown", number)
            self._note(error)
        except Exception as error:
            self.ledger.write("failed", number)
            self._note(error)
        except BaseException as error:  # a timeout of its own, in the middle of whatever it was
            self.ledger.write("unknown", number)
            self._note(error)
        else:
            self.ledger.write("acknowledged", number)
            self.successes.append(time.monotonic())

    def _note(self, error: BaseException) -> None:
        with self._lock:
            self.errors[name_of(error)] += 1
            if self._is_ours and not (is_documented(error) or isinstance(error, self._own)):
                self.undocumented.add(repr(error))


class Load:
    """Threads that transfer money, one transfer after the other, whatever errors they get."""

    def __init__(
        self,
        tally: Tally,
        perform: Callable[[Transfer], None],
        *,
        accounts: int = ACCOUNTS,
        ordered: bool = True,
        thinking: float = THINKING,
    ) -> None:
        self.tally = tally
        self._perform = perform
        self._thinking = thinking
        self._accounts = accounts
        self._ordered = ordered
        self._numbers = itertools.count(1)
        self._stopping = threading.Event()
        self._may_go_on = threading.Event()
        self._may_go_on.set()
        self._threads = [
            threading.Thread(target=self._run, name=worker_name(number), daemon=True)
            for number in range(THREADS)
        ]

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """A block in which no transfer begins."""
        self._may_go_on.clear()
        try:
            yield
        finally:
            self._may_go_on.set()

    def stop(self) -> int:
        """End the load; the number of threads that did not end."""
        self._stopping.set()
        self._may_go_on.set()
        deadline = time.monotonic() + JOIN_TIMEOUT
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return sum(thread.is_alive() for thread in self._threads)

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._may_go_on.wait()
            transfer = random_transfer(next(self._numbers), self._accounts, ordered=self._ordered)
            self.tally.attempt(transfer.number, partial(self._perform, transfer))
            time.sleep(random.uniform(0.5, 1.5) * self._thinking)
