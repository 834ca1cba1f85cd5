"""The states of a lease: what `docs/design.md` says of them, and what a call does in each."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from flask_pooled_db.drivers import Failure
from flask_pooled_db.errors import CommitOutcomeUnknown, TransactionAborted, UsageError
from flask_pooled_db.lease.proxy import LeaseConnection
from flask_pooled_db.lease.state import TRANSITIONS, Event, State
from tests.support.fake_driver import Error, FakeDriver, OperationalError
from tests.support.pools import call, open_pool

DESIGN = Path(__file__).parents[2] / "docs" / "design.md"
THROUGH_BUSY = (Event.CALL, Event.STATEMENT, Event.READ)

# In the documentation


def section() -> str:
    """The documentation's section on the states."""
    text = DESIGN.read_text(encoding="utf-8")
    found = re.search(r"^### The states of a lease\n(.*?)^##", text, re.MULTILINE | re.DOTALL)
    assert found, f"{DESIGN} has no such section"
    return found[1]


def rows(*head: str) -> list[list[str]]:
    """The rows of the section's table that has these columns."""
    lines = section().splitlines()
    first = lines.index(f"| {' | '.join(head)} |") + 2
    table = []
    for line in lines[first:]:
        if not line.startswith("|"):
            break
        table.append([cell.strip() for cell in line.strip("|").split("|")])
    return table


def named(words: str) -> State:
    """The state with this name in plain words."""
    return State[words.upper().replace(" ", "_")]


def test_the_documented_transitions_are_those_of_the_code() -> None:
    """The table in docs/design.md has every transition, and no other."""
    documented: dict[Event, dict[State, State]] = {}
    for event, sources, target in rows("event", "from", "to"):
        transitions = documented.setdefault(Event(event), {})
        for source in map(named, sources.split(", ")):
            assert source not in transitions, f"{event!r} leads twice from {source!r}"
            transitions[source] = source if target == "the same" else named(target)
    assert documented == TRANSITIONS


def test_every_state_is_documented() -> None:
    """docs/design.md says once, in a sentence, what each state means."""
    described = rows("state", "means")
    assert [named(state) for state, _ in described] == list(State)
    assert all(means for _, means in described)


# In the table


def test_every_state_is_reachable() -> None:
    """From a lease that is unused, some order of events leads to each state."""
    reached, new = set[State](), {State.UNUSED}
    while new:
        reached |= new
        new = {
            state
            for event, table in TRANSITIONS.items()
            for source, target in table.items()
            if source in reached
            for state in (target, *([State.BUSY] if event in THROUGH_BUSY else ()))
        } - reached
    assert reached == set(State)


def test_released_is_final() -> None:
    """Nothing leads out of the last state, and only a release leads there."""
    for event, table in TRANSITIONS.items():
        assert table.get(State.RELEASED, State.RELEASED) is State.RELEASED
        if event is not Event.RELEASE:
            into = {source for source, target in table.items() if target is State.RELEASED}
            assert into <= {State.RELEASED}
    assert set(TRANSITIONS[Event.RELEASE]) == set(State)


def test_a_lost_transaction_leads_nowhere_but_to_its_rollback() -> None:
    """From rolled back and aborted only `rollback()` and release lead to a better state, and from
    aborted a savepoint; from broken only release does.
    """
    expected = {
        State.ROLLED_BACK: {Event.ROLLBACK},
        State.ABORTED: {Event.ROLLBACK, Event.UNDONE},
        State.BROKEN: set(),
    }
    for state, events in expected.items():
        better = {event for event, table in TRANSITIONS.items() if table.get(state, state) < state}
        assert better == events


# In use


class Deadlock(Error):
    """The server has rolled the transaction back."""


class Driver(FakeDriver):
    """A fake driver whose server can roll back by itself."""

    def classify(self, raw: Any, error: BaseException) -> Failure:
        return Failure.ROLLED_BACK if isinstance(error, Deadlock) else super().classify(raw, error)


class Subject:
    """A lease, and a cursor of it if its state allows for one."""

    def __init__(self, driver: Driver, lease: LeaseConnection) -> None:
        self.driver = driver
        self.lease = lease
        self.cursor: Any = None

    def any_cursor(self) -> Any:
        return self.cursor or self.lease.cursor()

    def fail(self, what: str, error: BaseException, call: Callable[[], object]) -> None:
        self.driver.fail(what, error)
        with pytest.raises((type(error), CommitOutcomeUnknown)):
            call()


Bringing = Callable[[Subject], None]


def to_idle(subject: Subject) -> None:
    subject.cursor = subject.lease.cursor()


def to_transaction(subject: Subject) -> None:
    to_idle(subject)
    subject.cursor.execute("INSERT")


def to_rolled_back(subject: Subject) -> None:
    to_idle(subject)
    subject.fail("INSERT", Deadlock(), lambda: subject.cursor.execute("INSERT"))


