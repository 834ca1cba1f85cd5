"""What libpq, under psycopg, takes for its parameters, and what it says of a failed connect.

libpq keeps the SQLSTATE of a failed connect to itself. What is left are its words, which the server
writes in its own language (`lc_messages`).
"""

from __future__ import annotations

import contextlib
import re
from typing import Any

_NUMBERS = re.compile(r"-?\d+(,\d*)*", re.ASCII)  # several ports, one for each host
_WHOLE_NUMBERS = frozenset(
    {"port", "connect_timeout", "keepalives", "keepalives_idle", "keepalives_interval"}
    | {"keepalives_count", "tcp_user_timeout"}
)

# https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS
_CHOICES = {
    "sslmode": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "sslnegotiation": ("postgres", "direct"),
    "channel_binding": ("disable", "prefer", "require"),
    "gssencmode": ("disable", "prefer", "require"),
    "target_session_attrs": (
        *("any", "read-write", "read-only", "primary", "standby", "prefer-standby"),
    ),
    "load_balance_hosts": ("disable", "random"),
}

_ANSWER = re.compile(r"FATAL: +(.*)")
# What an external service decides (LDAP, RADIUS) may change while nobody touches the settings.
_REFUSAL = re.compile(
    r"""
    database\ ".*"\ does\ not\ exist | no\ such\ database:
    | role\ ".*"\ (does\ not\ exist | is\ not\ permitted\ to\ log\ in) | no\ such\ user:
    | (password | Peer | certificate)\ authentication\ failed
    | no\ pg_hba\.conf\ entry | pg_hba\.conf\ rejects
    | permission\ denied\ for\ database
    | unsupported\ startup\ parameter
    | unrecognized\ configuration\ parameter | invalid\ value\ for\ parameter
    """,
    re.VERBOSE,
)
_NEXT_SERVER = "\n- host: "


def objection(name: str, value: Any) -> str:
    """Return what libpq has against a parameter, or "" if nothing is known."""
    if value is None:
        return ""
    if name in _WHOLE_NUMBERS:
        return "" if _NUMBERS.fullmatch(str(value)) else "it is a whole number"
    choices = _CHOICES.get(name)
    return "" if choices is None or value in choices else f"it is one of {', '.join(choices)}"


def is_refusal(error: Any) -> bool:
    """Return whether a failed connect would fail again: each server asked has said so in English,
    or wants a password where there is none.

    psycopg lists the servers that it tried. One of them may have been asked with and without TLS,
    and at several addresses: what no server has answered does not count there.
    """
    first, *others = str(error).split(_NEXT_SERVER)
    with contextlib.suppress(Exception):  # one that was closed does not tell
        if error.pgconn.needs_password and not others:
            return True
    return all(map(_refuses, others or [first]))


def _refuses(text: str) -> bool:
    answers = _ANSWER.findall(text)
    return bool(answers) and all(map(_REFUSAL.match, answers))
