"""P10, P11 and A3: how MariaDB's drivers connect."""

from __future__ import annotations

import configparser
import contextlib
import functools
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pymysql
import pytest

from flask_pooled_db import ConfigError, ConnectFailed, db_connection_context
from flask_pooled_db.config import PoolConfig
from flask_pooled_db.drivers import Driver, make_driver
from flask_pooled_db.drivers.pymysql import PyMySQLDriver
from harness.server import APP_PASSWORD, APP_USER, MariaDBServer
from harness.sockets import LOOPBACK
from harness.tls import Certificates
from tests.support.apps import pooled_app

GENEROUS = 5.0


def driver_of(**settings: Any) -> Driver:
    return make_driver(PoolConfig.from_mapping({name.upper(): settings[name] for name in settings}))


# Time limits


@pytest.fixture
def black_hole() -> Iterator[tuple[str, int]]:
    """An address that does not answer: its queue of connections is full."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.socket())
        server.bind((LOOPBACK, 0))
        server.listen(0)
        for _ in range(8):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(server.getsockname())
        yield server.getsockname()


def resolve_to(monkeypatch: pytest.MonkeyPatch, *places: tuple[str, int]) -> None:
    """Have every name stand for these addresses."""
    kind = (socket.AF_INET, socket.SOCK_STREAM, 0, "")
    found = [(*kind, place) for place in places]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: found)


def test_p10_all_addresses_of_a_name(
    black_hole: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`connect_timeout` bounds the connects to all addresses of a name together."""
    resolve_to(monkeypatch, *[black_hole] * 40)
    driver = driver_of(url="mysql+pymysql://ann@many.example/d", connect_timeout=0.5)
    began = time.monotonic()
    with pytest.raises(pymysql.OperationalError, match=r"2003.*many\.example") as caught:
        driver.connect()
    assert time.monotonic() - began < GENEROUS
    assert driver.is_transient(caught.value)


