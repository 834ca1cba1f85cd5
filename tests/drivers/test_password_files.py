"""A password that is read from a file at each connect, as Docker and Kubernetes mount them."""

from __future__ import annotations

import functools
import os
import socket
import threading
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pymysql
import pytest

from flask_pooled_db import ConfigError, ConnectFailed, PoolTimeout
from flask_pooled_db.config import PoolConfig
from flask_pooled_db.drivers import Driver, make_driver
from flask_pooled_db.lease.dbutils import Pool
from flask_pooled_db.pool.interrupter import Helper
from harness.server import MariaDBServer
from harness.waiting import PATIENCE, wait_until
from tests.drivers.rotating import Rotating
from tests.support.pools import open_pool

HARD = "p@ss/w:or?d#%41 '\"\\"


@pytest.fixture
def server(rotating: Rotating) -> Rotating:
    """A server of each kind, for each driver."""
    return rotating


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where the password will be."""
    return tmp_path / "secret file"


def works(pool: Pool) -> bool:
    """Whether a lease reaches the server."""
    lease = pool.lease(timeout=PATIENCE)
    try:
        cursor = lease.cursor()
        cursor.execute("SELECT 1")
        return tuple(cursor.fetchone()) == (1,)
    finally:
        lease.close()


def fails(pool: Pool) -> str:
    """What is said of a connect that fails for good."""
    with pytest.raises(ConnectFailed) as caught:
        pool.lease(timeout=PATIENCE).close()
    return str(caught.value)


def rotate(file: Path, password: str) -> None:
    """Replace the file as Kubernetes does: all at once."""
    new = file.with_name("new")
    new.write_text(f"{password}\n", encoding="utf-8")
    new.replace(file)


def test_rotation(server: Rotating, file: Path) -> None:
    """After a rotation, connections that are open go on, and new ones have the new password."""
    server.set_password("first")
    rotate(file, "first")
    with open_pool(url={**server.parts, "password_file": file}, maxconnections=2) as pool:
        old = pool.lease()
        old.cursor().execute("SELECT 1")
        server.set_password("second é€")
        rotate(file, "second é€")
        old.cursor().execute("SELECT 2")
        assert works(pool)  # over a second connection, opened just now
        old.close()
        pool.drain()
        assert works(pool)
        assert pool.stats().connect_errors == 0


def test_late_rotation(server: Rotating, file: Path) -> None:
    """Between the server's new password and that of the file connects fail, and then they work."""
    server.set_password("second")
    rotate(file, "first")
    with open_pool(url={**server.parts, "password_file": file}) as pool:
        with pytest.raises((ConnectFailed, PoolTimeout)):
            pool.lease(timeout=0.3)
        rotate(file, "second")
        wait_until(lambda: _succeeds(pool))


def _succeeds(pool: Pool) -> bool:
    try:
        return works(pool)
    except (ConnectFailed, PoolTimeout):
        return False


@pytest.mark.parametrize(
    ("password", "end"),
    [
        *product((HARD, "ge heim ü", "\N{LOCK}", "12345", " a ", "1e5"), ("", "\n", "\r\n")),
        ("a\r", ""),
        ("a\r", "\r\n"),
    ],
)
def test_any_password(server: Rotating, file: Path, password: str, end: str) -> None:
    """A file may hold any password, in UTF-8; the end of its line is no part of it."""
    server.set_password(password)
    file.write_bytes((password + end).encode())
    with open_pool(url={**server.parts, "password_file": str(file)}) as pool:
        assert works(pool)


@pytest.mark.parametrize("form", ["query", "connect_args", "field", "query of parts"])
def test_forms(server: Rotating, file: Path, form: str) -> None:
    """The file is named in a URL's query, in CONNECT_ARGS, or as a part of the URL."""
    server.set_password(HARD)
    rotate(file, HARD)
    parts, arguments = server.parts, {}
    text = "{drivername}://{username}@{host}:{port}/".format(**parts) + parts.get("database", "")
    forms: dict[str, Any] = {
        "query": f"{text}?password_file={quote(str(file))}",
        "connect_args": text,
        "field": {**parts, "PASSWORD_FILE": str(file)},
        "query of parts": {**parts, "query": {"password_file": str(file)}},
    }
    if form == "connect_args":
        arguments = {"password_file": file}
    with open_pool(url=forms[form], connect_args=arguments) as pool:
        assert works(pool)


def test_helper_connection(server: Rotating, file: Path) -> None:
    """The connection that interrupts statements has the file's password too."""
    server.set_password("first")
    rotate(file, "first")
    with open_pool(url={**server.parts, "password_file": file}) as pool:
        lease = pool.lease()
        lease.cursor().execute("SELECT 1")
        server.set_password("second")
        rotate(file, "second")
        entry = next(iter(pool.engine.state.in_use))()
        assert entry is not None
        helper = Helper(_without_identity(pool), PATIENCE)
        try:
            assert helper.connection(entry) is not None
        finally:
            helper.close()
        lease.close()


