"""Tables of text, as the commands print them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

LONGEST = 60
"""Characters of a cell: names may come from outside."""


def _cut(cell: str) -> str:
    return cell if len(cell) <= LONGEST else f"{cell[: LONGEST - 3]}..."


def lines_of(rows: Sequence[Sequence[str]], left: int = 1) -> Iterator[str]:
    """Yield the lines of a table. Its first `left` columns are texts, the others numbers. What is
    long is cut, but for the last column.
    """
    rows = [[*map(_cut, row[:-1]), row[-1]] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [*map(str.ljust, row[:left], widths), *map(str.rjust, row[left:], widths[left:])]
        yield "  ".join(cells).rstrip()
