"""How scripts are split into statements, as the client of each server does it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_pooled_db.drivers.scripts import Statement, of_mariadb, of_postgresql
from flask_pooled_db.drivers.sqlite_scripts import of_sqlite

Split = Callable[[str], Iterator[Statement]]

ALL = {"mariadb": of_mariadb, "postgresql": of_postgresql, "sqlite": of_sqlite}
each_dialect = pytest.mark.parametrize("split", ALL.values(), ids=ALL)

# What is expected to be a statement is in guillemets, which are no part of the script.

IN_EACH = {
    "empty": "",
    "blank": " \r\n\t",
    "comments": "-- nothing;\n/* nothing; */",
    "semicolons": ";;\n; ;",
    "no final one": "«SELECT 1»; «SELECT 2»",
    "final ones": "«SELECT 1»;;\n«SELECT 2»;\n",
    "quotes": "«SELECT ';', \";\"»; «SELECT 2»",
    "doubled": "«SELECT 'it''s; one'»; «SELECT 2»",
    "in comments": "«SELECT 1 /* ; */ -- ;\n+ 1»; «SELECT 2»",
    "quotes in comments": "-- don't\n«SELECT 1»; /* don't */ «SELECT 2»",
    "comments in quotes": "«SELECT '--'»; «SELECT '/*'»; «SELECT 3»",
    "minus": "«SELECT 1-1»; «SELECT 1/1»",
    "no end of a quote": "«SELECT 1»; «SELECT '; 2»",
    "carriage returns": "«SELECT 1»;\r\n-- x;\r\n«SELECT 2»;\r\n",
    "last comment": "«SELECT 1»; -- the end",
}

IN_MARIADB = {
    "backslash": r"«SELECT 'it\'s; one', '\\'»; «SELECT 2»",
    "backslash in double": r'«SELECT "\";"»; «SELECT 2»',
    "backquotes": "«SELECT `;` FROM t»; «SELECT 2»",
    "hash": "«SELECT 1 # ;\n»; # don't\n«SELECT 2»",
    "no comment": "«SELECT 5--1»; «SELECT 2»",
    "dashes alone": "--x;\n«SELECT 1»; --don't;\n--;\n«SELECT 2»",
    "code": "«/*!40101 SET NAMES utf8 */»; «SELECT 2»",
    "code for MariaDB": "«/*M!100100 SET @a = ';' */»; «SELECT 2»",
    "delimiter": "«SELECT 1»;\nDELIMITER //\n«CREATE PROCEDURE p() BEGIN SELECT 1; END »//\n"
    "«CREATE PROCEDURE q() SELECT '//';\n»//\ndelimiter ;\n«SELECT 3»",
    "delimiter of dollars": "DELIMITER $$\r\n«SELECT 1; »$$\r\nDELIMITER ;\r\n«SELECT 2»;",
    "delimiter of semicolons": "DELIMITER ;;\n«/*!50003 CREATE TRIGGER x BEGIN SELECT 1; END */»;;"
    "\nDELIMITER ;\n«SELECT 2»;",
    "delimiter in quotes": "DELIMITER '//'\n«SELECT 1; »//",
    "delimiter after a statement": "DELIMITER |\n«SELECT 1 »| «DELIMITER ;\nSELECT 2;\n»|",
    "delimiter after another comment": "/* x\n*/ «DELIMITER //\nSELECT 2//»",
    "delimiter after lines": "# x\n/* x */\n \t DELIMITER //\n«SELECT 2;»//",
    "delimiter after delimiter": "DELIMITER //\nDELIMITER $\n«SELECT 2;»$",
    "delimiter at the end": "«SELECT 1»;\nDELIMITER ;",
    "delimiter in words": "«SELECT 1 AS delimiter »; «SELECT 2»",
    "delimiter after a comment": "-- x\nDELIMITER //\n«SELECT 1»//",
}

IN_POSTGRESQL = {
    "no backslash": r"«SELECT '\'»; «SELECT 2»",
    "backslash": r"«SELECT E'\';''\\', e';'»; «SELECT 2»",
    "dollars": "«SELECT $$;'$$»; «SELECT $a$;$$;$b$;$a$»; «SELECT $1»",
    "continued": "«SELECT E'a' \n\t'b\\';', e'' 'c\\'»; «SELECT 2»",
    "no body": "«SELECT begin atomic»; «SELECT 2»",
    "body after comments": "/* x */ «CREATE /* x */ FUNCTION f() BEGIN --x\nATOMIC SELECT 1; END»;",
    "body of another": "«CREATE OR REPLACE PROCEDURE p() begin atomic SELECT 1; END»; «SELECT 2»",
    "name of dollars": "«SELECT a$$»; «SELECT é$b$$»; «SELECT 2»",
    "no dollars": "«SELECT a$b$c»; «SELECT _1$$»; «SELECT $1»",
    "dollars after others": "«SELECT $$;$$$a$;$a$, 1$$;$$»; «SELECT $1$$;$$E'\\';'»",
    "no end of dollars": "«SELECT 1»; «SELECT $$; SELECT 2»",
    "nested comments": "«SELECT 1 /* ; /* ; */ ; */»; /* /* */ ; */ «SELECT 2»",
    "rule": "«CREATE RULE r AS ON INSERT TO t DO (SELECT 1; SELECT (2))»; «SELECT 2»",
    "body": "«CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT CASE WHEN true THEN 1 END; END»;"
    "«SELECT CASE 1 WHEN 1 THEN 2 END»; «BEGIN»; «END»; «SELECT 3»",
}

IN_SQLITE = {
    "trigger": "«CREATE TRIGGER x AFTER INSERT ON t BEGIN SELECT 1; SELECT CASE 1 WHEN 1 THEN 2"
    " END; END»; «SELECT 2»",
    "brackets": "«SELECT [;] FROM t»; «SELECT `;`»",
    "transaction": "«BEGIN»; «SELECT 1»; «END»; «SELECT 2»",
}


def check(split: Split, marked: str) -> None:
    """Assert that the parts in guillemets are the statements of the script."""
    found = [text for text, _ in split(re.sub("[«»]", "", marked))]
    expected = re.findall("«(.*?)»", marked, re.DOTALL)
    # SQLite's have their semicolon.
    assert [text.rstrip("; \n") for text in found] == [text.rstrip("; \n") for text in expected]


@each_dialect
@pytest.mark.parametrize("marked", IN_EACH.values(), ids=IN_EACH)
def test_split(split: Split, marked: str) -> None:
    """Semicolons end statements, but not in quotes and comments."""
    check(split, marked)


@pytest.mark.parametrize("marked", IN_MARIADB.values(), ids=IN_MARIADB)
def test_split_for_mariadb(marked: str) -> None:
    """MariaDB has backslashes, `#`, comments that are code, and lines with a delimiter."""
    check(of_mariadb, marked)


@pytest.mark.parametrize("marked", IN_POSTGRESQL.values(), ids=IN_POSTGRESQL)
def test_split_for_postgresql(marked: str) -> None:
    """PostgreSQL has dollar quotes, comments that nest, and bodies of routines."""
    check(of_postgresql, marked)


@pytest.mark.parametrize("marked", IN_SQLITE.values(), ids=IN_SQLITE)
def test_split_for_sqlite(marked: str) -> None:
    """SQLite has triggers."""
    check(of_sqlite, marked)


@each_dialect
def test_lines(split: Split) -> None:
    """A statement's line is that of its first word."""
    script = "-- one\n\nSELECT 1,\n  2; SELECT 3;\r\n/* five\n*/ SELECT 6;\n\n\nSELECT\n9"
    assert [line for _, line in split(script)] == [3, 4, 6, 9]


