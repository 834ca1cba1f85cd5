"""How a script is read: the statements of a text, as the client of its server would find them.

A text is read once, from its beginning to its end. What has no end (a quote, a comment) is part of
the last statement: the server will say what is wrong with it.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple


class Statement(NamedTuple):
    """A statement of a script."""

    text: str  # from its first word on
    line: int  # of its first word


class Dialect(NamedTuple):
    """What is to be known of a server's scripts."""

    split: Callable[[str], Iterator[Statement]]
    ddl_commits: bool = False  # what came before it, so that a script is many transactions


Span = tuple[int, int]
"""The beginning and the end of a part of a script."""


def statements_at(
    script: str, spans: Iterable[Span], skip_blank: Callable[[str, int], int]
) -> Iterator[Statement]:
    """Return the statements of the parts of a script that are more than white space and comments.

    `skip_blank` returns where these end that begin at a position.
    """
    line, counted, begin = 1, 0, 0
    for start, end in spans:
        if end <= begin:
            continue  # it is a part of what was skipped
        begin = skip_blank(script, max(begin, start))
        if begin < end:
            line, counted = line + script.count("\n", counted, begin), begin
            yield Statement(script[begin:end].rstrip(), line)


# -- MariaDB and MySQL, as their client `mysql` reads a script -------------------------------------

# Those that begin with an exclamation mark are code.
_COMMENT = r"\#[^\n]*+|--(?=[\x00-\x20]|\Z)[^\n]*+|/\*(?!M?!).*?\*/"
# Where no statement has begun, two dashes begin one whatever follows them.
_BLANK = re.compile(rf"(?:\s++|--[^\n]*+|{_COMMENT})*+", re.DOTALL)
_DELIMITER = re.compile(r"delimiter[ \t]+(\S+)[^\n]*", re.IGNORECASE)


@functools.lru_cache
def _up_to(delimiter: str, verbatim: str) -> re.Pattern[str]:
    quoted = [
        rf"{mark}[^{mark}]*+{mark}"
        if mark in verbatim
        else rf"{mark}[^{mark}\\]*+(?:\\.[^{mark}\\]*+)*+{mark}"
        for mark in "'\""
    ]
    skipped = "|".join((*quoted, "`[^`]*+`", _COMMENT))
    end, no_end = re.escape(delimiter), r"['\"`]|/\*(?!M?!)"
    return re.compile(rf"(?P<end>{end})|(?P<skipped>{skipped})|(?P<no_end>{no_end})", re.DOTALL)


def _skip_blank(script: str, position: int) -> int:
    found = _BLANK.match(script, position)
    return position if found is None else found.end()


def _find_end(pattern: re.Pattern[str], script: str, position: int) -> int:
    """Return where the delimiter of a pattern stands, or the end of the script."""
    while found := pattern.search(script, position):
        if found.lastgroup == "end":
            return found.start()
        if found.lastgroup == "no_end":
            break
        position = found.end()
    return len(script)


def _begins_line(script: str, start: int, begin: int) -> bool:
    """Return whether nothing but white space is before a position in its line. Blank text leads to
    it from `start`, which is the script's, or follows a statement.
    """
    _, is_new, before = script[start:begin].rpartition("\n")
    return not before.strip() and (bool(is_new) or not start)


def _spans(script: str, verbatim: Callable[[], str]) -> Iterator[Span]:
    delimiter, start = ";", 0
    while start < len(script):
        begin = _skip_blank(script, start)
        command = _begins_line(script, start, begin) and _DELIMITER.match(script, begin)
        if command:
            delimiter, start = command[1].strip("'\"") or delimiter, command.end()
            continue
        end = _find_end(_up_to(delimiter, verbatim()), script, begin)
        yield start, end
        start = end + len(delimiter)


_NO_BACKSLASH_ESCAPES, _ANSI_QUOTES = 0x0200, 0x8000  # https://mariadb.com/kb/en/ok_packet/


def verbatim_quotes(status: int) -> str:
    """Return the quotes in which a backslash is one, by the flags that the server sent last."""
    if status & _NO_BACKSLASH_ESCAPES:
        return "'\""
    return '"' if status & _ANSI_QUOTES else ""


