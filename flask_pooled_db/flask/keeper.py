"""What the pools of an app ask of the app: its loader and its guard."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Collection, Iterable
from typing import Any, Protocol

from flask_pooled_db import signals
from flask_pooled_db.config import is_plain_name, looks_like_url, shown
from flask_pooled_db.errors import UnknownBind
from flask_pooled_db.flask.pools import PoolMaker
from flask_pooled_db.flask.telling import Teller, call
from flask_pooled_db.lease.dbutils import Pool
from flask_pooled_db.runtime import Notices
from flask_pooled_db.telemetry.seen import BindEvents

logger = logging.getLogger("flask_pooled_db")


class Told(Protocol):
    """The extension, as far as an app has told it of its binds."""

    loader: Callable[[str], Any] | None
    guard: Callable[[], Any] | None


class Keeper:
    """What the registry of an app asks of the app. It does not keep the app alive."""

    def __init__(
        self, teller: Teller, extension: Told, maker: PoolMaker, events: BindEvents
    ) -> None:
        """`events` is told what is opened and closed, before the app is."""
        self._teller = teller
        self._extension = extension
        self._maker = maker
        self._events = events
        self._notices = Notices()

    def load(self, name: str, key: object) -> Pool:
        loader = self._extension.loader
        settings = None
        if loader is not None:
            with self._teller.context() as app:
                settings = call(app, loader, name)
        if settings is None:
            raise unknown_bind(name, self._maker.fixed, is_loaded=loader is not None)
        return self._maker.loaded_pool(name, settings, key)

    def kept(self) -> Collection[str] | None:
        guard = self._extension.guard
        if guard is None:
            return ()
        try:
            with self._teller.context() as app:
                return _names(call(app, guard))
        except Exception as error:  # noqa: BLE001  nothing is closed by mistake
            self._notices.warn(
                ("guard", type(error)),
                "The bind_guard failed, so that no bind is closed:\n%s",
                traceback.format_exc(),
            )
            return None

    def opened(self, name: str, reason: str) -> None:
        self._events.add(name, "opened", reason)
        self._teller.tell(signals.bind_opened, bind=name, reason=reason)

    def timed_out(self, name: str, seconds: float) -> None:
        self._teller.announce(signals.checkout_timed_out, bind=name, seconds=seconds)

    def closed(self, name: str, reason: str) -> None:
        self._events.add(name, "closed", reason)
        logger.debug("Bind %s was closed: %s", shown(name), reason)
        self._teller.tell(signals.bind_closed, bind=name, reason=reason)


def unknown_bind(bind: str, known: Iterable[str], *, is_loaded: bool) -> UnknownBind:
    """Return the error of a caller whose bind does not exist. Its name is shown only if it can't be
    a URL with a password.
    """
    if is_loaded:
        name = "of that name" if looks_like_url(bind) else shown(bind)
        return UnknownBind(f"there is no bind {name}: the bind_loader knows none", bind)
    names = ", ".join(repr(name) for name in known)
    if looks_like_url(bind):
        text = f"a URL was given where the name of a bind is expected: these are known: {names}"
        return UnknownBind(text, bind)
    name = shown(bind) if is_plain_name(bind) or not bind else "of that name"
    text = f"there is no bind {name} in POOLED_DB_BINDS: these are known: {names}"
    return UnknownBind(text, bind)


def _names(names: Any) -> frozenset[str]:
    """Return what a guard has returned, if it is names: a single one would be taken for letters."""
    if names is None or isinstance(names, str | bytes):
        raise TypeError(f"it returned {type(names).__name__}, not the names of the binds to keep")
    kept = frozenset(names)
    wrong = next((name for name in kept if not isinstance(name, str)), "")
    if wrong != "":
        raise TypeError(f"it returned {type(wrong).__name__} among the names of the binds to keep")
    return kept
