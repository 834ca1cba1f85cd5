"""What the text of a statement may do to the transaction and the session it runs in.

A false alarm costs a round trip, a miss costs data: what is not certain counts as happening. The
verdict is about the text alone. It can't see what a stored function, a trigger or a view does
inside, and it takes each placeholder for one literal, as drivers make of it.

Values that a session keeps after any plain statement (`LAST_INSERT_ID()`, `FOUND_ROWS()`, warnings,
`currval`) count as no change.
"""

from __future__ import annotations

import enum
import functools
import re
from collections.abc import Callable
from typing import NamedTuple


class Effect(enum.Flag):
    """What a statement may do. Ask `is Effect.NONE` first: on a flag, all else is slow."""

    NONE = 0
    COMMITS = enum.auto()
    """Ends an open transaction by committing it, even if the statement itself fails."""
    UNDOES = enum.auto()
    """Rolls an open transaction back, all of it."""
    BEGINS = enum.auto()
    """Leaves a transaction open."""
    CHANGES_SESSION = enum.auto()
    """Leaves something in the session that the next user of it would find, or miss."""
    LOCKS = enum.auto()
    """Leaves locks that outlive the transaction."""
    DISTRIBUTES = enum.auto()
    """Begins, or goes on with, a distributed transaction."""
    LISTENS = enum.auto()
    """Has the server send the session what others notify."""
    UNKNOWN = enum.auto()
    """May do any of these. A flag that stands beside it is of a part that could be read."""


# A longer text is read each time: what is kept is to stay small.
_LONGEST_KEPT, _KEPT_TEXTS = 4096, 1024


def _kept(read: Callable[[str], Effect]) -> Callable[[object], Effect]:
    """Let a function read each short text once, and know nothing of what is no text."""
    keep = functools.lru_cache(_KEPT_TEXTS)(read)

    @functools.wraps(read)
    def of(text: object) -> Effect:
        if type(text) is str and len(text) <= _LONGEST_KEPT:
            return keep(text)
        return read(str.__str__(text)) if isinstance(text, str) else Effect.UNKNOWN

    return of


def of_unknown(text: object) -> Effect:
    """Return what a statement may do on a server that is not known.

    Where MariaDB and PostgreSQL differ, only the end of the transaction can show what it did.
    """
    one, other = of_mariadb(text), of_postgresql(text)
    return one if one is other else (one | other) & ~Effect.BEGINS


class _Dialect(NamedTuple):
    """How to read a text, and what to look for in it."""

    readings: tuple[re.Pattern[str], ...]
    """Find comments and what is quoted. All but the first differ in the role of backslashes."""
    begins_with: tuple[tuple[re.Pattern[str], Effect], ...]
    """What the beginning of a statement says: the first that matches."""
    contains: tuple[tuple[re.Pattern[str], Effect], ...]
    """What is added by words anywhere in the text."""


def _effect(dialect: _Dialect, text: str) -> Effect:
    if _DOUBT in text:  # some servers take this character for the end of what is quoted
        return Effect.UNKNOWN
    first, *others = dialect.readings
    effect = _effect_as_read(dialect, first.sub(_bare, text))
    for reading in others if "\\" in text else ():
        bare = reading.sub(_bare, text)
        # Read so, it is an error of syntax: nothing of it runs, unless something ended before.
        if not bare.endswith(_NO_END) or bare.count(_DOUBT) > 1 or ";" in bare:
            effect |= _effect_as_read(dialect, bare)
    return effect


def _bare(found: re.Match[str]) -> str:
    """Return what to read in place of a comment, of something quoted, or of what nobody can read.

    A quoted word stays, in quotes: it may be the name of a function or of a variable.
    """
    if found.lastgroup == "quoted":
        word = found[0][1:-1]
        return f" '{word}' " if _WORD.fullmatch(word) else " '' "
    return _IN_PLACE_OF[found.lastgroup or "doubt"]


def _effect_as_read(dialect: _Dialect, bare: str) -> Effect:
    """Return the effect of a text without comments, and with little of what is quoted in it."""
    if _DOUBT in bare:
        return Effect.UNKNOWN
    text = " ".join(bare.lower().split())
    first, _, others = text.partition(";")
    # What MariaDB sets for one statement alone, it sets back itself.
    first = _SET_STATEMENT.sub("", first.strip("( "))
    effect = next(
        (says for pattern, says in dialect.begins_with if pattern.match(first)), Effect.UNKNOWN
    )
    for pattern, adds in dialect.contains:
        if pattern.search(text):
            effect |= adds
    return effect | Effect.UNKNOWN if others.strip("; ") else effect