def _without_identity(pool: Pool) -> Any:
    """The driver of a pool, for whom all servers are one: MariaDB has no name of its own."""
    driver: Any = pool.driver
    driver.identity = lambda _: None
    return driver


def _missing(file: Path) -> str:
    return "No such file or directory"


def _directory(file: Path) -> str:
    file.mkdir()
    return "no regular file"


def _unreadable(file: Path) -> str:
    file.symlink_to(file)  # root may read whatever there is
    return "Too many levels of symbolic links"


def _empty(file: Path) -> str:
    file.write_text("")
    return "is empty"


def _empty_line(file: Path) -> str:
    file.write_text("\n")
    return "is empty"


def _not_utf8(file: Path) -> str:
    file.write_bytes(b"Kolibri\xff")
    return "no UTF-8"


def _long(file: Path) -> str:
    file.write_text("Kolibri" * 1000)
    return "too long"


def _endless(file: Path) -> str:
    file.symlink_to("/dev/zero")
    return "no regular file"


def _pipe(file: Path) -> str:
    os.mkfifo(file)  # without a writer: its reader would wait for good
    return "no regular file"


def _socket(file: Path) -> str:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(file))
    return "No such device or address"


FAULTS = [_missing, _directory, _unreadable, _empty, _empty_line, _not_utf8, _long, _endless]
FAULTS += [_pipe, _socket]


@pytest.mark.parametrize("fault", FAULTS)
def test_unreadable_file(mariadb: MariaDBServer, file: Path, fault: Callable[[Path], str]) -> None:
    """A file that has no password fails the connect at once, by its path, with the reason."""
    words = fault(file)
    with open_pool(url=f"mysql://ann@{mariadb.host}:{mariadb.port}/?password_file={file}") as pool:
        told = fails(pool)
    assert words in told
    assert repr(str(file)) in told
    assert "Kolibri" not in told


def test_linked_file(server: Rotating, file: Path) -> None:
    """A link to a file will do, also that of an open file."""
    server.set_password("first")
    rotate(file.with_name("real"), "first")
    file.symlink_to("real")
    with open_pool(url={**server.parts, "password_file": file}) as pool:
        assert works(pool)
    with file.open() as opened:
        path = f"/proc/self/fd/{opened.fileno()}"
        with open_pool(url={**server.parts, "password_file": path}) as pool:
            assert works(pool)


def test_file_comes_late(server: Rotating, file: Path) -> None:
    """Once a file that was missing is there, the pool works by itself."""
    server.set_password("first")
    with open_pool(url={**server.parts, "password_file": file}) as pool:
        assert "No such file" in fails(pool)
        rotate(file, "first")
        wait_until(lambda: _succeeds(pool))


def test_p7_file_is_not_read_early(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is read in the thread that connects, and not before."""
    readers: list[str] = []
    original = os.open

    def spy(path: Any, *args: Any, **kwargs: Any) -> Any:
        if path == str(file):
            readers.append(threading.current_thread().name)
        return original(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", spy)
    with open_pool(url=f"mysql://ann@127.0.0.1:1/d?password_file={file}") as pool:
        assert not readers
        fails(pool)
    assert readers
    assert all("opener" in name for name in readers)


def driver_of(**keys: Any) -> Driver:
    return make_driver(PoolConfig.from_mapping({name.upper(): keys[name] for name in keys}))


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"url": "mysql://ann:pw@h?password_file=/a"}, "'password' and 'password_file' are both"),
        ({"url": "mysql://h?passwd=x&password_file=/a"}, "'passwd' and 'password_file' are both"),
        (
            {"url": "postgresql://h?password=x", "connect_args": {"password_file": "/a"}},
            "'password' and 'password_file' are both",
        ),
        ({"url": "mysql://h?password_file="}, "'password_file' must be the path of a file"),
        (
            {"url": "mariadb://h", "connect_args": {"password_file": 5}},
            "'password_file' must be the path of a file",
        ),
        ({"url": "sqlite:///f?password_file=/a"}, "'password_file' goes with the URL of a server"),
        (
            {"creator": pymysql, "connect_args": {"password_file": "/a"}},
            "'password_file' goes with the URL of a server",
        ),
        (
            {
                "creator": functools.partial(pymysql.connect),
                "connect_args": {"password_file": "/a"},
            },
            "CREATOR takes no connect argument 'password_file'",
        ),
    ],
)
def test_refused_files(keys: dict[str, Any], told: str) -> None:
    """A file beside a password, or for what takes none, is refused before anything connects."""
    with pytest.raises(ConfigError) as caught:
        driver_of(**keys)
    (problem,) = caught.value.problems
    assert told in problem
