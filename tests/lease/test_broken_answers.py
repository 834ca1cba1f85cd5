"""T5 where COMMIT is answered with something that is no answer."""

from __future__ import annotations

import contextlib

import pytest

from flask_pooled_db import CommitOutcomeUnknown
from harness.workloads import add
from tests.support.scenarios.base import MOVED, must_raise
from tests.support.stages import ServerStage

# Packets: a length of 3 bytes, a sequence number (1 would be right), and what follows.
OUT_OF_ORDER = b"\x07\0\0\x05\0\0\0\2\0\0\0"
NO_NUMBER = b"\x09\0\0\1\xff\0\0#HY000"
NO_SERVERS_NUMBER = b"\x09\0\0\1\xff\x7c\x15#HY000"
GONE = b"\x0d\0\0\1\xff\xd6\7#HY000gone"  # 2006, which only a client can know
LOST = b"\x0d\0\0\1\xff\xdd\7#HY000gone"  # 2013
CUT_OFF_ERROR = b"\1\0\0\1\xff"
CUT_OFF_OK = b"\1\0\0\1\0"
EMPTY = b"\0\0\0\1"
END_OF_ROWS = b"\5\0\0\1\xfe\0\0\2\0"
WANTS_FILE = b"\5\0\0\1\xfbfile"
OTHER = b"\3\0\0\1\x42\1\2"

ANSWERS = {
    name: answer
    for name, answer in globals().items()
    if isinstance(answer, bytes) and name != "OUT_OF_ORDER"  # the C library takes that for an OK
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_t5_broken_answer_to_commit(stage: ServerStage, answer: bytes) -> None:
    """A COMMIT whose answer can't be read has an unknown outcome, and is not started over."""
    calls = []

    def move(connection: object) -> None:
        calls.append(1)
        add(connection, 1, -10)
        add(connection, 2, 10)

    stage.proxy.answer_in_place(b"COMMIT", answer)
    with pytest.raises(CommitOutcomeUnknown):
        stage.db.run_transaction(move)
    assert stage.committed() == MOVED
    assert len(calls) == 1


def test_t5_packet_out_of_order(stage: ServerStage) -> None:
    """A COMMIT whose answer has a wrong sequence number is not done twice."""
    calls = []

    def move(connection: object) -> None:
        calls.append(1)
        add(connection, 1, -10)
        add(connection, 2, 10)

    stage.proxy.answer_in_place(b"COMMIT", OUT_OF_ORDER)
    with contextlib.suppress(CommitOutcomeUnknown):
        stage.db.run_transaction(move)
    assert stage.committed() == MOVED
    assert len(calls) == 1


def test_t4_broken_answer_to_statement(stage: ServerStage) -> None:
    """A statement whose answer can't be read costs the connection and the transaction."""
    with must_raise(Exception) as caught, stage.db.connection_context() as connection:
        add(connection, 1, -10)
        stage.proxy.answer_in_place(b"UPDATE", NO_NUMBER)
        with pytest.raises(connection.Error):
            add(connection, 2, 10)
    assert not isinstance(caught[0], CommitOutcomeUnknown)
    assert stage.db.stats().discarded == 1
