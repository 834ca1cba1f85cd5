"""Encrypted SQLite: the key, and what keeps the promises of sqlite3 where its module differs."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from flask import Flask
from sqlcipher3 import dbapi2 as sqlcipher3

from flask_pooled_db import (
    ConfigError,
    ConnectFailed,
    PooledDB,
    TransactionAborted,
    UsageError,
    db_connection_context,
)
from flask_pooled_db.drivers.sqlcipher import SQLCipherDriver
from flask_pooled_db.drivers.sqlite_statements import pragma_in
from tests.drivers.sqlite_app import query
from tests.support.apps import pooled_app
from tests.support.cipher import KEY, opened, url_of
from tests.support.stages import ENDLESS

CLEAR = b"SQLite format 3"
OTHER_KEY = KEY.replace("2D", "3E")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """An encrypted file with an empty table."""
    path = tmp_path / "shop.db"
    with opened(path) as connection:
        connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT)")
    return path


@pytest.fixture
def app(file: Path) -> Any:
    """An app on that file, inside its context."""
    with pooled_app(url_of(file)) as pair:
        yield pair


def ids(path: Path) -> list[int]:
    with opened(path) as other:
        return [id_ for (id_,) in other.execute("SELECT id FROM t ORDER BY id")]


class TestKeys:
    """The key, in whatever form."""

    @pytest.mark.parametrize(
        "key",
        ['it\'s "a" `key`; --', "a\0b", "schlüssel \U0001f511", "%41@/:?#", KEY, KEY + "x", "x''"],
    )
    def test_new_file_is_encrypted(self, tmp_path: Path, key: str) -> None:
        """A file that the pool makes is encrypted from its first byte, its WAL too, and others read
        it with the same key.
        """
        path = tmp_path / "new.db"
        settings: dict[str, Any] = {"connect_args": {"kdf_iter": 4000}}
        with pooled_app(url_of(path, key), **settings):
            query("CREATE TABLE t (id INTEGER)")
            query("INSERT INTO t VALUES (7)")
            contents = path.read_bytes() + path.with_name("new.db-wal").read_bytes()
            assert CLEAR not in contents
            assert b"CREATE TABLE" not in contents
        with opened(path, key) as other:
            other.execute("PRAGMA kdf_iter=4000")
            assert other.execute("SELECT id FROM t").fetchall() == [(7,)]

    @pytest.mark.parametrize("key", [b"\xff\0'", b"bytes", KEY.encode()])
    def test_bytes(self, tmp_path: Path, key: bytes) -> None:
        """A key may be bytes; they are taken as they are."""
        path = tmp_path / "new.db"
        arguments = {"key": key, "kdf_iter": 4000}
        with pooled_app(f"sqlite+sqlcipher:///{path}", connect_args=arguments):
            query("CREATE TABLE t (id INTEGER)")
        with opened(path, key) as other:
            other.execute("PRAGMA kdf_iter=4000")
            assert other.execute("SELECT id FROM t").fetchall() == []

    def test_key_file(self, file: Path, tmp_path: Path) -> None:
        """The key may be in a file, which is read at each connect."""
        path = tmp_path / "key"
        path.write_text(f"{KEY}\n")
        with pooled_app(f"sqlite+sqlcipher:///{file}?key_file={path}") as (_, db):
            assert query("SELECT id FROM t") == []
            path.write_text(OTHER_KEY)
            db.pool().drain()
            with pytest.raises(ConnectFailed, match="the key is wrong"):
                query("SELECT id FROM t")

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            (None, "can't be read: No such file"),
            (b"", "is empty: put the key there"),
            (b"\xff", "holds no key"),
        ],
    )
    def test_no_key_in_file(self, tmp_path: Path, content: bytes | None, words: str) -> None:
        """While the file holds no key, the error says so, and no database is made."""
        path, folder = tmp_path / "key", tmp_path / "data"
        folder.mkdir()
        if content is not None:
            path.write_bytes(content)
        url = f"sqlite+sqlcipher:///{folder}/new.db?key_file={path}"
        with pooled_app(url), pytest.raises(ConnectFailed, match="the key file") as caught:
            query("SELECT 1")
        assert words in str(caught.value)
        assert list(folder.iterdir()) == []

    @pytest.mark.parametrize(
        "settings",
        [
            {"kdf_iter": 4000},
            {"cipher_page_size": "8192"},
            {"cipher_use_hmac": False},
            {"cipher_compatibility": 3},
            {"cipher_hmac_algorithm": "HMAC_SHA1", "cipher_kdf_algorithm": "PBKDF2_HMAC_SHA1"},
        ],
        ids=str,
    )
    def test_cipher_settings(self, tmp_path: Path, settings: dict[str, Any]) -> None:
        """The cipher's settings are part of how the file is read: without them the key is wrong."""
        path = tmp_path / "new.db"
        settings = {"kdf_iter": 4000, **settings}
        with pooled_app(url_of(path, "key"), connect_args=settings):
            query("CREATE TABLE t (id INTEGER)")
        with pooled_app(url_of(path, "key"), connect_args=settings):
            assert query("SELECT id FROM t") == []
        with pooled_app(url_of(path, "key")), pytest.raises(ConnectFailed, match="key is wrong"):
            query("SELECT id FROM t")

    def test_url_of_sqlalchemy(self, file: Path) -> None:
        """SQLAlchemy's URL for its driver works, with the settings that stand in it."""
        query_part = "cipher=aes-256-cbc&kdf_iter=256000"
        url = url_of(file).replace("sqlcipher", "pysqlcipher")
        with pooled_app(f"{url}?{query_part}") as (_, db):
            assert query("SELECT id FROM t") == []
            assert type(db.pool().driver) is SQLCipherDriver

    def test_relative_file(self, tmp_path: Path) -> None:
        """A relative file is in the app's instance folder."""
        app = Flask("shop", instance_path=str(tmp_path / "instance"))
        app.config["POOLED_DB_URL"] = url_of(Path("new.db")).replace("@//", "@/")
        db = PooledDB(app)
        with app.app_context():
            query("CREATE TABLE t (id INTEGER)")
        db.close()
        assert (tmp_path / "instance" / "new.db").exists()

    def test_in_memory(self) -> None:
        """A database in memory may have a key too, and is one for all connections of the pool."""
        with pooled_app("sqlite+sqlcipher://", connect_args={"key": KEY}) as (_, db):
            query("CREATE TABLE t (id INTEGER)")
            with db_connection_context() as conn, db_connection_context(independent=True) as other:
                assert conn.execute("SELECT * FROM t").fetchall() == []
                assert other.execute("SELECT * FROM t").fetchall() == []
            assert db.stats().connects == 2


