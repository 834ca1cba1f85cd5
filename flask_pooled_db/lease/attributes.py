"""What the attributes of a driver's connection are on its lease."""

from __future__ import annotations

from typing import Any, NoReturn

from flask_pooled_db.errors import UsageError
from flask_pooled_db.lease import shaping


class Forbidden:
    """An attribute of drivers' connections that would work against the lease or the pool."""

    def __init__(self, why: str) -> None:
        self._why = why

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: object, owner: type) -> NoReturn:
        raise UsageError(f"{self._name} {self._why}")

    def __set__(self, instance: object, value: object) -> NoReturn:
        raise UsageError(f"{self._name} can't be set: it {self._why}")


class DriverAttribute:
    """An attribute of the driver's connection that is passed on to the caller of its lease."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, lease: Any, owner: type) -> Any:
        return self if lease is None else lease.driver_attribute(self._name)

    def __set__(self, lease: Any, value: Any) -> None:
        raise AttributeError(
            f"{self._name} can't be set on a connection of the pool, which others use after this: "
            "set it for all of them, in CONNECT_ARGS, SETSESSION or a CREATOR of your own"
        )


class DriverException(DriverAttribute):
    """An exception class of the driver's. It works after release, since an `except` clause may come
    later.
    """

    def __get__(self, lease: Any, owner: type) -> Any:
        return self if lease is None else lease.driver_exception(self._name)


class StateQuestion(DriverAttribute):
    """An attribute that tells whether the connection is open. It is answered in any state."""

    def __get__(self, lease: Any, owner: type) -> Any:
        return self if lease is None else lease.answer(self._name)


class CursorSetting(DriverAttribute):
    """An attribute that says what the connection's cursors are like.

    What is set counts for the block that sets it, and never reaches the driver's connection.
    """

    def __get__(self, lease: Any, owner: type) -> Any:
        return self if lease is None else shaping.cursor_setting(lease, self._name)

    def __set__(self, lease: Any, value: Any) -> None:
        shaping.set_for_cursors(lease, self._name, value)
