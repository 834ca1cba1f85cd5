"""The check of an argument of a public function: `UsageError` names the parameter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flask_pooled_db.config import checks
from flask_pooled_db.errors import UsageError


def check_seconds(name: str, value: Any) -> None:
    """Raise `UsageError` unless a value is a duration."""
    _check(checks.seconds, name, value)


def check_flag(name: str, value: Any) -> None:
    """Raise `UsageError` unless a value is a bool."""
    _check(checks.flag, name, value)


def check_rows(name: str, value: Any) -> None:
    """Raise `UsageError` unless a value is a shape of rows."""
    _check(checks.rows, name, value)


def check_count(name: str, value: Any, least: int = 0) -> None:
    """Raise `UsageError` unless a value is a whole number, `least` or more."""
    if not checks.is_count(value) or value < least:
        what = f"{name} must be a whole number, {least} or more"
        raise UsageError(f"{what}, not {checks.describe(value)}")


def _check(check: Callable[[Any], Any], name: str, value: Any) -> None:
    try:
        check(value)
    except checks.Invalid as invalid:
        raise UsageError(f"{name} {invalid}") from None
