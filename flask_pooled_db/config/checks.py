"""The check of a single configuration value: its type, its range, its form.

Each check returns the value in the form the package uses, or raises `Invalid`.
"""

from __future__ import annotations

import inspect
import os
import re
from collections import namedtuple
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from flask_pooled_db.config.fields import DEFAULT_BIND
from flask_pooled_db.config.parts import is_url_object, url_from_parts
from flask_pooled_db.config.url import AskedURL, DatabaseURL, URLError, parse_url

_LONGEST_NAME = 100  # characters of a name that a message shows

_PLAIN_NAME = re.compile(r"[\w.-]{1,64}")
_AUTOCOMMIT = re.compile(r"\bautocommit\b", re.IGNORECASE)

_SHAPES = {"tuple": "tuple", "dict": "dict", "namedtuple": "namedtuple"}
_MEANT_AS_WORDS = (tuple, list, dict, namedtuple)  # noqa: PYI024

_MAX_SECONDS = 3.2e9  # 100 years, well below what a lock's timeout accepts


class Invalid(ValueError):
    """A value can't be used. The message is the rest of a sentence that starts with the key.

    The message shows numbers, and only the type of anything else: a password can end up under any
    key by mistake.
    """


def describe(value: Any) -> str:
    """Return text about a value that is safe to show."""
    if isinstance(value, int | float):
        return str(value) if abs(value) < 1e15 else "a number as large as that"
    return f"a value of type {type(value).__name__}"


def is_plain_name(text: str) -> bool:
    """Return whether a text is safe to show as a name: no URL and no DSN, which hold passwords."""
    return _PLAIN_NAME.fullmatch(text) is not None


def shown(name: str) -> str:
    """Return the name of a bind as messages have it. It may come from outside: it is cut, and what
    could be taken for something else is escaped.
    """
    return repr(name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}...")


def looks_like_url(text: str) -> bool:
    """Return whether a text may be a URL or a DSN, or a part of one, which holds a password."""
    return "://" in text or "@" in text or "=" in text


def is_count(value: Any) -> bool:
    """Return whether a value is a whole number, 0 or more."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


def count(value: Any) -> int:
    """Check a whole number, 0 or more."""
    if not is_count(value):
        raise Invalid(f"must be a whole number, 0 or more, not {describe(value)}")
    return int(value)


def seconds(value: Any) -> float:
    """Check a duration: a number of seconds, 0 or more."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (is_number and 0 <= value <= _MAX_SECONDS):
        raise Invalid(f"must be a number of seconds, 0 or more, not {describe(value)}")
    return float(value)


def positive_seconds(value: Any) -> float:
    """Check a duration that can't be switched off."""
    duration = seconds(value)
    if not duration:
        raise Invalid("must be more than 0 seconds: without it a hung server would hold a place")
    return duration


def flag(value: Any) -> bool:
    """Check a bool."""
    if not isinstance(value, bool):
        raise Invalid(f"must be True or False, not {describe(value)}")
    return value


def one_of(*words: str) -> Callable[[Any], str]:
    """Return a check that accepts these words only."""

    def check(value: Any) -> str:
        if not isinstance(value, str) or value not in words:
            raise Invalid(f"must be {' or '.join(map(repr, words))}, not {describe(value)}")
        return value

    return check


def rows(value: Any) -> Any:
    """Check the shape of rows: a word, or a function that makes a row."""
    if isinstance(value, str) and value in _SHAPES:
        return _SHAPES[value]
    if not (callable(value) and _makes_rows(value)):
        raise Invalid(
            "must be 'tuple', 'dict' or 'namedtuple', or a function that makes a row of the "
            f"cursor's description and the driver's row, not {describe(value)}"
        )
    return value


def _makes_rows(function: Any) -> bool:
    """Return whether a function may take a description and a row, as far as it tells."""
    if any(function is kind for kind in _MEANT_AS_WORDS):
        return False
    try:
        inspect.signature(function).bind(None, None)
    except TypeError:
        return False
    except ValueError:  # it does not tell
        return True
    return True


def statements(value: Any) -> tuple[str, ...]:
    """Check a list of SQL statements, none of which changes autocommit."""
    if isinstance(value, str | bytes) or not isinstance(value, Sequence):
        raise Invalid(f"must be a list of SQL statements, not {describe(value)}")
    if not all(isinstance(statement, str) and statement.strip() for statement in value):
        raise Invalid("must hold SQL statements alone, each a non-empty string")
    if any(_AUTOCOMMIT.search(statement) for statement in value):
        raise Invalid(
            "must leave autocommit alone: scopes commit; use readonly=True to read without a "
            "transaction"
        )
    return tuple(value)


