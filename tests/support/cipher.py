"""Encrypted SQLite files, as another program opens them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlcipher3 import dbapi2 as sqlcipher3

KEY = f"x'{'2D' * 32}'"
"""A raw key: nothing is derived from it, which would take its time."""


def url_of(path: Path, key: str = KEY) -> str:
    """The URL of an encrypted file."""
    return f"sqlite+sqlcipher://:{quote(key, safe='')}@/{quote(str(path))}"


def connect(path: Path, key: str | bytes = KEY) -> Any:
    """A connection of sqlcipher3's own to a file."""
    connection = sqlcipher3.connect(str(path))
    connection.set_key(key)
    return connection


@contextmanager
def opened(path: Path, key: str | bytes = KEY) -> Iterator[Any]:
    """Such a connection, which is closed at the end."""
    connection = connect(path, key)
    try:
        yield connection
    finally:
        connection.close()
