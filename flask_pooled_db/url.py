"""Database URLs, in SQLAlchemy's form: `dialect+driver://user:password@host:port/database?key=value`.

Several hosts are separated by commas: `host1:port1,host2:port2`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote

_FORM = "dialect+driver://user:password@host:port/database?key=value"

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
    r"(?: \[ (?P<ipv6>[0-9A-Fa-f:.%]+) \] | (?P<name>[^:\[\],]*) ) (?: : (?P<port>[^:]*) )?",
    re.VERBOSE,
)


class URLError(ValueError):
    """A text that is no database URL. The message never holds a part of the text."""


@dataclass(frozen=True, slots=True)
class DatabaseURL:
    """A parsed URL, percent-encoding undone. Its repr shows neither password nor query.

    `hosts` are all the hosts it names, each with its port or None; a host may be empty.
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
        """The first host."""
        return self.hosts[0][0] if self.hosts else None

    @property
    def port(self) -> int | None:
        """The port of the first host."""
        return self.hosts[0][1] if self.hosts else None

    @property
    def scheme(self) -> str:
        """`dialect` or `dialect+driver`, as it was written."""
        return f"{self.dialect}+{self.driver}" if self.driver else self.dialect


def parse_url(text: str) -> DatabaseURL:
    """The parts of `text`; `URLError` where it has not the form of a database URL.

    A password may hold any character as it is, as long as the whole can be read in one way: with
    an `@` before a `/` or a `?` it can't. Percent-encoded it always works.
    """
    match = _URL.fullmatch(text)
    if match is None:
        raise URLError(f"does not have the form {_FORM}")
    part = match.groupdict()
    is_server = part["user"] is not None or part["hosts"]
    if is_server and "@" in f"{part['database']}{part['query']}":
        # It may be the rest of a password, which must not be taken for what is shown.
        raise URLError("has an '@' behind its host: write each '@' of its parts as %40")
    return DatabaseURL(
        dialect=part["dialect"],
        driver=part["driver"],
        username=_decoded(part["user"]),
        password=_decoded(part["password"]),
        hosts=tuple(_host(text) for text in part["hosts"].split(",")) if part["hosts"] else (),
        database=_decoded(part["database"]),
        query=_query(part["query"]),
    )


def _decoded(text: str | None) -> str | None:
    return unquote(text) if text else None


def _host(text: str) -> tuple[str | None, int | None]:
    match = _HOST.fullmatch(text)
    if match is None:
        raise URLError(f"does not have the form {_FORM}")
    return match["ipv6"] or match["name"] or None, _port(match["port"])


def _port(text: str | None) -> int | None:
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
