"""The directory in which the processes of an app meet: opened so that nobody else has a say in it.

It is opened anew for each use: it may be removed, replaced or mended at any time. All that is done
in it is done relative to its descriptor. Links are never followed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

KEY = "POOLED_DB_RUNTIME_DIR"

LARGEST_FILE = 256 * 2**20
"""Bytes of the largest file that is read."""

# Not on every system, as is the user's id: what lacks them has no record locks either.
_NO_LINK = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
_FOLDER = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | _NO_LINK
_PATH_ALONE = getattr(os, "O_PATH", 0)


class Unusable(Exception):
    """The directory can't be used. The text says why, and what to do."""

    def __init__(self, cause: str, text: str) -> None:
        """`cause` tells it from others: one that lasts is told once."""
        super().__init__(text)
        self.cause = cause


@dataclass(frozen=True, slots=True)
class Location:
    """Where the processes of an app meet: `name` in a directory of the user's; None: the default.

    The default depends on nothing that differs between a service and a login of the same user, as
    XDG_RUNTIME_DIR does, so that a command finds what the workers have published.
    """

    base: str | None
    name: str

    @contextlib.contextmanager
    def opened(self, *, make: bool = True) -> Iterator[Directory]:
        """Open it, and make what is missing, for the time of a block.

        Raises `Unusable`, also for what the block meets, and `FileNotFoundError` if it is missing
        and is not to be made.
        """
        path = self._base()
        try:
            base = _enter(str(path), None, path, make=make, is_private=self.base is None)
            try:
                own = path / self.name
                directory = Directory(_enter(self.name, base, own, make=make, is_private=True))
            finally:
                os.close(base)
            try:
                yield directory
            finally:
                directory.close()
        except FileNotFoundError:
            if make:
                raise _missing(path) from None
            raise
        except OSError as error:
            raise _failed(path, error) from error

    @property
    def path(self) -> Path:
        """What it is called. Raises `Unusable` if there can't be any."""
        return self._base() / self.name

    def _base(self) -> Path:
        if not hasattr(os, "geteuid"):
            raise Unusable("system", "this system has no record locks, by which processes are told")
        if self.base is not None:
            return Path(self.base)
        try:
            return Path(tempfile.gettempdir(), f"flask-pooled-db-{os.geteuid()}")
        except OSError as error:
            text = f"there is no directory for temporary files: set {KEY} to a directory ({error})"
            raise Unusable("temporary", text) from error


def silence() -> Unusable:
    """Return the error of somebody who has waited for the disk for too long."""
    text = (
        f"the disk of the directory does not answer: see to it, or set {KEY} to one on another disk"
    )
    return Unusable("silence", text)


class Directory:
    """An open directory that is this user's alone to write to."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def close(self) -> None:
        """Close it; what was opened in it stays open."""
        os.close(self._fd)

    def names(self) -> list[str]:
        """Return the names of all files in it."""
        return os.listdir(self._fd)  # noqa: PTH208  it has no path

    def open(self, name: str, *, make: bool = False, writes: bool = True) -> int:
        """Open a file, and make it if that is asked for: then there must be none of its name."""
        if not make:
            how = os.O_RDWR if writes else os.O_RDONLY
            return os.open(name, how | os.O_NONBLOCK | _NO_LINK, dir_fd=self._fd)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | _NO_LINK
        fd = os.open(name, flags, 0o600, dir_fd=self._fd)
        try:
            os.fchmod(fd, 0o600)  # whatever the umask
        except BaseException:
            os.close(fd)
            raise
        return fd

    def read(self, name: str, most: int = LARGEST_FILE) -> bytes | None:
        """Return what a file holds; None if there is none. Raises ValueError if it is no file, or
        has more than so many bytes.
        """
        flags = os.O_RDONLY | os.O_NONBLOCK | _NO_LINK  # a pipe would be waited for
        try:
            fd = os.open(name, flags, dir_fd=self._fd)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.EMLINK, errno.ENXIO):  # a link, a socket
                raise ValueError("it is no plain file") from None
            raise
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode) or found.st_size > most:
                raise ValueError("it is no plain file, or too large")
            return b"".join(iter(lambda: os.read(fd, 2**20), b""))
        finally:
            os.close(fd)

    def replace(self, name: str, data: bytes) -> None:
        """Have a file hold this, in one step. There must be one writer of each name at a time."""
        draft = f"{name}.tmp"
        self.remove(draft)  # of one who was killed
        fd = self.open(draft, make=True)
        try:
            try:
                view = memoryview(data)
                while view:
                    view = view[os.write(fd, view) :]
            finally:
                os.close(fd)
            self.rename(draft, name)
        except BaseException:
            with contextlib.suppress(OSError):
                self.remove(draft)
            raise

    def rename(self, name: str, new: str) -> None:
        """Give a file another name, in place of the file that has it."""
        os.rename(name, new, src_dir_fd=self._fd, dst_dir_fd=self._fd)

    def touch(self, name: str) -> None:
        """Have a file look as if it was changed now."""
        os.utime(name, dir_fd=self._fd, follow_symlinks=False)

    def remove(self, name: str) -> None:
        """Remove a file, if there is one."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._fd)

    def found(self, name: str) -> os.stat_result | None:
        """Return what the system says of a file; None if there is none."""
        try:
            return os.stat(name, dir_fd=self._fd, follow_symlinks=False)
        except FileNotFoundError:
            return None


