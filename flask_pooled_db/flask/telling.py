"""How an app is told what happens: its receivers of signals."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import logging
import sys
import traceback
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from blinker import NamedSignal
from flask import Flask
from flask.globals import app_ctx

from flask_pooled_db import signals
from flask_pooled_db.pool import NoEvents, reports
from flask_pooled_db.pool.evictions import kind_of
from flask_pooled_db.runtime import announcer, reporter, workers
from flask_pooled_db.runtime.callers import Place

logger = logging.getLogger("flask_pooled_db")


class Teller:
    """Tells an app. It does not keep the app alive."""

    def __init__(self, app: Flask) -> None:
        self._app = weakref.ref(app)

    def tell(self, signal: NamedSignal, **news: Any) -> None:
        """Tell a signal, here and now. Only interruptions are raised."""
        if not signal.receivers or signal.is_muted:
            return
        interruption: BaseException | None = None
        try:
            with self.context() as app:
                for receiver in [] if app is None else list(signal.receivers_for(app)):
                    try:
                        call(app, receiver, app, **news)
                    except Exception:  # noqa: BLE001  neither the others nor the pool are at fault
                        _log_receiver(signal)
                    except BaseException as error:  # noqa: BLE001  raised when all have been called
                        interruption = interruption or error
        except Exception:  # noqa: BLE001  the end of the context is the app's code as well
            _log_receiver(signal)
        if interruption is not None:
            raise interruption

    def announce(self, signal: NamedSignal, **news: Any) -> None:
        """Tell a signal soon, in a thread of its own: whatever its receivers do harms nobody."""
        if signal.receivers and not signal.is_muted:
            announcer.hand_over(functools.partial(self.tell, signal, **news))

    @contextlib.contextmanager
    def context(self) -> Iterator[Any]:
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


def _log_receiver(signal: NamedSignal) -> None:
    text = "A receiver of the signal %s failed:\n%s"
    reporter.tell(logger.error, text, signal.name, traceback.format_exc())


def call(app: Flask | None, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a function of the app's, which may be a coroutine function, also where a loop runs."""
    ready = function if app is None else app.ensure_sync(function)
    asyncio = sys.modules.get("asyncio")
    if ready is function or asyncio is None or asyncio._get_running_loop() is None:
        return ready(*args, **kwargs)
    context = contextvars.copy_context()
    with ThreadPoolExecutor(1, "flask-pooled-db app's code") as executor:
        return executor.submit(context.run, ready, *args, **kwargs).result()


class Announcements(NoEvents):
    """Tells an app's receivers of signals what happens to the pool of a bind."""

    __slots__ = ("_bind", "_teller")  # an app may have thousands

    def __init__(self, teller: Teller, bind: str) -> None:
        self._teller = teller
        self._bind = bind

    def _announce(self, signal: NamedSignal, **news: Any) -> None:
        self._teller.announce(signal, bind=self._bind, **news)

    def opened(self, seconds: float) -> None:
        self._announce(signals.connection_opened, seconds=seconds)

    def evicted(self, reason: str) -> None:
        kind, detail = kind_of(reason), str(reason)
        self._announce(signals.connection_evicted, reason=kind, detail=detail)

    def timed_out(self, seconds: float, holders: object) -> None:
        self._announce(signals.checkout_timed_out, seconds=seconds)

    def leaked(self, place: Place | None) -> None:
        self._announce(signals.leak_found, place=place, seconds=None)

    def overdue(self, place: Place | None, seconds: float) -> None:
        self._announce(signals.leak_found, place=place, seconds=seconds)

    def aborted(self, cause: BaseException | None) -> None:
        reason = "" if cause is None else reports.describe(cause)
        self._announce(signals.transaction_aborted, reason=reason)

    def went_down(self, error: BaseException) -> None:
        self._announce(signals.database_down, reason=reports.describe(error))

    def came_back(self) -> None:
        self._announce(signals.database_back)
