"""A driver whose URL a function tells, at each connect: for passwords that live for minutes."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from time import monotonic
from typing import Any

from flask_pooled_db.config import ANSWER, AskedURL, DatabaseURL, url_of_answer
from flask_pooled_db.drivers.base import Driver
from flask_pooled_db.errors import ConfigError

_WORDS = "pooled_db_asking"  # an attribute of the error that a function has raised
_RAISED = "the function in URL raised it"
_TOO_SLOW = "the function in URL took longer than CONNECT_TIMEOUT"


def words_of_asking(error: BaseException) -> str:
    """Return what to say of an error that came up as a URL was asked for; "" for all others.

    Its own text is the application's, and may hold the password.
    """
    return str(getattr(error, _WORDS, ""))


class AskedDriver(Driver):
    """Stands for the driver of a pool whose URL a function tells.

    Each connect asks, and is made by a driver of its own: `for_connect()` returns it. Which kind of
    driver it is, the first answer tells, and all others have to agree. What belongs to none of them
    alone (how the servers did, TLS contexts, a database in memory) goes from one to the next.
    """

    asks = True

    def __init__(
        self, url: AskedURL, timeout: float, make: Callable[[DatabaseURL, float], Driver]
    ) -> None:
        """`make` makes the driver for a URL, to connect within that many seconds."""
        super().__init__(make, None, {}, timeout)
        self.why_not_shared = "a function tells its URL, so nothing is known of its driver yet"
        self._function = url.function
        self._make = make
        self._lock = threading.Lock()  # guards what the last answer has changed
        self._latest: Driver | None = None

    @property
    def name(self) -> str:
        return "a database whose URL is a function" if self._latest is None else self._latest.name

    def for_connect(self) -> Driver:
        """Ask for the URL, and return the driver to connect with.

        Raises what the function raises, `TimeoutError` if it took longer than a connect may, and
        `ConfigError` if its answer can't be used.
        """
        began = monotonic()
        url = url_of_answer(self._ask())
        left = self.connect_timeout - (monotonic() - began)
        if left <= 0:
            raise _with_words(TimeoutError(_TOO_SLOW), _TOO_SLOW)
        try:
            driver = self._make(url, left)
        except ConfigError as error:
            raise ConfigError([f"{ANSWER}: {problem}" for problem in error.problems]) from error
        with self._lock:
            self._adopt(driver)
        return driver

    def _ask(self) -> Any:
        try:
            return self._function()
        except BaseException as error:
            _with_words(error, _RAISED)
            raise

    def _adopt(self, driver: Driver) -> None:
        earlier = self._latest
        if earlier is not None:
            if type(driver) is not type(earlier):
                what = f"{ANSWER} is for {driver.name}, and what it returned before for"
                raise ConfigError([f"{what} {earlier.name}: give each driver a bind of its own"])
            driver.follow(earlier)
        self._latest = driver
        self.servers = driver.servers
        self.has_readonly = driver.has_readonly
        self.suffers_from_forks = self.suffers_from_forks or driver.suffers_from_forks

    def is_transient(self, error: BaseException) -> bool:
        if words_of_asking(error):
            return True
        return self._latest is not None and self._latest.is_transient(error)

    def close_all(self) -> None:
        if self._latest is not None:
            self._latest.close_all()

    def after_fork(self) -> None:
        self._lock = threading.Lock()
        super().after_fork()
        if self._latest is not None:
            self._latest.after_fork()


def _with_words(error: BaseException, words: str) -> BaseException:
    with contextlib.suppress(Exception):  # it takes none
        setattr(error, _WORDS, words)
    return error
