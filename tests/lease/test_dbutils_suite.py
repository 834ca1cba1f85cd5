"""DBUtils' own tests of its pool, run on ours."""

from __future__ import annotations

import importlib.metadata
import traceback
from pathlib import Path

import pytest

from tests.lease.dbutils_differences import DIFFERENCES, difference_of
from tests.lease.dbutils_suite import FOLDER, MISSING, Case, adapted, cases, load

DESIGN = Path(__file__).parents[2] / "docs" / "design.md"
CASES = cases()

if CASES:
    conftest = load("conftest")
    dbapi, con_cls = conftest.dbapi, conftest.con_cls
    ping_con_cls, pinger = conftest.ping_con_cls, conftest.pinger


def line_of(error: BaseException) -> str:
    """Return the line of DBUtils' test that an error comes from."""
    frames = traceback.extract_tb(error.__traceback__)
    return next(frame.line or "" for frame in frames if frame.filename.startswith(str(FOLDER)))


def test_dbutils_suite_is_there() -> None:
    """DBUtils' own tests are those of the installed version, and every listed one is among them."""
    assert CASES, MISSING
    information = (FOLDER / "PKG-INFO").read_text(encoding="utf-8")
    assert f"\nVersion: {importlib.metadata.version('DBUtils')}\n" in information
    known = {str(case) for case in CASES} | {case.name for case in CASES}
    assert {name for difference in DIFFERENCES for name in difference.tests} <= known


@pytest.mark.filterwarnings("ignore:POOLED_DB_MAXSHARED has no effect:RuntimeWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("case", CASES, ids=str)
def test_dbutils_suite(case: Case, request: pytest.FixtureRequest) -> None:
    """Our pool does what DBUtils' test asks of it, or fails it as it is listed."""
    difference = difference_of(str(case))
    with adapted():
        if difference is None:
            case.run(request)
            return
        with pytest.raises((Exception, pytest.fail.Exception)) as caught:
            case.run(request)
    assert caught.type.__name__ == difference.error
    assert difference.word in f"{caught.value} {line_of(caught.value)}"


def test_dbutils_differences_documented() -> None:
    """docs/design.md names each difference, and no other."""
    text = DESIGN.read_text(encoding="utf-8")
    table = text.partition("| differs from DBUtils | because |\n")[2].partition("\n\n")[0]
    named = [line.split(" | ")[0].removeprefix("| ") for line in table.splitlines()[1:]]
    assert named == list(dict.fromkeys(difference.why for difference in DIFFERENCES))
