"""A script: the statements of a file, or of a text, one after the other on one connection."""

from __future__ import annotations

import re

from flask_pooled_db.drivers.effects import Effect
from flask_pooled_db.errors import CommitOutcomeUnknown
from flask_pooled_db.lease.fate import verb_of
from flask_pooled_db.lease.proxy import LeaseConnection

_BEGIN = re.compile(
    r"(?:BEGIN|START)(?: TRANSACTION| WORK| DEFERRED| IMMEDIATE| EXCLUSIVE)*;?\Z", re.IGNORECASE
)


class Script:
    """A script that is run on a connection: in the transaction of its scope, which its own BEGIN,
    COMMIT and ROLLBACK divide.

    Where DDL commits by itself, what comes before it is committed first: that is no accident here.
    A statement that is not understood may be a routine that commits, or a misspelt word: it is
    seen afterwards what it did.
    Inside another scope it is a part of that one's transaction, which it must not end.
    """

    def __init__(self, conn: LeaseConnection, text: str, name: str) -> None:
        self._conn = conn
        self._source = text.removeprefix("\ufeff")
        self._name = name
        self._is_part = conn.is_nested
        self._committed = 0  # how many statements can't be rolled back any more
        self._sets_autocommit = False  # for drivers that don't tell whether it is on

    def run(self) -> int:
        """Run the statements. Returns how many there were.

        What a statement raises is raised, with a note that says which one it was.
        """
        number = 0
        if not self._is_part:
            self._conn.begin_script()
        raw = self._conn.usable().raw
        for number, (text, line) in enumerate(self._conn.driver.statements(raw, self._source), 1):
            try:
                self._step(text, number)
            except Exception as error:
                where = f"statement {number} of {self._name}, {verb_of(text)}, at line {line}"
                self._explain(error, where)
                raise
        try:
            if not self._is_part:
                self._conn.commit()
        except Exception as error:
            self._explain(error, f"the COMMIT at the end of {self._name}")
            raise
        return number

    def _explain(self, error: Exception, where: str) -> None:
        error.add_note(f"This was {where}. {self._what_is_left(error)}")

    def _step(self, text: str, number: int) -> None:
        conn, driver = self._conn, self._conn.driver
        effect, verb = driver.effects(text), verb_of(text).partition(" ")[0]
        if effect & Effect.COMMITS and not effect & Effect.BEGINS and verb in ("COMMIT", "END"):
            conn.commit()
            self._committed = number
        elif effect is Effect.UNDOES and verb in ("ROLLBACK", "ABORT"):
            conn.rollback()
        elif effect is Effect.BEGINS and _BEGIN.match(" ".join(text.split())):
            pass  # a transaction begins with each first statement
        elif effect & Effect.COMMITS and driver.dialect.ddl_commits and not self._is_part:
            conn.commit()
            self._committed = number - 1
            self._execute(text)
            if verb == "SET" and effect & Effect.CHANGES_SESSION:
                self._sets_autocommit = True
            if not effect & Effect.BEGINS:
                conn.commit()  # for all of it, if it was more than one statement
                self._committed = number
        else:
            self._execute(text)

    def _execute(self, text: str) -> None:
        with self._conn.cursor() as cur:
            cur.execute(text)
            if cur.description is not None:  # some statements do their work row by row
                cur.fetchall()

    def _what_is_left(self, error: Exception) -> str:
        count = self._committed
        if self._is_part:
            return "What came before it is a part of the block around it."
        self._conn.ask_probe()
        if isinstance(error, CommitOutcomeUnknown):
            since = f" since statement {count}" if count else ""
            return f"Whether what came before it{since} is stored is not known: look at the data."
        stored = f"What came before it is committed up to statement {count}"
        if self._conn.commits_each or self._sets_autocommit:
            begin = f"{stored}, and what came after that" if count else "What came before it"
            return f"{begin} may be committed: autocommit was switched on. Look at the data."
        if self._conn.may_have_ended:
            return "What came before it may be committed in part: look at the data."
        return (
            f"{stored}, and the rest rolled back." if count else "Nothing of the script is stored."
        )