def ping(value: Any) -> Any:
    """Check a value in one of the forms of DBUtils' `ping`."""
    flags, probe = value if isinstance(value, tuple) and len(value) == 2 else (value, None)
    if probe is None and (isinstance(flags, str) or callable(flags)):
        flags, probe = 1, flags
    flags_fit = isinstance(flags, int) and not isinstance(flags, bool) and 0 <= flags <= 7
    probe_fits = probe is None or callable(probe) or (isinstance(probe, str) and probe.strip())
    if not (flags_fit and probe_fits):
        raise Invalid(
            "must be a number from 0 to 7, an SQL statement, a callable, "
            f"or a pair of a number and one of these, not {describe(value)}"
        )
    return value


def bind_name(value: Any) -> str:
    """Check the name of a bind."""
    if not isinstance(value, str) or not value:
        raise Invalid(f"must be the name of a bind, not {describe(value)}")
    if looks_like_url(value):
        raise Invalid("must be the name of a bind, and is a URL")
    return value


def schema(value: Any) -> str:
    """Check the name of a schema. Which ones there can be, its server says."""
    if not isinstance(value, str) or not value:
        raise Invalid(f"must be the name of a schema, not {describe(value)}")
    if "\0" in value or not value.isprintable():
        raise Invalid("must be the name of a schema, and has a character that can't be printed")
    return value


def url(value: Any) -> DatabaseURL | AskedURL:
    """Check a database URL, as a text or in parts, and parse it; or a function that tells it."""
    if not is_function(value):
        return plain_url(value)
    if inspect.iscoroutinefunction(value):
        raise Invalid(
            "is a coroutine function: it is called in a thread, and has to be a plain one"
        )
    try:
        inspect.signature(value).bind()
    except TypeError:
        raise Invalid("is a function that needs arguments: it is called without any") from None
    except ValueError:  # it does not tell
        pass
    return AskedURL(value)


def is_function(value: Any) -> bool:
    """Return whether a value is a function that tells a URL, and not a URL itself."""
    return callable(value) and not isinstance(value, str | Mapping)  # a proxy can be called


def plain_url(value: Any) -> DatabaseURL:
    """Check a database URL, as a text or in parts, and parse it."""
    if value is None:
        raise Invalid("is None: give it a database URL, or remove the key")
    is_in_parts = isinstance(value, Mapping) or is_url_object(value)
    if not isinstance(value, str) and not is_in_parts:
        raise Invalid(f"must be a database URL or a mapping of its parts, not {describe(value)}")
    try:
        return url_from_parts(value) if is_in_parts else parse_url(value)
    except URLError as error:
        raise Invalid(str(error)) from None


def creator(value: Any) -> Any:
    """Check a DB-API 2 module, or a callable that connects."""
    if not callable(value) and not callable(getattr(value, "connect", None)):
        raise Invalid(f"must be a DB-API 2 module or a callable, not {describe(value)}")
    return value


def runtime_dir(value: Any) -> str | None:
    """Check the directory in which processes meet: an absolute path, or False, which becomes ""."""
    if value is False:
        return ""
    if not isinstance(value, str | os.PathLike):
        raise Invalid(f"must be the path of a directory, or False, not {describe(value)}")
    path = os.fspath(value)
    if path == "":  # as an environment has it that sets nothing
        return None
    if not isinstance(path, str) or "\0" in path or not PurePath(path).is_absolute():
        raise Invalid("must be an absolute path: all processes of the app have to find it")
    return path


def otel(value: Any) -> str | None:
    """Check what OpenTelemetry is told: "metrics" or "all"; "", as an environment has it that sets
    nothing, becomes None.
    """
    return (one_of("metrics", "all")(value) or None) if value != "" else None


def connect_args(value: Any) -> dict[str, Any]:
    """Check a mapping of argument names to values."""
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise Invalid(f"must be a mapping of argument names to values, not {describe(value)}")
    return dict(value)


def binds(value: Any) -> dict[str, Any]:
    """Check a mapping of bind names to URLs or to mappings of keys."""
    if not isinstance(value, Mapping) or not all(isinstance(name, str) and name for name in value):
        raise Invalid(f"must be a mapping of bind names to URLs or mappings, not {describe(value)}")
    if any(map(looks_like_url, value)):
        raise Invalid("has a URL where the name of a bind is expected: the name comes first")
    if DEFAULT_BIND in value:
        raise Invalid(f"must not name {DEFAULT_BIND!r}: the top-level keys describe that bind")
    for name, settings in value.items():
        try:
            bind_settings(settings)
        except Invalid as invalid:
            raise Invalid(f"[{name!r}] {invalid}") from None
    return dict(value)


def bind_settings(value: Any) -> Any:
    """Check that the settings of a bind are a URL or a mapping of keys."""
    is_mapping = isinstance(value, Mapping) and all(isinstance(key, str) for key in value)
    is_url = isinstance(value, str) or is_url_object(value) or is_function(value)
    if not (is_url or is_mapping):
        raise Invalid(f"must be a URL or a mapping of keys, not {describe(value)}")
    return value
