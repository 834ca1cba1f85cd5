"""What a caller sees of a lease: a connection and its cursors, as PEP 249 has them.

Whatever is not the standard's is passed on to the driver's own objects.
"""

from __future__ import annotations

import copy
import functools
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Self

from flask_pooled_db.errors import UsageError
from flask_pooled_db.lease import refusals
from flask_pooled_db.lease.absent import no_attribute
from flask_pooled_db.lease.attributes import (
    Forbidden,
)
from flask_pooled_db.lease.cursor import LeaseCursor
from flask_pooled_db.lease.handle import GONE, hand_out, is_plain
from flask_pooled_db.lease.transaction import TransactionLease

_CHANGES_SESSION = (
    *("add_", "adapters", "create_", "enable_", "load_", "pgconn", "remove_", "select_db", "set_"),
)
"""What the names begin with of what changes a connection, or lets its caller change it."""

_SETS_TRANSACTIONS = frozenset({"set_isolation_level", "set_session"})
"""The methods by which psycopg2 switches autocommit on, or rolls an open transaction back."""

_TAKES_SQL = frozenset({"cmd_query", "cmd_query_iter", "query"})
"""The methods, beside those named "execute...", whose first argument is a statement."""

_EMPTIED = frozenset({"notifications", "notifies"})
"""The lists that are emptied by whoever reads them."""

IS_CONNECTED = "is_connected"
_NO_AUTOCOMMIT = (
    "is the pool's: use db_connection_context() for writes, which commits at its end, and give it "
    "readonly=True for reads that need no transaction"
)
_NO_CONNECT = "is the pool's: a lost connection is replaced before the next one is handed out"
_NO_RESET = "is the pool's: a session that was changed is reset when its connection is returned"

_REFUSED = {
    "set_autocommit": _NO_AUTOCOMMIT,
    **dict.fromkeys(("change_user", "cmd_change_user", "cmd_reset_connection"), _NO_RESET),
    **dict.fromkeys(("reset", "reset_session"), _NO_RESET),
}
"""Methods of drivers' connections that would work against the lease or the pool, and why."""


