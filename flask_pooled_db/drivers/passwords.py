"""The connect arguments that are passwords, and the file that one may be read from."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from types import NoneType
from typing import Any

from flask_pooled_db.config import FROM_FILE
from flask_pooled_db.errors import ConfigError

NAMES = ("password", "passwd")
"""The names that drivers have for them."""

_LARGEST = 4096  # bytes; a path may lead to any file, even to one without an end


def problems(arguments: Mapping[str, Any], types: tuple[type, ...]) -> list[str]:
    """Return what is wrong with the passwords among these connect arguments, each with its remedy.

    `types` are those that the driver takes. One of digits alone is easily read as a number.
    """
    return [
        f"the connect argument {name!r} must be a string, not a value of type "
        f"{type(arguments[name]).__name__}: put it in quotes, in an environment variable in both "
        f"""kinds ('"..."')"""
        for name in NAMES
        if not isinstance(arguments.get(name), (*types, NoneType))
    ]


def is_encodable(password: str) -> bool:
    """Return whether a password can be sent."""
    try:
        password.encode()
    except UnicodeError:
        return False
    return True


def are_in(text: str, arguments: Mapping[str, Any]) -> bool:
    """Return whether a text has one of the passwords among these connect arguments, or may have."""
    if arguments.get("conninfo"):
        return True
    secrets = [
        value.decode(errors="replace") if isinstance(value, bytes) else str(value)
        for name, value in arguments.items()
        if "pass" in name
    ]
    return any(secret in text or repr(secret)[1:-1] in text for secret in secrets if secret)


def file_problems(path: Any, arguments: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with the file that a password is to be read from. It need not be there
    yet.
    """
    problems = []
    if not isinstance(path, str | os.PathLike) or not os.fspath(path):
        problems.append(f"{FROM_FILE!r} must be the path of a file")
    problems += [
        f"{name!r} and {FROM_FILE!r} are both given: keep one"
        for name in NAMES
        if name in arguments
    ]
    return problems


def _beginning_of(path: str | os.PathLike[str]) -> bytes:
    """Return the beginning of a file. A pipe is refused: it could keep its reader waiting for good,
    and can't be read again at the next connect.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("it is no regular file")
        return os.read(descriptor, _LARGEST + 1)
    finally:
        os.close(descriptor)


def read(path: str | os.PathLike[str], kind: str = "password") -> str:
    """Return the password, or the key, that a file holds now, without the end of its line.

    Raises `ConfigError`, which shows nothing of the content.
    """
    what = f"the {kind} file {os.fspath(path)!r}"
    try:
        content = _beginning_of(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError([f"{what} can't be read: {reason}"]) from error
    try:
        password = content.decode()
    except UnicodeError:
        password = None  # the error holds the content
    if password is None or len(content) > _LARGEST:
        raise ConfigError([f"{what} holds no {kind}: it is no UTF-8, or too long for one"])
    password = password[:-2] if password.endswith("\r\n") else password.removesuffix("\n")
    if not password:
        raise ConfigError([f"{what} is empty: put the {kind} there"])
    return password
