"""What a page has seen of a host a while ago, and brings along."""

from __future__ import annotations

import json
from typing import Any

import pytest

from flask_pooled_db.telemetry.past import (
    LONGEST_TEXT,
    MOST_BINDS,
    OLDEST,
    Past,
    read_past,
    sample_of,
)
from tests.support.page_scenes import SCENES, host, pool, process


def told(*args: Any, at: float = 100.0) -> str:
    """What a page brings along that has seen these processes."""
    return json.dumps(sample_of(host(*args), at).as_dict())


def known(past: Past | None) -> Past:
    assert past is not None
    return past


def test_nothing_seen() -> None:
    """A page that was opened just now brings nothing along."""
    assert read_past(None, host(), 100.0) is None
    assert read_past("", host(), 100.0) is None


def test_growth() -> None:
    """The past tells by how much counters have grown, also of what was not there then."""
    before = process(1, pools={"a": pool(timeouts=3)}, slow_statements={"x": 2})
    past = known(read_past(told(before), host(before), 160.0))
    assert past.seconds == 60.0
    assert [past.since("a", "timeouts", number) for number in (3, 7, 1)] == [0, 4, 0]
    assert past.since("new", "timeouts", 5) == 5
    assert [past.slow_since(name, 5) for name in ("x", "y")] == [3, 5]


def test_workers_that_have_gone() -> None:
    """Who was seen since, and does not live now, has gone."""
    text = told(process(1), process(2), process(3))
    past = known(read_past(text, host(process(1), process(4)), 130.0))
    assert sorted(past.gone.values()) == [2, 3]
    alone = host(process(1, token=""), problem="no directory")
    assert known(read_past(text, alone, 130.0)).gone == {}


def test_too_old() -> None:
    """What was seen long ago, or will be, tells nothing: the machine was started anew."""
    for now in (99.0, 100.0 + OLDEST + 1):
        assert read_past(told(process()), host(), now) is None


def test_many_binds() -> None:
    """What is brought along is bounded; of what is not among it, nothing is said."""
    pools = {f"bind-{number:04}": pool(timeouts=1) for number in range(3000)}
    pools["W" * 900] = pool(timeouts=1)
    text = told(process(pools=pools, slow_statements={f"n{at}": 1 for at in range(200)}))
    assert len(text) < 5000
    past = known(read_past(text, host(), 130.0))
    assert len(past.before.counts) == MOST_BINDS
    assert [past.since(f"bind-{number}", "timeouts", 5) for number in ("0000", "2999")] == [4, 0]
    assert past.slow_since("n99", 5) == 0


@pytest.mark.parametrize("scene", SCENES)
def test_every_scene(scene: str) -> None:
    """What is told of any host can be read again, and nothing has happened since then."""
    stats = SCENES[scene](30.0)
    text = json.dumps(sample_of(stats, 100.0).as_dict())
    past = known(read_past(text, stats, 101.0))
    assert past.gone == {}
    assert past.before == sample_of(stats, 100.0)


GOOD: dict[str, Any] = {"at": 100.0, "workers": {}, "counts": {}, "slow": {}, "is_whole": True}


WRONG: list[tuple[str, list[Any]]] = [
    ("at", ["x", None, [], float("nan"), 1e999, 10**400]),
    ("workers", [[], {"t": "1"}, {"t": None}, 3, {str(number): 1 for number in range(1000)}]),
    ("counts", [[], {"a": 1}, {"a": {"b": 1.5}}]),
    ("slow", [{"a": True}, {"a": -1}, {"a": 10**30}]),
]


@pytest.mark.parametrize(
    "text",
    [
        *("{", "[]", "null", "1", '"x"', "{}", "[" * 9000, "x" * (LONGEST_TEXT + 1)),
        *(json.dumps({**GOOD, name: each}) for name, values in WRONG for each in values),
    ],
)
def test_nonsense(text: str) -> None:
    """What makes no sense is as if nothing was brought along."""
    assert read_past(json.dumps(GOOD), host(), 101.0) is not None
    assert read_past(text, host(), 101.0) is None
