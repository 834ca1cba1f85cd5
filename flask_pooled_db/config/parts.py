"""A database URL in parts: a mapping with the field names of SQLAlchemy's `URL.create`.

Values are taken as they are, without percent-encoding; one that is None is left out. Names are
taken in any case of letters, as environment variables have them; of two that differ in nothing
else, the one that was set last.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from ipaddress import IPv6Address
from typing import Any

from flask_pooled_db.config.url import FORM, DatabaseURL, URLError, parse_hosts, parse_port

FROM_FILE = "password_file"
"""The field, and the connect argument, that names the file in which the password is."""

FIELDS = (
    *("drivername", "username", "password", "host", "port", "database", "query"),
    FROM_FILE,
)
"""The names of the parts: those of `URL.create`, and one more."""

_DRIVERNAME = re.compile(r"(?P<dialect>[a-z][a-z0-9]*)(?:\+(?P<driver>[a-z][a-z0-9_]*))?")
_WITH_MORE = re.compile(r"[@?]|//")
_OF_A_URL = (
    f"does not have the form {FORM}",
    "has a host that is none: it is a name or an address",
)
_PASSWORDS = ("password", "passwd")
_PORTS, _LARGEST = 65536, 1e15  # a larger number has no text, perhaps
_QUOTED = "put it in quotes, in an environment variable in both kinds"


def is_url_object(value: Any) -> bool:
    """Return whether a value is a URL as SQLAlchemy has it: a named tuple of these fields."""
    return isinstance(value, tuple) and set(FIELDS) >= {*getattr(value, "_fields", ("",))}


def url_from_parts(value: Any) -> DatabaseURL:
    """Return the URL that a mapping, or a URL of SQLAlchemy's, describes.

    Raises `URLError`, whose message shows no value, with all that is wrong.
    """
    if is_url_object(value):
        value = value._asdict()
    problems: list[str] = []
    fields = _fields(value, problems)
    drivername = _drivername(fields, problems)
    texts = {
        name: _text_of(name, fields, problems)
        for name in ("username", "password", "database", FROM_FILE)
    }
    hosts = _hosts(fields, problems)
    query = _query(fields.get("query", {}), problems)
    file = texts[FROM_FILE]
    if file and query.setdefault(FROM_FILE, file) != file:
        problems.append(f"names one {FROM_FILE} and another one in its query: keep one")
    if problems:
        raise URLError("; it ".join(problems))
    return DatabaseURL(
        dialect=drivername["dialect"] or "",
        driver=drivername["driver"],
        username=texts["username"],
        password=texts["password"],
        hosts=hosts,
        database=texts["database"],
        query=query,
    )


def _fields(value: Mapping[str, Any], problems: list[str]) -> dict[str, Any]:
    fields = {}
    for name, part in value.items():
        lowered = name.lower() if isinstance(name, str) else ""
        if lowered in FIELDS:
            fields[lowered] = part
            continue
        if not lowered.isidentifier():  # it may be a URL with a password
            problems.append(f"has a field that is not a name: the fields are {', '.join(FIELDS)}")
            continue
        closest = difflib.get_close_matches(lowered, FIELDS, 1)
        remedy = f"did you mean {closest[0]}?" if closest else f"they are {', '.join(FIELDS)}"
        problems.append(f"has no field {name!r}: {remedy}")
    return {name: part for name, part in fields.items() if part is not None}


def _drivername(fields: Mapping[str, Any], problems: list[str]) -> dict[str, str | None]:
    name = fields.get("drivername")
    match = _DRIVERNAME.fullmatch(name) if isinstance(name, str) else None
    if match:
        return match.groupdict()
    example = "what stands before '://' in a URL, such as 'mysql+pymysql'"
    if "drivername" in fields:
        problems.append(f"has a drivername that is none: it is {example}")
    elif not problems:
        problems.append(
            f"has no drivername: add it; it is {example}. (Beside a URL that is a text, further "
            "arguments such as the password belong in CONNECT_ARGS.)"
        )
    return {}


def _text_of(name: str, fields: Mapping[str, Any], problems: list[str]) -> str | None:
    """Return a field that is a text; an empty one counts as missing, as it does in a URL."""
    value = fields.get(name)
    if name == FROM_FILE and isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, str):
        return value or None
    if name in fields:
        problems.append(_no_text(name, value))
    return None


def _no_text(name: str, value: Any) -> str:
    """Return what to do about a value that Flask, say, has read as JSON: `1e5`, `true`."""
    example = f"""FLASK_POOLED_DB_URL__{name.upper()}='"..."'"""
    what = f"a value of type {type(value).__name__}"
    return f"has a {name} that is no text, but {what}: {_QUOTED} ({example}), or remove it"


def _hosts(
    fields: Mapping[str, Any], problems: list[str]
) -> tuple[tuple[str | None, int | None], ...]:
    """Return the hosts, each with its port: the one it names itself, or that of them all."""
    host, port = fields.get("host", ""), fields.get("port", "")
    if isinstance(host, list | tuple) and all(isinstance(one, str) for one in host):
        host = ",".join(host)
    if not isinstance(host, str):
        problems.append(_no_text("host", host))
        return ()
    if isinstance(port, int) and 0 < port < _PORTS and port is not True:
        port = str(port)
    try:
        number = parse_port(port if isinstance(port, str) else "none")
        hosts = _split(host or (":" if number else ""))
    except URLError as error:
        problems.append(str(error).replace(*_OF_A_URL))
        return ()
    return tuple((name, own or number) for name, own in hosts)


def _split(host: str) -> tuple[tuple[str | None, int | None], ...]:
    if _is_ipv6(host):
        return ((host, None),)
    if _WITH_MORE.search(host):  # it may be a whole URL, with a password
        raise URLError("has a host with more than its name: user and password have their own")
    return parse_hosts(host)


def _is_ipv6(host: str) -> bool:
    try:
        IPv6Address(host)
    except ValueError:
        return False
    return True


def _query(query: Any, problems: list[str]) -> dict[str, str]:
    """Return the connect arguments, as the query of a URL has them: all of them texts."""
    if not isinstance(query, Mapping) or not all(isinstance(name, str) for name in query):
        problems.append("has a query that is no mapping of connect arguments to texts")
        return {}
    texts = {name.lower(): _query_text(name.lower(), value) for name, value in query.items()}
    if None in texts.values():
        problems.append(f"has a value in its query that is no text: {_QUOTED}")
    return {name: text for name, text in texts.items() if text is not None}


def _query_text(name: str, value: Any) -> str | None:
    """Return a value in a query as a URL would have it, or None if it has none for it."""
    one = value[0] if isinstance(value, list | tuple) and len(value) == 1 else value
    is_number = isinstance(one, int | float) and abs(one) < _LARGEST
    if is_number and name not in _PASSWORDS:
        return str(one).lower()
    return one if isinstance(one, str) else None