def _beginnings(*rules: tuple[str, Effect]) -> tuple[tuple[re.Pattern[str], Effect], ...]:
    return tuple((re.compile(rf"(?:{words})(?![\w$])"), effect) for words, effect in rules)


def _anywhere(*rules: tuple[str, Effect]) -> tuple[tuple[re.Pattern[str], Effect], ...]:
    return tuple((re.compile(words), effect) for words, effect in rules)


def _reading(begin: str, *, comment: str, quoted: str, doubt: str) -> re.Pattern[str]:
    """Return what finds the parts of a text not to be read as they stand.

    Each begins with one of the characters `begin`, which is for speed alone. What nobody can read,
    and what has no end, takes in the rest of the text, so that each character is read once.
    """
    no_end = rf"(?P<doubt>(?:{doubt}).*)|(?P<no_end>['\"`].*)"
    groups = rf"(?P<comment>{comment})|(?P<quoted>{quoted})|{no_end}"
    return re.compile(f"(?=[{begin}])(?:{groups})", re.DOTALL | re.IGNORECASE)


_DOUBT = "\0"  # no text that is read has one of its own
_NO_END = _DOUBT + "'"
_IN_PLACE_OF = {"comment": " ", "doubt": _DOUBT, "no_end": _NO_END}
_WORD = re.compile(r"\w+")
_SET_STATEMENT = re.compile(r"\Aset statement [^()]*? for ")

_VERBATIM, _VERBATIM_DOUBLE = r"'[^']*+'", r'"[^"]*+"'
_ESCAPED, _ESCAPED_DOUBLE = r"'(?:[^'\\]|\\.)*+'", r'"(?:[^"\\]|\\.)*+"'


# -- MariaDB and MySQL -----------------------------------------------------------------------------


def _mariadb_reading(single: str, double: str) -> re.Pattern[str]:
    return _reading(
        r"/#\-'\"`\[$",
        # The server runs what stands in a comment that begins with an exclamation mark.
        comment=r"/\*(?!m?!).*?\*/|(?:#|--(?=[\x01-\x20\x7f]|\Z))[^\n]*",
        quoted=rf"{single}|{double}|`[^`]*+`",
        # A dollar may quote a routine (MySQL), a bracket a name (sql_mode MSSQL), and the character
        # set decides whether a letter after two dashes is white space, which begins a comment.
        doubt=r"/\*|\[|--(?=[^\x00-\x7f])|\$\w*\$",
    )


_MARIADB = _Dialect(
    readings=(
        _mariadb_reading(_ESCAPED, _ESCAPED_DOUBLE),
        _mariadb_reading(_ESCAPED, _VERBATIM_DOUBLE),  # sql_mode ANSI_QUOTES
        _mariadb_reading(_VERBATIM, _VERBATIM_DOUBLE),  # sql_mode NO_BACKSLASH_ESCAPES
    ),
    begins_with=_beginnings(
        ("select|insert|update|delete|replace|with|values|table|do|show|explain|desc", Effect.NONE),
        ("describe|help|kill|signal|resignal|checksum|savepoint|release savepoint", Effect.NONE),
        ("load (?:data|xml)|get (?:current |stacked )?diagnostics|xa recover", Effect.NONE),
        ("analyze (?:format|select|insert|update|delete|replace|with|values)", Effect.NONE),
        ("xa", Effect.DISTRIBUTES | Effect.UNKNOWN),
        ("rollback (?:work )?to", Effect.NONE),
        ("rollback (?:work )?and chain", Effect.UNDOES | Effect.BEGINS),
        ("rollback", Effect.UNDOES),
        ("commit (?:work )?and chain", Effect.COMMITS | Effect.BEGINS),
        ("commit", Effect.COMMITS),
        (r"begin(?: work)?\Z|start transaction", Effect.COMMITS | Effect.BEGINS),
        ("set statement", Effect.UNKNOWN),
        ("set (?:password|default role)", Effect.COMMITS),
        (r"set (?:global |@@global ?\. ?)[^,]*\Z", Effect.NONE),
        (r"set (?:session |local |@@)?autocommit ?= ?(?:0|off)\Z", Effect.CHANGES_SESSION),
        (r"set .*\bautocommit", Effect.COMMITS | Effect.CHANGES_SESSION),
        ("set|use|prepare|deallocate|drop prepare", Effect.CHANGES_SESSION),
        ("create (?:or replace )?temporary table|drop temporary", Effect.CHANGES_SESSION),
        ("create (?:or replace )?temporary", Effect.COMMITS | Effect.CHANGES_SESSION),
        ("(?:drop|alter) (?:database|schema)", Effect.COMMITS | Effect.CHANGES_SESSION),
        ("lock tables?", Effect.COMMITS | Effect.BEGINS | Effect.LOCKS),
        ("backup|flush .*(?:lock|export)", Effect.COMMITS | Effect.LOCKS),
        (r"lock instance|handler .*\bopen", Effect.LOCKS),
        ("handler", Effect.NONE),
        ("create|alter|drop|rename|truncate|grant|revoke|flush|analyze|check", Effect.COMMITS),
        ("optimize|repair|cache index|load index|import table|unlock", Effect.COMMITS),
        ("install|uninstall|reset|change|start|stop|purge|clone|shutdown", Effect.COMMITS),
    ),
    contains=_anywhere(
        (r":=|\binto ?@|\A(?:load|get) .*@", Effect.CHANGES_SESSION),
        (r"; ?xa (?!recover)", Effect.DISTRIBUTES),
        (r"\bget_lock\b|\bservice_get_|\bversion_tokens_lock", Effect.LOCKS),
    ),
)

