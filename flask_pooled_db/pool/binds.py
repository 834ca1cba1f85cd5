"""The pools of an app that are open, by the names of their binds, and how they end.

Those that the configuration names are always there. One that was opened is closed again when nobody
has used it for a while, when another one needs its place among those that may be open, and by its
name. Whoever had looked it up before opens it anew.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any

from flask_pooled_db.config import DEFAULT_BIND, AppConfig, shown
from flask_pooled_db.errors import PoolClosed
from flask_pooled_db.pool import reports
from flask_pooled_db.pool.engine import Engine
from flask_pooled_db.pool.opened import Keeper, Member, NotOpen, Opened, Ticket, Unopened
from flask_pooled_db.pool.slots import Slots
from flask_pooled_db.pool.turns import Order, Turn, Turns
from flask_pooled_db.runtime import guard, workers


class Binds:
    """What is open of an app in this process. All methods may be called by any thread."""

    def __init__(
        self,
        members: Mapping[str, Member],
        keeper: Keeper,
        config: AppConfig,
        *,
        clock: Callable[[], float] = monotonic,
        tend: Callable[[Any], None] = lambda _: None,
    ) -> None:
        """`members` are always there. `tend` is called when a bind is opened: from then on it is to
        be closed when it is unused. `clock` is a monotonic clock, in seconds.
        """
        self.pools: dict[str, Any] = dict(members)  # by name; what is open now
        self.engines: dict[str | None, Engine] = {
            name: pool.engine for name, pool in members.items()
        }
        if DEFAULT_BIND in members:
            self.engines[None] = self.engines[DEFAULT_BIND]
        self.fixed = frozenset(members)
        self.config = config
        self.clock = clock
        self.opened: dict[str, Opened] = {}
        self.keeper = keeper
        self.settled: Callable[[Any], object] = lambda _: None  # told of each pool that was closed
        self.turns = Turns(clock)
        self._tend = tend
        self._token = object()  # tells its keys from those of other registries
        self._slots = Slots(config.max_binds, self.opened)
        self._is_closed = False
        self._is_watched = False  # whether each return is told

    def after_fork(self) -> None:
        """In a forked child, go on with what the parent had open, but not with what its other
        threads were about to do.
        """
        self.turns.after_fork()
        for opened in list(self.opened.values()):
            if opened.engine.is_closed:
                self._remove_locked(opened)
        self._slots.after_fork()

    # Looking up

    def key(self, name: str) -> object:
        """Return what all pools of this name have in common, one after the other."""
        return self._token, name

    def not_open(self, name: str) -> NotOpen:
        """Return the error of a caller whose bind is not open."""
        text = f"bind {shown(name)} is not open any more: ask for it by its name again"
        return NotOpen(text, functools.partial(self.open, name))

    def unopened(self, name: str) -> Unopened:
        """Return what a scope of this bind needs until it is entered."""
        refusal = functools.partial(self.not_open, name)
        return Unopened(self.key(name), refusal, self.config.acquire_timeout)

    def all_pools(self) -> list[Any]:
        """Return what is open now."""
        with guard.lock:
            return list(self.pools.values())

    def own_pools(self) -> list[Any]:
        """Return what is open now and has connections of its own: no tenants."""
        return [pool for pool in self.all_pools() if pool.config.server is None]

    def open(self, name: str, timeout: float | None = None, spent: float = 0.0) -> Ticket:
        """Return a ticket for the bind of this name, and open it if it is not."""
        raise NotImplementedError

    # Closing

    def evict(
        self,
        opened: Opened,
        reason: str,
        still: Callable[[], bool] = lambda: True,
        owed: list[Callable[[], object]] | None = None,
    ) -> bool:
        """Close a bind that nobody uses, if it still is so. Returns whether it did. What the app is
        to hear of it goes to `owed`, if that is given.
        """

        def only_if() -> bool:
            is_free = self.turns.of_locked(opened.name) is None
            return is_free and opened.is_idle and still()

        return self._close(opened, reason, only_if, owed=owed)

    def close_bind(self, name: str) -> bool:
        """Close a bind by its name: idle connections now, those in use when they come back. Callers
        that wait get `PoolClosed`. Returns False if it was not open.
        """
        return self._close_by_name(name, "closed by its name", Order.CLOSE)

    def replace_bind(self, name: str) -> bool:
        """Close a bind like `close_bind`; callers that wait get a connection with its new settings.
        Returns False if it was not open.
        """
        return self._close_by_name(name, "replaced", Order.RELOAD)

    def _close_by_name(self, name: str, reason: str, order: Order) -> bool:
        if guard.is_inside():
            raise reports.inside()
        waiting = None if order is Order.CLOSE else functools.partial(self.not_open, name)
        deadline, was_open = self.clock() + self.config.acquire_timeout, False
        while True:
            with guard.lock:
                opened, turn = self.opened.get(name), self.turns.of_locked(name)
                if opened is None:
                    if turn is None or not turn.opens:
                        return was_open
                    turn.orders.add(order)  # it is being loaded
                    if order is Order.CLOSE:
                        self.turns.forget_locked(name)  # who comes now loads it anew
                    self.turns.ring_locked()
                    return True
                bell = self.turns.bell_locked() if opened.engine.is_closed else None
            if bell is not None:  # somebody else is closing its connections
                was_open = True
                if turn is None or turn.is_own or not self.turns.wait(bell, deadline):
                    return True
            elif self._close(opened, reason, lambda: True, waiting):
                return True

    def close(self) -> list[Any]:
        """Open nothing more, and close what was opened. Returns all pools, closed or not."""
        with guard.lock:
            self._is_closed = True
            self.turns.ring_locked()
            pools = list(self.pools.values())
        for opened in list(self.opened.values()):
            self._close(opened, "the pools were closed", lambda: True)
        return pools

    def _close(
        self,
        opened: Opened,
        reason: str,
        only_if: Callable[[], bool],
        waiting: Callable[[], PoolClosed] | None = None,
        owed: list[Callable[[], object]] | None = None,
    ) -> bool:
        """Close a bind if `only_if` says so, with the lock held. Returns whether it did.

        The app hears of it here, or from whoever has the turn of the bind: it is being announced.
        """
        name, mine = opened.name, Turn(opens=False)
        tell = functools.partial(self._tell, name, reason, mine)
        was_closed = is_owed = False

        def decide() -> bool:
            nonlocal was_closed, is_owed
            if self.opened.get(name) is not opened or opened.engine.is_closed or not only_if():
                return False
            turn = self.turns.of_locked(name)
            if turn is None:
                self.turns.begin_locked(name, mine)
            elif not turn.is_own:
                turn.owed.append(tell)
                is_owed = True
            was_closed = True
            return True

        late = functools.partial(self.not_open, name)
        try:
            with workers.connecting():  # a fork waits until it is done
                opened.pool.end(only_if=decide, late=late, waiting=waiting)
        finally:  # once it is closed the app hears of it, also if its caller is interrupted
            if was_closed:
                self._settle(opened)
                if owed is not None:
                    owed.append(tell)
                elif not is_owed:
                    tell()
        return was_closed

    def _settle(self, opened: Opened) -> None:
        with guard.lock:
            self._slots.ends_locked(opened.engine)
            self._remove_locked(opened)
            self.turns.ring_locked()
        self.settled(opened.pool)

    def _tell(self, name: str, reason: str, turn: Turn) -> None:
        """Tell the app that a bind was closed, and end the turn of who did."""
        try:
            with turn.of_caller():
                self.keeper.closed(name, reason)
        finally:
            self.turns.end(name, turn)

    def _remove_locked(self, opened: Opened) -> None:
        name = opened.name
        if self.opened.get(name) is opened:
            del self.opened[name]
            self.pools.pop(name, None)
            self.engines.pop(name, None)

    # Those who wait in line are told when a bind becomes idle

    def _watch_locked(self) -> None:
        """Have the returns of all binds told, or not any more."""
        if self._slots.is_awaited is not self._is_watched:
            self._is_watched = not self._is_watched
            for opened in self.opened.values():
                self._watch_one_locked(opened)

    def _watch_one_locked(self, opened: Opened) -> None:
        opened.engine.watch_returns(self.turns.ring if self._is_watched else None)
