"""The directory: what is not used, what is made, and what lies in it that should not."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from flask_pooled_db.host import Location, Unusable
from harness.processes import PROJECT, without_coverage
from tests.host.meeting import NAME, PRELUDE, location_in

NOBODY = 65534


def make_link(path: Path) -> None:
    (path.parent / "real").mkdir(0o700)
    path.symlink_to(path.parent / "real")


def make_dangling_link(path: Path) -> None:
    path.symlink_to(path.parent / "nothing")


def make_file(path: Path) -> None:
    path.touch()


def make_writable(path: Path) -> None:
    path.mkdir()
    path.chmod(0o770)


def make_writable_by_all(path: Path) -> None:
    path.mkdir()
    path.chmod(0o707)


FAULTS = [
    pytest.param(make_link, "is a link", id="link"),
    pytest.param(make_dangling_link, "is a link", id="dangling link"),
    pytest.param(make_file, "is no directory", id="file"),
    pytest.param(make_writable, "chmod go-w", id="group"),
    pytest.param(make_writable_by_all, "chmod go-w", id="all"),
]


@pytest.mark.parametrize("which", ["configured", "own"])
@pytest.mark.parametrize(("make", "text"), FAULTS)
def test_unusable(folder: Path, make: Callable[[Path], None], text: str, which: str) -> None:
    """Neither a link nor what others may write to is used, be it what is configured or the app's
    own directory in there. The remedy is told, and nothing is made elsewhere.
    """
    make(folder / NAME if which == "own" else folder / "there")
    base = folder if which == "own" else folder / "there"
    with pytest.raises(Unusable, match=text), location_in(base).opened():
        pass
    with pytest.raises(Unusable, match=text), location_in(base).opened(make=False):
        pass
    assert not (folder / "nothing").exists()


@pytest.mark.parametrize("which", ["configured", "own"])
def test_somebody_elses(folder: Path, which: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What belongs to somebody else is not used, whoever may write there."""
    with location_in(folder).opened():
        pass
    if os.geteuid() == 0:
        os.chown(folder if which == "configured" else folder / NAME, NOBODY, NOBODY)
    else:  # nobody else can give it away
        monkeypatch.setattr(os, "geteuid", lambda: NOBODY)
    with pytest.raises(Unusable, match="belongs to the user with id"):
        with location_in(folder).opened():
            pass


def test_parent_is_missing(tmp_path: Path) -> None:
    """A directory whose parent is missing is not made, and the remedy is told."""
    with pytest.raises(Unusable, match=r"missing: make that"):
        with location_in(tmp_path / "a" / "b").opened():
            pass
    assert not (tmp_path / "a").exists()


def test_default_is_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default belongs to the user and the app, and nobody else may look into it, even if
    somebody had opened it up.
    """
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / f"flask-pooled-db-{os.geteuid()}").mkdir(0o755)
    with Location(None, NAME).opened():
        pass
    made = tmp_path / f"flask-pooled-db-{os.geteuid()}"
    assert [oct(path.stat().st_mode & 0o777) for path in (made, made / NAME)] == ["0o700"] * 2


@pytest.mark.parametrize("umask", [0o000, 0o777])
def test_umask(tmp_path: Path, umask: int) -> None:
    """Whatever the umask is, directories and files are for the user alone, and for him at all. Root
    may do anything, so it is tried by nobody else if root runs this.
    """
    program = f"""
if os.geteuid() == 0:  # the interpreter may be closed to others: so it is loaded before
    os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})
os.umask({umask})
for n in (1, 2):
    member_in(folder).publish({{"n": n}})
assert total_in(folder) == 3
"""
    tmp_path.chmod(0o755)
    with tempfile.TemporaryDirectory() as folder:  # those of pytest are closed to others
        if os.geteuid() == 0:
            os.chown(folder, NOBODY, NOBODY)
        command = [sys.executable, "-c", PRELUDE + program, f"{folder}/run"]
        subprocess.run(command, check=True, cwd=PROJECT, env=without_coverage())
        inside = sorted(Path(folder, "run").rglob("*"))
        modes = {path.stat().st_mode & 0o777 for path in inside}
    assert len(inside) == 5
    assert modes == {0o700, 0o600}


def test_files_that_are_none(folder: Path) -> None:
    """A link, a pipe, a directory in place of a file are not read, and nobody waits for them."""
    secret = folder / "secret"
    secret.write_text("{}")
    with location_in(folder).opened() as directory:
        own = folder / NAME
        (own / "link").symlink_to(secret)
        os.mkfifo(own / "pipe")
        (own / "folder").mkdir()
        for name in ("link", "pipe", "folder"):
            with pytest.raises(ValueError, match="no plain file"):
                directory.read(name)


def test_links_are_not_written_through(folder: Path) -> None:
    """A link that lies where a file or its draft is to be written is replaced."""
    victim = folder / "victim"
    victim.write_text("precious")
    with location_in(folder).opened() as directory:
        for name in ("a.json", "a.json.tmp"):
            (folder / NAME / name).symlink_to(victim)
        directory.replace("a.json", b"new")
        assert directory.read("a.json") == b"new"
    assert victim.read_text() == "precious"
