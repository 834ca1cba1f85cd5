"""What an adapter makes of a URL and of connect arguments."""

from __future__ import annotations

import functools
import importlib
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from types import ModuleType
from typing import Any, ClassVar

from flask_pooled_db.config import DEFAULT_BIND, FROM_FILE, DatabaseURL
from flask_pooled_db.drivers import creators, passwords
from flask_pooled_db.errors import ConfigError
from flask_pooled_db.runtime import callers

_LONGEST_PROGRAM, _LONGEST_LABEL = 20, 63
_LABEL = re.compile(r"[ -~]{1,20}\[(?P<pid>\d+)\] ")

TEXTS = frozenset(
    {*passwords.NAMES, FROM_FILE, "host", "user", "username", "database", "db", "dbname"}
)
"""Connect arguments that are texts, also where they look like numbers."""


class FromConfiguration:
    """The part of an adapter that knows connect arguments."""

    _arguments: Mapping[str, Any]
    _is_module_connect: bool
    _from_file: Mapping[str, Any] = {}
    bind = DEFAULT_BIND
    """The name of the database."""

    module: ClassVar[str] = ""
    """The import name of the DB-API 2 module this adapter is for."""
    schemes: ClassVar[tuple[str, ...]] = ()
    """The URL schemes that ask for this adapter."""
    how_to_install: ClassVar[str] = ""
    """What to do if the module is missing."""
    database_argument: ClassVar[str] = "database"
    """The name of the connect argument for a URL's database."""
    refused_arguments: ClassVar[Mapping[str, str]] = {}
    """Connect arguments that would break a promise, each with what to do instead."""
    named_arguments: ClassVar[Mapping[str, tuple[str, tuple[str, ...]]]] = {}
    """Connect arguments that are classes or functions, with the module in which a text finds them,
    and the names that are there."""
    password_types: ClassVar[tuple[type, ...]] = (str, bytes)
    """What the module takes for a password."""
    takes_password_file: ClassVar[bool] = False
    """Whether its servers have passwords, which may be read from a file."""
    password_file: Any = None
    """The path of the file with the password, if it is not among the arguments."""
    number_arguments: ClassVar[frozenset[str]] = frozenset()
    """Connect arguments that are numbers."""
    own_arguments: ClassVar[Collection[str]] = ()
    """Connect arguments that the adapter takes for itself."""
    given_to_functions: ClassVar[frozenset[str]] = frozenset()
    """What an application's own function is given beside the connect arguments, if it takes it."""
    advice: ClassVar[Mapping[str, str]] = {}
    """What to do about connect arguments that other modules take and this one does not."""

    @classmethod
    def names_of_arguments(
        cls, dbapi: ModuleType, given: Collection[str]
    ) -> Collection[str] | None:
        """Return the names of the connect arguments that the module takes, of those that are given
        at least; None if it does not tell.
        """
        return _parameters_of(dbapi.connect)

    @classmethod
    def objection(cls, dbapi: ModuleType, name: str, value: Any) -> str:
        """Return what the module has against a connect argument, or "" if nothing is known."""
        return ""

    @classmethod
    def why_not_supported(cls, dbapi: ModuleType) -> str:
        """Return why this release of the module can't be used, and what to do; "" if it can."""
        return ""

    @classmethod
    def accepts(cls, creator: Any, dbapi: ModuleType) -> bool:
        """Return whether this adapter fits a creator of connections and its DB-API 2 module."""
        return dbapi.__name__ == cls.module

    @classmethod
    def arguments_from(cls, url: DatabaseURL) -> dict[str, Any]:
        """Return a URL's connect arguments. Raises `ConfigError` if the URL can't be used."""
        named = {
            "host": url.host,
            "port": url.port,
            "user": url.username,
            "password": url.password,
            cls.database_argument: url.database,
        }
        return cls.with_query(url, named)

    @classmethod
    def with_query(cls, url: DatabaseURL, named: Mapping[str, Any]) -> dict[str, Any]:
        """Return a URL's connect arguments: these, which are not None, and those in its query.

        Raises `ConfigError` if one of them is in the query too, with another value.
        """
        given = {name: value for name, value in named.items() if value is not None}
        query = cls.query_arguments(url)
        problems = [
            f"the URL gives {name!r} at its own place and another one in its query: keep one"
            for name in given.keys() & query.keys()
            if given[name] != query[name]
        ]
        if problems:
            raise ConfigError(sorted(problems))
        return given | query

    @classmethod
    def query_arguments(cls, url: DatabaseURL) -> dict[str, Any]:
        """Return the connect arguments in a URL's query."""
        arguments = {}
        for name, text in url.query.items():
            try:
                arguments[name] = cls.from_text(name, text)
            except ValueError:
                raise ConfigError([f"{name!r} in the URL must be a number"]) from None
        return arguments

    def place(self, folder: str) -> None:
        """Take a file that a URL names relatively for one in this folder."""

    @classmethod
    def problems(cls, arguments: Mapping[str, Any]) -> list[str]:
        """Return what is wrong with these connect arguments, each with its remedy."""
        return [
            f"the connect argument {name!r} {remedy}"
            for name, remedy in cls.refused_arguments.items()
            if arguments.get(name)
        ]

    @classmethod
    def by_name(cls, arguments: Mapping[str, Any], problems: list[str]) -> dict[str, Any]:
        """Return those of the connect arguments that are classes or functions and were given by
        their names, and append to `problems`.
        """
        found = {}
        for name, (module, known) in cls.named_arguments.items():
            text = arguments.get(name)
            if not isinstance(text, str):
                continue
            short = text.removeprefix(f"{module}.")
            if short in known:
                found[name] = getattr(importlib.import_module(module), short)
            else:
                problems.append(
                    f"the connect argument {name!r} is none of the names in {module} that can be "
                    f"given as text: write one of {', '.join(known)}"
                )
        return found

    @classmethod
    def from_text(cls, name: str, text: str) -> Any:
        """Return the value of the connect argument `name`, given as `text` in a URL's query."""
        if name in TEXTS:
            return text
        lowered = text.lower()
        if lowered in ("true", "false"):
            return lowered == "true"
        if text.isascii() and text.isdecimal():
            return int(text)
        return float(text) if name in cls.number_arguments else text

    def label(self) -> str:
        """Return what a connection that is made now calls itself: program, process and bind.

        The name of a bind may come from outside. PostgreSQL keeps 63 bytes, of ASCII alone.
        """
        program = callers.program()
        return _in_ascii(f"{program[:_LONGEST_PROGRAM]}[{os.getpid()}] {self.bind}")

    def introduction(self) -> Mapping[str, Any]:
        """Return the connect arguments that give the label to the server; none if the module takes
        no such argument.
        """
        return {}

    def read_password(self) -> Mapping[str, Any]:
        """Return the connect argument that is read from a file at each connect, if there is one."""
        if self.password_file is not None:
            self._from_file = {"password": passwords.read(self.password_file)}
        return self._from_file

    def words_of(self, error: BaseException) -> str:
        """Return what the module says of connect arguments that it did not send to a server; ""
        for all other errors, which may hold anything.
        """
        is_servers = getattr(error, "errno", None) or getattr(error, "sqlstate", None)
        has_number = bool(error.args) and isinstance(error.args[0], int)
        if is_servers or has_number or not (self.module and self._is_module_connect):
            return ""
        if isinstance(error, UnicodeError):  # it shows a character
            return ""
        text = " ".join(str(error).split())
        given = {**self._arguments, **self._from_file}
        return "" if passwords.are_in(text, given) else text


def _in_ascii(label: str) -> str:
    return re.sub(r"[^ -~]", "?", label)[:_LONGEST_LABEL]


def read_label(label: str, binds: Iterable[str]) -> int | None:
    """Return the id of the process that gave a connection this label; None if it is no label of a
    connection of one of these binds.
    """
    match = _LABEL.match(label)
    if match is None:
        return None
    before = match[0]
    is_ours = any(_in_ascii(before + bind) == label for bind in binds)
    return int(match["pid"]) if is_ours else None


@functools.lru_cache(maxsize=32)
def _parameters_of(connect: Callable[..., Any]) -> Collection[str] | None:
    return creators.parameters_of(connect)
