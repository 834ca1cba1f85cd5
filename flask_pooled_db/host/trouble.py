"""What keeps a process from publishing, told once for each cause."""

from __future__ import annotations

import logging
from time import monotonic

from flask_pooled_db.host.directory import Unusable
from flask_pooled_db.runtime import reporter

logger = logging.getLogger("flask_pooled_db")

PAUSE = 60.0
"""Seconds after which a cause that had ended is told again: it may come and go."""


class Trouble:
    """The causes that were told, and when. A cause that lasts is told once."""

    def __init__(self) -> None:
        self._told: dict[str, float] = {}

    def tell(self, error: Unusable) -> None:
        """Log what is wrong, if it was not logged already."""
        if error.cause in self._told:
            return
        self._told[error.cause] = monotonic()
        reporter.tell(
            logger.error,
            "The numbers of this process are not seen by others: %s. It is tried again each second",
            error,
        )

    def end(self) -> None:
        """Note that all is well."""
        if self._told:
            now = monotonic()
            told = {cause: at for cause, at in self._told.items() if now - at < PAUSE}
            self._told = told
