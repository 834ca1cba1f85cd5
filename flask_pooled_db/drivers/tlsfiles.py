"""The files that PyMySQL's TLS arguments name, and what is said of one that can't be used."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from flask_pooled_db.errors import ConfigError

_FILES = ("ca", "cert", "key")
_PATH = (str, bytes, os.PathLike)


def explained(build: Callable[[], Any], arguments: Mapping[str, Any]) -> Any:
    """Return the TLS context that `build` makes of these arguments.

    Raises `ConfigError` if it can't: OpenSSL's own error names no file.
    """
    try:
        return build()
    except OSError as error:
        files = {name: arguments[name] for name in _FILES if isinstance(arguments.get(name), _PATH)}
        unreadable = [_told(name, path, why) for name, path in files.items() if (why := _why(path))]
        words = error.strerror or str(error)
        problems = unreadable or [_told(name, path, words) for name, path in files.items()]
        raise ConfigError(problems or [f"the TLS arguments can't be used: {words}"]) from error


def _told(name: str, path: Any, why: str) -> str:
    file = repr(os.fsdecode(path))
    return f"the file {file} of the connect argument 'ssl_{name}' can't be used: {why}"


def _why(path: Any) -> str:
    """Return why a file can't be read, or "" if it can."""
    try:
        with Path(os.fsdecode(path)).open("rb"):
            return ""
    except (OSError, ValueError) as error:
        return getattr(error, "strerror", None) or str(error)