def test_lines_after_delimiter() -> None:
    """Lines are counted through those that set the delimiter."""
    script = "DELIMITER //\nSELECT 2;\n//\nDELIMITER ;\n# five\n\nSELECT 7;"
    assert [line for _, line in of_mariadb(script)] == [2, 7]


@each_dialect
@given(script=st.text(alphabet="aE;'\"`$-/*#\\ \n()[]!", max_size=40))
def test_split_loses_nothing(split: Split, script: str) -> None:
    """Whatever the text, statements are parts of it, in its order."""
    lines, position = script.split("\n"), 0
    for text, line in split(script):
        # Not before its line, where a comment may hold the same text.
        begin = sum(len(one) + 1 for one in lines[: line - 1])
        position = script.index(text, max(position, begin))
        assert line == 1 + script.count("\n", 0, position)
        position += len(text)


@each_dialect
@pytest.mark.parametrize(
    "piece",
    [
        "INSERT INTO t VALUES (1, 'it''s; -- /* one', \"x\"); -- don't\n",
        "/* a */ -- b\n",
        "SELECT (CASE 1 WHEN 2 THEN 3 END);",
        "'",
        "/*",
        "$$ ;",
        "(;",
        ";",
        "SELECT 1;;;;",
        "begin atomic ",
        "begin /* x */ ",
        "begin /*",
        "E'' \n",
        "a1",
        "DELIMITER ;; ",
        "DELIMITER ;\n",
    ],
)
def test_split_takes_linear_time(split: Split, piece: str) -> None:
    """Ten times the text takes about ten times as long, whatever it is made of."""

    def seconds(script: str) -> float:
        began = time.thread_time()
        for _ in split(script):
            pass
        return time.thread_time() - began

    seconds(piece)
    small = max(min(seconds(piece * 5_000) for _ in range(3)), 0.001)
    assert seconds(piece * 50_000) < 40 * small
