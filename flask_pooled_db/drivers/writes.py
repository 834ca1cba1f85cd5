"""Whether the text of a statement says that it writes.

It is for a warning, so that it errs towards silence: what begins with a word that no server writes
by is taken for reading, also a SELECT of a function that writes.
"""

from __future__ import annotations

import functools
import re

_LONGEST_KEPT, _KEPT_TEXTS = 4096, 1024


def _nested(depth: int) -> str:
    """Return what finds a comment of PostgreSQL's, with comments inside down to this depth."""
    within = rf"| {_nested(depth - 1)}" if depth else ""
    return rf"/\* (?: [^/*]++ | \*(?!/) | /(?!\*) {within} )*+ \*/"


# Elsewhere comments do not nest. But there, what is a comment for PostgreSQL alone is an error.
_COMMENT = rf"(?!/\*m?!) (?: {_nested(5)} | /\*.*?(?:\*/|\Z) )"
# What is left out of a text: comments, and what is quoted. What stands in an executable comment of
# MariaDB's is run. What has no end takes in the rest, so that each character is read once.
_NOT_WORDS, _NOT_WORDS_VERBATIM = (
    re.compile(
        rf"""
        (?P<comment> {_COMMENT} | --[^\n]* | \#(?![->])[^\n]* )
        | {quoted} | `[^`]*+` | (?<![\w$])\$(?P<tag>\w*)\$.*?\$(?P=tag)\$
        | (?P<no_end> (?: ['"`] | (?<![\w$])\$\w*\$ ).* )
        """,
        re.DOTALL | re.VERBOSE,
    )
    for quoted in (r"""'(?:[^'\\]|\\.)*+' | "(?:[^"\\]|\\.)*+" """, """'[^']*+' | "[^"]*+" """)
)
_NO_END = " x \0"
_EXECUTABLE = re.compile(r"/\*m?!\d*|\*/", re.IGNORECASE)

_WRITES = re.compile(
    r"""
    (?: insert | update | delete | replace | merge | upsert | truncate | call | exec | copy
      | load\ (?:data|xml) | import | rename | grant | revoke | comment | refresh | notify
      | do\ (?:language\ \w+\ )?x(?!\ ?\()  # PostgreSQL's, whose block is quoted
      | (?:create|alter|drop)\b (?!\ prepare\b|\ session\b)
        (?! (?:\ or\ replace)? (?:\ (?:local|global))? \ temp(?:orary)?\b )
    )\b
    | pragma\ (?:\w+\ ?\.\ ?)?(?:user_version|application_id|schema_version)\ ?[=(]
    | (?: explain\b (?> .*? \banaly[sz]e\b ) | analyze(?:\ format=\w+)? )
        \b .* \b(?:insert|update|delete|replace|merge)\b (?!\ ?\()
    | with\b .* (?<!for\ )(?<!key\ )\b(?:insert|update|delete|replace|merge)\b (?!\ ?\()
    | select\b [^;]* \binto\ (?! @ | outfile\b | dumpfile\b | (?:local\ |global\ )?temp )
    """,
    re.VERBOSE | re.DOTALL,
)
# What MariaDB runs of statements inside, and what tells there that they write. DDL commits there.
_BLOCK, _IMMEDIATE = re.compile(r"\bbegin not atomic\b"), re.compile(r"\bexecute immediate\b")
_WRITES_INSIDE = re.compile(r"(?<!for )\b(?:insert|update|delete|replace|call|load data)\b(?! ?\()")
# What most statements that write begin with: the rest of these may be long.
_CERTAINLY_WRITES = re.compile(r"[\s(;]*+(?:insert|update|delete|replace)\b", re.IGNORECASE)
# COPY whose direction can be seen to be out of the database.
_COPIES_OUT = re.compile(r"copy\b[^;]*?(?:\)|[\w.\]\" ]) ?to\b")


def may_write(text: object) -> bool:
    """Return whether one of the statements in a text writes."""
    if not isinstance(text, str):
        return False
    if _CERTAINLY_WRITES.match(text):
        return True
    if type(text) is str and len(text) <= _LONGEST_KEPT:
        return _kept(text)
    return _read(str.__str__(text))


def _read(text: str) -> bool:
    bare = _NOT_WORDS.sub(_bare, text)
    if bare.endswith(_NO_END):  # a backslash that escapes nothing, as it is on most servers
        bare = _NOT_WORDS_VERBATIM.sub(_bare, text)
    words = _words(bare)
    if _IMMEDIATE.search(words):
        return bool(_WRITES_INSIDE.search(_words(_NOT_WORDS.sub(_unquoted, text))))
    if block := _BLOCK.search(words):
        return bool(_WRITES_INSIDE.search(words, block.end()))
    return any(_writes(part.lstrip("(\ufeff ")) for part in words.split(";"))


def _words(bare: str) -> str:
    return " ".join(_EXECUTABLE.sub(" ", bare).lower().split())


def _bare(found: re.Match[str]) -> str:
    if found["comment"]:
        return " "
    return _NO_END if found["no_end"] else " x "


def _unquoted(found: re.Match[str]) -> str:
    return " " if found["comment"] else f" {found[0][1:-1]} "


def _writes(statement: str) -> bool:
    return bool(_WRITES.match(statement)) and not _COPIES_OUT.match(statement)


_kept = functools.lru_cache(_KEPT_TEXTS)(_read)
