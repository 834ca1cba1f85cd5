"""The counters of the processes that have ended, which must not be lost, nor counted twice.

One file holds their sums, and the tokens of those that are in it. Who has ended is *settled*: its
counters and its token go into that file in one step, and then its own files are removed. Whoever
reads takes no lock. He reads the files of all processes first and this one last, and leaves out
what is in it; so each process counts once, at whatever moment it is settled.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import stat
from collections.abc import Collection, Iterator
from time import monotonic

from flask_pooled_db.host.claim import Claim
from flask_pooled_db.host.directory import Directory, is_same
from flask_pooled_db.host.presence import ALIVE, lives, lock
from flask_pooled_db.host.records import (
    BAD_SHAPE,
    NUMBERS,
    Merge,
    Numbers,
    complain,
    encode,
    ended_in,
    record_of,
)
from flask_pooled_db.runtime import wait_until

ENDED_FILE, LOCK_FILE = "ended.json", "ended.lock"

DRAFT = f"{ALIVE}.tmp"
"""What the name of a locked file ends with while it is made."""

_FILE_OF_PROCESS = re.compile(r"([0-9a-f]{16})(\.\w+(?:\.tmp)?)")

LOCK_PATIENCE = 0.2
"""Seconds that the lock is waited for. A process that was stopped may hold it: then what is to be
settled stays where it is, and is counted there."""

TOKEN_KEPT = 600.0
"""Seconds for which a token is kept once its files are gone: longer than anybody reads."""

STALE = 60.0
"""Seconds after which numbers count as those of a process that ended, if somebody has removed the
file that tells."""

claim = Claim()
"""The thread of this process that may have the lock: it is no lock between threads."""


def tokens_in(names: Collection[str], *ends: str) -> set[str]:
    """Return the tokens of the processes that have files whose names end so."""
    found = (_FILE_OF_PROCESS.fullmatch(name) for name in names)
    return {match[1] for match in found if match is not None and match[2] in ends}


def is_alive(directory: Directory, token: str) -> bool:
    """Return whether a process lives that has files."""
    name = f"{token}{ALIVE}"
    if lives(directory, name):
        return True
    if directory.found(name) is not None:
        return False
    record = record_of(directory, token)
    return record is not None and 0 <= monotonic() - record.published < STALE


def settle_dead(directory: Directory, merge: Merge, *leaving: str) -> bool:
    """Settle all processes that have ended without doing it themselves, and those that are leaving.
    Returns whether it was done.
    """
    names = directory.names()
    tokens = tokens_in(names, ALIVE, NUMBERS)
    dead = {token for token in tokens if not is_alive(directory, token)}
    # One that is about to be locked may go as well: its maker finds that out, and tries again.
    for token in tokens_in(names, DRAFT) - tokens:
        if not lives(directory, f"{token}{DRAFT}"):
            directory.remove(f"{token}{DRAFT}")
    dead |= set(leaving)
    return not dead or settle(directory, merge, dead)


def settle(
    directory: Directory, merge: Merge, tokens: Collection[str], more: Numbers | None = None
) -> bool:
    """Settle processes that have ended, or are about to and publish no more. `more` are numbers
    that were never published. Returns whether it was done.
    """
    with _locked(directory) as has_lock:
        if not has_lock:
            return False
        _settle_locked(directory, merge, tokens, more)
        return True


def _settle_locked(
    directory: Directory, merge: Merge, tokens: Collection[str], more: Numbers | None
) -> None:
    ended, now = ended_in(directory, ENDED_FILE), monotonic()
    totals = ended.totals
    for token in sorted(tokens):
        record = None if token in ended.tokens else record_of(directory, token)
        if record is not None:
            totals = add(merge, totals, record.numbers, f"{token}{NUMBERS}")
    if more is not None:
        totals = add(merge, totals, more, "numbers of this process")
    known = {**dict.fromkeys(tokens, now), **ended.tokens}
    kept = {token: min(when, now) for token, when in known.items()}  # the host may have restarted
    left = tokens_in(directory.names(), ALIVE, NUMBERS)
    kept = {token: when for token, when in kept.items() if token in left or now - when < TOKEN_KEPT}
    directory.replace(ENDED_FILE, encode(totals=totals, tokens=kept))
    for token in kept.keys() & left:
        remove(directory, token)


def add(merge: Merge, totals: Numbers, numbers: Numbers, name: str) -> Numbers:
    """Return totals with these numbers in them, if they are any."""
    try:
        return merge(totals, numbers)
    except BAD_SHAPE as error:
        complain(name, error)
        return totals


def remove(directory: Directory, token: str) -> None:
    """Remove all files of a process that was settled, its lock last: until then it has ended."""
    for end in (f"{NUMBERS}.tmp", NUMBERS, DRAFT, ALIVE):
        with contextlib.suppress(OSError):
            directory.remove(f"{token}{end}")


def touch(directory: Directory) -> None:
    """Keep what cleans up old temporary files from taking the sums for one."""
    with contextlib.suppress(FileNotFoundError):
        directory.touch(ENDED_FILE)


@contextlib.contextmanager
def _locked(directory: Directory) -> Iterator[bool]:
    """Hold the lock for the time of a block, if it is to be had. Yields whether it is held."""
    if not claim.take(LOCK_PATIENCE):
        yield False
        return
    try:
        fd = _open_lock(directory)
        try:
            has_lock = wait_until(functools.partial(lock, fd), LOCK_PATIENCE)
            # Somebody may have removed the file: then others have a lock on the next one.
            yield has_lock and is_same(os.fstat(fd), directory.found(LOCK_FILE))
        finally:
            os.close(fd)  # and with it the lock
    finally:
        claim.drop()


def _open_lock(directory: Directory) -> int:
    try:
        fd = directory.open(LOCK_FILE)
    except FileNotFoundError:
        try:
            return directory.open(LOCK_FILE, make=True)
        except FileExistsError:  # another process was faster
            fd = directory.open(LOCK_FILE)
    os.utime(fd)  # what cleans up temporary files goes by that
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError("the lock is no plain file")
    return fd
