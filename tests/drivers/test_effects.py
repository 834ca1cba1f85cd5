"""What the text of a statement says of its effects."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flask_pooled_db.drivers.effects import Effect, of_mariadb, of_postgresql, of_sqlite
from tests.drivers.cases import NONE, UNKNOWN, Case
from tests.drivers.more_statements import ELSEWHERE, ON_POSTGRESQL, ON_SQLITE
from tests.drivers.statements import ON_MARIADB

CASES = [
    *((of_mariadb, case) for case in (*ON_MARIADB, *ELSEWHERE)),
    *((of_sqlite, case) for case in ON_SQLITE),
    *((of_postgresql, case) for case in ON_POSTGRESQL),
]
FILLERS = [" ", "\t", "\n", "\r\n", "  ", "--\n", "--\tSET @x := 1\n", "-- it's\n", "# `\n"]
FILLERS += ["/**/", "/* COMMIT; */", "/* it's */", '/* " */', "/*+ x */"]
FILLERS_ELSEWHERE = [filler for filler in FILLERS if "#" not in filler]
PARTS = re.compile(r"""('[^']*'|"[^"]*"|`[^`]*`|\s+)""")


@pytest.mark.parametrize(
    ("of", "case"), CASES, ids=lambda part: part.text if isinstance(part, Case) else part.__name__
)
def test_t10_effects(of: Callable[[object], Effect], case: Case) -> None:
    """The text tells what a statement may do."""
    assert of(case.text) == case.effect


@pytest.mark.parametrize("of", [of_mariadb, of_sqlite, of_postgresql])
@pytest.mark.parametrize("text", [b"SELECT 1", bytearray(b"SELECT 1"), None, [], 5])
def test_t10_other_objects(of: Callable[[object], Effect], text: object) -> None:
    """What is no str may do anything."""
    assert of(text) is UNKNOWN


@pytest.mark.parametrize("of", [of_mariadb, of_sqlite, of_postgresql])
def test_t10_str_subclasses(of: Callable[[object], Effect]) -> None:
    """A str of a class of its own is read as the text it is."""

    class Text(str):
        __slots__ = ()
        __hash__ = None  # type: ignore[assignment]

    assert of(Text("SELECT 1")) is NONE
    assert of(Text("ROLLBACK")) is Effect.UNDOES


def test_t10_long_texts() -> None:
    """A long text is read as well, and not kept."""
    rows = ", ".join(f"('a; {n}', %s)" for n in range(10_000))
    text = f"INSERT INTO t VALUES {rows}"
    references = sys.getrefcount(text)
    assert of_mariadb(text) is NONE
    assert sys.getrefcount(text) == references
    assert of_mariadb(rf"{text}, ('\\')") is NONE
    assert of_mariadb(f"{text}; COMMIT") is UNKNOWN


def has_comment_or_odd_quotes(text: str) -> bool:
    """Whether white space in a text may mean more than white space."""
    return bool(re.search(r"/\*|--|#|\$|\\|'[^']*\"|\"[^\"]*'|`[^`]*['\"]|unended", text))


@given(of_and_case=st.sampled_from(CASES), data=st.data())
def test_t10_disguises(
    of_and_case: tuple[Callable[[object], Effect], Case], data: st.DataObject
) -> None:
    """White space, comments and case make no statement look more harmless, or less so."""
    of, case = of_and_case
    fillers = FILLERS if of is of_mariadb else FILLERS_ELSEWHERE
    filler = st.lists(st.sampled_from(fillers), min_size=1, max_size=3).map("".join)
    parts = []
    for part in PARTS.split(case.text):
        if part.isspace():
            parts.append(data.draw(filler) if not has_comment_or_odd_quotes(case.text) else part)
        elif part[:1] in ("'", '"', "`"):
            parts.append(part)
        else:
            parts.append("".join(data.draw(st.sampled_from([c, c.swapcase()])) for c in part))
    text = data.draw(filler) + "".join(parts)
    if not has_comment_or_odd_quotes(case.text):
        text += data.draw(filler)
    assert of(text) == case.effect, text


@given(case=st.sampled_from(ON_MARIADB), text=st.text("'\"`\\/*-#!; \naCOMMIT@:=", max_size=20))
@example(case=Case("COMMIT", Effect.COMMITS), text="'\\'; -- '")
def test_t10_any_text(case: Case, text: str) -> None:
    """No text makes the reader fail, and what follows a complete statement hides none of it."""
    of_mariadb(text)
    of_sqlite(text)
    of_postgresql(text)
    if case.effect is not NONE and not has_comment_or_odd_quotes(case.text):
        effect = of_mariadb(f"{case.text}\n;{text}")
        assert UNKNOWN in effect or case.effect in effect
