"""sqlcipher3: SQLite with encrypted files."""

from __future__ import annotations

import functools
import os
import re
import sqlite3
from collections.abc import Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar

from flask_pooled_db.config import DatabaseURL
from flask_pooled_db.drivers import passwords
from flask_pooled_db.drivers.base import Failure
from flask_pooled_db.drivers.creators import is_module_connect, parameters_of, what_connects
from flask_pooled_db.drivers.sqlite import SQLiteDriver
from flask_pooled_db.drivers.sqlite_connection import WatchedConnection, code_of, watched_class
from flask_pooled_db.drivers.sqlite_statements import Pragma, pragma_in
from flask_pooled_db.errors import ConfigError, UsageError

KEY, KEY_FILE = "key", "key_file"

_FOR_ALL_REFUSED = (
    "a lease can't change the key of a database, or the cipher's settings of one that is not new: "
    "nobody could read it any more. Give the settings as connect arguments; for a new key, use "
    "PRAGMA rekey on a connection of your own, and give it to the pool with db.replace_bind()"
)
_WRONG_KEY = (
    "the key is wrong, or it is missing, or the file is no database that it encrypts: check the "
    "key, the cipher's settings and the path"
)
_NO_KEY = (
    f"there is no key: write it as the URL's password, sqlite+sqlcipher://:key@/file, or give the "
    f"connect argument {KEY!r} or {KEY_FILE!r}; for a file that is not encrypted, use sqlite:///file"
)

# The settings of the cipher that may be connect arguments: what their values look like.
_SIZES = "|".join(str(2**power) for power in range(9, 17))
_CIPHER: Mapping[str, tuple[str, str]] = {
    "cipher_compatibility": ("[1-4]", "1, 2, 3 or 4"),  # first: it sets the others
    "kdf_iter": (r"[1-9]\d{0,8}", "a whole number from 1 on"),
    "cipher_page_size": (_SIZES, "a power of two from 512 to 65536"),
    "cipher_use_hmac": ("on|off|true|false|1|0", "on or off"),
    "cipher_hmac_algorithm": ("HMAC_SHA(?:1|256|512)", "HMAC_SHA1, HMAC_SHA256 or HMAC_SHA512"),
    "cipher_kdf_algorithm": (
        "PBKDF2_HMAC_SHA(?:1|256|512)",
        "PBKDF2_HMAC_SHA1, PBKDF2_HMAC_SHA256 or PBKDF2_HMAC_SHA512",
    ),
    "cipher": ("aes-256-cbc", "aes-256-cbc: SQLCipher has no other"),
}


class Unkept(str):
    """A statement that is equal to no other. So sqlcipher3, which keeps five statements at least,
    does not find it there, and calls the connection to have it compiled.
    """

    __slots__ = ()
    __eq__ = object.__eq__
    __hash__ = object.__hash__


if TYPE_CHECKING:
    from sqlite3 import Cursor as PlainCursor
else:
    PlainCursor = object


class UnkeptCursor(PlainCursor):
    """What lies beneath the cursors of an encrypted file."""

    def execute(self, sql: Any, *args: Any) -> Any:
        return super().execute(Unkept(sql) if isinstance(sql, str) else sql, *args)

    def executemany(self, sql: Any, *args: Any) -> Any:
        return super().executemany(Unkept(sql) if isinstance(sql, str) else sql, *args)


class CipherConnection(WatchedConnection):
    """A connection to an encrypted file."""

    def __call__(self, sql: str) -> Any:
        # SQLCipher runs its pragmas when they are compiled, so that none is to be kept.
        return super().__call__(sql if pragma_in(sql) else str(sql))

    def check_pragma(self, pragma: Pragma) -> None:
        super().check_pragma(pragma)
        if pragma.rekeys or (pragma.is_of_cipher and not self._is_new(pragma)):
            raise UsageError(_FOR_ALL_REFUSED)

    def _is_new(self, pragma: Pragma) -> bool:
        """Return whether a PRAGMA is about a database that was attached and has no content yet."""
        if not pragma.is_of_attached:
            return False
        ask = self.own_cursor.plain(self).execute
        return bool(ask(f"PRAGMA {pragma.schema}.page_count").fetchone() == (0,))

    def reset_key(self, *_: Any) -> None:
        """Refuse what `PRAGMA rekey` does."""
        raise UsageError(_FOR_ALL_REFUSED)

    def open_blob(self, *_: Any, **__: Any) -> None:
        """Refuse to open a blob: closing it fails if it has a weak reference, as of sqlcipher3 0.6,
        and COMMIT waits for one that is open.
        """
        raise UsageError(
            "blobs of sqlcipher3 can't be watched: read the column with SELECT, and write it with "
            "UPDATE"
        )


@functools.cache
def _class_of(dbapi: ModuleType) -> type[WatchedConnection]:
    return watched_class(dbapi, CipherConnection, (UnkeptCursor,))


