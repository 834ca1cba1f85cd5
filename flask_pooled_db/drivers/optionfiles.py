"""What an option file of MariaDB's says of TLS: https://mariadb.com/kb/en/option-files/."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

USUAL_FILES = ("/etc/my.cnf", "/etc/mysql/my.cnf", "~/.my.cnf")
"""The files that are read where a group is named and no file."""

_ASK_FOR_TLS = ("ssl", "tls")  # what the names of such options begin with
_OFF = frozenset({"0", "off", "false", "no", "disabled"})
_DEEPEST = 10  # includes in includes


def ask_for_tls(files: Collection[str], groups: Collection[str]) -> bool:
    """Return whether one of these groups, in one of these files, has an option that asks for TLS. A
    file that can't be read says nothing: the drivers pass over it too.
    """
    return any(
        name.startswith(_ASK_FOR_TLS) and value.lower() not in _OFF
        for file in files
        for group, name, value in _options(Path(file).expanduser())
        if group in groups
    )


def _options(path: Path, depth: int = 0) -> Iterator[tuple[str, str, str]]:
    """Yield each option of a file with its group and its value; an empty one if it has none."""
    group = ""
    for line in _lines(path):
        if line.startswith("["):
            group = line[1:].partition("]")[0].strip()
        elif line.startswith("!include") and depth < _DEEPEST:
            word, _, name = line.partition(" ")
            included = Path(name.strip())
            parts = sorted(included.glob("*.cnf")) if word == "!includedir" else [included]
            for part in parts:
                yield from _options(part, depth + 1)
        elif line and line[0] not in "#;!":
            name, has_value, value = (part.strip() for part in line.partition("="))
            name = name.replace("-", "_").removeprefix("loose_")
            yield group, name, value.strip("\"'") if has_value else "1"


def _lines(path: Path) -> list[str]:
    try:
        return [line.strip() for line in path.read_text(errors="replace").splitlines()]
    except OSError:
        return []


def groups_of(named: Any, usual: Collection[str]) -> set[str]:
    """Return the groups that are read: the one that is named, and the usual ones."""
    return {*usual, *([str(named)] if named else [])}