class LeaseConnection(TransactionLease):
    """A connection lent to a caller, as PEP 249 has it.

    `commit()`, `rollback()`, `cursor()` and `close()` are the standard's; the driver's exception
    classes are attributes (`conn.IntegrityError`); everything else that the driver's connection has
    is passed on. Once released, the connection and its cursors refuse to work. It is for one thread
    at a time.

    Raises `UsageError` for use after release or by two threads at once, and `TransactionAborted`
    for use after its transaction was lost.
    """

    __slots__ = ()

    # Set by the class that is made for a pool's connections
    pings_on_cursor: ClassVar[bool]

    def cursor(self, *args: Any, **kwargs: Any) -> LeaseCursor:
        """Return a new cursor; the arguments are the driver's."""
        entry = self.touch()
        if self.pings_on_cursor:
            self.check_by_ping()
        raw_cursor = entry.raw.cursor(*args, **kwargs)  # the server learns nothing of it
        cursor: LeaseCursor = (
            self.make_cursor(raw_cursor) if args or kwargs else self.cursor_class(self, raw_cursor)
        )
        return cursor

    def close(self) -> None:
        """Return the connection; uncommitted work is rolled back. Closing twice is harmless."""
        if self._in_scope or self.is_nested:
            raise UsageError(
                "close() inside db_connection_context(): the scope gives its connection back "
                "itself; remove the call"
            )
        self._release_and_call()

    def _release_and_call(self) -> None:
        try:
            self.release()
        finally:
            if self.after_commit is not None:
                self.after_commit.run()

    def __enter__(self) -> Self:
        self.usable()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Do nothing: its scope ends it."""

    def ping(self, reconnect: bool = False) -> None:
        """Raise if the server does not answer. Whatever `reconnect` says, the connection is not
        replaced: that would lose the transaction without a word.
        """
        entry = self.usable()
        if entry.streams:
            self.clear_way(entry)
        self.refuse_if_busy(entry)
        if self.call(self.driver.ping, entry.raw) and not self.has_work:
            self.call(entry.roll_back)

    def threadsafety(self) -> int:
        """Return the thread safety of the driver, as DBUtils has it."""
        return self.driver.threadsafety

    autocommit = Forbidden(_NO_AUTOCOMMIT)
    isolation_level = Forbidden(
        "is the pool's: give it to db_connection_context(), which commits at its end; for "
        "autocommit, give that readonly=True for reads"
    )
    connect = Forbidden(_NO_CONNECT)
    reconnect = Forbidden(_NO_CONNECT)
    auto_reconnect = Forbidden(_NO_CONNECT)

    # The driver's own

    if TYPE_CHECKING:
        row_factory: Any
        cursorclass: Any

        def __getattr__(self, name: str) -> Any:
            """Return what the driver's connection has: `class_for` makes attributes of it."""

    @property
    def dbapi_connection(self) -> Any:
        """The driver's own connection, as DBUtils and SQLAlchemy call it.

        What is done with it is the caller's care: the lease does not see it. The connection is
        closed when it is released, since nobody knows what became of its session.
        """
        self.session_changed("dbapi_connection")
        self.statement(lambda: None)  # a savepoint that is due has to come before
        return self.usable().raw

    def driver_attribute(self, name: str) -> Any:
        """Return what the driver's connection has by this name."""
        if name in self.driver.from_any_thread and self._entry is not None:
            return functools.partial(self._interrupt, name)
        if name in self.driver.tells_schema and self._session.schema is not None:
            self.statement(lambda: None)  # as before any other use, it is to be in its schema
        attribute = getattr(self.usable().raw, name)
        if callable(attribute):
            if name in _REFUSED:
                raise UsageError(f"{name}() {_REFUSED[name]}")
            if name.startswith("tpc_") and name != "tpc_recover":
                raise refusals.distributed(f"{name}()")
            return functools.partial(self._driver_call, name)
        if isinstance(attribute, dict | list | deque) and name not in _EMPTIED:
            return copy.copy(attribute)  # its own serves the next lease as well
        if not is_plain(attribute):
            self.touch()  # more may be done by it
        if name in _EMPTIED or name.startswith(_CHANGES_SESSION):
            self.session_changed(name)
        return hand_out(self, attribute)

    def answer(self, name: str) -> Any:
        """Tell whether the connection is open, in the driver's words, whatever its state."""
        if name == IS_CONNECTED:
            return self._is_connected
        entry = self._entry
        if entry is None or self.is_gone:
            return GONE[name]
        return getattr(entry.raw, name)

    def _is_connected(self) -> bool:
        if self.is_over:
            return not self.is_gone
        try:
            return bool(self.fetch(self.usable().raw.is_connected))
        except self.driver.Error:
            return False

    def driver_exception(self, name: str) -> Any:
        """Return the driver's exception class of this name."""
        if self.driver.dbapi is None:
            raise AttributeError(
                f"{name} can't be told: the function that connects does not say whose connections "
                "they are; give it an attribute `dbapi` with the driver's module"
            )
        return getattr(self.driver.dbapi, name)

    def _driver_call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        raw, driver = self.usable().raw, self.driver
        if name in _SETS_TRANSACTIONS and (self.has_work or driver.in_transaction(raw)):
            raise UsageError(f"{name}() in an open transaction: call it first in its block")
        if name.startswith(_CHANGES_SESSION):
            self.session_changed(f"{name}()")
        if driver.check_text:
            driver.check_text(*args, *kwargs.values())
        translate = driver.translate
        if translate and name.startswith("execute") and len(args) > 1 and args[1] is not None:
            parameters = args[1:2] if name == "execute" else ()
            args = (translate(args[0], *parameters), *args[1:])
        if name in driver.nesting:
            self.rows_only(driver.open_transaction, raw)
        method = getattr(raw, name)
        if name in _SETS_TRANSACTIONS:
            return self._set_transactions(functools.partial(method, *args, **kwargs), name)
        if not name.startswith("execute") and name not in _TAKES_SQL:
            method, args = functools.partial(method, *args), ()
        return hand_out(self, self.way_of(name)(functools.partial(method, **kwargs), *args))

    def _set_transactions(self, method: Callable[[], Any], name: str) -> Any:
        """Have the driver change what its transactions are, unless they are none any more."""
        raw = self.usable().raw
        was_on = getattr(raw, "autocommit", False)
        result = self.fetch(method)
        if getattr(raw, "autocommit", False) is True and not was_on:
            raw.autocommit = False
            raise UsageError(f"{name}() can't switch autocommit on: it {_NO_AUTOCOMMIT}")
        return result

    def _interrupt(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Call what the driver has to end a call that is under way, from whatever thread."""
        entry = self._entry
        if entry is None:
            raise self._refusal()
        if self.driver.interrupts_late:
            entry.condemn("a statement of it was interrupted, and the interruption may come late")
        return getattr(entry.raw, name)(*args, **kwargs)


class ForwardingConnection(LeaseConnection):
    """A lease of a driver's connection that does not tell which attributes it has."""

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        is_question = name in GONE or name == IS_CONNECTED
        try:
            return self.answer(name) if is_question else self.driver_attribute(name)
        except AttributeError as error:
            raise no_attribute(self.driver.title, name) from error


class SendingConnection(LeaseConnection):
    """A lease of a driver's connection that sends something for each new cursor."""

    __slots__ = ()

    def cursor(self, *args: Any, **kwargs: Any) -> LeaseCursor:
        """Return a new cursor; results that nobody asked for are read before."""
        self.read_results(self.usable())
        return super().cursor(*args, **kwargs)
