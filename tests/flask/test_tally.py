"""What the clients of `flask pooled-db stress` count."""

from __future__ import annotations

import pytest

from flask_pooled_db.flask.commands.stress.tally import Times


def test_quantiles() -> None:
    """A quantile is off by one part in a hundred at most, however long the durations are."""
    times, others = Times(), Times()
    for number in range(1, 1001):
        (times if number % 2 else others).add(number / 100_000)
    times.add(3600.0)
    assert times.count == 501
    times.join(others)
    assert times.count == 1001
    assert times.quantile(0.5) == pytest.approx(0.005, rel=0.012)
    assert times.quantile(0.99) == pytest.approx(0.0099, rel=0.012)
    assert times.quantile(1.0) == pytest.approx(3600.0, rel=0.012)
    assert Times().quantile(0.5) is None
    times.add(0.0)
    assert times.quantile(0.0001) is not None
