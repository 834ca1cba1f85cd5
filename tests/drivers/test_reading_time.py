"""How long it takes to read a text: no other thread of the process runs meanwhile."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable, Iterator

import pytest

from flask_pooled_db.drivers import effects, scripts, sqlite_scripts
from flask_pooled_db.drivers.sqlite_connection import Connection
from flask_pooled_db.drivers.sqlite_placeholders import to_sqlite
from flask_pooled_db.drivers.sqlite_statements import effect_of
from flask_pooled_db.drivers.writes import may_write
from flask_pooled_db.lease.fate import verb_of

Reader = Callable[[str], object]

READERS: dict[str, Reader] = {
    "effects_on_mariadb": effects.of_mariadb,
    "effects_on_postgresql": effects.of_postgresql,
    "effects_on_sqlite": effects.of_sqlite,
    "effects_elsewhere": effects.of_unknown,
    "writes": may_write,
    "name_in_messages": verb_of,
    "sqlite_statement": effect_of,
    "sqlite_placeholders": to_sqlite,
    "mariadb_script": lambda text: list(scripts.of_mariadb(text)),
    "postgresql_script": lambda text: list(scripts.of_postgresql(text)),
    "sqlite_script": lambda text: list(sqlite_scripts.of_sqlite(text)),
}
# The beginning, what is repeated (with a number where it has `{}`), and the end.
KINDS = {
    "single_quotes": ("SELECT ", "'", ""),
    "open_single": ("SELECT '", "x", ""),
    "escaped_single": ("SELECT '", r"\' ", ""),
    "escaped_single_closed": ("SELECT '", r"\' ", "'"),
    "escape_strings": ("SELECT ", r"e'\' ", ""),
    "doubled_single": ("SELECT '", "''", ""),
    "double_quotes": ("SELECT ", '"', ""),
    "escaped_double": ('SELECT "', r"\" ", ""),
    "unicode_names": ("SELECT ", 'U&" ', ""),
    "backticks": ("SELECT ", "`", ""),
    "mixed_quotes": ("SELECT ", "'\"`", ""),
    "escaped_mixed": ("SELECT ", "\\'\\\"`", ""),
    "open_brackets": ("SELECT ", "[", ""),
    "open_comments": ("SELECT ", "/* ", ""),
    "open_comments_in_front": ("", "/* ", "SELECT 1"),
    "nested_comments": ("SELECT ", "/* ", " */"),
    "half_nested_comments": ("", "/* /* */ ", "SELECT 1"),
    "deep_comments": ("SELECT ", "/* /* /* /* */ */ ", ""),
    "starred_comments": ("SELECT ", "/* ** // ", "x"),
    "slash_stars": ("SELECT ", "/*", ""),
    "comments": ("", "/* */ ", "SELECT 1"),
    "comments_alone": ("", "/* */ ", "1"),
    "executable_comments": ("SELECT ", "/*! ", ""),
    "executable_comments_closed": ("SELECT ", "/*!50000 1 */ ", ""),
    "dashes": ("SELECT ", "-", ""),
    "line_comments": ("", "--\n", "1"),
    "hashes": ("", "#\n", "1"),
    "dollars": ("SELECT ", "$", ""),
    "open_dollar_quotes": ("SELECT ", "$a$ ", "$b$"),
    "dollar_tags": ("SELECT ", "$a{}$ ", ""),
    "dollar_names": ("SELECT ", "$a", ""),
    "long_name": ("SELECT ", "a", "$"),
    "long_tag": ("SELECT $", "a", "$"),
    "parentheses": ("", "(", "SELECT 1"),
    "percents": ("SELECT ", "%(", "%s"),
    "named_placeholders": ("SELECT %(", "a", "%s"),
    "colons": ("SELECT ", ":", "= 1"),
    "semicolons": ("", ";", ""),
    "empty_statements": ("", "; ", "SELECT 1"),
    "commented_statements": ("", "/* */;", ""),
    "statements": ("", "SELECT 1; ", ""),
    "blocks": ("", "BEGIN ", ""),
    "blocks_of_mariadb": ("", "BEGIN NOT ATOMIC ", ""),
    "immediate_statements": ("", "EXECUTE IMMEDIATE ", "'SELECT 1'"),
    "blocks_for_update": ("BEGIN NOT ATOMIC ", "FOR UPDATE ", ""),
    "immediate_quotes": ("EXECUTE IMMEDIATE ", r"'\' ", ""),
    "triggers": ("CREATE TRIGGER a BEGIN ", "SELECT 1; ", ""),
    "white_space": ("SELECT 1", " ", "x"),
    "white_space_in_front": ("", " \n", "1"),
    "begin_and_white_space": ("BEGIN", " ", "x"),
    "analyze": ("EXPLAIN ", "ANALYZE ", "x"),
    "analyze_insert": ("EXPLAIN ANALYZE ", "INSERT( ", "x"),
    "analyze_alone": ("ANALYZE ", "INSERT( ", "x"),
    "with_insert": ("WITH a AS (SELECT 1) ", "FOR UPDATE ", "x"),
    "into": ("SELECT 1 ", "INTO @", "x"),
    "copy": ("COPY t ", ") t", "x"),
    "set": ("SET ", "autocommitx ", "x"),
    "set_statement": ("", "SET STATEMENT a ", "x"),
    "flush": ("FLUSH ", "loc ", "x"),
    "handler": ("HANDLER ", "openx ", "x"),
    "load": ("LOAD DATA ", "a ", "x"),
    "create": ("CREATE ", "tem ", "x"),
    "create_or_replace": ("", "CREATE OR REPLACE ", "x"),
    "select_optimize": ("SELECT ", "optimiz ", "x"),
    "explain_query_plan": ("", "EXPLAIN QUERY PLAN ", "x"),
    "pragma_name": ("PRAGMA ", "a", "x = 1"),
    "pragma_schemas": ("PRAGMA ", "a.", "x = 1"),
    "pragma_gap": ("PRAGMA a", "/* */ ", "x = 1"),
    "delimiters": ("", "DELIMITER //\n", ""),
    "delimiter_slashes": ("DELIMITER //\n", "/", ""),
    "savepoints": ("SAVEPOINT a", " ", "x"),
}


def text_of(kind: str, length: int) -> str:
    beginning, piece, end = KINDS[kind]
    pieces = (piece.format(number) for number in range(length // len(piece)))
    return beginning + "".join(pieces) + end


def seconds(read: Reader, text: str) -> float:
    """Return the time that reading a text takes this thread."""
    begun = time.thread_time()
    with contextlib.suppress(sqlite3.Error):
        read(text)
    return time.thread_time() - begun


def check_growth(read: Reader, short: str, long: str) -> None:
    """Fail unless four times the text takes about four times as long."""
    tries: Iterator[tuple[float, float]] = (
        (seconds(read, short), seconds(read, long)) for _ in range(5)
    )
    assert seconds(read, short) < 0.5
    once, fourfold = next(tries)
    while fourfold > 10 * max(once, 0.001):
        more = next(tries, None)
        assert more is not None, f"{once:.4f} s, and {fourfold:.4f} s for four times the text"
        once, fourfold = min(once, more[0]), min(fourfold, more[1])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reader", READERS)
def test_reading_time_growth(reader: str, kind: str) -> None:
    """The time to read a text grows as the text does, whatever has no end in it."""
    check_growth(READERS[reader], text_of(kind, 5_000), text_of(kind, 20_000))


@pytest.mark.slow
@pytest.mark.parametrize("reader", READERS)
def test_reading_time(reader: str) -> None:
    """No text of 200,000 characters takes a second."""
    for kind in KINDS:
        assert seconds(READERS[reader], text_of(kind, 200_000)) < 1, kind


@pytest.mark.parametrize("end", ["x", ")x", ");x"])
def test_pragma_reading_time(end: str) -> None:
    """So it is for the PRAGMA that SQLite's connections look into."""
    connection = Connection(":memory:")
    connection.adopt()
    connection.is_set_up = True
    with contextlib.closing(connection):
        short, long = (f"PRAGMA foreign_keys=1{' ' * n}{end}" for n in (5_000, 20_000))
        check_growth(connection.execute, short, long)
