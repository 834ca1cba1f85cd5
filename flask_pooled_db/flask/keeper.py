"""What the pools of an app ask of the app, and tell it: its loader, its guard, its receivers."""

from __future__ import annotations

import contextlib
import contextvars
import logging
import sys
import traceback
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from flask import Flask
from flask.globals import app_ctx

from flask_pooled_db import signals
from flask_pooled_db.config import is_plain_name, looks_like_url, shown
from flask_pooled_db.errors import UnknownBind
from flask_pooled_db.flask.pools import PoolMaker
from flask_pooled_db.lease.dbutils import Pool
from flask_pooled_db.runtime import Notices, reporter, workers

logger = logging.getLogger("flask_pooled_db")


class Told(Protocol):
    """The extension, as far as an app has told it of its binds."""

    loader: Callable[[str], Any] | None
    guard: Callable[[], Any] | None


class Keeper:
    """What the registry of an app asks of the app. It does not keep the app alive."""

    def __init__(self, app: Flask, extension: Told, maker: PoolMaker) -> None:
        self._app = weakref.ref(app)
        self._extension = extension
        self._maker = maker
        self._notices = Notices()

    def load(self, name: str, key: object) -> Pool:
        loader = self._extension.loader
        settings = None
        if loader is not None:
            with self._context() as app:
                settings = _call(app, loader, name)
        if settings is None:
            raise unknown_bind(name, self._maker.fixed, is_loaded=loader is not None)
        return self._maker.loaded_pool(name, settings, key)

    def kept(self) -> Collection[str] | None:
        guard = self._extension.guard
        if guard is None:
            return ()
        try:
            with self._context() as app:
                return _names(_call(app, guard))
        except Exception as error:  # noqa: BLE001  nothing is closed by mistake
            self._notices.warn(
                ("guard", type(error)),
                "The bind_guard failed, so that no bind is closed:\n%s",
                traceback.format_exc(),
            )
            return None

    def opened(self, name: str, reason: str) -> None:
        self._tell(signals.bind_opened, name, reason)

    def closed(self, name: str, reason: str) -> None:
        logger.debug("Bind %s was closed: %s", shown(name), reason)
        self._tell(signals.bind_closed, name, reason)

    def _tell(self, signal: signals.NamedSignal, name: str, reason: str) -> None:
        if not signal.receivers or signal.is_muted:
            return
        interruption: BaseException | None = None
        try:
            with self._context() as app:
                for receiver in [] if app is None else list(signal.receivers_for(app)):
                    try:
                        _call(app, receiver, app, bind=name, reason=reason)
                    except Exception:  # noqa: BLE001  neither the others nor the pool are at fault
                        _log_receiver(signal)
                    except BaseException as error:  # noqa: BLE001  raised when all have been called
                        interruption = interruption or error
        except Exception:  # noqa: BLE001  the end of the context is the app's code as well
            _log_receiver(signal)
        if interruption is not None:
            raise interruption

    @contextlib.contextmanager
    def _context(self) -> Iterator[Any]:
        """Be in a context of the app, and return the app; None if it is gone. A fork does not wait
        for the app's code.
        """
        app = self._app()
        with workers.resting():
            if app is None or (app_ctx and app_ctx.app is app):
                yield app
            else:
                with app.app_context():
                    yield app


def _log_receiver(signal: signals.NamedSignal) -> None:
    text = "A receiver of the signal %s failed:\n%s"
    reporter.tell(logger.error, text, signal.name, traceback.format_exc())


def _call(app: Flask | None, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a function of the app's, which may be a coroutine function, also where a loop runs."""
    ready = function if app is None else app.ensure_sync(function)
    asyncio = sys.modules.get("asyncio")
    if ready is function or asyncio is None or asyncio._get_running_loop() is None:
        return ready(*args, **kwargs)
    context = contextvars.copy_context()
    with ThreadPoolExecutor(1, "flask-pooled-db app's code") as executor:
        return executor.submit(context.run, ready, *args, **kwargs).result()


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
