"""Binds that are opened when somebody asks for their name."""

from __future__ import annotations

import functools
from collections.abc import Collection

from flask_pooled_db.config import shown
from flask_pooled_db.errors import PoolClosed, PoolTimeout, UsageError
from flask_pooled_db.pool import reports
from flask_pooled_db.pool.binds import Binds
from flask_pooled_db.pool.holding import Holder
from flask_pooled_db.pool.opened import Member, NotOpen, Opened, Ticket
from flask_pooled_db.pool.turns import Order, Turn, refuse_closed
from flask_pooled_db.runtime import guard


class Registry(Binds):
    """The pools of an app in this process, by name. All methods may be called by any thread."""

    def open(self, name: str, timeout: float | None = None, spent: float = 0.0) -> Ticket:
        """Return a ticket for the bind of this name, and open it if it is not.

        Waits up to `timeout` seconds (None: as configured), of which some are `spent`, for others
        that open or close it, and until one more may be open. The app's loader takes the time that
        it takes. Raises `UnknownBind`, `PoolTimeout`, `PoolClosed`, and what the loader raises.
        """
        if guard.is_inside():
            raise reports.inside()
        patience = self.config.acquire_timeout if timeout is None else timeout
        turn = Turn(opens=True, began=self.clock() - spent, patience=patience)
        pinned: list[Ticket] = []  # what a caller who is interrupted must not keep
        try:
            try:
                try:
                    with turn.of_caller():
                        if not self._begin(name, turn, timeout, pinned):
                            self._open(name, turn, timeout, pinned)
                finally:
                    self._end(name, turn)
            finally:  # again: a signal handler may have interrupted it
                self._end(name, turn)
            return pinned.pop()
        except BaseException:
            pinned.clear()
            raise

    def _begin(self, name: str, turn: Turn, asked: float | None, pinned: list[Ticket]) -> bool:
        """Begin a caller's turn to open a bind, or pin it if it is open. Returns whether it is."""
        while True:
            with guard.lock:
                self._refuse_locked()
                opened = self.opened.get(name)
                if opened is not None and not opened.engine.is_closed:
                    self._show_locked(opened)
                    pinned.append(opened.ticket_locked(asked, self.clock() - turn.began))
                    return True
                other = self.turns.of_locked(name)
                if other is None:
                    self.turns.begin_locked(name, turn)
                    return False
                if other.is_own:
                    raise UsageError(
                        f"bind {shown(name)} is asked for by what opens or closes it: its loader, "
                        "the guard or a receiver of a signal; these must not use the bind itself"
                    )
                orders, other = other.orders, None  # whoever loses the turn ends it
                bell = self.turns.bell_locked()
            if not self.turns.wait(bell, turn.deadline):
                self.keeper.timed_out(name, self.clock() - turn.began)
                raise self._timeout(
                    name, turn, "another caller is opening or closing it, or waits to"
                )
            refuse_closed(shown(name), orders)

    def _open(self, name: str, turn: Turn, asked: float | None, pinned: list[Ticket]) -> None:
        """Open a bind, and pin it."""
        reason = "first use"
        self._tend(self)
        while True:
            turn.orders.discard(Order.RELOAD)
            began = self.clock()
            pool = self.keeper.load(name, self.key(name))
            if reason == "first use":  # the first time is the loader's, and no waiting
                turn.began += self.clock() - began
            self._wait_for_slot(name, turn, pool)
            self.turns.pay(turn)
            with guard.lock:
                self._refuse_locked()
                refuse_closed(shown(name), turn.orders)
                if Order.RELOAD not in turn.orders:
                    opened = Opened(name, pool, self.clock())
                    pool.engine.when_emptied(self.turns.ring_locked)
                    pool.engine.when_refused(functools.partial(self._refused, opened))
                    pinned.append(opened.ticket_locked(asked, self.clock() - turn.began))
                    self.opened[name] = opened
                    self._show_locked(opened)
                    break
            reason = "replaced"
            if self.clock() >= turn.deadline:
                raise self._timeout(name, turn, "its settings are replaced again and again")
        self.keeper.opened(name, reason)

    def _refused(self, opened: Opened) -> NotOpen:
        """Return the error of a caller for whom a bind is to be loaded anew: connecting failed for
        good, with settings that may be better by now.
        """

        def open_anew(timeout: float | None = None, spent: float = 0.0) -> Ticket:
            self.evict(opened, "connecting failed")
            return self.open(opened.name, timeout, spent)

        return NotOpen(str(self.not_open(opened.name)), open_anew)

    def _show_locked(self, opened: Opened) -> None:
        """Have a bind that is open found by its name, if an interruption has not let it."""
        if self.engines.get(opened.name) is not opened.engine:
            self._watch_one_locked(opened)
            self.pools[opened.name] = opened.pool
            self.engines[opened.name] = opened.engine

    def _end(self, name: str, turn: Turn) -> None:
        """End a caller's turn to open a bind, whatever it has come to."""
        with guard.lock:
            self._slots.leave_line_locked(turn)
            self._watch_locked()
            turn.has_slot = False
            self.turns.ring_locked()
        self.turns.end(name, turn)

    # One more may be open

    def _wait_for_slot(self, name: str, turn: Turn, pool: Member) -> None:
        """Return when a caller has a slot. Those who wait for one stand in line."""
        most, began = self.config.max_binds, self.clock()
        has_waited = False
        while not turn.has_slot:
            with guard.lock:
                self._refuse_locked()
                refuse_closed(shown(name), turn.orders)
                has_slot = self._slots.take_locked(turn)
                self._watch_locked()
                if has_slot:
                    self.turns.ring_locked()  # it has left the line
                    break
                if self._slots.is_nested_locked(turn):
                    raise UsageError(
                        f"bind {shown(name)} is asked for by the bind_guard, which is asked since "
                        "no more binds may be open: it must not need one that is not open"
                    )
                may_evict = self._slots.may_evict_locked(turn)
                bell = self.turns.bell_locked()
            if may_evict:
                self._make_room(turn)  # which rings, if it does
            has_waited = True
            if not self.turns.wait(bell, turn.deadline):
                pool.engine.terms.events.timed_out(self.clock() - turn.began, self.holders)
                self.settled(pool)  # which is not opened, and has counted that
                raise self._timeout(
                    name,
                    turn,
                    f"{most} binds are open, which POOLED_DB_MAX_BINDS allows, and each of them is "
                    "in use or kept by the bind_guard",
                )
        if has_waited:
            pool.engine.terms.events.bind_waited(self.clock() - began, self.holders)

    def _make_room(self, turn: Turn) -> None:
        """Close the bind that was used longest ago, of those that may be closed. The app hears of
        it when the caller has its slot, and has left the line.
        """
        for one in list(self.opened.values()):
            one.engine.leaks.reclaim()  # what an exception has lost is in use until then
        idle = [one for one in list(self.opened.values()) if one.is_idle]
        idle.sort(key=lambda one: (one.is_connecting, one.last_used))
        kept: Collection[str] | None = None
        for opened in idle:
            if kept is None or opened.name not in kept:
                kept = self.keeper.kept()  # right before it is closed
            if kept is None:
                return
            if opened.name in kept:
                continue
            if self.evict(opened, "another bind needs its place", owed=turn.owed):
                return

    # Errors

    def _refuse_locked(self) -> None:
        if self._is_closed:
            raise PoolClosed("the pools of this app were closed: no bind is opened any more")

    def _timeout(self, name: str, turn: Turn, why: str) -> PoolTimeout:
        waited = self.clock() - turn.began
        text = f"bind {shown(name)} could not be opened in {waited:.1f} s: {why}"
        holders = self.holders()
        text += reports.held_by(holders)
        return PoolTimeout(text, bind=name, waited=waited, holders=holders)

    def holders(self) -> list[Holder]:
        """Return who holds connections of the binds that were opened by their names, the longest
        first, as far as it is known.
        """
        with guard.lock:
            pools = [self.pools[name] for name in self.opened if name in self.pools]
        names = {pool.bind if pool.config.server is None else pool.config.server for pool in pools}
        own = [pool for pool in self.own_pools() if pool.bind in names]
        found = [holder for pool in own for holder in pool.engine.holders()]
        return sorted(found, key=lambda holder: -holder.age)
