"""SQLite: which statements take the placeholders of MariaDB's drivers, and which are sqlite3's."""

from __future__ import annotations

import contextlib
import re
import sqlite3
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flask_pooled_db import db_connection_context
from flask_pooled_db.drivers.sqlite_placeholders import to_sqlite
from flask_pooled_db.lease.proxy import LeaseConnection
from harness.server import MariaDBServer
from tests.drivers.placeholders import AS_WRITTEN, DOUBTFUL, PORTABLE, TRANSLATED
from tests.support.apps import pooled_app
from tests.support.pools import open_pool

SCHEMA = (
    "CREATE TABLE t (a INTEGER, s TEXT, created TEXT, um INTEGER, a$b INTEGER)",
    "INSERT INTO t VALUES (1, 'x', '2026-01-31', 3, 4), (2, '50%', '2026-02-01', 5, 6)",
    "INSERT INTO t VALUES (3, '%s', '1970-01-01', 7, 8)",
)


def outcome(conn: Any, sql: str, *params: Any) -> Any:
    """What comes of a statement: its rows, or its error."""
    try:
        return list(conn.cursor().execute(sql, *params).fetchall())
    except Exception as error:
        return type(error), re.sub(r"unrecognized token: .*", "unrecognized token", str(error))


@contextlib.contextmanager
def both() -> Iterator[tuple[LeaseConnection, sqlite3.Connection]]:
    """A lease and a connection of sqlite3's own, with the same tables."""
    with contextlib.closing(sqlite3.connect(":memory:")) as bare:
        with open_pool(url="sqlite://") as pool, contextlib.closing(pool.connection()) as lease:
            for statement in SCHEMA:
                bare.execute(statement)
                lease.execute(statement)
            yield lease, bare


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[LeaseConnection, sqlite3.Connection]]:
    """The same for all statements of this module: they only read."""
    with both() as made:
        yield made


def test_table_of_statements() -> None:
    """The table is as large as it is meant to be."""
    texts = {sql for sql, *_ in (*AS_WRITTEN, *TRANSLATED, *DOUBTFUL)}
    assert len(texts) > 100


@pytest.mark.parametrize(("sql", "params"), AS_WRITTEN)
def test_as_written(pair: Any, sql: str, params: Any) -> None:
    """A statement without parameters, or with sqlite3's placeholders, has sqlite3's meaning."""
    lease, bare = pair
    given = () if params == "left out" else (params,)
    assert outcome(lease, sql, *given) == outcome(bare, sql, *given)
    assert outcome(lease, sql, *(given or (None,))) == outcome(bare, sql, *given)


@pytest.mark.parametrize(("sql", "params", "meant"), TRANSLATED)
def test_translated(pair: Any, sql: str, params: Any, meant: str) -> None:
    """With parameters, `%s`, `%(name)s` and `%%` mean what they mean to PyMySQL; in literals,
    comments and quoted names `%s` is text.
    """
    lease, bare = pair
    has_placeholders = "?" in meant or ":" in meant
    expected = outcome(bare, meant, *((params,) if has_placeholders else ()))
    assert outcome(lease, sql, params) == expected


@pytest.mark.parametrize(("sql", "named"), DOUBTFUL)
def test_doubtful_percent_sign(pair: Any, sql: str, named: str) -> None:
    """A percent sign that PyMySQL would refuse, and that may be a placeholder, is refused with the
    remedy; the transaction goes on.
    """
    lease, _ = pair
    expected = rf"^'{re.escape(named)}' is not a placeholder.*a percent sign is written %%$"
    with pytest.raises(lease.ProgrammingError, match=expected):
        lease.cursor().execute(sql, (1,))
    with pytest.raises(lease.ProgrammingError, match=expected):
        lease.execute(sql, (1,))
    assert lease.execute("SELECT 1").fetchone() == (1,)


def test_ways_to_give_a_statement() -> None:
    """Each method that takes parameters, of connections and cursors, takes the placeholders."""
    with both() as (lease, _):
        cur = lease.cursor()
        cur.execute("DELETE FROM t")
        cur.executemany("INSERT INTO t (a, s) VALUES (%s, 'a%%')", [(1,), (2,)])
        cur.executemany("INSERT INTO t (a, s) VALUES (%(a)s, '%')", iter([{"a": 3}]))
        cur.executemany("INSERT INTO t (a, s) VALUES (?, '%s')", [(4,)])
        cur.executemany("INSERT INTO t (a, s) VALUES (:a, '%%')", ({"a": 5},))
        cur.executemany("INSERT INTO t (a, s) VALUES (%s, '')", [])
        lease.executemany("INSERT INTO t (a, s) VALUES (%s, '%s')", [(6,)])
        lease.executemany("INSERT INTO t (a, s) VALUES (%s, '')", [])
        lease.execute("INSERT INTO t (a, s) VALUES (%(a)s, '7')", {"a": 7})
        cur.execute(operation="INSERT INTO t (a, s) VALUES (8, '%s')")
        rows = lease.execute("SELECT a, s FROM t WHERE a > 7 % 7 ORDER BY a", ()).fetchall()
        names = ["a%", "a%", "%", "%s", "%%", "%s", "7", "%s"]
        assert rows == list(enumerate(names, start=1))