def to_aborted(subject: Subject) -> None:
    to_transaction(subject)
    subject.fail("commit", Error(), subject.lease.commit)


def to_broken(subject: Subject) -> None:
    to_idle(subject)
    subject.fail("INSERT", OperationalError(), lambda: subject.cursor.execute("INSERT"))


def to_unknown(subject: Subject) -> None:
    to_transaction(subject)
    subject.fail("commit", OperationalError(), subject.lease.commit)


def to_released(subject: Subject) -> None:
    to_transaction(subject)
    subject.lease.close()


@contextmanager
def in_state(name: str) -> Iterator[Subject]:
    """A lease that was brought to this state by what its caller may do."""
    driver = Driver()
    with open_pool(driver) as pool:
        subject = Subject(driver, pool.lease())
        if name == "busy":
            to_idle(subject)
            gate = driver.hold("SELECT")
            other = call(subject.cursor.execute, "SELECT")
            gate.wait_for_arrivals()
            yield subject
            gate.open()
            other.wait()
        else:
            bring = BRING.get(name)
            if bring:
                bring(subject)
            yield subject
        subject.lease.close()


BRING: dict[str, Bringing | None] = {
    "unused": None,
    "idle": to_idle,
    "in transaction": to_transaction,
    "rolled back": to_rolled_back,
    "aborted": to_aborted,
    "broken": to_broken,
    "broken, COMMIT unanswered": to_unknown,
    "released": to_released,
}

CALLS: dict[str, Callable[[Subject], object]] = {
    "cursor()": lambda subject: subject.lease.cursor(),
    "execute()": lambda subject: subject.any_cursor().execute("INSERT"),
    "fetchone()": lambda subject: subject.any_cursor().fetchone(),
    "commit()": lambda subject: subject.lease.commit(),
    "rollback()": lambda subject: subject.lease.rollback(),
    "close()": lambda subject: subject.lease.close(),
    "ping()": lambda subject: subject.lease.ping(),
    "driver's attribute": lambda subject: subject.lease.number,
}

REFUSALS: dict[str, type[Exception] | None] = {
    "unused": None,
    "idle": None,
    "in transaction": None,
    "busy": UsageError,
    "rolled back": TransactionAborted,
    "aborted": TransactionAborted,
    "broken": TransactionAborted,
    "broken, COMMIT unanswered": CommitOutcomeUnknown,
    "released": UsageError,
}
# What works where nearly all is refused.
ALLOWED = {(state, "close()") for state in REFUSALS} | {
    ("rolled back", "rollback()"),
    ("aborted", "rollback()"),
}


@pytest.mark.parametrize("what", CALLS)
@pytest.mark.parametrize("state", REFUSALS)
def test_a_call_works_or_raises_what_is_documented(state: str, what: str) -> None:
    """In each state, each call either works or raises the one error that the state stands for."""
    refusal = None if (state, what) in ALLOWED else REFUSALS[state]
    with in_state(state) as subject:
        assert subject.lease.state is named(state.partition(",")[0])
        if refusal is None:
            CALLS[what](subject)
        else:
            with pytest.raises(refusal) as caught:
                CALLS[what](subject)
            kinds = (UsageError, TransactionAborted, CommitOutcomeUnknown)
            assert [kind for kind in kinds if isinstance(caught.value, kind)] == [refusal]


# Where a call that succeeds leads.
LEADS_TO = [
    ("unused", "cursor()", State.IDLE),
    ("unused", "execute()", State.IN_TRANSACTION),
    ("unused", "ping()", State.IDLE),
    ("unused", "commit()", State.IDLE),
    ("unused", "rollback()", State.IDLE),
    ("unused", "driver's attribute", State.UNUSED),
    ("idle", "execute()", State.IN_TRANSACTION),
    ("idle", "fetchone()", State.IDLE),
    ("idle", "commit()", State.IDLE),
    ("idle", "rollback()", State.IDLE),
    ("in transaction", "execute()", State.IN_TRANSACTION),
    ("in transaction", "cursor()", State.IN_TRANSACTION),
    ("in transaction", "fetchone()", State.IN_TRANSACTION),
    ("in transaction", "commit()", State.IDLE),
    ("in transaction", "rollback()", State.IDLE),
    ("rolled back", "rollback()", State.IDLE),
    ("aborted", "rollback()", State.IDLE),
    *((state, "close()", State.RELEASED) for state in REFUSALS),
]


@pytest.mark.parametrize(("state", "what", "target"), LEADS_TO)
def test_a_call_that_works_leads_to_the_state_it_should(
    state: str, what: str, target: State
) -> None:
    """What works leads to the state that the table of transitions names."""
    with in_state(state) as subject:
        CALLS[what](subject)
        assert subject.lease.state is target