class SQLCipherDriver(SQLiteDriver):
    """sqlcipher3, which keeps all promises that sqlite3 keeps.

    The key is given to each new connection by a method, and is never part of a statement. The file
    is read right after that, so that a wrong key is told when the pool connects.
    """

    module = "sqlcipher3"
    schemes = ("sqlite+sqlcipher", "sqlite+pysqlcipher")
    how_to_install = "pip install 'flask-pooled-db[sqlcipher]'"
    hazard_of_sharing = ""  # its threadsafety says enough
    own_arguments: ClassVar = (*SQLiteDriver.own_arguments, KEY, KEY_FILE, *_CIPHER)
    known_arguments: ClassVar = SQLiteDriver.known_arguments | {*own_arguments}

    def __init__(
        self, creator: Any, dbapi: ModuleType, arguments: dict[str, Any], timeout: float
    ) -> None:
        self._key: str | bytes | None = None
        self._key_file: Any = None
        self._cipher = {name: arguments.pop(name) for name in _CIPHER if name in arguments}
        self._cipher.pop("cipher", None)  # it has no other, and takes no orders
        is_own = is_module_connect(creator, dbapi)
        parameters = None if is_own else parameters_of(what_connects(creator))
        if KEY not in (parameters or ()):  # else an application's function sets it
            self._key = arguments.pop(KEY, None)
            self._key_file = arguments.pop(KEY_FILE, None)
        if is_own and self._key is None and self._key_file is None:
            raise ConfigError([_NO_KEY])
        super().__init__(creator, dbapi, arguments, timeout)
        self.connection_class = _class_of(dbapi)

    @classmethod
    def accepts(cls, creator: Any, dbapi: ModuleType) -> bool:
        return dbapi.__name__ in ("sqlcipher3", "sqlcipher3.dbapi2")

    @classmethod
    def refuse_server(cls, url: DatabaseURL) -> None:
        if url.host or url.username:
            forms = f"{url.scheme}://:key@/file is in the app's instance folder, "
            forms += f"{url.scheme}://:key@//file absolute"
            raise ConfigError([f"an SQLite URL names no host and no user: {forms}"])

    @classmethod
    def with_query(cls, url: DatabaseURL, named: Mapping[str, Any]) -> dict[str, Any]:
        return super().with_query(url, {**named, KEY: url.password})

    @classmethod
    def from_text(cls, name: str, text: str) -> Any:
        return text if name in (KEY, KEY_FILE) else super().from_text(name, text)

    @classmethod
    def problems(cls, arguments: Mapping[str, Any]) -> list[str]:
        problems = super().problems(arguments)
        if KEY in arguments and (problem := _problem_of(arguments[KEY])):
            problems.append(f"the connect argument {KEY!r} {problem}")
        if KEY_FILE in arguments:
            path = arguments[KEY_FILE]
            if KEY in arguments:
                problems.append(f"{KEY!r} and {KEY_FILE!r} are both given: keep one")
            if not isinstance(path, str | os.PathLike) or not os.fspath(path):
                problems.append(f"the connect argument {KEY_FILE!r} must be the path of a file")
        problems += [
            f"the connect argument {name!r} must be {words}"
            for name, (pattern, words) in _CIPHER.items()
            if name in arguments and not _fits(pattern, arguments[name])
        ]
        return problems

    def secret(self) -> str | bytes | None:
        return self._key if self._key_file is None else passwords.read(self._key_file, "key")

    def unlock(self, raw: Any, secret: str | bytes | None) -> None:
        if secret is not None:
            raw.set_key(secret)
        for name, value in self._cipher.items():
            raw.run(f"PRAGMA {name}={value}")
        try:
            self.ping(raw)
        except self.Error as error:
            if code_of(error) != sqlite3.SQLITE_NOTADB:
                raise
            raise ConfigError([_WRONG_KEY]) from error

    def ping(self, raw: Any) -> None:
        raw.execute("PRAGMA schema_version").close()  # it is in the file, unlike `SELECT 1`

    def translate(self, sql: Any, parameters: Any = None) -> Any:
        try:
            return super().translate(sql, parameters)
        except sqlite3.ProgrammingError as error:
            raise self._module.ProgrammingError(*error.args) from None

    def classify(self, raw: Any, error: BaseException) -> Failure:
        failure = super().classify(raw, error)
        if code_of(error) == sqlite3.SQLITE_NOTADB:  # it may be of a file that was attached
            try:
                self.ping(raw)
            except self.Error:  # another program has changed the key
                return Failure.LOST
        return failure


def _problem_of(key: Any) -> str:
    """Return what is wrong with a key, or ""."""
    if not isinstance(key, str | bytes):
        return (
            f"must be a string or bytes, not a value of type {type(key).__name__}: put it in "
            f"""quotes, in an environment variable in both kinds ('"..."')"""
        )
    if not key:
        return "is empty, which would leave the file unencrypted: give it a key"
    if isinstance(key, str) and not passwords.is_encodable(key):
        return "has a character that UTF-8 does not have: correct it"
    return ""


def _fits(pattern: str, value: Any) -> bool:
    return re.fullmatch(pattern, str(value), re.ASCII | re.IGNORECASE) is not None
