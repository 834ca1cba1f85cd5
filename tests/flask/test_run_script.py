"""Schema files: `db.run_script()`."""

from __future__ import annotations

import io
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mysql.connector
import psycopg2
import pytest
from flask import Flask

from flask_pooled_db import CommitOutcomeUnknown, PooledDB, UsageError
from harness.postgres import postgres
from harness.server import MariaDBServer
from tests.support.sites import bare_app, warnings_in
from tests.support.stages import ON_SHARED_SERVER, ServerStage

SCHEMA = """\
-- People; and what they've said
DROP TABLE IF EXISTS posts;
CREATE TABLE people (id INTEGER PRIMARY KEY, name VARCHAR(40));

INSERT INTO people VALUES (1, 'O''Hara; -- 100%');
/* a comment; it's
   of two lines */
CREATE TABLE posts (id INTEGER PRIMARY KEY, person INTEGER, body VARCHAR(40));
INSERT INTO posts VALUES (1, 1, '%s ? :x');
SELECT * FROM posts;
INSERT INTO posts VALUES (2, 1, 'last')
"""
BROKEN = """\
CREATE TABLE a (id INTEGER PRIMARY KEY);
INSERT INTO a VALUES (1);
CREATE TABLE b (id INTEGER PRIMARY KEY);
INSERT INTO a VALUES (2);

-- the same again
INSERT INTO a VALUES (1);
INSERT INTO a VALUES (3);
"""


@pytest.fixture(scope="module")
def postgres_url() -> Iterator[str]:
    """A PostgreSQL of this module's own."""
    with postgres() as url:
        yield url


ON_MARIADB = [*ON_SHARED_SERVER, pytest.param("mysql.connector", marks=pytest.mark.shared_server)]


@pytest.fixture(params=[*ON_MARIADB, "sqlite", "psycopg", "psycopg2"])
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Flask, PooledDB]]:
    """An app and its extension on an empty database of each kind."""
    yield from apps_on(request.param, request, tmp_path)


def apps_on(
    name: str, request: pytest.FixtureRequest, tmp_path: Path, **settings: Any
) -> Iterator[tuple[Flask, PooledDB]]:
    if name == "sqlite":
        settings["url"] = f"sqlite:///{tmp_path / 'file'}"
    elif name == "psycopg":
        settings["url"] = request.getfixturevalue("postgres_url")
    elif name == "psycopg2":
        url = request.getfixturevalue("postgres_url").replace("+psycopg", "")
        settings |= {"creator": psycopg2, "connect_args": {"dsn": url}}
    else:
        mariadb: MariaDBServer = request.getfixturevalue("mariadb")
        database = mariadb.create_database()
        if name == "mysql.connector":
            arguments = mariadb.connect_args(database)
            settings |= {"creator": mysql.connector, "connect_args": arguments}
        else:
            settings["url"] = mariadb.url(name, database)
    app = Flask("app_under_test", root_path=str(tmp_path))
    keys = {"mincached": 0, **settings}
    app.config.update({f"POOLED_DB_{key.upper()}": value for key, value in keys.items()})
    db = PooledDB(app)
    try:
        if "psycopg" in name:
            db.execute("DROP SCHEMA public CASCADE")
            db.execute("CREATE SCHEMA public")
        yield app, db
    finally:
        db.close()


def is_whole(db: PooledDB) -> bool:
    """Whether DDL is part of the transaction."""
    return not db.pool().driver.dialect.ddl_commits


def tables(db: PooledDB) -> set[str]:
    names = set()
    for name in ("a", "b", "people", "posts"):
        try:
            db.fetch_all(f"SELECT * FROM {name}")
            names.add(name)
        except db.pool().driver.Error:
            pass
    return names


def test_run_script(pair: tuple[Flask, PooledDB], caplog: pytest.LogCaptureFixture) -> None:
    """All statements run, as they are written, and are stored; none of them is warned of."""
    _, db = pair
    assert db.run_script(SCHEMA) == 7
    assert db.fetch_all("SELECT * FROM people") == [(1, "O'Hara; -- 100%")]
    assert db.fetch_all("SELECT body FROM posts ORDER BY id") == [("%s ? :x",), ("last",)]
    assert warnings_in(caplog) == []
    assert db.stats().in_use == 0


