"""Tables of text, as the commands print them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


def lines_of(rows: Sequence[Sequence[str]], left: int = 1) -> Iterator[str]:
    """Yield the lines of a table. Its first `left` columns are texts, the others numbers."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [*map(str.ljust, row[:left], widths), *map(str.rjust, row[left:], widths[left:])]
        yield "  ".join(cells).rstrip()