# What most statements are: nothing to see outside of quotes, and no backslash inside.
_PLAIN_IN_MARIADB = re.compile(
    r"""
    [\s(]*+
    (?i:select|insert|update|delete|replace|with|values|show|describe|explain|savepoint)\b
    (?:
        [^'"`\\@;:\#$/\-\[\0]++
        | '[^'\\\0]*+' | "[^"\\\0]*+" | `[^`\0]*+`
        | /(?!\*) | -(?!-)
    )*+
    (?:;\s*+)?\Z
    """,
    re.VERBOSE,
)


@_kept
def of_mariadb(text: str) -> Effect:
    """Return what a statement may do on MariaDB or MySQL.

    Where the two differ, the verdict holds for both. `completion_type` is taken to be the default
    one: a session in which it was changed has been changed. A statement that succeeded with
    `COMMITS` and without `BEGINS` ended nothing if a transaction is still open after it.
    """
    # The functions that take locks have this in their names.
    if _PLAIN_IN_MARIADB.match(text) and "lock" not in text.lower():
        return Effect.NONE
    return _effect(_MARIADB, text)


# -- SQLite ----------------------------------------------------------------------------------------

_READING_PRAGMAS = (
    "(?:main ?[.] ?)?(?:table_(?:x?info|list)|index_(?:list|x?info)|foreign_key_(?:list|check)"
    "|integrity_check|quick_check|optimize|wal_checkpoint|incremental_vacuum)"
)

_SQLITE = _Dialect(
    readings=(
        _reading(
            r"\-/'\"`\[",
            comment=r"--[^\n]*|/\*.*?(?:\*/|\Z)",
            quoted=rf"{_VERBATIM}|{_VERBATIM_DOUBLE}|`[^`]*+`|\[[^\]]*+\]",
            doubt=r"\[",
        ),
    ),
    begins_with=_beginnings(
        ("select|insert|update|delete|replace|with|values|explain|alter|drop", Effect.NONE),
        ("analyze|reindex|vacuum|create|rollback (?:transaction )?to", Effect.NONE),
        ("begin|savepoint", Effect.BEGINS),
        # To release the savepoint that began the transaction is to commit.
        ("commit|end|release", Effect.COMMITS),
        ("rollback", Effect.UNDOES),
        (rf"pragma (?:{_READING_PRAGMAS}|[^=(]*\Z)", Effect.NONE),
        ("pragma|attach|detach", Effect.CHANGES_SESSION),
    ),
    contains=_anywhere(
        (r"\Acreate .*\btemp(?:orary)?\b|\bload_extension\b", Effect.CHANGES_SESSION),
        (r"\b(?:or|conflict) rollback\b|\braise ?\( ?rollback\b", Effect.UNDOES),
    ),
)


@_kept
def of_sqlite(text: str) -> Effect:
    """Return what a statement may do on SQLite, where DDL is part of the transaction."""
    return _effect(_SQLITE, text)


