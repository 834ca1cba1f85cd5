"""SQLite's `file:` URIs: https://www.sqlite.org/uri.html."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote, unquote

PARAMETERS = frozenset({"cache", "immutable", "mode", "modeof", "nolock", "psow", "vfs"})
"""What SQLite takes in the query of a URI, and sqlite3 does not take as an argument."""

_SCHEME = "file:"
# A name in memory belongs to no folder.
_IN_MEMORY = re.compile(r":memory:|.*[?&](?:mode=memory|vfs=memdb)(?:[&#]|\Z)", re.DOTALL)


def is_uri(name: str) -> bool:
    """Return whether a name is a URI, if URIs are allowed."""
    return name.startswith(_SCHEME)


def is_in_memory(uri: str) -> bool:
    """Return whether a URI names a database in memory: it ends with its last connection."""
    return _IN_MEMORY.match(uri.removeprefix(_SCHEME)) is not None


def with_parameters(uri: str, parameters: Mapping[str, str]) -> str:
    """Return a URI with these parameters behind its own."""
    if not parameters:
        return uri
    uri, _, _ = uri.partition("#")  # which SQLite ignores
    query = "&".join(f"{name}={quote(value)}" for name, value in parameters.items())
    return f"{uri}{'&' if '?' in uri else '?'}{query}"


def placed(uri: str, folder: str) -> tuple[str, Path | None]:
    """Return a URI whose file is in this folder if it was relative, and that file's own folder."""
    name = uri.removeprefix(_SCHEME)
    end = re.search(r"[?#]|\Z", name)
    path, rest = (name, "") if end is None else (name[: end.start()], name[end.start() :])
    if not path or path.startswith("/") or is_in_memory(uri):
        return uri, None
    file = Path(folder, unquote(path))
    return f"{_SCHEME}{quote(str(file))}{rest}", file.parent
