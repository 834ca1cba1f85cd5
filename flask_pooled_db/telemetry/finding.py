"""A finding: something that is wrong with the pools of a host, in words; and the words for that."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from flask_pooled_db.config import DEFAULT_BIND
from flask_pooled_db.config import shown as shown_bind
from flask_pooled_db.host import HostStats
from flask_pooled_db.telemetry.past import WINDOW, Past

BAD, WARNING, NOTE = "bad", "warning", "note"
"""Requests fail or work is lost; they soon may; worth knowing."""

SEVERITIES = (BAD, WARNING, NOTE)


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong, or worth knowing."""

    kind: str
    severity: str
    title: str
    """A sentence that says what it is."""
    detail: str = ""
    remedy: str = ""
    """What to do."""
    bind: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return it in plain values."""
        return {
            "kind": self.kind,
            "severity": self.severity,
            "title": self.title,
            "detail": self.detail,
            "remedy": self.remedy,
        }


Rule = Callable[[HostStats, Past | None], Iterable[Finding]]
"""Finds what is wrong, from the numbers of now and of a while ago."""


def bind_name(bind: str) -> str:
    """Return what a sentence calls a database."""
    return "the default database" if bind == DEFAULT_BIND else f"database {shown_bind(bind)}"


def sentence_with(bind: str) -> str:
    """Return the beginning of a sentence about a database."""
    return beginning(bind_name(bind))


def beginning(text: str) -> str:
    """Return a text as the beginning of a sentence."""
    return text[:1].upper() + text[1:]


def counted(number: int, noun: str) -> str:
    """Return a number of things in words."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def lasting(seconds: float) -> str:
    """Return a time in words."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"


def lately(past: Past) -> str:
    """Return since when something has happened, in words."""
    if past.seconds >= WINDOW * 0.9:
        return "in the last minute"
    return f"in the last {math.ceil(max(past.seconds, 1))} s"
