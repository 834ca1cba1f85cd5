"""Which processes live: each holds a record lock on a file of its own for as long as it does.

The kernel drops a record lock when its process ends, in whatever way, and a forked child does not
inherit it. So a process id that was given to another process, or means another one in a container,
misleads nobody. But closing any descriptor of a file drops its process's locks on it: no process
opens its own file a second time.
"""

from __future__ import annotations

import errno
import os
import secrets

from flask_pooled_db.host.directory import KEY, Directory, Unusable, is_same

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]

ALIVE = ".alive"
"""What the name of the locked file ends with; before that comes the token of its process."""

_TRIES = 10

_own: set[str] = set()
"""The tokens of this process: their files must not be opened again."""


class Presence:
    """A process among those that meet in a directory. Its token is random, and is used once."""

    def __init__(self) -> None:
        self.token = secrets.token_hex(8)
        self._fd: int | None = None
        self._file: os.stat_result | None = None

    def show(self, directory: Directory) -> None:
        """Have a locked file in the directory, if there is none: it is the first time, or somebody
        has removed it.
        """
        name = f"{self.token}{ALIVE}"
        if self._has_lock() and is_same(self._file, directory.found(name)):
            return
        self._close()
        _own.add(self.token)
        self._fd = _locked_file(directory, name)
        self._file = os.fstat(self._fd)

    def touch(self) -> None:
        """Keep what cleans up old temporary files from taking it for one."""
        if self._fd is not None and self._has_lock():
            os.utime(self._fd)

    def end(self, directory: Directory) -> None:
        """Remove the file, and its lock with it."""
        directory.remove(f"{self.token}{ALIVE}")
        self.abandon()

    def abandon(self) -> None:
        """Leave the file there, without its lock."""
        self._close()
        _own.discard(self.token)

    def _has_lock(self) -> bool:
        """Return whether the descriptor is still its own. Some programs close all there are, and
        then it may be that of another file.
        """
        try:
            return self._fd is not None and is_same(self._file, os.fstat(self._fd))
        except OSError:
            return False

    def _close(self) -> None:
        is_own, fd, self._fd = self._has_lock(), self._fd, None
        if fd is not None and is_own:
            os.close(fd)


def forget_own() -> None:
    """In a forked child: what the parent has locked is another process's."""
    _own.clear()


def _locked_file(directory: Directory, name: str) -> int:
    """Make a file that has never been seen without its lock; return its descriptor."""
    draft = f"{name}.tmp"
    for _ in range(_TRIES):
        directory.remove(draft)
        fd = directory.open(draft, make=True)
        try:
            # One that looks whether its maker lives may hold it this moment, or take it away.
            if lock(fd):
                directory.rename(draft, name)
                return fd
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
    raise Unusable("busy", "files were taken away as often as they were made")


def lock(fd: int, *, shared: bool = False) -> bool:
    """Lock a file, without waiting. Returns False if another process has it.

    Raises `Unusable` where there are no such locks.
    """
    if fcntl is None:
        raise Unusable("system", "this system has no record locks, by which processes are told")
    how = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.lockf(fd, how | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        text = (
            f"record locks don't work there ({error.strerror}): set {KEY} to a directory on a "
            "file system of this host"
        )
        raise Unusable("locks", text) from error
    return True


def lives(directory: Directory, name: str) -> bool:
    """Return whether the process lives that has made this locked file. Several may ask at once."""
    if name.partition(".")[0] in _own:
        return True
    try:
        fd = directory.open(name, writes=False)  # the file system may be there to be read alone
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP, errno.EISDIR, errno.ENXIO):
            return False
        raise
    try:
        return not lock(fd, shared=True)
    finally:
        os.close(fd)
