"""What an adapter makes of a URL and of connect arguments, before there is any driver."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any, ClassVar

from flask_pooled_db.config import DatabaseURL
from flask_pooled_db.drivers import passwords
from flask_pooled_db.errors import ConfigError


class FromConfiguration:
    """The part of an adapter that its class alone can do."""

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
    password_types: ClassVar[tuple[type, ...]] = (str, bytes)
    """What the module takes for a password."""

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
        given = {name: value for name, value in named.items() if value is not None}
        return given | cls.query_arguments(url)

    @classmethod
    def query_arguments(cls, url: DatabaseURL) -> dict[str, Any]:
        """Return the connect arguments in a URL's query."""
        try:
            return {name: cls.from_text(name, text) for name, text in url.query.items()}
        except ValueError:
            raise ConfigError(["a query parameter of the URL must be a number"]) from None

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
    def from_text(cls, name: str, text: str) -> Any:
        """Return the value of the connect argument `name`, given as `text` in a URL's query."""
        if name in passwords.NAMES:
            return text
        lowered = text.lower()
        if lowered in ("true", "false"):
            return lowered == "true"
        return int(text) if text.isascii() and text.isdecimal() else text