# -- PostgreSQL ------------------------------------------------------------------------------------


def _postgresql_reading(single: str) -> re.Pattern[str]:
    return _reading(
        r"\-/'\"`$eu",
        comment=r"--[^\n]*|/\*(?:(?!/\*|\*/).)*+\*/",
        quoted=rf"\be{_ESCAPED}|{single}|{_VERBATIM_DOUBLE}"
        r"|(?<![\w$])\$(?P<tag>\w*)\$.*?\$(?P=tag)\$",
        # Comments nest, and U& in front of a quoted name spells it in numbers.
        doubt=r"/\*|u&\"|(?<![\w$])\$\w*\$",
    )


UPDATES_SETTINGS = (
    r"""\bupdate (?:only ?)?[( ]*(?:(?:["']?\w+["']? ?[.] ?)?["']?pg_catalog["']? ?[.] ?)?"""
    r"""["']?pg_settings\b"""
)
"""Finds the statement that does what SET does, in a text as PostgreSQL may read it."""

_POSTGRESQL = _Dialect(
    readings=(
        _postgresql_reading(_VERBATIM),
        _postgresql_reading(_ESCAPED),  # standard_conforming_strings = off
    ),
    begins_with=_beginnings(
        ("select|insert|update|delete|merge|with|values|table|show|explain|copy", Effect.NONE),
        ("savepoint|release|declare|fetch|move|close|lock|notify|create|alter|drop", Effect.NONE),
        ("truncate|grant|revoke|comment|analyze|vacuum|reindex|cluster|refresh", Effect.NONE),
        ("reassign|security|import|checkpoint", Effect.NONE),
        # What is set may itself be called "local.x".
        (r"set (?:local|transaction|constraints)(?= [\w'])", Effect.NONE),
        ("prepare transaction|(?:commit|rollback) prepared", Effect.DISTRIBUTES | Effect.UNKNOWN),
        ("rollback (?:work |transaction )?to", Effect.NONE),
        ("(?:rollback|abort) (?:work |transaction )?and chain", Effect.UNDOES | Effect.BEGINS),
        ("rollback|abort", Effect.UNDOES),
        ("(?:commit|end) (?:work |transaction )?and chain", Effect.COMMITS | Effect.BEGINS),
        ("commit|end", Effect.COMMITS),
        ("begin|start transaction", Effect.BEGINS),
        ("listen", Effect.CHANGES_SESSION | Effect.LISTENS),
        ("set|reset|discard|unlisten|load|prepare|deallocate", Effect.CHANGES_SESSION),
    ),
    contains=_anywhere(
        (r"; ?prepare transaction\b", Effect.DISTRIBUTES),
        (r"; ?listen\b", Effect.LISTENS),
        (r"\bset_config\b|\bwith hold\b|\bpg_temp", Effect.CHANGES_SESSION),
        (UPDATES_SETTINGS, Effect.CHANGES_SESSION),
        (
            r"\bcreate (?:or replace )?(?:local |global )?temp(?:orary)?\b",
            Effect.CHANGES_SESSION,
        ),
        (
            r"(?<!insert )(?<!merge )\binto (?:local |global )?temp(?:orary)?\b",
            Effect.CHANGES_SESSION,
        ),
        (r"\bpg_(?:try_)?advisory_lock", Effect.LOCKS),
    ),
)


@_kept
def of_postgresql(text: str) -> Effect:
    """Return what a statement may do on PostgreSQL, where DDL is part of the transaction."""
    return _effect(_POSTGRESQL, text)


def readings_of_postgresql(text: str) -> list[str] | None:
    """Return a text as PostgreSQL may read it, in each way that the role of backslashes allows: in
    lower case, without comments, and with little of what is quoted; None if nobody can tell. Quoted
    names have their own quotes still.
    """
    if _DOUBT in text:
        return None
    first, *others = (reading.sub(_bare_or_named, text) for reading in _POSTGRESQL.readings)
    possible = [first, *(bare for bare in others if "\\" in text and not bare.endswith(_NO_END))]
    if any(_DOUBT in bare for bare in possible):
        return None
    return [" ".join(bare.lower().split()) for bare in possible]


def _bare_or_named(found: re.Match[str]) -> str:
    bare = _bare(found)
    return bare.replace("'", '"') if found[0].startswith('"') else bare
