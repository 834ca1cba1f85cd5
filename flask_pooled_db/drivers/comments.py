"""How a statement is given a comment that says where it comes from."""

from __future__ import annotations

import re
from types import ModuleType
from typing import Any, ClassVar

_HAS_TAGS = re.compile(r"/\*\s*[\w.%-]+='(?:[^'\\]|\\.)*'")
_TAGS_AT_END = re.compile(r"[ \n]/\*(?:[\w.%~-]+='[\w.%~-]*',?)+\*/(?=[\s;]*\Z)", re.ASCII)
_INSERT = re.compile(r"\s*(?:INSERT|REPLACE)\b", re.IGNORECASE)
_END = re.compile(r"[\s;]*\Z")


def appended(sql: str, comment: str) -> str:
    """Return a statement that ends in a comment, with what ended it before behind that."""
    end = _END.search(sql)
    place = len(sql) if end is None else end.start()
    body = sql[:place]
    last_line = body.rpartition("\n")[2]
    # It may end in a comment of its own, which goes as far as the line.
    gap = "\n" if "--" in last_line or "#" in last_line else " "
    return f"{body}{gap}{comment}{sql[place:].lstrip()}"


def without_tags(sql: str) -> str:
    """Return a statement without the comment that it was given."""
    return _TAGS_AT_END.sub("", sql) if sql.rstrip("; \t\r\n").endswith("*/") else sql


class Comments:
    """The part of an adapter that knows where a statement may have a comment."""

    dbapi: ModuleType | None
    inserts_many_by_text: ClassVar[bool] = True
    """Whether `executemany()` may look for what follows VALUES to make one statement of many: a
    comment at the end would be in its way."""

    has_prepared: ClassVar[bool] = True
    """Whether connections may keep statements that were prepared, beyond a lease."""

    def keeps_texts(self, raw: Any) -> bool:
        """Return whether a connection may keep statements that were prepared, by their texts: then
        nothing may be in a text that changes with every request.
        """
        return self.has_prepared

    def reads_percent(self, cursor: Any) -> bool:
        """Return whether a percent sign in a statement with parameters has to be doubled."""
        return getattr(self.dbapi, "paramstyle", "") in ("format", "pyformat")

    def with_comment(self, sql: Any, comment: str, *, many: bool) -> Any:
        """Return a statement with a comment, unless it has such a comment, or can't be given one.
        `many` says that it is for `executemany()`.
        """
        if isinstance(sql, bytes | bytearray):
            text = sql.decode("latin-1")  # each byte is a character
            return self.with_comment(text, comment, many=many).encode("latin-1")
        if not isinstance(sql, str) or not sql.strip("; \n\t") or _HAS_TAGS.search(sql):
            return sql
        insert = _INSERT.match(sql) if many and self.inserts_many_by_text else None
        if insert is None:
            return appended(sql, comment)
        return f"{insert[0]} {comment}{sql[insert.end() :]}"