@pytest.mark.parametrize("name", ["pymysql", "mariadbconnector", "sqlite"])
def test_run_script_where_commits_are_errors(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """With `IMPLICIT_COMMIT` "error" a script of DDL works all the same."""
    for _, db in apps_on(name, request, tmp_path, implicit_commit="error"):
        assert db.run_script(SCHEMA) == 7
        assert tables(db) == {"people", "posts"}


def test_t10_run_script_that_fails(
    pair: tuple[Flask, PooledDB], caplog: pytest.LogCaptureFixture
) -> None:
    """The error is the driver's own, with a note that tells which statement failed, and what of
    the others is stored: nothing, or on MariaDB what the last DDL committed.
    """
    _, db = pair
    with pytest.raises(db.pool().driver.Error) as caught:
        db.run_script(BROKEN)
    assert "IntegrityError" in {kind.__name__ for kind in type(caught.value).__mro__} or (
        "UniqueViolation" in type(caught.value).__name__
    )
    (note,) = caught.value.__notes__
    assert "statement 5 of the script, INSERT INTO, at line 7" in note
    if is_whole(db):
        assert "Nothing of the script is stored" in note
        assert tables(db) == set()
    else:
        assert "committed up to statement 3, and the rest rolled back" in note
        assert tables(db) == {"a", "b"}
        assert db.fetch_all("SELECT id FROM a") == [(1,)]
    assert warnings_in(caplog) == []
    assert db.stats().in_use == 0


def test_t10_run_script_with_transactions(pair: tuple[Flask, PooledDB]) -> None:
    """A script's own BEGIN, COMMIT and ROLLBACK are its transactions."""
    _, db = pair
    begin = "BEGIN" if db.pool().driver.name == "sqlite3" else "START TRANSACTION"
    script = f"""
        CREATE TABLE a (id INTEGER PRIMARY KEY);
        {begin}; INSERT INTO a VALUES (1); COMMIT;
        {begin}; INSERT INTO a VALUES (2); ROLLBACK;
        INSERT INTO a VALUES (3);
        INSERT INTO a VALUES (1);
    """
    with pytest.raises(db.pool().driver.Error) as caught:
        db.run_script(script)
    assert "committed up to statement 4, and the rest rolled back" in caught.value.__notes__[0]
    assert db.fetch_all("SELECT id FROM a") == [(1,)]


def test_t10_run_script_refused_at_commit(url: str) -> None:
    """What fails at the COMMIT is told as that, and nothing is stored."""
    script = """
        CREATE TABLE a (id INTEGER PRIMARY KEY);
        CREATE TABLE b (a INTEGER REFERENCES a (id) DEFERRABLE INITIALLY DEFERRED);
        INSERT INTO b VALUES (5);
    """
    with bare_app(url=url) as (_, db):
        with pytest.raises(sqlite3.IntegrityError) as caught:
            db.run_script(script)
        (note,) = caught.value.__notes__
        assert note.startswith("This was the COMMIT at the end of the script. Nothing of the")
        assert tables(db) == set()


@pytest.mark.parametrize("script", ["{0}; {1}; INSRT INTO a VALUES (3)", "INSRT INTO a VALUES (1)"])
def test_t10_run_script_misspelt(pair: tuple[Flask, PooledDB], script: str) -> None:
    """A misspelt word commits nothing of what came before it, and the note says so."""
    _, db = pair
    db.execute("CREATE TABLE a (id INTEGER PRIMARY KEY)")
    with pytest.raises(db.pool().driver.Error) as caught:
        db.run_script(script.format("INSERT INTO a VALUES (1)", "INSERT INTO a VALUES (2)"))
    (note,) = caught.value.__notes__
    assert "INSRT INTO, at line 1. Nothing of the script is stored." in note
    assert db.fetch_all("SELECT id FROM a") == []
    assert db.stats().in_use == 0


@pytest.mark.mariadb_only
@pytest.mark.parametrize("name", ["pymysql", "mariadbconnector", "mysql.connector"])
def test_t10_run_script_with_autocommit(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Where the script has switched autocommit on, nothing is said to be rolled back."""
    script = """
        SET autocommit=1;
        INSERT INTO a VALUES (1);
        INSERT INTO a VALUES (2);
        INSERT INTO a VALUES (1);
    """
    for _, db in apps_on(name, request, tmp_path):
        db.execute("CREATE TABLE a (id INTEGER PRIMARY KEY)")
        with pytest.raises(db.pool().driver.Error) as caught:
            db.run_script(script)
        (note,) = caught.value.__notes__
        assert (
            "committed up to statement 1, and what came after that may be committed: auto" in note
        )
        assert "rolled back" not in note
        assert db.fetch_all("SELECT id FROM a") == [(1,), (2,)]


ROUTINES = """
CREATE TABLE a (id INTEGER PRIMARY KEY);
DELIMITER //
CREATE PROCEDURE plain() INSERT INTO a VALUES (10)//
CREATE PROCEDURE commits() BEGIN INSERT INTO a VALUES (20); COMMIT; INSERT INTO a VALUES (21); END//
CREATE PROCEDURE fails() BEGIN INSERT INTO a VALUES (30); COMMIT; INSERT INTO a VALUES (30); END//
"""
IN_PART = "What came before it may be committed in part"


@pytest.mark.mariadb_only
@pytest.mark.parametrize("name", ["pymysql", "mariadbconnector", "mysql.connector"])
@pytest.mark.parametrize(
    ("script", "told", "stored"),
    [
        ("INSERT INTO a VALUES (1); CALL plain(); INSERT INTO a VALUES (2)", None, [1, 2, 10]),
        (
            "INSERT INTO a VALUES (1); CALL commits(); INSERT INTO a VALUES (2)",
            None,
            [1, 2, 20, 21],
        ),
        ("CALL commits(); CALL plain(); COMMIT", None, [10, 20, 21]),
        ("INSERT INTO a VALUES (1); CALL plain(); INSERT INTO a VALUES (1)", "Nothing of", []),
        ("INSERT INTO a VALUES (1); CALL plain(); INSRT 2", "Nothing of the script", []),
        ("CALL plain(); INSERT INTO a VALUES (10)", "Nothing of the script is stored", []),
        ("INSERT INTO a VALUES (1); CALL nowhere()", "Nothing of the script is stored", []),
        ("INSERT INTO a VALUES (1); CALL commits(); INSERT INTO a VALUES (1)", IN_PART, [1, 20]),
        ("CALL commits(); INSERT INTO a VALUES (20)", IN_PART, [20]),
        ("CALL commits(); CALL plain(); INSERT INTO a VALUES (20)", IN_PART, [20]),
        ("CALL commits(); COMMIT; INSRT 1", "committed up to statement 2, and", [20, 21]),
        ("INSERT INTO a VALUES (1); CALL fails()", IN_PART, [1, 30]),
        ("CALL fails()", IN_PART, [30]),
        ("INSERT INTO a VALUES (1); /*!40101 SET @x = 1 */; INSRT 2", "Nothing of the script", []),
    ],
)
def test_t10_run_script_of_routines(
    name: str,
    script: str,
    told: str | None,
    stored: list[int],
    request: pytest.FixtureRequest,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A routine may commit in a script, also with `IMPLICIT_COMMIT` "error"; what is told after an
    error is true.
    """
    for _, db in apps_on(name, request, tmp_path, implicit_commit="error"):
        db.run_script(ROUTINES)
        if told is None:
            db.run_script(script)
        else:
            with pytest.raises(db.pool().driver.Error) as caught:
                db.run_script(script)
            assert told in caught.value.__notes__[0]
        assert db.fetch_all("SELECT id FROM a ORDER BY id") == [(number,) for number in stored]
        assert warnings_in(caplog) == []


def test_t5_run_script_outcome_unknown(stage: ServerStage) -> None:
    """When the answer to a COMMIT is lost, nothing is claimed of what is stored."""
    stage.proxy.hold_replies_to(b"COMMIT")
    with pytest.raises(CommitOutcomeUnknown) as caught:
        stage.db.run_script("UPDATE accounts SET balance = 0; CREATE TABLE a (id INTEGER)")
    (note,) = caught.value.__notes__
    assert "statement 2 of the script, CREATE TABLE, at line 1" in note
    assert "Whether what came before it is stored is not known" in note


def test_run_script_in_block(pair: tuple[Flask, PooledDB]) -> None:
    """In an open block it is a part of that, which it must not end."""
    _, db = pair
    db.run_script("CREATE TABLE a (id INTEGER PRIMARY KEY)")
    with pytest.raises(LookupError):
        run_and_fail(db)
    assert db.fetch_all("SELECT id FROM a") == []
    with db.connection_context() as conn:
        with pytest.raises(UsageError, match="nested") as caught:
            db.run_script("INSERT INTO a VALUES (1); COMMIT")
        conn.rollback()
    assert "statement 2 of the script, COMMIT" in caught.value.__notes__[0]
    assert "a part of the block around it" in caught.value.__notes__[0]


def run_and_fail(db: PooledDB) -> None:
    with db.connection_context():
        assert db.run_script("INSERT INTO a VALUES (1); INSERT INTO a VALUES (2)") == 2
        assert db.fetch_value("SELECT COUNT(*) FROM a") == 2
        raise LookupError


@pytest.mark.mariadb_only
def test_t10_run_script_in_block_on_mariadb(
    request: pytest.FixtureRequest, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """DDL of a script in an open block commits the block's work: that is warned of as ever."""
    for _, db in apps_on("pymysql", request, tmp_path):
        db.run_script("CREATE TABLE a (id INTEGER PRIMARY KEY)")
        with db.connection_context():
            db.execute("INSERT INTO a VALUES (1)")
            db.run_script("CREATE TABLE b (id INTEGER PRIMARY KEY)")
        (warning,) = warnings_in(caplog)
        assert "CREATE TABLE" in warning
        assert "committed what came before it" in warning


@pytest.mark.mariadb_only
@pytest.mark.parametrize("name", ["pymysql", "mariadbconnector", "mysql.connector"])
def test_run_script_of_client(
    name: str, request: pytest.FixtureRequest, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What `mysql` and `mysqldump` have works: delimiters, code in comments, locks, procedures."""
    script = """
/*!40101 SET @old = @@character_set_client */;
/*!40014 SET FOREIGN_KEY_CHECKS=0 */;
DROP TABLE IF EXISTS `a`;
/*!50503 SET character_set_client = utf8mb4 */;
CREATE TABLE `a` (`id` int NOT NULL, PRIMARY KEY (`id`)) ENGINE=InnoDB; # a comment; it's one
LOCK TABLES `a` WRITE;
/*!40000 ALTER TABLE `a` DISABLE KEYS */;
INSERT INTO `a` VALUES (1),(2);
/*!40000 ALTER TABLE `a` ENABLE KEYS */;
UNLOCK TABLES;
DELIMITER ;;
/*!50003 CREATE TRIGGER more BEFORE INSERT ON a FOR EACH ROW BEGIN
  SET NEW.id = NEW.id + 10;
  SET @times = 1;
END */;;
CREATE PROCEDURE add_one(IN one INT) BEGIN
  SELECT one;
  INSERT INTO a VALUES (one);
  SELECT COUNT(*) FROM a;
END;;
DELIMITER ;
CALL add_one(3);
START TRANSACTION;
CALL add_one(4);
COMMIT;
/*!40101 SET character_set_client = @old */;
"""
    for _, db in apps_on(name, request, tmp_path):
        assert db.run_script(script) == 17
        assert db.fetch_all("SELECT id FROM a") == [(1,), (2,), (13,), (14,)]
        assert warnings_in(caplog) == []


@pytest.mark.mariadb_only
@pytest.mark.parametrize("name", ["pymysql", "mariadbconnector"])
def test_run_script_in_sql_modes(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Backslashes are read as the session has them at each statement, as the client does."""
    script = r"""
CREATE TABLE a (id INTEGER PRIMARY KEY, name VARCHAR(20));
INSERT INTO a VALUES (1, '\\;'), (2, "\";");
SET sql_mode='NO_BACKSLASH_ESCAPES';
INSERT INTO a VALUES (3, 'c:\'); INSERT INTO a VALUES (4, 'd:\'); SELECT "\";
SET sql_mode='ANSI_QUOTES';
SELECT 'x' AS "\"; INSERT INTO a VALUES (5, '\';');
SET sql_mode=''; INSERT INTO a VALUES (6, "\";");
"""
    expected = [(1, "\\;"), (2, '";'), (3, "c:\\"), (4, "d:\\"), (5, "';"), (6, '";')]
    for _, db in apps_on(name, request, tmp_path):
        assert db.run_script(script) == 11
        assert db.fetch_all("SELECT * FROM a") == expected


@pytest.mark.mariadb_only
@pytest.mark.parametrize("name", ["pymysql", "mariadbconnector"])
def test_t10_run_script_with_routine(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """An error of a routine is that of its CALL, also when it comes after a result."""
    script = """
CREATE TABLE a (id INTEGER PRIMARY KEY);
DELIMITER //
CREATE PROCEDURE twice() BEGIN
  INSERT INTO a VALUES (1);
  SELECT COUNT(*) FROM a;
  INSERT INTO a VALUES (1);
END//
DELIMITER ;
CALL twice();
INSERT INTO a VALUES (2);
"""
    for _, db in apps_on(name, request, tmp_path):
        with pytest.raises(db.pool().driver.Error) as caught:
            db.run_script(script)
        assert "statement 3 of the script, CALL twice, at line 10" in caught.value.__notes__[0]
        assert db.fetch_all("SELECT id FROM a") == []


def test_run_script_of_sqlite_dump(url: str) -> None:
    """What `.dump` of SQLite writes works, and a trigger."""
    script = """PRAGMA foreign_keys=OFF;
BEGIN TRANSACTION;
CREATE TABLE b (a INTEGER REFERENCES a (id));
INSERT INTO b VALUES (1);
CREATE TABLE a (id INTEGER PRIMARY KEY);
INSERT INTO a VALUES (1);
CREATE TRIGGER more AFTER DELETE ON a BEGIN
  DELETE FROM b; -- the end; isn't it
  INSERT INTO b SELECT 7 WHERE 0;
END;
COMMIT;
"""
    with bare_app(url=url) as (_, db):
        assert db.run_script(script) == 8
        db.execute("DELETE FROM a")
        assert db.fetch_all("SELECT * FROM b") == []
        assert db.fetch_value("PRAGMA foreign_keys") == 1


@pytest.mark.parametrize("second", ["DO $$ BEGIN NULL; END $$", "CALL one()"])
def test_t10_run_script_of_blocks_on_postgresql(
    second: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """In a transaction nothing but COMMIT commits on PostgreSQL."""
    for _, db in apps_on("psycopg", request, tmp_path):
        db.run_script("CREATE TABLE a (id INTEGER PRIMARY KEY)")
        db.run_script("CREATE PROCEDURE one() LANGUAGE sql AS 'INSERT INTO a VALUES (2)'")
        with pytest.raises(db.pool().driver.Error) as caught:
            db.run_script(f"{second}; INSERT INTO a VALUES (1); {second}; INSERT INTO a VALUES (1)")
        assert "Nothing of the script is stored" in caught.value.__notes__[0]
        assert db.fetch_all("SELECT id FROM a") == []


def test_run_script_of_postgresql(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Dollar quotes and bodies of functions work."""
    script = """
CREATE FUNCTION one() RETURNS int AS $$ BEGIN RETURN 1; END; $$ LANGUAGE plpgsql;
DO $do$ BEGIN PERFORM one(); END $do$;
CREATE TABLE a (id int); -- it's
CREATE RULE more AS ON INSERT TO a DO ALSO (SELECT 1; SELECT 2);
"""
    for name in ("psycopg", "psycopg2"):
        for _, db in apps_on(name, request, tmp_path):
            assert db.run_script(script) == 4
            assert db.fetch_value("SELECT one()") == 1


# Where a script comes from


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_script_from_file(
    ending: str, encoding: str, pair: tuple[Flask, PooledDB], tmp_path: Path
) -> None:
    """A file may have a byte order mark and the ends of lines of Windows."""
    _, db = pair
    text = SCHEMA.replace("\n", ending)
    (tmp_path / "schema.sql").write_bytes(text.encode(encoding))
    assert db.run_script(tmp_path / "schema.sql") == 7
    assert db.fetch_value("SELECT COUNT(*) FROM posts") == 2


def test_places_of_scripts(site: tuple[Flask, PooledDB], tmp_path: Path) -> None:
    """A path is relative to the app; a name that ends in ".sql" is one; all else is SQL. Open files
    are read.
    """
    app, db = site
    app.extensions["pooled_db"].root_path = str(tmp_path)
    (tmp_path / "sql").mkdir()
    path = tmp_path / "sql" / "more rows.sql"
    path.write_text("INSERT INTO t VALUES (1, 'ä');", encoding="utf-8")
    (tmp_path / "sql" / "two.sql").write_text("INSERT INTO t VALUES (2, 'x');")
    sources: list[Any] = [
        Path("sql/more rows.sql"),
        path,
        "sql/two.sql",
        str(tmp_path / "sql" / "two.sql"),
        "INSERT INTO t VALUES (3, '.sql')",
        "INSERT INTO t VALUES (4, 'x') --.sql",
        path.open(encoding="utf-8"),
        path.open("rb"),
        io.StringIO("INSERT INTO t VALUES (5, 'x')"),
    ]
    for number, source in enumerate(sources):
        db.execute("DELETE FROM t")
        assert db.run_script(source) == 1, number
        assert db.fetch_value("SELECT COUNT(*) FROM t") == 1
        if isinstance(source, io.IOBase):
            source.close()
    assert db.run_script("") == db.run_script("\ufeff") == db.run_script(" ; -- nothing") == 0


def test_scripts_that_are_none(site: tuple[Flask, PooledDB], tmp_path: Path) -> None:
    """A file that is not there, not text, or no file at all, is an error that says so."""
    _, db = site
    with pytest.raises(FileNotFoundError, match=r"nowhere\.sql"):
        db.run_script("nowhere.sql")
    with pytest.raises(UsageError, match="an open file, not a value of type list"):
        db.run_script([])  # type: ignore[arg-type]
    (tmp_path / "old.sql").write_bytes("SELECT 'ä'".encode("latin-1"))
    with pytest.raises(UnicodeDecodeError) as caught:
        db.run_script(tmp_path / "old.sql")
    assert "old.sql is not" in caught.value.__notes__[0]


def test_run_script_with_nul(pair: tuple[Flask, PooledDB]) -> None:
    """A NUL, where a driver may end a statement, is refused before anything runs."""
    _, db = pair
    db.execute("CREATE TABLE a (id INTEGER PRIMARY KEY)")
    with pytest.raises(UsageError, match=r"the script has a NUL character at line 2, .* UTF-8"):
        db.run_script("INSERT INTO a VALUES (1);\nINSERT INTO a VALUES (2)\0,(3);")
    with pytest.raises(UsageError, match="at line 1"):
        db.run_script(io.BytesIO("SELECT 1".encode("utf-16-le")))
    assert db.fetch_all("SELECT * FROM a") == []


def test_script_of_many_statements(site: tuple[Flask, PooledDB], tmp_path: Path) -> None:
    """A long script takes a time in proportion to its length."""
    _, db = site
    lines = [f"INSERT INTO t VALUES ({i}, 'it''s; {i}'); -- don't; {i}" for i in range(50_000)]

    def seconds(script: str) -> float:
        began = time.thread_time()
        db.run_script(script)
        return time.thread_time() - began

    small = seconds("\n".join(lines[:5_000]))
    large = seconds("\n".join(lines[5_000:]))
    assert db.fetch_value("SELECT COUNT(*) FROM t") == 50_000
    assert large < 40 * small
