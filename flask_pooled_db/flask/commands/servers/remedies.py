"""What to do about a database that can't be reached, by what its driver says."""

from __future__ import annotations

import re

_NOBODY = "nothing answers at its address: start the server, or correct the URL"
_NO_HOST = "there is no host of that name: correct the URL"
_NO_ENTRY = "the server refuses the user or the password: correct the URL"
_NO_DATABASE = "there is no such database: create it, or correct the URL"
_NO_ROOM = (
    "the server has no connection left: see what uses them by `flask pooled-db server`, set "
    "MAXCONNECTIONS to less, or raise its max_connections"
)
_NO_TLS = "TLS was asked for, and there is none: switch it on at the server, or correct the URL"
_ACCOUNT_FULL = "the account has no connection left: raise its MAX_USER_CONNECTIONS"
_EXPIRED = "the password has expired: give the account a new one"
_SILENT = (
    "it takes connections and does not answer in time: look at its load, and for a firewall in "
    "between, or raise CONNECT_TIMEOUT"
)
_BROKEN = "the server, or something in between, ended the connection: its log says why"

# https://mariadb.com/kb/en/mariadb-error-code-reference/
_BY_NUMBER = {
    1040: _NO_ROOM,
    1044: "the account may not use this database: GRANT it, or correct the URL",
    1045: _NO_ENTRY,
    1049: _NO_DATABASE,
    1129: "the server has blocked this host for its failed connects: run FLUSH HOSTS there",
    1130: "the server lets no account in from this host: create one for it, or correct the URL",
    1203: _ACCOUNT_FULL,
    1226: _ACCOUNT_FULL,
    1698: _NO_ENTRY,
    1820: _EXPIRED,
    1862: _EXPIRED,
    2002: _NOBODY,
    2003: _NOBODY,
    2005: _NO_HOST,
    2006: _BROKEN,
    2013: _SILENT,
    2026: _NO_TLS,
}
"""By the error numbers of MariaDB's drivers."""

# libpq keeps the SQLSTATE of a failed connect to itself: what is left are its words, and the
# server's. What a server has answered says more than what came of its other addresses.
_BY_WORDS = {
    r"no password supplied": "it wants a password: give one in the URL, or a password_file",
    r"authentication failed|no such user": _NO_ENTRY,
    r"role \S+ does not exist": "there is no such role: create it, or correct the URL's user",
    r"not permitted to log in": "the role may not log in: ALTER ROLE ... LOGIN",
    r"no pg_hba\.conf entry|pg_hba\.conf rejects": (
        "the server lets nobody in as this user from this address, or not without TLS: add a line "
        "to its pg_hba.conf and reload it, or set sslmode to 'require'"
    ),
    r"database \S+ does not exist|no such database": _NO_DATABASE,
    r"permission denied for database": (
        "the role may not use this database: GRANT CONNECT ON DATABASE, or correct the URL"
    ),
    r"too many connections for role": (
        "the role has no connection left: raise its CONNECTION LIMIT by ALTER ROLE"
    ),
    r"too many connections for database": (
        "the database has no connection left: raise its CONNECTION LIMIT by ALTER DATABASE"
    ),
    r"too many clients|connection slots are reserved|no more connections allowed": _NO_ROOM,
    r"unrecognized configuration parameter|invalid value for parameter|startup parameter": (
        "the server does not take what 'options' asks for: correct it"
    ),
    r"system is (starting up|shutting down|in recovery|not yet accepting)": (
        "the server is about to start, or to stop: check again when it runs"
    ),
    r"does not support SSL": _NO_TLS,
    r"certificate": (
        "the server's certificate is not what was asked for: set sslrootcert to its authority's, "
        "and the URL's host to the name in it"
    ),
    r"resolve host|translate host name|[Nn]ame or service not known": _NO_HOST,
    r"closed the connection unexpectedly": _BROKEN,
    r"[Cc]onnection refused|on socket .* failed|[Nn]o route to host|unreachable": _NOBODY,
    r"timeout|timed out|did not answer": _SILENT,
    r"unable to open database file": (
        "there is no such folder, or this user may not read and write the file: make the folder, "
        "change its owner, or correct the URL"
    ),
}

_OTHERWISE = (
    "correct the URL, or what CONNECT_ARGS and SETSESSION say; the server's log may say why"
)


def remedy(error: str) -> str:
    """Return what to do about an error of a connect, as it is told."""
    number = re.match(r"\w+ (\d{4})\b", error)  # its own: a port may be the same
    if number and int(number[1]) in _BY_NUMBER:
        return _BY_NUMBER[int(number[1])]
    found = (told for words, told in _BY_WORDS.items() if re.search(words, error))
    return next(found, _OTHERWISE)