def of_mariadb(script: str, verbatim: Callable[[], str] = str) -> Iterator[Statement]:
    """Return the statements of a script for MariaDB or MySQL.

    A line `DELIMITER //` has the statements after it end in something else than a semicolon, as
    those do that hold some themselves. What comes before it in its line makes it a statement, which
    the server refuses; the client would pass over the statement after it without a word.

    `verbatim` is asked before each statement for the quotes in which a backslash is one.
    """
    return statements_at(script, _spans(script, verbatim), _skip_blank)


# -- PostgreSQL, as `psql` reads a script, and servers that are not known --------------------------

_GAP = r"(?:\s++|--[^\n]*+|/\*.*?\*/)++"  # between words
_TOKEN = re.compile(
    rf"""
      (?P<end> ; )
    | (?P<skipped>
          --[^\n]*+
        | \b[eE]'[^'\\]*+(?:(?:\\.|''|'[^\S\n]*+\n\s*+')[^'\\]*+)*+'   # or on the next line
        | '[^']*+' | "[^"]*+"
        | \b[^\W\d]\w*+\$[\w$]*+ | \$\d++   # names and parameters, whose dollars quote nothing
        | \$(?P<tag>(?:[^\W\d]\w*+)?)\$.*?\$(?P=tag)\$ )
    | (?P<comment> /\* )
    | (?P<no_end> ['"] | \$(?:[^\W\d]\w*+)?\$ )
    | (?P<open> \( ) | (?P<close> \) )
    | (?P<body> \bbegin{_GAP}atomic\b ) | (?P<case> \bcase\b ) | (?P<done> \bend\b )
    """,
    re.DOTALL | re.IGNORECASE | re.VERBOSE,
)
# What each does to the number of open parentheses, and of open blocks in the body of a routine.
_NESTING: dict[str | None, Callable[[int, int], tuple[int, int]]] = {
    "open": lambda parentheses, blocks: (parentheses + 1, blocks),
    "close": lambda parentheses, blocks: (max(0, parentheses - 1), blocks),
    "body": lambda parentheses, blocks: (parentheses, blocks + 1),
    "case": lambda parentheses, blocks: (parentheses, blocks and blocks + 1),
    "done": lambda parentheses, blocks: (parentheses, max(0, blocks - 1)),
}
_ROUTINE = re.compile(
    rf"create{_GAP}(?:or{_GAP}replace{_GAP})?(?:function|procedure)\b", re.DOTALL | re.IGNORECASE
)
_EDGE_OF_COMMENT = re.compile(r"(/\*)|\*/")
_BLANK_WITHOUT_NESTING = re.compile(r"(?:\s++|--[^\n]*+)*+")


def _past_comment(script: str, position: int) -> int:
    """Return the end of a comment whose beginning ends here: comments nest."""
    depth = 1
    while depth and (found := _EDGE_OF_COMMENT.search(script, position)):
        depth += 1 if found[1] else -1
        position = found.end()
    return len(script) if depth else position


def _skip_nested_blank(script: str, position: int) -> int:
    while found := _BLANK_WITHOUT_NESTING.match(script, position):
        position = found.end()
        if not script.startswith("/*", position):
            break
        position = _past_comment(script, position + 2)
    return position


def _standard_spans(script: str) -> Iterator[Span]:
    start = position = parentheses = blocks = 0
    is_routine: bool | None = None  # not known yet
    while found := _TOKEN.search(script, position):
        kind, position = found.lastgroup, found.end()
        if kind == "no_end":
            break
        if kind == "comment":
            position = _past_comment(script, position)
        elif kind == "body" and is_routine is None:
            is_routine = bool(_ROUTINE.match(script, _skip_nested_blank(script, start)))
            blocks += is_routine
        elif kind in _NESTING and (kind != "body" or is_routine):
            parentheses, blocks = _NESTING[kind](parentheses, blocks)
        elif kind == "end" and not (parentheses or blocks):
            yield start, found.start()
            start, is_routine = position, None
    yield start, len(script)


def of_postgresql(script: str) -> Iterator[Statement]:
    """Return the statements of a script for PostgreSQL, or for a server that is not known."""
    return statements_at(script, _standard_spans(script), _skip_nested_blank)


MARIADB = Dialect(of_mariadb, ddl_commits=True)
STANDARD = Dialect(of_postgresql)
