"""Who observes the statements of a pool, in a test."""

from __future__ import annotations

from flask_pooled_db.pool.statements import NoObserver, Statement


class Watcher(NoObserver):
    """An observer that keeps what it is told."""

    def __init__(self, least: float = 0.0) -> None:
        self.least = least
        self.told: list[Statement] = []

    def is_on(self) -> bool:
        return True

    def ran(self, statement: Statement) -> None:
        self.told.append(statement)

    @property
    def texts(self) -> list[str]:
        """The texts of what it was told, which it forgets."""
        texts = [statement.text for statement in self.told]
        self.told.clear()
        return texts

    @property
    def rows(self) -> int | None:
        """The number of rows of the last statement."""
        return self.told[-1].rows.count
