"""Database URLs in SQLAlchemy's form: `dialect+driver://user:password@host:port/database?key=value`.

Several hosts are separated by commas: `host1:port1,host2:port2`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from typing import Any
from urllib.parse import parse_qsl, unquote

HIDDEN = "***"
"""What SQLAlchemy shows instead of a password. One that is just that is written %2A%2A%2A."""

FORM = "dialect+driver://user:password@host:port/database?key=value"

_URL = re.compile(
    r"""
    (?P<dialect>[a-z][a-z0-9]*) (?:\+(?P<driver>[a-z][a-z0-9_]*))? ://
    (?: (?P<user>[^:/?@]*) (?: : (?P<password>.*?) )? @ )?
    (?P<hosts>[^/?@]*)
    (?: / (?P<database>[^?]*) )?
    (?: \? (?P<query>.*) )?
    """,
    re.VERBOSE | re.DOTALL,
)

_HOST = re.compile(
    r"(?: \[ (?P<ipv6>[0-9A-Fa-f:.%]+) \] | (?P<name>[^\s:\[\],]*) ) (?: : (?P<port>[^:]*) )?",
    re.VERBOSE,
)


class URLError(ValueError):
    """A text is not a database URL. The message never contains any part of the text."""


@dataclass(frozen=True, slots=True)
class DatabaseURL:
    """A parsed URL, with percent-encoding undone. The repr shows neither password nor query.

    `hosts` holds every host with its port; either may be missing.
    """

    dialect: str
    driver: str | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    hosts: tuple[tuple[str | None, int | None], ...] = ()
    database: str | None = None
    query: dict[str, str] = field(default_factory=dict, repr=False)

    @property
    def host(self) -> str | None:
        """Return the first host."""
        return self.hosts[0][0] if self.hosts else None

    @property
    def port(self) -> int | None:
        """Return the port of the first host."""
        return self.hosts[0][1] if self.hosts else None

    @property
    def scheme(self) -> str:
        """Return `dialect` or `dialect+driver`, as the URL has it."""
        return f"{self.dialect}+{self.driver}" if self.driver else self.dialect


@dataclass(frozen=True, slots=True)
class AskedURL:
    """A URL that a function tells, at each connect. The repr does not show the function: one that
    was made by `functools.partial` shows its arguments.
    """

    function: Callable[[], Any] = field(repr=False)


def parse_url(text: str) -> DatabaseURL:
    """Return the parts of `text`. Raises `URLError` if it is not a database URL.

    Characters in a password need percent-encoding only if they make the URL ambiguous, as an `@`
    before a `/` or a `?` does.
    """
    match = _URL.fullmatch(text)
    if match is None:
        raise URLError(f"does not have the form {FORM}")
    part = match.groupdict()
    if part["password"] == HIDDEN:
        raise URLError(
            f"has {HIDDEN} in place of the password: str() of SQLAlchemy's URL hides it; give it "
            "the URL itself, or its render_as_string(hide_password=False)"
        )
    is_server = part["user"] is not None or part["hosts"]
    if is_server and "@" in f"{part['database']}{part['query']}":
        # It may be the rest of a password, which would then be shown as the database's name.
        raise URLError("has an '@' after the host: write each '@' in a password or a name as %40")
    return DatabaseURL(
        dialect=part["dialect"],
        driver=part["driver"],
        username=_decoded(part["user"]),
        password=_decoded(part["password"]),
        hosts=parse_hosts(part["hosts"]),
        database=_decoded(part["database"]),
        query=_query(part["query"]),
    )


def _decoded(text: str | None) -> str | None:
    return unquote(text) if text else None


def parse_hosts(text: str) -> tuple[tuple[str | None, int | None], ...]:
    """Return the hosts in a part of a URL, each with its port."""
    hosts = tuple(_host(part) for part in text.split(",")) if text else ()
    if len(hosts) > 1 and not all(name for name, _ in hosts):
        # A driver would take it for this machine.
        raise URLError("has a host without a name among several: name it, or remove its comma")
    return hosts


def _host(text: str) -> tuple[str | None, int | None]:
    match = _HOST.fullmatch(text)
    if match is None:
        raise URLError(f"does not have the form {FORM}")
    if match["ipv6"]:
        try:
            IPv6Address(match["ipv6"])
        except ValueError:
            raise URLError("has brackets around something that is no IPv6 address") from None
    return match["ipv6"] or match["name"] or None, parse_port(match["port"])


def parse_port(text: str | None) -> int | None:
    """Return a port, or None if it is left out."""
    if not text:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) <= 5 and 0 < int(text) < 65536):
        raise URLError("has a port that is not a number from 1 to 65535")
    return int(text)


def _query(text: str | None) -> dict[str, str]:
    pairs = parse_qsl(text or "", keep_blank_values=True)
    query = dict(pairs)
    if len(query) < len(pairs):
        raise URLError("names the same key twice after the '?'")
    return query
