"""What became of a transaction that SQL text has ended by itself."""

from __future__ import annotations

import enum
import re
from typing import NamedTuple

from flask_pooled_db.lease.refusals import at
from flask_pooled_db.runtime import Notices, callers

# The first two words, after comments: what follows may be data. A second one in double quotes may
# be data too, but for the name of a procedure.
_NAME = r"(?:[^\W\d][\w$]*|`[^`]*`)"
_QUOTED = r'(?:[^\W\d][\w$]*|`[^`]*`|"[^"]*")'
_VERB = re.compile(
    rf"""
    (?: [\s(;\ufeff] | (?>/\*.*?\*/) | (?:--|\#)[^\n]*+\n )*+
    (?: (?P<call>call)\s+(?P<routine>{_QUOTED}(?:\.{_QUOTED}){{0,2}})
      | (?P<first>[a-z]+)(?!\w)(?:\s+(?P<second>{_NAME}(?:\.{_NAME}){{0,2}}))? )
    """,
    re.IGNORECASE | re.DOTALL | re.VERBOSE,
)
# Second words that are no names.
_KEYWORD = re.compile(
    "ALL|AND|DATABASE|DISTINCT|EVENT|EXTENSION|FROM|FUNCTION|GLOBAL|IF|IGNORE|IMMEDIATE|INDEX|INTO|"
    "LOCAL|MATERIALIZED|NOT|ON|OR|PREPARED|PROCEDURE|ROLE|SCHEMA|SEQUENCE|SESSION|TABLES?|TEMP|"
    "TEMPORARY|TO|TRANSACTION|TRIGGER|TYPE|UNIQUE|USER|VIEW|WORK",
    re.IGNORECASE,
)


class Ending(enum.Enum):
    """How a statement ended a transaction, or may have ended it."""

    COMMITTED = "committed what came before it"
    UNDONE = "rolled back what came before it"
    ENDED = "ended the transaction: what came before it was committed or rolled back"
    MAYBE = "may have committed or rolled back what came before it, or a part of its own work"
    EACH = (
        "committed what came before it and switched autocommit on: what came after may be as well"
    )
    EACH_AFTER = "switched autocommit on: what came after it may be committed"

    @property
    def is_each(self) -> bool:
        """Whether each statement after it is committed by itself."""
        return self in (Ending.EACH, Ending.EACH_AFTER)


class Fate(NamedTuple):
    """What a statement did to the transaction that it came in."""

    ending: Ending
    statement: str
    place: callers.Place | None
    has_work: bool = True  # whether anything came before the statement
    earlier: str = ""  # what another statement had done to the same transaction before

    def __str__(self) -> str:
        before = f"{self.earlier}, and " if self.earlier else ""
        return f"{before}{self._alone()}"

    def _alone(self) -> str:
        return f"{self.statement} {at(self.place)} {self.ending.value}"

    def is_of(self, other: Fate) -> bool:
        """Return whether both are of one statement."""
        return (self.statement, self.place) == (other.statement, other.place)

    def whole(self) -> str:
        """Return what is to be told when the transaction is gone."""
        if self.ending.is_each:
            return str(self)
        return f"{self}; nothing of what came after that was or will be committed"

    def after(self, other: Fate | None) -> Fate:
        """Return what is to be told when another one came before: both, unless the last one says it
        all.
        """
        if other is not None and other.ending.is_each:
            return other
        if other is None or other.ending is self.ending:
            return self
        return Fate(self.ending, self.statement, self.place, self.has_work, other._alone())

    def warn(self, notices: Notices) -> None:
        """Log it, unless its place had its line."""
        notices.warn(
            (self.place, self.statement),
            "%s by itself: this is more than one transaction. Give the statement a block of its "
            "own, or use commit() and rollback()",
            self._alone(),
        )


class Told(NamedTuple):
    """What is known, or feared, of what SQL text did to a lease's transactions."""

    fate: Fate | None = None  # of what came before a statement that ended the transaction
    offence: Fate | None = None  # the fate of this transaction or an earlier one
    routine: Fate | None = None  # of the last routine that may have ended the transaction
    probe: Fate | None = None  # of a routine before which a savepoint was set, which tells
    in_script: bool = False  # whether its statements are a script's, which may end transactions

    @property
    def commits_each(self) -> bool:
        """Whether autocommit was switched on."""
        return self.fate is not None and self.fate.ending.is_each

    @property
    def so_far(self) -> Fate | None:
        """What is to be told of all statements until now."""
        return self.fate if self.routine is None else self.routine.after(self.fate)

    def then(self, fate: Fate) -> Told:
        """Return what is to be told now that a statement has ended the transaction."""
        routine = self.routine
        is_that = routine is not None and routine.is_of(fate)
        whole = fate.after(self.fate if is_that else self.so_far)
        return Told(whole, self.offence, None, self.probe, self.in_script)

    def after_end(self) -> Told:
        """Return what is to be told once the transaction was ended by the lease itself."""
        fate = None
        if self.fate is not None and self.commits_each:  # for what comes now as well
            fate = Fate(Ending.EACH_AFTER, self.fate.statement, self.fate.place)
        return Told(fate, self.offence, in_script=self.in_script)


NOTHING_TOLD = Told()


def verb_of(text: object) -> str:
    """Return what a message calls a statement: its first words, and none of its data. Names are as
    they were written.
    """
    found = _VERB.match(text) if isinstance(text, str) else None
    if found is None:
        return "a statement"
    first, second = found["call"] or found["first"], found["routine"] or found["second"] or ""
    second = second.upper() if _KEYWORD.fullmatch(second) else second
    return f"{first.upper()} {second}".rstrip()
