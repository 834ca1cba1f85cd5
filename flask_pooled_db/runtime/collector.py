"""Python's garbage collector, put off while thousands of objects are made that all stay."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

from flask_pooled_db.runtime.process import Part, join


class _Collector(Part):
    """The collector of this process."""

    is_put_off = False

    def after_fork_in_child(self) -> None:
        """Let it go on: whoever has put it off may be another thread, which a child has not."""
        if self.is_put_off:
            self.is_put_off = False
            gc.enable()


_collector = _Collector()
join(1, _collector)


@contextlib.contextmanager
def no_collections() -> Iterator[None]:
    """Have no garbage collected in a block. Of what it makes, the collector would look through all
    that is there already again and again.
    """
    is_ours = gc.isenabled() and not _collector.is_put_off
    try:
        if is_ours:
            _collector.is_put_off = True
            gc.disable()
        yield
    finally:
        if is_ours:
            gc.enable()
            _collector.is_put_off = False
