"""The ways to run one statement, or a file of them, without a block around it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, Protocol, Unpack

from flask_pooled_db.config import ScopeKeywords, check_flag, describe, refuse_unknown
from flask_pooled_db.errors import UsageError
from flask_pooled_db.flask.serving import Serving
from flask_pooled_db.lease.cursor import LeaseCursor
from flask_pooled_db.lease.proxy import LeaseConnection
from flask_pooled_db.lease.scope import enclosing_lease
from flask_pooled_db.lease.script import Script
from flask_pooled_db.lease.shaping import has_usual_rows, plain_cursor


class Readable(Protocol):
    """An open file."""

    def read(self) -> str | bytes:
        """Return what is in it."""


class Statements(Serving):
    """The part of the extension that runs one statement, or a script.

    Each is a scope of its own, or a part of the scope of its bind that is open around it. `options`
    are those of a scope. With any of them it is a nested scope there, under a savepoint. So it is
    where the rows of the scope around it have another shape: what a function gets of these methods
    is the same, whoever calls it.
    """

    def fetch_all(
        self,
        sql: Any,
        params: Any = None,
        *,
        bind: str | None = None,
        **options: Unpack[ScopeKeywords],
    ) -> list[Any]:
        """Return all rows of a statement.

        Where it stands alone it is readonly: a write fails on the server. `readonly=False` lets it
        write, as `INSERT ... RETURNING` does. In an open block it may do what the block may. For a
        statement that returns no rows (an UPDATE, not a SELECT that finds nothing) it raises
        `UsageError`; where it stands alone, what that wrote is rolled back.
        """
        rows: list[Any] = self._read("fetch_all", sql, params, bind, options)
        return rows

    def fetch_one(
        self,
        sql: Any,
        params: Any = None,
        *,
        bind: str | None = None,
        **options: Unpack[ScopeKeywords],
    ) -> Any:
        """Return the first row of a statement, or None if it has none. See `fetch_all`."""
        return self._read("fetch_one", sql, params, bind, options)

    def fetch_value(
        self,
        sql: Any,
        params: Any = None,
        *,
        bind: str | None = None,
        **options: Unpack[ScopeKeywords],
    ) -> Any:
        """Return the first column of the first row, or None if there is no row. See `fetch_all`."""
        return self._read("fetch_value", sql, params, bind, options)

    def execute(
        self,
        sql: Any,
        params: Any = None,
        *,
        bind: str | None = None,
        **options: Unpack[ScopeKeywords],
    ) -> int:
        """Run a statement and return the row count, as the driver tells it.

        Several sets of parameters are for a cursor's `executemany()`.
        """
        around = enclosing_lease(self.here()[0].engine(bind))
        count: int = self._run("execute", sql, params, bind, options, around)
        return count

    def run_script(
        self, path_or_text: str | PathLike[str] | Readable, bind: str | None = None
    ) -> int:
        """Run a file of statements, or a text, in one scope. Returns how many statements it had.

        A path is one relative to the app's `root_path`, as in `app.open_resource()`; so is a text
        that ends in ".sql" and has neither white space nor a semicolon in it. An open file is read.
        The statements end as they do for the client of the database: see the README.

        The driver's error of a statement is raised as it is, with a note that says which statement
        failed, its line, and what is stored of those before it. On SQLite and PostgreSQL that is
        nothing, unless the script commits. On MariaDB and MySQL DDL commits by itself.
        """
        text, name = _read_script(path_or_text, Path(self.here()[0].root_path))
        _refuse_nul(text, name)
        with self.connection_context(bind) as conn:
            return Script(conn, text, name).run()

    def _read(
        self,
        method: str,
        sql: Any,
        params: Any,
        bind: str | None,
        options: ScopeKeywords,
    ) -> Any:
        """Run a statement that is readonly unless it is part of a block, or it is asked to write.

        A driver that has no readonly sessions runs it in a plain scope.
        """
        readonly = options.pop("readonly", True)
        check_flag("readonly", readonly)
        around = enclosing_lease(self.here()[0].engine(bind))
        stands_alone = options.get("independent") or around is None
        if readonly and stands_alone:
            pool = self.pool(bind)
            if not pool.driver.is_known:
                pool.lease(timeout=options.get("timeout")).close()  # its first connect tells
            if pool.driver.has_readonly:
                options["readonly"] = True
        return self._run(method, sql, params, bind, options, around)

    def _run(
        self,
        method: str,
        sql: Any,
        params: Any,
        bind: str | None,
        options: ScopeKeywords,
        around: LeaseConnection | None,
    ) -> Any:
        """Run a statement; `around` is the lease of the block that it may be a part of."""
        refuse_unknown(method, options)
        take = _TAKES[method]
        if around is not None and not options and has_usual_rows(around):
            with around.cursor() as cur:
                cur.execute(sql, params)
                return take(cur)
        with self.connection_context(bind, **options) as conn, conn.cursor() as cur:
            cur.execute(sql, params)
            return take(cur)


def _all_rows(cur: LeaseCursor) -> list[Any]:
    _check_rows(cur)
    return list(cur.fetchall())


def _check_rows(cur: LeaseCursor) -> None:
    """Raise `UsageError` if the statement was not one that returns rows: some drivers return none
    then, others raise.
    """
    if cur.description is None:
        raise UsageError(
            "the statement returns no rows: use db.execute(), or have it return some (RETURNING)"
        )


def _first_row(cur: LeaseCursor) -> Any:
    _check_rows(cur)
    row, lease = cur.fetchone(), cur.connection
    if row is not None and lease.has_left(lease.usable()):
        cur.fetchall()  # some drivers refuse to close it before
    return row


def _first_value(cur: LeaseCursor) -> Any:
    row = _first_row(plain_cursor(cur))
    if isinstance(row, Mapping):
        return next(iter(row.values()), None)
    return row[0] if row else None  # PostgreSQL has rows without columns


def _row_count(cur: LeaseCursor) -> int:
    if cur.description is not None:  # some statements do their work row by row
        cur.fetchall()
    return int(cur.rowcount)


_TAKES: Mapping[str, Callable[[LeaseCursor], Any]] = {
    "fetch_all": _all_rows,
    "fetch_one": _first_row,
    "fetch_value": _first_value,
    "execute": _row_count,
}
"""What each method makes of a cursor after its statement."""


def _read_script(source: str | PathLike[str] | Readable, root: Path) -> tuple[str, str]:
    """Return a script and what to call it."""
    if isinstance(source, str) and not _is_path(source):
        return source, "the script"
    if isinstance(source, str | PathLike):
        path = root / source
        return _decoded(path.read_bytes(), str(path)), str(path)
    if not hasattr(source, "read"):
        what = "run_script() takes a path, a text or an open file"
        raise UsageError(f"{what}, not {describe(source)}")
    text, name = source.read(), getattr(source, "name", None)
    name = name if isinstance(name, str) else "the script"
    return text if isinstance(text, str) else _decoded(text, name), name


def _decoded(text: bytes, name: str) -> str:
    try:
        return text.decode("utf-8").removeprefix("\ufeff")  # "utf-8-sig" adds a note of its own
    except UnicodeDecodeError as error:
        error.add_note(f"A script is to be UTF-8, and {name} is not.")
        raise


def _refuse_nul(text: str, name: str) -> None:
    """Raise if a script has a NUL, where some drivers would end a statement without a word."""
    before, nul, _ = text.partition("\0")
    if nul:
        raise UsageError(
            f"{name} has a NUL character at line {before.count(chr(10)) + 1}, which no SQL has: "
            "nothing of it was run; if it is in another encoding, as UTF-16, save it as UTF-8"
        )


def _is_path(text: str) -> bool:
    return text.endswith(".sql") and ";" not in text and not any(map(str.isspace, text))
