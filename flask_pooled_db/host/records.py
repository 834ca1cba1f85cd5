"""What the files hold: JSON, in a format that has a number. What is something else is ignored."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from flask_pooled_db.host.directory import LARGEST_FILE, Directory
from flask_pooled_db.runtime import Notices

FORMAT = 1

NUMBERS = ".json"
"""What the name of a process's numbers ends with; before that comes its token."""

Numbers = dict[str, Any]
Merge = Callable[[Numbers, Numbers], Numbers]
"""Returns a total with the counters of some numbers added to it. An empty one is where it begins.
What raises a usual error is no total, or no numbers."""

BAD_SHAPE = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError)
"""What comes of JSON that is something else than was expected."""

notices = Notices()

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Record:
    """What a process has published. Times are those of the host's monotonic clock."""

    pid: int
    started: float
    published: float
    numbers: Numbers


@dataclass(frozen=True, slots=True)
class Ended:
    """What the processes have left that ended: the totals of their counters, and the tokens of
    those that are in it whose files may still be about, with when they came in.
    """

    totals: Numbers = field(default_factory=dict)
    tokens: dict[str, float] = field(default_factory=dict)


def encode(**content: Any) -> bytes:
    """Return the bytes of a file."""
    return json.dumps({"format": FORMAT, **content}, separators=(",", ":")).encode()


def record_of(directory: Directory, token: str) -> Record | None:
    """Return what a process has published, or None if there is none, or it is not to be read."""
    return read(directory, f"{token}{NUMBERS}", _record)


def _record(content: Any) -> Record:
    return Record(
        pid=int(content["pid"]),
        started=time_of(content["started"]),
        published=time_of(content["published"]),
        numbers=numbers_of(content["numbers"]),
    )


def ended_in(directory: Directory, name: str) -> Ended:
    """Return what the processes have left that ended."""
    return read(directory, name, _ended) or Ended()


def _ended(content: Any) -> Ended:
    tokens = {str(token): time_of(when) for token, when in content["tokens"].items()}
    return Ended(numbers_of(content["totals"]), tokens)


def numbers_of(value: Any) -> Numbers:
    """Return a value that is to be a mapping. Raises `TypeError` if it is none."""
    if not isinstance(value, dict):
        raise TypeError("it holds no numbers")
    return cast("Numbers", value)


def time_of(value: Any) -> float:
    """Return a value that is to be a finite number. Raises `ValueError` if it is none."""
    if not math.isfinite(time := float(value)):
        raise ValueError("it holds a time that is none")
    return time


def read(
    directory: Directory, name: str, make: Callable[[Any], T], most: int = LARGEST_FILE
) -> T | None:
    """Return what `make` makes of the content of a file, which has up to `most` bytes. Returns None
    if there is no such file, or if it is not what was expected: that is logged once.
    """
    try:
        data = directory.read(name, most)
        if data is None:
            return None
        content = json.loads(data)
        if content["format"] != FORMAT:
            raise ValueError("its format is another one")
        return make(content)
    except BAD_SHAPE as error:
        complain(name, error)
        return None


def complain(name: str, error: Exception) -> None:
    """Log once that a file is ignored."""
    notices.warn(
        ("garbage", name),
        "The file %s in POOLED_DB_RUNTIME_DIR is ignored: it is damaged, or of another version of "
        "flask_pooled_db (%s)",
        name[:100],
        type(error).__name__,
    )