class TestWrongKey:
    """A file that can't be read."""

    @pytest.mark.parametrize("key", [OTHER_KEY, "passphrase"])
    @pytest.mark.parametrize("what", ["encrypted", "clear", "no_database"])
    def test_one_clear_error(
        self, file: Path, what: str, key: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A wrong key, or a file that is not encrypted, is one error that says so, at once."""
        if what == "clear":
            file.unlink()
            with contextlib.closing(sqlite3.connect(file)) as other:
                other.execute("CREATE TABLE t (id INTEGER)")
        elif what == "no_database":
            file.write_bytes(b"words" * 1000)
        before = file.read_bytes()
        url = f"{url_of(file, key)}?kdf_iter=4000"
        with pooled_app(url, mincached=1) as (_, db):
            began = time.monotonic()
            with pytest.raises(ConnectFailed, match="the key is wrong, or it is missing"):
                query("SELECT id FROM t")
            assert time.monotonic() - began < 3
            assert db.stats().open == 0
        assert file.read_bytes() == before
        assert key not in caplog.text

    @pytest.mark.parametrize("key", ['it\'s %25 a "secret"', "a\0secret", OTHER_KEY])
    def test_a3_key_shown_nowhere(
        self, file: Path, key: str, caplog: pytest.LogCaptureFixture, capfd: Any
    ) -> None:
        """No error, log record, repr or output shows the key, be it right or wrong."""
        caplog.set_level(logging.DEBUG)
        said: list[object] = []
        new = file.with_name("new.db")
        for path in (new, file):
            with pooled_app(url_of(path, key), connect_args={"kdf_iter": 4000}) as (_, db):
                try:
                    query("CREATE TABLE t (id INTEGER)")
                    query("SELECT nonsense")
                except Exception as error:
                    said += traceback.format_exception(error)
                    said += [vars(error), vars(error.__cause__ or error)]
                driver = db.pool().driver
                said += [db, db.pool(), db.stats(), driver, vars(db.pool()), db.pool().config]
                if path is new:
                    with contextlib.closing(driver.connect()) as raw:
                        said.append(repr(raw))
        said += [caplog.text, *capfd.readouterr()]
        text = "".join(f"{thing} {thing!r}" for thing in said)
        for shown in (key, repr(key)[1:-1], quote(key), key.encode().hex(), "secret", "3E3E"):
            assert shown not in text

    def test_key_changed_by_another(self, app: tuple[Flask, PooledDB], file: Path) -> None:
        """When another program has changed the key, the lease that finds out is lost, and what
        connects after it is told that the key is wrong.
        """
        query("INSERT INTO t VALUES (1, 'a')")
        with opened(file) as other:
            other.execute(f'PRAGMA rekey="{OTHER_KEY}"').fetchall()
        with pytest.raises((sqlcipher3.DatabaseError, TransactionAborted)):
            query("SELECT id FROM t")
        for _ in range(3):
            with pytest.raises(ConnectFailed, match="the key is wrong"):
                query("SELECT id FROM t")
        assert app[1].stats().idle == 0


SECRET = "hush-hush"


class TestSettings:
    """What is wrong with settings is told when the app is made."""

    @pytest.mark.parametrize(
        ("url", "arguments", "words"),
        [
            ("sqlite+sqlcipher:///a.db", {}, "no key"),
            ("sqlite+sqlcipher://:@/a.db", {}, "no key"),
            ("sqlite+sqlcipher:///a.db", {"key": ""}, "'key' is empty"),
            ("sqlite+sqlcipher:///a.db", {"key": b""}, "'key' is empty"),
            ("sqlite+sqlcipher:///a.db", {"key": 2311}, "'key' must be a string or bytes"),
            ("sqlite+sqlcipher:///a.db", {"key": f"{SECRET}\ud800"}, "character that UTF-8"),
            (f"sqlite+sqlcipher://:{SECRET}@/a.db", {"key": "b"}, "differ on 'key'"),
            (f"sqlite+sqlcipher://:{SECRET}@/a.db?key=b", {}, "its own place and another"),
            (f"sqlite+sqlcipher://:{SECRET}@/a.db?key_file=b", {}, "both given"),
            ("sqlite+sqlcipher:///a.db", {"key_file": 7}, "the path of a file"),
            (f"sqlite+sqlcipher://me:{SECRET}@/a.db", {}, "no host and no user"),
            (f"sqlite+sqlcipher://:{SECRET}@host/a.db", {}, "no host and no user"),
            (f"sqlite+sqlcipher://:{SECRET}@/a.db?kdf_iter=many", {}, "'kdf_iter' must be a whole"),
            (f"sqlite+sqlcipher://:{SECRET}@/a.db?kdf_iter=1;x", {}, "'kdf_iter' must be a whole"),
            (f"sqlite+sqlcipher://:{SECRET}@/a.db", {"kdf_iter": 0}, "'kdf_iter' must be a whole"),
            (f"sqlite+sqlcipher://:{SECRET}@/a.db?cipher_page_size=1000", {}, "power of two"),
            (f"sqlite+sqlcipher://:{SECRET}@/a.db?cipher=aes-128-cbc", {}, "aes-256-cbc"),
            (f"sqlite+sqlcipher://:{SECRET}@/a.db?cipher_compatibility=5", {}, "1, 2, 3 or 4"),
            (f"sqlite+sqlcipher://:{SECRET}@/a.db?kdf_itr=1", {}, "did you mean 'kdf_iter'"),
            (f"sqlite+sqlcipher://:{SECRET}@/a.db?factory=x", {}, "the pool sets it"),
        ],
    )
    def test_problems(self, url: str, arguments: dict[str, Any], words: str) -> None:
        """Each mistake is one ConfigError, which shows no key."""
        with (
            pytest.raises(ConfigError, match=words) as caught,
            pooled_app(url, connect_args=arguments),
        ):
            pass
        assert SECRET not in str(caught.value)
        assert "2311" not in str(caught.value)

    def test_missing_package(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """Without the package, the error says how to install it."""
        monkeypatch.setitem(sys.modules, "sqlcipher3", None)
        with pytest.raises(ConfigError, match=r"pip install 'flask-pooled-db\[sqlcipher\]'"):
            with pooled_app(url_of(tmp_path / "a.db")):
                pass


def attach(conn: Any, sql: str, name: str = "ö") -> None:
    """Attach a new database and run a statement."""
    with contextlib.suppress(sqlcipher3.OperationalError):  # not inside of a transaction
        conn.execute(f"ATTACH '' AS {name}")
    conn.execute(sql)


class OwnCursor(sqlcipher3.Cursor):  # type: ignore[misc]
    """A cursor class of an application's own."""

    def execute(self, sql: str, *args: Any) -> Any:
        return super().execute(sql, *args)


WAYS: dict[str, Callable[[Any, str], object]] = {
    "connection": lambda conn, sql: conn.execute(sql),
    "cursor": lambda conn, sql: conn.cursor().execute(sql),
    "plain_cursor": lambda conn, sql: conn.cursor(sqlcipher3.Cursor).execute(sql),
    "own_cursor": lambda conn, sql: conn.cursor(OwnCursor).execute(sql),
    "function": lambda conn, sql: conn.cursor(lambda raw: OwnCursor(raw)).execute(sql),  # noqa: PLW0108
    "executemany": lambda conn, sql: conn.cursor().executemany(sql, [()]),
    "script": lambda conn, sql: conn.cursor().executescript(sql),
    "script_of_own_cursor": lambda conn, sql: conn.cursor(OwnCursor).executescript(sql),
}


QUESTIONS = (
    *("cipher", "cipher_version", "cipher_provider", "cipher_provider_version", "cipher_settings"),
    *("cipher_default_settings", "cipher_integrity_check", "cipher_status", "cipher_fips_status"),
    *("cipher_salt", "cipher_page_size", "cipher_log_level", "cipher_memory_security", "kdf_iter"),
)


class TestTransactions:
    """Where sqlcipher3 is not like sqlite3."""

    @pytest.mark.usefixtures("app")
    @pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
    def test_t1_same_statement_again(self, file: Path, way: Callable[[Any, str], object]) -> None:
        """A statement that was sent before begins a transaction like the first time: sqlcipher3
        keeps the last five that it compiled.
        """
        for _ in range(3):
            with contextlib.suppress(LookupError), db_connection_context() as conn:
                way(conn, "INSERT INTO t (name) VALUES ('a')")
                raise LookupError
            assert ids(file) == []
        for number in (1, 2):
            with db_connection_context() as conn:
                way(conn, "INSERT INTO t (name) VALUES ('a')")
            assert len(ids(file)) == number

    @pytest.mark.usefixtures("app")
    def test_statement_timeout_of_same_statement(self) -> None:
        """Each execution of a statement has its own time limit."""
        with db_connection_context(statement_timeout=0.2) as conn:
            deadline = time.monotonic() + 0.3
            while time.monotonic() < deadline:
                assert conn.execute("SELECT 1").fetchone() == (1,)

    @pytest.mark.usefixtures("app")
    def test_statement_timeout(self) -> None:
        """A statement that exceeds its limit is interrupted, and the connection goes on."""
        with db_connection_context(statement_timeout=0.05) as conn:
            with pytest.raises(sqlcipher3.OperationalError, match="interrupted"):
                conn.execute(ENDLESS).fetchall()
            assert conn.execute("SELECT 1").fetchone() == (1,)

    @pytest.mark.usefixtures("app")
    def test_t4_key_of_attached_file(self, file: Path, tmp_path: Path) -> None:
        """A wrong key of another file that is attached costs the statement alone."""
        with opened(tmp_path / "other.db", OTHER_KEY) as other:
            other.execute("CREATE TABLE t (id INTEGER)")
        with db_connection_context() as conn:
            conn.execute("INSERT INTO t VALUES (1, 'a')")
            with pytest.raises(sqlcipher3.DatabaseError):
                conn.execute(f"ATTACH '{tmp_path / 'other.db'}' AS other KEY 'wrong'")
            conn.execute("INSERT INTO t VALUES (2, 'a')")
        assert ids(file) == [1, 2]

    @pytest.mark.usefixtures("app")
    def test_errors_are_of_the_module(self) -> None:
        """What the pool itself raises for a driver is of the driver's own class."""
        with db_connection_context() as conn, pytest.raises(sqlcipher3.ProgrammingError):
            conn.execute("SELECT %s, 100%x", (1,))
        with db_connection_context(readonly=True) as conn:
            with pytest.raises(sqlcipher3.OperationalError, match="readonly"):
                conn.execute("INSERT INTO t VALUES (1, 'a')")

    @pytest.mark.usefixtures("app")
    def test_t1_export(self, tmp_path: Path) -> None:
        """What `sqlcipher_export` fills in another database is undone with its block."""
        query("INSERT INTO t VALUES (7, 'a')")
        other = tmp_path / "other.db"
        for fails in (True, False):
            with contextlib.suppress(LookupError), db_connection_context() as conn:
                conn.execute(f"ATTACH '{other}' AS other KEY \"{OTHER_KEY}\"")
                conn.execute("SELECT sqlcipher_export('other')").fetchall()
                if fails:
                    raise LookupError
            with opened(other, OTHER_KEY) as bare:
                tables = bare.execute("SELECT name FROM sqlite_master").fetchall()
                assert tables == ([] if fails else [("t",)])

    @pytest.mark.usefixtures("app")
    @pytest.mark.parametrize(
        "change",
        [
            lambda conn: conn.execute(f"PRAGMA rekey = '{SECRET}'"),
            lambda conn: conn.execute(f"/* a */ pragma main.rekey('{SECRET}')"),
            lambda conn: conn.execute(f'PRAGMA "rekey"="{SECRET}"'),
            lambda conn: conn.execute("PRAGMA hexrekey='2D'"),
            lambda conn: conn.execute("PRAGMA /* = */ \"a b\" . [rekey] /* ( */ = 'a'"),
            lambda conn: conn.execute("EXPLAIN PRAGMA rekey = 'a'"),
            lambda conn: conn.executescript(f"SELECT 1; PRAGMA textrekey='{SECRET}';"),
            lambda conn: conn.execute("PRAGMA cipher_migrate"),
            lambda conn: conn.execute("PRAGMA cipher_default_kdf_iter = 1000"),
            lambda conn: conn.reset_key(SECRET),
            lambda conn: attach(conn, f"PRAGMA ö.rekey = '{SECRET}'"),
            lambda conn: attach(conn, f"PRAGMA ö . key = '{SECRET}'"),
            lambda conn: attach(conn, f"PRAGMA table_info.rekey = '{SECRET}'", "table_info"),
            lambda conn: attach(conn, f"PRAGMA user_versionö.rekey = '{SECRET}'", "user_versionö"),
            lambda conn: attach(conn, f'PRAGMA "a""b".rekey(\'{SECRET}\')', '"a""b"'),
            *(
                lambda conn, setting=setting: conn.execute(f"PRAGMA {setting}")
                for setting in (
                    "cipher_hmac_pgno=be",
                    "MAIN.cipher_plaintext_header_size = 32",
                    "temp.cipher_use_hmac(off)",
                    "'main' . \"cipher_page_size\" /**/ = 8192",
                    "cipher_compatibility=3",
                    "cipher='aes-128-cbc'",
                    "cipher_salt = \"x'00112233445566778899aabbccddeeff'\"",
                    "cipher_hmac_salt_mask = \"x'aa'\"",
                    "cipher_setting_to_come=1",
                    "kdf_iter=1000",
                    "fast_kdf_iter=3",
                    "rekey_kdf_iter=3",
                    "key='a'",
                    "hexkey='aabb'",
                    "textkey=z",
                )
            ),
        ],
    )
    def test_t10_rekey(self, file: Path, change: Callable[[Any], object]) -> None:
        """A lease can't change the key, which would commit its transaction and lock out all other
        connections; the error says what to do, and the transaction goes on.
        """
        with contextlib.suppress(LookupError), db_connection_context() as conn:
            conn.execute("INSERT INTO t VALUES (1, 'a')")
            with pytest.raises(UsageError, match="a connection of your own") as caught:
                change(conn)
            assert SECRET not in str(caught.value)
            conn.execute("INSERT INTO t VALUES (2, 'a')")
            raise LookupError
        assert ids(file) == []
        query("INSERT INTO t VALUES (3, 'a')")
        assert ids(file) == [3]

    @pytest.mark.usefixtures("app")
    def test_blobs_are_refused(self) -> None:
        """Those of sqlcipher3 can't be watched."""
        query("INSERT INTO t VALUES (1, zeroblob(9))")
        with db_connection_context() as conn:
            assert not hasattr(conn, "blobopen")
            with pytest.raises(UsageError, match="SELECT"):
                conn.open_blob("t", "name", 1)

    def test_p9_settings_of_new_file(self, app: tuple[Flask, PooledDB], tmp_path: Path) -> None:
        """A lease may set the cipher for a file that it attaches, until that has content; its
        connection is left to nobody.
        """
        query("INSERT INTO t VALUES (7, 'a')")
        path = tmp_path / "ö.db"
        with db_connection_context() as conn:
            conn.execute(f"ATTACH '{path}' AS ö KEY \"{OTHER_KEY}\"")
            conn.execute("PRAGMA ö.cipher_page_size=8192")
            conn.execute('PRAGMA "ö".cipher_use_hmac(off)')
            conn.execute("SELECT sqlcipher_export('ö')").fetchall()
            with pytest.raises(UsageError, match="of one that is not new"):
                conn.execute("PRAGMA ö.cipher_page_size=4096")
        with opened(path, OTHER_KEY) as other:
            other.execute("PRAGMA cipher_page_size=8192")
            other.execute("PRAGMA cipher_use_hmac=off")
            assert other.execute("SELECT id FROM t").fetchall() == [(7,)]
        assert query("SELECT name FROM pragma_database_list") == [("main",)]
        assert app[1].stats().connects == 2

    @pytest.mark.parametrize("readonly", [True, False])
    @pytest.mark.parametrize("name", QUESTIONS)
    def test_t4_questions(
        self, app: tuple[Flask, PooledDB], file: Path, name: str, readonly: bool
    ) -> None:
        """A PRAGMA of SQLCipher that only asks takes no lock, and leaves the session as it was."""
        query("SELECT id FROM t")
        with opened(file) as other:
            other.execute("BEGIN IMMEDIATE")
            for sql in (f"PRAGMA {name}", f'pragma "main" . {name} ;'):
                with db_connection_context(readonly=readonly) as conn:
                    conn.execute(sql).fetchall()
        query("INSERT INTO t VALUES (1, 'a')")
        assert ids(file) == [1]
        assert app[1].stats().connects == 1

    @pytest.mark.usefixtures("app")
    def test_question_asked_again(self, file: Path) -> None:
        """Each time it is asked, a question is answered anew."""
        text = "PRAGMA cipher_integrity_check"
        query("INSERT INTO t VALUES (1, 'a')")
        query("PRAGMA wal_checkpoint(TRUNCATE)")
        assert query(text) == []
        with file.open("r+b") as stream:
            stream.seek(4096 + 100)
            stream.write(b"broken")
        assert query(text) != []


@pytest.mark.parametrize("part", ["PRAGMA rekey/* */ ", '"a" . rekey /**/ ', "/* ", "x.", "["])
@pytest.mark.parametrize("beginning", ["", "EXPLAIN ", "PRAGMA "])
def test_reading_time(beginning: str, part: str) -> None:
    """To look for a change of the key takes no longer than the text is long."""
    began = time.perf_counter()
    pragma_in(beginning + part * 20_000)
    assert time.perf_counter() - began < 0.5


class TestOwnFunctions:
    """Functions of an application's own that connect."""

    def test_function_without_key(self, file: Path) -> None:
        """The pool sets the key on what a function returns that does not take it."""

        def connect() -> Any:
            return sqlcipher3.connect(str(file))

        connect.dbapi = sqlcipher3  # type: ignore[attr-defined]
        self.check(connect, file)

    def test_function_with_key(self, file: Path) -> None:
        """A function that takes the key sets it itself."""

        def connect(key: str) -> Any:
            conn = sqlcipher3.connect(str(file))
            conn.execute(f'PRAGMA key="{key}"')
            return conn

        connect.dbapi = sqlcipher3  # type: ignore[attr-defined]
        self.check(connect, file)

    def test_module(self, file: Path) -> None:
        """The module itself may be the creator."""
        self.check(sqlcipher3, file, database=str(file))

    def check(self, creator: Any, file: Path, **arguments: Any) -> None:
        """It has the adapter whole."""
        with pooled_app(creator=creator, connect_args={"key": KEY, **arguments}) as (_, db):
            assert type(db.pool().driver) is SQLCipherDriver
            with contextlib.suppress(LookupError), db_connection_context() as conn:
                conn.execute("INSERT INTO t VALUES (%s, 'a')", (1,))
                raise LookupError
            assert ids(file) == []
