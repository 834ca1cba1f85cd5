"""The comment of a statement, in the form that sqlcommenter specifies."""

from __future__ import annotations

import re
import sys
from types import ModuleType, SimpleNamespace
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_pooled_db.drivers.comments import appended, without_tags
from flask_pooled_db.telemetry.comments import (
    LONGEST,
    comment_of,
    current_traceparent,
    valid_traceparent,
)

TRACE = "00-5bd66ef5095369c7b0d1f8f4bd33716a-c532cb4098ac3dd2-01"


def test_form() -> None:
    """Keys are sorted, keys and values are URL-encoded, values stand in single quotes."""
    assert comment_of({"route": "/polls 1000", "method": "GET", "traceparent": TRACE}) == (
        f"/*method='GET',route='%2Fpolls%201000',traceparent='{TRACE}'*/"
    )
    assert comment_of({"route parameter": "DROP TABLE 'x'"}) == (
        "/*route%20parameter='DROP%20TABLE%20%27x%27'*/"
    )
    assert comment_of({"route": None, "method": ""}) == comment_of({}) == ""


@given(st.text(), st.text(min_size=1))
def test_any_value(route: str, method: str) -> None:
    """Whatever a value is, the comment is one, nothing in it ends it, and it can be read back."""
    comment = comment_of({"route": route, "method": method})
    assert re.fullmatch(
        r"/\*[\w.~%-]+='[\w.~%-]*'(?:,[\w.~%-]+='[\w.~%-]*')?\*/", comment, re.ASCII
    )
    value = comment.partition("method='")[2].partition("'")[0]
    assert unquote(value) == method[:LONGEST].encode("utf-8", "replace").decode()
    for sql in ("SELECT 1", "SELECT 1 ;", "SELECT 1 -- x", "SELECT 1 # x\n;\n"):
        tagged = appended(sql, comment)
        assert without_tags(tagged).rstrip("; \n") == sql.rstrip("; \n")


def test_where_it_stands() -> None:
    """It comes before a semicolon at the end, and after a comment of a line on its own line."""
    assert appended("SELECT 1", "/*c*/") == "SELECT 1 /*c*/"
    assert appended(" SELECT 1 ;\n", "/*c*/") == " SELECT 1 /*c*/;\n"
    assert appended("SELECT 1 -- x", "/*c*/") == "SELECT 1 -- x\n/*c*/"
    assert appended("SELECT 1 # x;", "/*c*/") == "SELECT 1 # x\n/*c*/;"


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "nonsense",
        TRACE.upper(),
        TRACE + "-00",
        f"{TRACE}\n",
        TRACE.replace("00-", "ff-"),
        f"00-{'0' * 32}-c532cb4098ac3dd2-01",
        f"00-5bd66ef5095369c7b0d1f8f4bd33716a-{'0' * 16}-01",
    ],
)
def test_invalid_header(header: str | None) -> None:
    """A traceparent that is none is left out."""
    assert valid_traceparent(header) is None
    assert valid_traceparent(TRACE) == TRACE


def test_current_span(monkeypatch: pytest.MonkeyPatch) -> None:
    """The span is asked of OpenTelemetry if the application has imported it, and never imported."""
    assert current_traceparent() is None
    trace = ModuleType("opentelemetry.trace")
    span = SimpleNamespace(
        is_valid=True,
        trace_id=0x5BD66EF5095369C7B0D1F8F4BD33716A,
        span_id=0xC532CB4098AC3DD2,
        trace_flags=1,
    )
    monkeypatch.setattr(
        trace,
        "get_current_span",
        lambda: SimpleNamespace(get_span_context=lambda: span),
        raising=False,
    )
    monkeypatch.setitem(sys.modules, "opentelemetry.trace", trace)
    assert current_traceparent() == TRACE
    span.is_valid = False
    assert current_traceparent() is None
    del span.is_valid  # another release of it
    assert current_traceparent() is None