def test_p10_second_address_of_a_name(
    mariadb: MariaDBServer, black_hole: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An address that does not answer leaves time for the next one."""
    driver = driver_of(url=mariadb.url("pymysql"), connect_timeout=2.0)
    resolve_to(monkeypatch, black_hole, (mariadb.host, mariadb.port))
    raw = driver.connect()
    assert raw.open
    driver.close(raw)


def test_p10_unix_socket(mariadb: MariaDBServer) -> None:
    """A Unix socket is connected to like any other."""
    ((path,),) = mariadb.query("SELECT @@socket")
    arguments = {"unix_socket": path, "user": APP_USER, "password": APP_PASSWORD}
    driver = driver_of(creator=pymysql, connect_args={**arguments, "ssl_disabled": True})
    raw = driver.connect()
    assert "UNIX" in raw.get_host_info()
    driver.close(raw)


@contextlib.contextmanager
def trickling_server() -> Iterator[int]:
    """The port of a server that sends a byte at a time, and never has sent it all."""
    over = threading.Event()
    greeting = b"\xff\xff\0\0\x0a10.11.0-MariaDB\0" + b"x" * 10_000

    def serve(server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            client, _ = server.accept()
            with client:
                for byte in greeting:
                    if over.wait(0.05):
                        return
                    client.send(bytes([byte]))

    with socket.socket() as server:
        server.bind((LOOPBACK, 0))
        server.listen()
        thread = threading.Thread(target=serve, args=(server,), daemon=True)
        thread.start()
        yield server.getsockname()[1]
        over.set()
        server.shutdown(socket.SHUT_RDWR)
    thread.join()


def test_p10_server_that_trickles() -> None:
    """A server that sends a byte now and then does not outlast `connect_timeout`."""
    with trickling_server() as port:
        driver = driver_of(url=f"mysql+pymysql://ann@{LOOPBACK}:{port}/d", connect_timeout=0.5)
        began = time.monotonic()
        with pytest.raises(pymysql.Error) as caught:
            driver.connect()
        assert time.monotonic() - began < GENEROUS
        assert driver.is_transient(caught.value)


# What TLS is asked for by


OPTIONS = {
    "ca": "[client]\nssl-ca={ca}\n",
    "underscores": "[client]\nssl_ca = '{ca}'\n",
    "loose": "[client]\nloose-ssl-ca={ca}\n",
    "flag": "# TLS\n[client]\nssl\n",
    "include": "!include {more}\n",
    "directory": "[other]\nx=1\n!includedir {folder}\n",
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.mariadb_only
def test_p11_option_file(
    mariadb: MariaDBServer,
    mariadb_driver: str,
    options: str,
    certificates: Certificates,
    tmp_path: Path,
) -> None:
    """TLS that an option file asks for is asked for: a plaintext connection is refused."""
    folder = tmp_path / "more"
    folder.mkdir()
    more = folder / "more.cnf"
    more.write_text(f"[client]\nssl-ca={certificates.ca}\n")
    file = tmp_path / "my.cnf"
    file.write_text(options.format(ca=certificates.ca, more=more, folder=folder))
    name = "read_default_file" if mariadb_driver == "pymysql" else "default_file"
    driver = driver_of(url=mariadb.url(mariadb_driver), connect_args={name: str(file)})
    # Before its first section PyMySQL can't read what includes another file.
    is_refused = mariadb_driver == "pymysql" and options.startswith("!include")
    with pytest.raises(configparser.Error if is_refused else driver.Error) as caught:
        driver.connect()
    assert is_refused or "TLS" in str(caught.value) or "SSL" in str(caught.value)
    for harmless in ("[client]\nconnect-timeout=5\n", "[server]\nssl-ca=x\n", "[client]\nssl=0\n"):
        file.write_text(harmless)
        driver.close(driver.connect())
    file.unlink()
    if mariadb_driver != "pymysql":
        driver.close(driver.connect())


@pytest.mark.mariadb_only
def test_p11_option_group(
    mariadb: MariaDBServer, mariadb_driver: str, certificates: Certificates, tmp_path: Path
) -> None:
    """The same in a group of its own."""
    file = tmp_path / "my.cnf"
    file.write_text(f"[shop]\nssl-ca={certificates.ca}\n")
    prefix = "read_" if mariadb_driver == "pymysql" else ""
    arguments = {f"{prefix}default_file": str(file), f"{prefix}default_group": "shop"}
    driver = driver_of(url=mariadb.url(mariadb_driver), connect_args=arguments)
    with pytest.raises(driver.Error, match=r"TLS|SSL"):
        driver.connect()


def test_p11_option_file_with_tls(
    tls_mariadb: MariaDBServer, mariadb_driver: str, certificates: Certificates, tmp_path: Path
) -> None:
    """With such a file a server that has TLS is connected to."""
    file = tmp_path / "my.cnf"
    file.write_text(f"[client]\nssl-ca={certificates.ca}\n")
    name = "read_default_file" if mariadb_driver == "pymysql" else "default_file"
    url = tls_mariadb.url(mariadb_driver, ask_for_tls=False)
    driver: Any = driver_of(url=url, connect_args={name: str(file)})
    raw = driver.connect()
    assert driver.has_tls(raw)
    driver.close(raw)


# Passwords


SECRETS = ["ge heim ü", "pässwörd€", "\N{LOCK}", "12345"]


@pytest.mark.parametrize("password", SECRETS)
def test_password_beyond_ascii(mariadb: MariaDBServer, mariadb_driver: str, password: str) -> None:
    """A password may have any characters, also if it looks like a number."""
    user = f"u{abs(hash((mariadb_driver, password))) % 10**9}"
    mariadb.execute(f"CREATE USER '{user}'@'%%' IDENTIFIED BY %s", password)
    try:
        for url in (
            mariadb.url(mariadb_driver, user=user, password=password),
            mariadb.url(mariadb_driver, user=user, password="").replace(":@", "@")
            + f"?password={password}",
        ):
            driver = driver_of(url=url)
            driver.close(driver.connect())
    finally:
        mariadb.execute(f"DROP USER '{user}'@'%'")


def texts_of(error: BaseException | None) -> Iterator[str]:
    """All that an error and those behind it hold."""
    while error is not None:
        yield "".join(traceback.format_exception(error))
        yield repr(error.args)
        yield repr(vars(error))
        yield repr(getattr(error, "object", ""))
        yield from texts_of(error.__cause__)
        error = error.__context__


@pytest.mark.parametrize("password", [12345, 1.5, ["Kolibri"], {"Kolibri": 1}, "Kolibri\ud800"])
def test_a3_password_that_is_no_text(mariadb_driver: str, password: Any) -> None:
    """A password that is no text is a ConfigError, which does not show it."""
    scheme = {"pymysql": "mysql", "mariadbconnector": "mariadb"}[mariadb_driver]
    arguments = {"password": password}
    with pytest.raises(ConfigError, match="password") as caught:
        driver_of(url=f"{scheme}://ann@h/d", connect_args=arguments)
    for text in texts_of(caught.value):
        assert "Kolibri" not in text
        assert "12345" not in text


def test_a3_password_that_fails_later(mariadb: MariaDBServer, tmp_path: Path) -> None:
    """A password that a driver can't encode is in no error, nor behind one."""
    file = tmp_path / "my.cnf"
    file.write_text("[client]\npassword=Kolibri\N{EURO SIGN}\n")
    arguments = {
        "read_default_file": str(file),
        "host": mariadb.host,
        "port": mariadb.port,
        "user": APP_USER,
    }
    with pooled_app(creator=pymysql, connect_args=arguments):
        with pytest.raises((ConnectFailed, ConfigError)) as caught:
            with db_connection_context() as connection:
                connection.cursor()
    for text in texts_of(caught.value):
        assert "Kolibri" not in text


# Who is called


@pytest.mark.parametrize("how", ["wrapper", "partial", "subclass"])
def test_replaced_connect(
    mariadb: MariaDBServer, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """A `pymysql.connect` that a tracer has replaced is called, and its connections are adapted."""
    calls = []
    original: Any = pymysql.connect

    @functools.wraps(original)
    def traced(*args: Any, **kwargs: Any) -> Any:
        calls.append(kwargs)
        return original(*args, **kwargs)

    class Traced(original):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            calls.append(kwargs)
            super().__init__(*args, **kwargs)

    replacement = {"wrapper": traced, "partial": functools.partial(traced), "subclass": Traced}
    monkeypatch.setattr(pymysql, "connect", replacement[how])
    with pooled_app(mariadb.url("pymysql"), connect_timeout=3) as (_, db):
        with db_connection_context() as connection, connection.cursor() as cursor:
            cursor.execute("SELECT 1")
            assert cursor.fetchall() == ((1,),)
        assert type(db.pool().driver) is PyMySQLDriver
    assert len(calls) == 1
    assert calls[0]["connect_timeout"] == 3


PARALLEL = """
import sys, threading
from flask import Flask
from flask_pooled_db import PooledDB
app = Flask("app")
app.config["POOLED_DB_URL"] = sys.argv[1]
db = PooledDB(app)
failed = []
start = threading.Barrier(6)
def work():
    start.wait()
    try:
        with app.app_context(), db.connection_context() as connection:
            connection.cursor().execute("SELECT SLEEP(0.2)")
    except Exception as error:
        failed.append(error)
threads = [threading.Thread(target=work) for _ in range(6)]
for thread in threads: thread.start()
for thread in threads: thread.join()
db.close()
sys.exit(str(failed) if failed else 0)
"""


@pytest.mark.mariadb_only
def test_p10_first_connects_load_plugin(private_mariadb: MariaDBServer) -> None:
    """The connector's first connects, side by side, to an account that needs a plugin succeed."""
    server = private_mariadb
    server.execute("INSTALL SONAME 'auth_ed25519'")
    server.execute("CREATE USER e@'%' IDENTIFIED VIA ed25519 USING PASSWORD('geheim')")
    url = server.url("mariadbconnector", user="e", password="geheim")
    for _ in range(6):
        command = [sys.executable, "-W", "ignore", "-c", PARALLEL, url]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
