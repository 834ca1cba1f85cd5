"""What the lease asks of a driver about what SQL text did by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, ClassVar

from flask_pooled_db.drivers import unknown
from flask_pooled_db.drivers.effects import Effect, of_unknown
from flask_pooled_db.drivers.scripts import STANDARD, Dialect, Statement


class Watching:
    """The part of a driver that knows what a statement did to its transaction and its session.

    The answers here are for a driver of which nothing is known: there the statements' texts decide.
    """

    effects: Callable[[Any], Effect] = staticmethod(of_unknown)
    """Returns what the text of a statement may do."""

    has_readonly: bool = False
    """Whether a session, or a transaction, can refuse what writes."""

    reads_by: ClassVar[str | None] = None
    """What gives `begin` a transaction that refuses what writes, where no session can; None if each
    statement of a readonly scope is a transaction of its own."""

    begins_transactions: ClassVar[bool] = False
    """Whether each transaction has to be begun by `open_transaction`, since no setting of a session
    outlives one."""

    def is_turned_away(self, error: BaseException) -> bool:
        """Return whether an error says that a pooler had no session for a transaction in time."""
        return False

    check_call: Callable[[Callable[..., Any], tuple[Any, ...]], None] | None = None
    """Raises if a call, of which the first argument is a statement, leaves what does not end with
    its transaction; None if it may."""

    dialect: Dialect = STANDARD
    """How a script of statements is read."""

    routines_end_nothing: ClassVar[bool] = False
    """Whether a single statement whose text is not understood never commits what came before it."""

    def statements(self, raw: Any, script: str) -> Iterator[Statement]:
        """Return the statements of a script. Each is looked for when the one before it has run."""
        return self.dialect.split(script)

    texts_tell_changes: ClassVar[bool] = True
    """Whether a session counts as changed when the text of a statement may have changed it."""

    def has_changed(self, raw: Any) -> bool:
        """Return whether the server, or the driver, says that the session was changed since
        `session_is_set`.
        """
        return False

    def session_is_set(self, raw: Any) -> None:
        """Note that the pool has set the session up: what was changed until now is part of it."""

    forget: Callable[[Any], None] | None = None
    """Forgets what the driver keeps of a lease's statements; None if it keeps nothing."""

    note_status: Callable[[Any], None] | None = None
    """Notes what the server has told with the last statement; None if the connection does."""

    def catch_up(self, raw: Any) -> None:
        """See to it that the next statement begins a transaction, after text may have ended one."""
        unknown.catch_up(raw)

    def commits_each(self, raw: Any) -> bool:
        """Return whether the session is known to commit each statement by itself."""
        return False

    stores_at_once: ClassVar[bool] = False
    """Whether the driver itself stores some statements without COMMIT where no transaction is open,
    so that leases do that are borrowed."""
    scripts: ClassVar[frozenset[str]] = frozenset()
    """The methods of connections and cursors that then commit before they run what they are given.
    """

    def store_at_once(self, raw: Any, is_wanted: bool) -> None:
        """Have a connection work so, or not."""

    def has_stored(self, raw: Any) -> bool:
        """Return whether a statement came in no transaction, and may have stored something, since
        this was asked.
        """
        return False

    tells_lost_savepoints: bool = False
    """Whether `release_if_there` can tell that a transaction was ended, and another one begun."""
