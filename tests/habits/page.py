"""The differences between the halves of the apps, as docs/moving.md shows them."""

from __future__ import annotations

import difflib
import re

from harness.processes import PROJECT
from tests.habits.halves import APPS, HALVES, source

PAGE = PROJECT / "docs" / "moving.md"


def difference(app: str) -> str:
    """Return what the move changed in an app, as a unified diff."""
    before, after = (
        source(app, f"{half}.py").read_text(encoding="utf-8").splitlines(keepends=True)
        for half in HALVES
    )
    return "".join(difflib.unified_diff(before, after, f"{app}/before.py", f"{app}/after.py", n=1))


def renewed(text: str) -> str:
    """Return the page with the differences as they are now."""
    for app in APPS:
        shown = rf"(?<=^```diff\n)--- {app}/.*?(?=^```$)"
        pattern = re.compile(shown, re.DOTALL | re.MULTILINE)
        text, count = pattern.subn(lambda _, app=app: difference(app), text)  # type: ignore[misc]
        if count != 1:
            raise LookupError(f"docs/moving.md has {count} differences of {app}")
    return text
