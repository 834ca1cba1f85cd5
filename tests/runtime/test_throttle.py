"""A throttle lets so many through in a second, and counts the others."""

from __future__ import annotations

import threading

from flask_pooled_db.runtime import Throttle
from tests.support.clock import Clock


def test_seconds() -> None:
    """The first ones of a second are let through; the first of the next second tells how many were
    left out.
    """
    clock = Clock()
    throttle = Throttle(2, 1.0, clock)
    assert [throttle.admit() for _ in range(5)] == [0, 0, None, None, None]
    clock.now += 0.9
    assert throttle.admit() is None
    clock.now += 0.1
    assert [throttle.admit() for _ in range(3)] == [4, 0, None]
    clock.now += 60
    assert throttle.admit() == 1


def test_threads() -> None:
    """Threads that come at once do not get more through."""
    throttle = Throttle(5, 1.0, Clock())
    answers: list[int | None] = []

    def ask() -> None:
        answers.extend(throttle.admit() for _ in range(50))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert [answer for answer in answers if answer is not None] == [0] * 5