# -- Any statement ---------------------------------------------------------------------------------

NEUTRAL = (
    *("SELECT ", "1", "7 % 2", "a", ", ", " ", "'%s'", "'%%'", "'%Y'", "'it''s %'", '"%s"', "`%s`"),
    *("[%s]", "-- %s ?\n", "/* %s */", " FROM t", " WHERE s LIKE '%x%'", " AND ", "-", "/", "'"),
    *("(", ")", "\n", "*", "a$b", "x'00'", "é", ";", "%"),
)


def interleaved(parts: list[str], own: tuple[str, ...]) -> Any:
    return st.lists(st.sampled_from((*parts, *own * 4)), max_size=12).map(
        lambda chosen: "SELECT " + "".join(chosen)
    )


@pytest.fixture(scope="module")
def any_pair() -> Iterator[tuple[LeaseConnection, sqlite3.Connection]]:
    """The same for all examples: they only read."""
    with both() as made:
        yield made


@given(sql=interleaved([*NEUTRAL, "%s", "%(a)s", "%%"], ("?", ", ?")), count=st.integers(1, 4))
@example(sql="SELECT strftime('%s', created) FROM t WHERE a = ?", count=1)
def test_any_statement_with_question_marks(any_pair: Any, sql: str, count: int) -> None:
    """A statement with `?` has the rows, or the error, that sqlite3 has for it."""
    lease, bare = any_pair
    text = re.sub(r"'[^']*'?|\"[^\"]*\"?|`[^`]*`?|\[[^\]]*\]?|--[^\n]*|/\*.*?(\*/|$)", "", sql)
    if "?" in text:
        params = tuple(range(count))
        assert outcome(lease, sql, params) == outcome(bare, sql, params)


@given(sql=interleaved([*NEUTRAL, "%s", "%(a)s", "%%"], (":a", ", @a", ", $a")))
def test_any_statement_with_names(any_pair: Any, sql: str) -> None:
    """A statement with `:name`, `@name` or `$name` has sqlite3's rows, or its error."""
    lease, bare = any_pair
    text = re.sub(r"'[^']*'?|\"[^\"]*\"?|`[^`]*`?|\[[^\]]*\]?|--[^\n]*|/\*.*?(\*/|$)", "", sql)
    if re.search(r"(?<![\w$])[:@$]a", text):
        assert outcome(lease, sql, {"a": 2}) == outcome(bare, sql, {"a": 2})


@given(sql=interleaved([*NEUTRAL, "?", ":a"], ("%s", "%(a)s", "%%")), none=st.sampled_from("012"))
def test_any_statement_without_parameters(any_pair: Any, sql: str, none: str) -> None:
    """A statement without parameters has sqlite3's rows, or its error."""
    lease, bare = any_pair
    given: dict[str, tuple[Any, ...]] = {"0": (), "1": ((),), "2": ([],)}
    assert outcome(lease, sql, *given[none]) == outcome(bare, sql, *given[none])


def doubled(sql: str) -> str:
    return sql.replace("%", "%%")


@given(parts=st.lists(st.one_of(st.sampled_from(NEUTRAL), st.just(None)), max_size=12))
def test_any_translated_statement(any_pair: Any, parts: list[str | None]) -> None:
    """A statement with `%s`, and with each other percent sign doubled, has the rows, or the error,
    of the one with `?`.
    """
    lease, bare = any_pair
    # A placeholder inside of a literal is none: the parts that open one are left out.
    kept = [part for part in parts if part not in ("'", "/", "*", "-")]
    ours = "SELECT %s, " + "".join("%s" if part is None else doubled(part) for part in kept)
    theirs = "SELECT ?, " + "".join("?" if part is None else part for part in kept)
    theirs = re.sub(r"\?(?=[\wé$])", "? ", theirs)
    params = (2,) * (1 + kept.count(None))
    assert outcome(lease, ours, params) == outcome(bare, theirs, params)


@given(st.text())
def test_any_text(text: str) -> None:
    """Doubled percent signs survive beside a placeholder, and a text without placeholders stays."""
    if "%s" not in text and "%(" not in text:
        assert to_sqlite(text) == text
    quoted = "'" + text.replace("'", "''") + "'"
    assert to_sqlite(f"{doubled(quoted)} %s") == f"{quoted} ?"


# -- The same text on MariaDB ----------------------------------------------------------------------


@pytest.mark.parametrize("case", PORTABLE, ids=lambda case: str(case[0]))
def test_same_meaning_on_mariadb(
    pair: Any, mariadb: MariaDBServer, database: str, mariadb_driver: str, case: tuple[str, Any]
) -> None:
    """A text that both of MariaDB's drivers take has the same rows there."""
    text, params = case
    with pooled_app(mariadb.url(mariadb_driver, database)), db_connection_context() as conn:
        cur = conn.cursor()
        cur.execute(text, params)
        assert list(cur.fetchall()) == outcome(pair[0], text, params)
