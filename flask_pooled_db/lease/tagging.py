"""Leases whose statements end in a comment that says who runs them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flask_pooled_db.lease.lease import Lease
from flask_pooled_db.lease.texts import has_keywords, innermost

_SCRIPTS = frozenset({"executescript"})


class TaggingLease(Lease):
    """A lease that adds a comment to each statement's text just before it is sent.

    So whatever looks at texts sees the application's own. What has no text has no comment.
    """

    __slots__ = ()

    def sent(self, function: Callable[..., Any], *args: Any) -> Any:
        """Send a statement with its comment."""
        tags, entry = self._home.terms.tags, self._entry
        if args and tags is not None and entry is not None:
            comment = tags(not self.driver.keeps_texts(entry.raw))
            if comment:
                args = (self._tagged(function, args, comment), *args[1:])
        return super().sent(function, *args)

    def _tagged(self, function: Callable[..., Any], args: tuple[Any, ...], comment: str) -> Any:
        inner = innermost(function)
        name = getattr(inner, "__name__", "")
        if name in _SCRIPTS:
            return args[0]
        has_parameters = has_keywords(function) or (len(args) > 1 and args[1] is not None)
        if has_parameters and self.driver.reads_percent(getattr(inner, "__self__", None)):
            comment = comment.replace("%", "%%")
        return self.driver.with_comment(args[0], comment, many=name == "executemany")
