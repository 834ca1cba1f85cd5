"""The shapes of rows: what is made of a driver's row, by what it says of the columns."""

from __future__ import annotations

import functools
import unicodedata
from collections import namedtuple
from collections.abc import Callable
from typing import Any, NoReturn

from flask_pooled_db.config import Rows, is_plain_name
from flask_pooled_db.errors import UsageError

Make = Callable[[Any], Any]
"""Makes a row of a driver's row."""

Shape = Callable[[Any], Make]
"""Returns what makes the rows of a cursor with this description."""

_KINDS_KEPT = 256  # of results, by their columns


def shape_of(rows: Rows) -> Shape | None:
    """Return the shape that `rows` names; None for rows as the driver makes them."""
    if isinstance(rows, str):
        return _SHAPES[rows]
    return lambda description: functools.partial(rows, description)


def _names(description: Any) -> tuple[Any, ...]:
    return tuple(column[0] for column in description)


def _dicts(description: Any) -> Make:
    return _make_dicts(_names(description))


def _named(description: Any) -> Make:
    return _make_named(_names(description))


_SHAPES: dict[str, Shape | None] = {"tuple": None, "dict": _dicts, "namedtuple": _named}


@functools.lru_cache(_KINDS_KEPT)
def _make_dicts(names: tuple[Any, ...]) -> Make:
    twice = next((name for place, name in enumerate(names) if name in names[:place]), None)
    if twice is not None:
        # Not before there is a row: it may be one that the driver's own cursor has made.
        return functools.partial(_refuse, names, twice)

    def make(row: Any) -> dict[Any, Any]:
        try:
            return dict(zip(names, row, strict=True))
        except ValueError as error:
            raise _misfit(names, row) from error

    return make


def _refuse(names: tuple[Any, ...], twice: Any, row: Any) -> NoReturn:
    places = [place for place, name in enumerate(names, 1) if name == twice]
    # An expression without a name is called by its text, which may hold anything.
    shown = f", {twice!r}" if is_plain_name(str(twice)) else ""
    raise UsageError(
        f"columns {' and '.join(map(str, places))} of the result have the same name{shown}: a dict "
        'would lose one of them; give them different names with AS, or use rows="tuple"'
    )


@functools.lru_cache(_KINDS_KEPT)
def _make_named(names: tuple[Any, ...]) -> Make:
    kind = row_class(names)

    def make(row: Any) -> Any:
        try:
            return kind(*row)
        except TypeError as error:
            raise _misfit(names, row) from error

    return make


@functools.lru_cache(_KINDS_KEPT)
def row_class(names: tuple[Any, ...]) -> Any:
    """Return the class of named tuples for columns of these names.

    What can't be a field's name (no identifier, a keyword, one that begins with an underscore, the
    second of two) is an underscore and the column's place, counted from 0.
    """
    # As Python reads an identifier: https://docs.python.org/3/reference/lexical_analysis.html
    fields = [unicodedata.normalize("NFKC", str(name)) for name in names]
    kind: Any = namedtuple  # noqa: PYI024  the names are not known before
    made = kind("Row", fields, rename=True)
    made.__reduce__ = lambda row: (remake, (names, tuple(row)))
    return made


def remake(names: tuple[Any, ...], values: tuple[Any, ...]) -> Any:
    """Return a row again that was pickled or copied."""
    return row_class(names)(*values)


def _misfit(names: tuple[Any, ...], row: Any) -> UsageError:
    return UsageError(
        f"a row has {len(row)} values, and the cursor's description {len(names)} columns: its "
        'class makes rows of its own; use rows="tuple" with it'
    )
