"""Renews the differences in docs/moving.md."""

from __future__ import annotations

from tests.habits.page import PAGE, renewed

PAGE.write_text(renewed(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
