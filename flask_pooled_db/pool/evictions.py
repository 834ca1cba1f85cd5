"""Why connections are evicted: in a sentence, and in one word of a few, to be counted by."""

from __future__ import annotations

from typing import Self

BROKEN = "broken"
"""What an eviction counts as if its reason has no kind: its lease or its server is at fault."""

KINDS = (
    *("idle", "lifetime", "surplus", "drained", "closed", "fork", "dead", BROKEN, "unclean"),
    "leaked",
)
"""All there are."""


class Reason(str):
    """A reason that counts as a kind of its own."""

    kind: str

    def __new__(cls, kind: str, text: str) -> Self:
        made = super().__new__(cls, text)
        made.kind = kind
        return made


def kind_of(reason: str) -> str:
    """Return the word that an eviction for this reason is counted by."""
    return reason.kind if isinstance(reason, Reason) else BROKEN


IDLE = Reason("idle", "it was idle for too long")
LIFETIME = Reason("lifetime", "it was open for too long")
SERVED = Reason("lifetime", "it has served its time")
DRAINED = Reason("drained", "the pool was drained")
DRAIN_INTERVAL = Reason("drained", "the drain interval is over")
CLOSED = Reason("closed", "the pool was closed")
SMALLER = Reason("surplus", "the pool was made smaller")
NOT_NEEDED = Reason("surplus", "it is not needed any more")
NEEDED = Reason("surplus", "another bind needs its place")
FORKING = Reason("fork", "the process forks")
DEAD = Reason("dead", "it was found dead")
SILENT = Reason("dead", "its server is silent")
LOST = Reason("leaked", "its lease was garbage")
ENDED_AS_GARBAGE = Reason("leaked", "its lease ended as garbage")
UNREAD = Reason("unclean", "it was released with unread rows")
OTHER_STATE = Reason("unclean", "its session was left in another state")
NOT_RESET = Reason("unclean", "only closing it resets its session")


def changed_by(how: str) -> Reason:
    """Return the reason of a connection whose session was changed for good."""
    return Reason("unclean", f"its session was changed by {how}")
