"""The comment by which a statement tells its server who runs it, in the form of sqlcommenter.

https://open-telemetry.github.io/opentelemetry-sqlcommenter/specifications
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from urllib.parse import quote

LONGEST = 200
"""Characters of a value."""

_OPENTELEMETRY = "opentelemetry.trace"

# https://www.w3.org/TR/trace-context/#traceparent-header
_TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}", re.ASCII)


def comment_of(tags: Mapping[str, str | None]) -> str:
    """Return the comment with these tags, in the order of their names; "" if there is none."""
    pairs = sorted((_encoded(name), _encoded(value)) for name, value in tags.items() if value)
    text = ",".join(f"{name}='{value}'" for name, value in pairs)
    return text and f"/*{text}*/"


def _encoded(text: str) -> str:
    # The quotes, stars and slashes are encoded as well, so that nothing is left to escape.
    return quote(text[:LONGEST], safe="", errors="replace")


def valid_traceparent(header: str | None) -> str | None:
    """Return what the header of a request says of its trace, or None if that is not valid."""
    return header if header and _TRACEPARENT.fullmatch(header) else None


def has_spans() -> bool:
    """Return whether the application uses OpenTelemetry: then the current span may change."""
    return _OPENTELEMETRY in sys.modules


def current_traceparent() -> str | None:
    """Return the span that OpenTelemetry takes for the current one, if the application uses it."""
    trace = sys.modules.get(_OPENTELEMETRY)
    if trace is None:
        return None
    try:
        context = trace.get_current_span().get_span_context()
        if not context.is_valid:
            return None
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"
    except Exception:  # noqa: BLE001  a statement must not fail for it
        return None
