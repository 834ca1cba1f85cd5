"""What was seen of a host a while ago."""

from __future__ import annotations

from flask_pooled_db.telemetry.trail import (
    KEPT,
    MOST_BINDS,
    PUBLISHED,
    SPACING,
    WINDOW,
    Trail,
    sample_of,
)
from tests.support.page_scenes import host, pool, process


def test_nothing_seen() -> None:
    """Before anybody has looked there is no past, and nothing is published."""
    trail = Trail()
    assert trail.past(host(process()), 100.0) is None
    assert trail.published(100.0) == []


def test_growth() -> None:
    """The past tells by how much a counter has grown, from a minute ago on."""
    trail = Trail()
    for second in range(0, 100, 2):
        trail.note(sample_of(host(process(pools={"a": pool(timeouts=second)})), 1000.0 + second))
    now = host(process(pools={"a": pool(timeouts=100)}))
    past = trail.past(now, 1100.0)
    assert past is not None
    assert WINDOW <= past.seconds < WINDOW + 2 * SPACING
    assert past.since("a", "timeouts", 100) == past.seconds
    assert past.since("new", "timeouts", 3) == 3


def test_workers_that_have_gone() -> None:
    """Who lived a while ago and does not now has gone; who came and goes in between too."""
    trail = Trail()
    for second, pids in ((0, (1, 2)), (10, (1, 3)), (20, (1, 4))):
        trail.note(sample_of(host(*map(process, pids)), 100.0 + second))
    past = trail.past(host(process(1), process(4)), 121.0)
    assert past is not None
    assert sorted(past.gone.values()) == [2, 3]


def test_seen_by_another_worker() -> None:
    """A worker that is asked for the first time knows what another one has seen."""
    other = Trail()
    other.note(sample_of(host(process(1)), 100.0))
    published = {PUBLISHED: other.published(105.0)}
    stats = host(process(1, pools={"a": pool(timeouts=7)}, **published), process(2))
    past = Trail().past(stats, 130.0)
    assert past is not None
    assert past.seconds == 30.0
    assert past.since("a", "timeouts", 7) == 7


def test_own_numbers_alone() -> None:
    """A worker that sees itself alone compares itself with itself."""
    trail = Trail()
    trail.note(sample_of(host(process(1), process(2)), 100.0))
    alone = host(process(1, token=""), problem="no directory")
    assert trail.past(alone, 120.0) is None
    trail.note(sample_of(alone, 120.0))
    past = trail.past(alone, 130.0)
    assert past is not None
    assert (past.seconds, past.gone) == (10.0, {})


def test_forgotten() -> None:
    """When nobody has looked for a while, nothing is kept or published."""
    trail = Trail()
    for second in range(0, 300, 2):
        trail.note(sample_of(host(process()), 100.0 + second))
    assert len(trail.published(400.0)) <= KEPT / SPACING + 1
    assert trail.published(400.0 + KEPT) == []


def test_many_binds() -> None:
    """What is kept of thousands of binds is bounded; of those that are not, nothing is said."""
    pools = {f"bind-{number:04}": pool(timeouts=1) for number in range(3000)}
    trail = Trail()
    trail.note(sample_of(host(process(pools=pools)), 100.0))
    (published,) = trail.published(101.0)
    assert len(published["counts"]) == MOST_BINDS
    past = trail.past(host(process(pools=pools)), 130.0)
    assert past is not None
    assert past.since("bind-2999", "timeouts", 5) == 0
    assert past.since("bind-0000", "timeouts", 5) == 4