def is_same(one: os.stat_result | None, other: os.stat_result | None) -> bool:
    """Return whether both are of one file."""
    return one is not None and other is not None and os.path.samestat(one, other)


def _enter(name: str, parent: int | None, path: Path, *, make: bool, is_private: bool) -> int:
    """Open a directory that belongs to this user, and that no other may write to, nor read if it
    is private.
    """
    is_made = False
    try:
        fd = _open_folder(name, parent, path)
    except FileNotFoundError:
        if not make:
            raise
        with contextlib.suppress(FileExistsError):  # another process was faster
            os.mkdir(name, 0o700, dir_fd=parent)
            is_made = True
        if is_made:
            _mend_mode(name, parent)
        fd = _open_folder(name, parent, path)
    try:
        found = os.fstat(fd)
        _check(found, path)
        if is_private and found.st_mode & 0o077:
            os.fchmod(fd, 0o700)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _open_folder(name: str, parent: int | None, path: Path) -> int:
    try:
        return os.open(name, _FOLDER, dir_fd=parent)
    except FileNotFoundError:
        raise
    except OSError as error:
        found = os.stat(name, dir_fd=parent, follow_symlinks=False)
        if stat.S_ISLNK(found.st_mode):
            text = f"{path} is a link, which is never followed: set {KEY} to the directory itself"
            raise Unusable("link", text) from None
        if not stat.S_ISDIR(found.st_mode):
            text = f"{path} is no directory: remove it, or set {KEY} to a directory"
            raise Unusable("no directory", text) from None
        _check(found, path)
        raise error from None


def _mend_mode(name: str, parent: int | None) -> None:
    """Give a directory that was just made its mode, of which the umask may have taken some."""
    if not _PATH_ALONE:
        return
    fd = os.open(name, _PATH_ALONE | _FOLDER, dir_fd=parent)
    try:
        found = os.fstat(fd)
        if found.st_uid == os.geteuid() and stat.S_IMODE(found.st_mode) != 0o700:
            Path(f"/proc/self/fd/{fd}").chmod(0o700)  # not by its name, which may be a link by now
    finally:
        os.close(fd)


def _check(found: os.stat_result, path: Path) -> None:
    me = os.geteuid()
    if found.st_uid != me:
        text = (
            f"{path} belongs to the user with id {found.st_uid}, and this process runs as {me}: "
            f"give it to that one, or set {KEY} to a directory of its own"
        )
        raise Unusable("owner", text)
    mode = stat.S_IMODE(found.st_mode)
    if mode & 0o022:
        text = f"others may write to {path}, whose mode is {mode:04o}: run chmod go-w on it"
        raise Unusable("mode", text)


def _missing(path: Path) -> Unusable:
    text = (
        f"{path} was removed, or can't be made since {path.parent} is missing: make that, or set "
        f"{KEY} to a directory that exists"
    )
    return Unusable("missing", text)


def _failed(path: Path, error: OSError) -> Unusable:
    code = errno.errorcode.get(error.errno or 0, "error")
    remedies = {
        "ENOSPC": "make room on its disk",
        "EDQUOT": "make room in the quota of its user",
        "EROFS": f"set {KEY} to a directory on a file system that can be written to",
        "EMFILE": "raise the limit of open files",
        "EACCES": f"let the user with id {os.geteuid()} write there",
    }
    remedy = remedies.get(code, "see to it")
    other = "" if KEY in remedy else f", or set {KEY} to another directory"
    return Unusable(code, f"{path} fails ({error.strerror or code}): {remedy}{other}")
