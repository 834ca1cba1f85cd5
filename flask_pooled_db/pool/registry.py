"""The pools of an app by the names of their binds: those that are always there, and those that are
opened when somebody asks for their name.

A bind that was opened is closed again when nobody has used it for a while, when another one needs
its place among those that may be open, and by its name. Whoever had looked it up before opens it
anew.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping
from time import monotonic
from typing import Any

from flask_pooled_db.config import DEFAULT_BIND, AppConfig, shown
from flask_pooled_db.errors import PoolClosed, PoolTimeout, UsageError
from flask_pooled_db.pool import reports
from flask_pooled_db.pool.engine import Engine
from flask_pooled_db.pool.opened import (
    Keeper,
    Member,
    NotOpen,
    Opened,
    Ticket,
    Unopened,
)
from flask_pooled_db.pool.places import Place, Places
from flask_pooled_db.pool.turns import GLANCE, Order, Turn, Turns
from flask_pooled_db.runtime import guard


class Registry:
    """The pools of an app in this process. All methods may be called by any thread."""

    def __init__(
        self,
        members: Mapping[str, Member],
        keeper: Keeper,
        config: AppConfig,
        *,
        clock: Callable[[], float] = monotonic,
        tend: Callable[[Registry], None] = lambda _: None,
    ) -> None:
        """`members` are always there. `tend` is called when a bind was opened: from then on it is
        to be closed when it is unused. `clock` is a monotonic clock, in seconds.
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
        self._keeper = keeper
        self._tend = tend
        self._token = object()  # tells its keys from those of other registries
        self._turns = Turns(clock)
        self._line: list[object] = []  # callers that wait until another bind may be opened
        self._is_closed = False
        self._begin()

    def _begin(self) -> None:
        """Begin with those slots taken that open binds have."""
        self._slots = Places(self.config.max_binds)
        for one in self.opened.values():
            slot = self._slots.take()
            if slot is not None:
                one.move(slot)

    def after_fork(self) -> None:
        """In a forked child, go on with what the parent had open, but not with what its other
        threads were about to do.
        """
        for name, engine in list(self.engines.items()):
            if name is not None and name not in self.fixed and engine.state.is_closed:
                self._remove_locked(name)
        self._line.clear()
        self._turns.after_fork()
        self._begin()

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
        return Unopened(self.key(name), functools.partial(self.not_open, name))

    def all_pools(self) -> list[Any]:
        """Return what is open now."""
        with guard.lock:
            return list(self.pools.values())

    def kept(self) -> Collection[str] | None:
        """Ask the app which binds are to stay open; None for all."""
        return self._keeper.kept()

    # Opening

    def open(self, name: str, timeout: float | None = None) -> Ticket:
        """Return a ticket for the bind of this name, and open it if it is not.

        Waits up to `timeout` seconds (None: as configured) for others that open or close it, and
        until one more may be open. Raises `UnknownBind`, `PoolTimeout`, `PoolClosed`, and what the
        app's loader raises.
        """
        if guard.is_inside():
            raise reports.inside()
        started = self.clock()
        deadline = started + (self.config.acquire_timeout if timeout is None else timeout)
        turn = self._its_turn(name, deadline)
        if isinstance(turn, Ticket):
            return turn
        try:
            return self._open(name, turn, deadline)
        finally:
            self._turns.end(name, turn)

    def _its_turn(self, name: str, deadline: float) -> Turn | Ticket:
        """Return the caller's turn to open a bind, or a ticket if it is open."""
        started, mine = self.clock(), Turn(opens=True)
        while True:
            with guard.lock:
                self._refuse_locked()
                if (opened := self.opened.get(name)) is not None:
                    return opened.ticket_locked(self._left(started, deadline))
                turn = self._turns.of_locked(name)
                if turn is None:
                    self._turns.begin_locked(name, mine)
                    return mine
                if turn.is_own:
                    raise UsageError(
                        f"bind {shown(name)} is asked for by what opens or closes it: its loader, "
                        "the guard or a receiver of a signal; these must not use the bind itself"
                    )
                orders, turn = turn.orders, None  # whoever loses the turn ends it
                bell = self._turns.bell_locked()
            if not self._turns.wait(bell, deadline):
                raise self._timeout(name, started, "another caller is opening or closing it")
            self._refuse_closing(name, orders)

    def _left(self, started: float, deadline: float) -> float | None:
        """Return the seconds that a caller may go on to wait; None if it did not have to yet."""
        now = self.clock()
        return None if now - started < GLANCE / 10 else max(deadline - now, 0.0)

    def _open(self, name: str, turn: Turn, deadline: float) -> Ticket:
        reason = "first use"
        while True:
            turn.orders.discard(Order.RELOAD)
            pool = self._keeper.load(name, self.key(name))
            slot = self._slot(name, turn, deadline)
            opened = Opened(name, pool, slot, self.clock())
            with guard.lock:
                self._refuse_locked()
                self._refuse_closing(name, turn.orders)
                if Order.RELOAD not in turn.orders:
                    opened.engine.when_emptied(functools.partial(self._leave_locked, opened))
                    ticket = opened.ticket_locked(None)
                    self.opened[name], self.pools[name] = opened, pool
                    self.engines[name] = opened.engine
                    self._watch_locked(opened)
                    break
            slot.give_back()
            reason = "replaced"
        self._tend(self)
        self._keeper.opened(name, reason)
        return ticket

    def _slot(self, name: str, turn: Turn, deadline: float) -> Place:
        """Return a place among the binds that may be open. Callers wait for it in line."""
        started, me = self.clock(), object()
        try:
            while True:
                with guard.lock:
                    self._refuse_closing(name, turn.orders)
                    is_first = not self._line or self._line[0] is me
                    slot = self._slots.take() if is_first else None
                    if slot is not None:
                        return slot
                    if me not in self._line:
                        self._line.append(me)
                        self._watch_all_locked()
                    bell = self._turns.bell_locked()
                if is_first:
                    self._make_room()  # which rings, if it does
                if not self._turns.wait(bell, deadline):
                    break
        finally:
            with guard.lock:
                if me in self._line:
                    self._line.remove(me)
                    self._watch_all_locked()
                    self._turns.ring_locked()
        most = self.config.max_binds
        raise self._timeout(
            name,
            started,
            f"{most} binds are open, which POOLED_DB_MAX_BINDS allows, and each of them is in use "
            "or kept by the bind_guard",
        )

    def _make_room(self) -> None:
        """Close the bind that was used longest ago, of those that may be closed."""
        idle = [one for one in list(self.opened.values()) if one.is_idle]
        kept = self.kept() if idle else None
        if kept is None:
            return
        for opened in sorted(idle, key=lambda one: (one.is_connecting, one.last_used)):
            if opened.name not in kept and self.evict(opened, "another bind needs its place"):
                return

    # Closing

    def evict(self, opened: Opened, reason: str, still: Callable[[], bool] = lambda: True) -> bool:
        """Close a bind that nobody uses, if it still is so. Returns whether it did."""

        def only_if() -> bool:
            return opened.is_idle and still()

        return self._close(opened, reason, only_if)

    def close_bind(self, name: str) -> bool:
        """Close a bind by its name: idle connections now, those in use when they come back. Callers
        that wait get `PoolClosed`. Returns False if it was not open.
        """
        return self._close_by_name(name, "closed by its name", is_closed=True)

    def replace_bind(self, name: str) -> bool:
        """Close a bind like `close_bind`; callers that wait get a connection with its new settings.
        Returns False if it was not open.
        """
        return self._close_by_name(name, "replaced", is_closed=False)

    def _close_by_name(self, name: str, reason: str, *, is_closed: bool) -> bool:
        waiting = None if is_closed else functools.partial(self.not_open, name)
        deadline = self.clock() + self.config.acquire_timeout
        is_late = False
        while True:
            with guard.lock:
                opened, turn = self.opened.get(name), self._turns.of_locked(name)
                if opened is None:
                    if turn is None or not turn.opens:
                        return False
                    turn.orders.add(Order.CLOSE if is_closed else Order.RELOAD)
                    self._turns.ring_locked()
                    return True
                is_announced = turn is None or turn.is_own or is_late
                bell = None if is_announced else self._turns.bell_locked()
            if bell is not None:
                is_late = not self._turns.wait(bell, deadline)
            elif self._close(opened, reason, lambda: True, waiting, is_forced=is_late):
                return True

    def close(self) -> None:
        """Open nothing more, and close what was opened."""
        with guard.lock:
            self._is_closed = True
            self._turns.ring_locked()
        for opened in list(self.opened.values()):
            self._close(opened, "the pools were closed", lambda: True)

    def _close(
        self,
        opened: Opened,
        reason: str,
        only_if: Callable[[], bool],
        waiting: Callable[[], PoolClosed] | None = None,
        *,
        is_forced: bool = False,
    ) -> bool:
        """Close a bind if `only_if` says so, with the lock held. Returns whether it did.

        `is_forced` is for one whose turn somebody does not end.
        """
        name, mine = opened.name, Turn(opens=False)
        was_closed = False

        def decide() -> bool:
            nonlocal was_closed
            turn = self._turns.of_locked(name)
            is_taken = turn is not None and not turn.is_own and not is_forced
            if self.opened.get(name) is not opened or is_taken or not only_if():
                return False
            if turn is None:
                self._turns.begin_locked(name, mine)
            self._remove_locked(name)
            was_closed = True
            return True

        late = functools.partial(self.not_open, name)
        try:
            opened.engine.close(only_if=decide, late=late, waiting=waiting)
        finally:  # once it is closed the app hears of it, also if its caller is interrupted
            try:
                if was_closed:
                    with guard.lock:
                        opened.engine.tell_emptied_locked()
                    self._keeper.closed(name, reason)
            finally:
                self._turns.end(name, mine)
        return was_closed

    def _remove_locked(self, name: str) -> None:
        self.opened.pop(name, None)
        self.pools.pop(name, None)
        self.engines.pop(name, None)

    def _leave_locked(self, opened: Opened) -> None:
        opened.leave()
        opened.engine.when_emptied(None)  # it refers to this registry
        self._turns.ring_locked()

    # Errors

    def _refuse_locked(self) -> None:
        if self._is_closed:
            raise PoolClosed("the pools of this app were closed: no bind is opened any more")

    def _refuse_closing(self, name: str, orders: Collection[Order]) -> None:
        if Order.CLOSE in orders:
            raise PoolClosed(f"bind {shown(name)} was closed while it was being opened")

    def _timeout(self, name: str, started: float, why: str) -> PoolTimeout:
        waited = self.clock() - started
        text = f"bind {shown(name)} could not be opened in {waited:.1f} s: {why}"
        return PoolTimeout(text, bind=name, waited=waited)

    # Those who wait in line are told when a bind becomes idle

    def _watch_all_locked(self) -> None:
        for opened in self.opened.values():
            self._watch_locked(opened)

    def _watch_locked(self, opened: Opened) -> None:
        opened.engine.watch_returns(self._turns.ring if self._line else None)
