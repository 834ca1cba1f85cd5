"""The placeholders of MariaDB's drivers, in statements for sqlite3."""

from __future__ import annotations

import functools
import re
import sqlite3

# What SQLite takes for one token, as far as it matters here: https://www.sqlite.org/lang_expr.html.
# A dollar sign within a name begins no parameter.
_TOKEN = re.compile(
    r"""
    (?P<text> '[^']*+'? | "[^"]*+"? | `[^`]*+`? | \[[^\]]*+\]?
      | --[^\n]*+ | /\*(?:.*?\*/|.*+) )
  | (?P<own> \? | [:@$](?=[\w$\x80-\U0010ffff]) )
  | (?P<named> %\((?P<name>\w++)\)s )
  | (?P<positional> %s )
  | (?P<operator> %% | %(?=\s) )
  | (?P<doubt> %(?:\(\w*+\)?)?\w? )
  | [\w\x80-\U0010ffff][\w$\x80-\U0010ffff]*+
    """,
    re.DOTALL | re.VERBOSE,
)
_MARIADBS = frozenset({"named", "positional"})
_IS_PART_OF_NAME = re.compile(r"[\w$\x80-\U0010ffff]")


@functools.lru_cache(maxsize=1024)
def to_sqlite(sql: str) -> str:
    """Return a statement that has parameters, with sqlite3's placeholders.

    One with `?` or `:name`, or without any `%s` and `%(name)s`, stays as it is. Those in literals,
    comments and quoted names are none. In any other statement `%%` means a percent sign, wherever
    it stands, as it does with PyMySQL.

    Raises `ProgrammingError` for a percent sign outside of literals that may be either.
    """
    kinds = {match.lastgroup for match in _TOKEN.finditer(sql)}
    if "own" in kinds or not kinds & _MARIADBS:
        return sql
    return _TOKEN.sub(_replacement, sql)


def _replacement(match: re.Match[str]) -> str:
    kind, token = match.lastgroup, match[0]
    if kind in ("text", "operator"):
        return token.replace("%%", "%")
    if kind == "doubt":
        raise sqlite3.ProgrammingError(
            f"{token!r} is not a placeholder: with parameters, %s and %(name)s are, "
            "and a percent sign is written %%"
        )
    if kind not in _MARIADBS:
        return token
    placeholder = f":{match['name']}" if kind == "named" else "?"
    is_followed = _IS_PART_OF_NAME.match(match.string, match.end())
    return f"{placeholder} " if is_followed else placeholder
