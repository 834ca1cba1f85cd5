"""The report of the fault suite."""

from __future__ import annotations

from faults.bank import Audit
from faults.catalog import FAULTS
from faults.runs import Outcome
from faults.systems import SYSTEMS
from faults.table import Results, render

OUTCOME = Outcome(Audit(9, 7, 0, lost=1, doubled=0, half=0, denied=0, imbalance=0))


def test_table_for_each_server() -> None:
    """Each kind of server has a summary of its own, of the systems that are on it."""
    outcomes: Results = {
        "1-kill": {"ours": OUTCOME},
        "1-kill-postgresql": {"psycopg-pool": "it hung"},
    }
    report = render(outcomes, [])
    assert "| fault | flask_pooled_db |\n| --- | --- |\n| 1-kill | **1** / 0 / 0 /  |" in report
    assert "| fault | psycopg_pool |\n| --- | --- |\n| 1-kill-postgresql | **it hung** |" in report


def test_systems_of_fault() -> None:
    """The systems of a fault are all on one kind of server, and the extension is the first."""
    for fault in FAULTS.values():
        assert len({SYSTEMS[kind].database for kind in fault.systems}) == 1, fault
        assert SYSTEMS[fault.systems[0]].is_ours, fault
