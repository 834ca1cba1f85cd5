"""The short form of the fault suite: the extension loses nothing, whatever breaks."""

from __future__ import annotations

import gc
from dataclasses import replace

import pytest

from faults.catalog import FAULTS
from faults.runs import QUICK, Outcome
from harness.tls import Certificates

pytestmark = [
    pytest.mark.slow,
    # A lease that an application forgot is reported when it is garbage.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

TO_FIRST_SUCCESS = 5.0
"""The bar is 1 s, and kept by the long form: this machine may be busy with other things."""

LONG_ONLY = {"10-galera-haproxy"}  # Galera takes its time to form a cluster
# The faults are those of MariaDB: two show that they strike PostgreSQL, too.
ON_POSTGRESQL = {"1-kill-postgresql", "2-crash-postgresql"}
LONG_ONLY |= {name for name in FAULTS if name.endswith("-postgresql")} - ON_POSTGRESQL
RUNS = [(name, FAULTS[name].systems[0]) for name in FAULTS if name not in LONG_ONLY]
RUNS += [("1-kill", "ours-mariadb"), ("2-crash", "ours-mariadb"), ("8-deadlocks", "ours-retrying")]
RUNS += [("13-requests", "ours-mariadb")]
# Galera's nodes give each other up where they get no time.
ALONE = {"10-galera"}
CASES = [
    pytest.param(*run, id="-".join(run), marks=[pytest.mark.alone] if run[0] in ALONE else [])
    for run in RUNS
]
OVER_TLS = [("1-kill", "ours-mariadb"), ("2-crash", "ours"), ("5-deaf", "ours")]


@pytest.fixture(autouse=True)
def no_garbage() -> None:
    """Collect what earlier tests left, so that their files are not counted."""
    gc.collect()


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_faults(name: str, kind: str) -> None:
    """After the fault every acknowledged commit is there once, every transfer is whole or absent,
    every error is documented, nothing leaks, and the pool soon works again.
    """
    lose_nothing(FAULTS[name].run(kind, QUICK))


@pytest.mark.parametrize(("name", "kind"), OVER_TLS, ids=["-".join(run) for run in OVER_TLS])
def test_faults_over_tls(name: str, kind: str, certificates: Certificates) -> None:
    """The same holds if every connection is encrypted."""
    lose_nothing(FAULTS[name].run(kind, replace(QUICK, certificates=certificates)))


def lose_nothing(outcome: Outcome) -> None:
    assert not outcome.problems, outcome
    assert outcome.audit.acknowledged > 0
    if outcome.outages:
        assert outcome.first_success is not None, outcome
        assert outcome.first_success < TO_FIRST_SUCCESS, outcome


def test_audit_sees_harm() -> None:
    """The audit sees the transfers that a hand-written pool tears apart."""
    outcome = FAULTS["8-deadlocks"].run("dbutils", QUICK)
    assert outcome.audit.half > 0
    assert outcome.problems
