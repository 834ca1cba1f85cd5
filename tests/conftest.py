"""Fixtures for every test, and the leak detector that watches each of them."""

from __future__ import annotations

import faulthandler
import gc
import os
import signal
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import hypothesis
import psycopg
import pytest
from flask import Flask

from flask_pooled_db import PooledDB
from harness.mysql import URL_VARIABLE, MySQLServer, versions
from harness.pgbouncer import PgBouncer
from harness.postgres import PostgreSQLServer
from harness.processes import ServerError
from harness.proxy import Proxy
from harness.redis import RedisServer
from harness.server import SCHEMES, MariaDBServer
from harness.tls import Certificates, make_certificates
from tests.support import promises, scratch
from tests.support.clock import Clock
from tests.support.coverage import Measuring, note_repeats
from tests.support.leaks import Footprint, wait_for_leaks_to_end
from tests.support.order import spread
from tests.support.sites import bare_app
from tests.support.stages import (
    ON_FILES,
    ON_PSYCOPG,
    ON_SHARED_SERVER,
    FileStage,
    ServerStage,
    Stage,
    on_file,
    on_server,
)

_SESSION = os.getpid()
_TIME_TO_END = 60.0
# The shared servers by what goes over the wire.
_WIRES = {"plain": "mariadb", "tls": "tls_mariadb"}
# The parameters that `preloaded` is called with: it keeps what it made from each pair.
_MADE_FROM = ("worker_class", "driver")
# Whoever asks for one of these has a server started.
_SERVERS = {
    "mariadb",
    "tls_mariadb",
    "wired_stage",
    "server",
    "private_mariadb",
    "private_server",
    "postgresql",
    "postgresql_server",
    "pgbouncer",
    "private_pgbouncer",
    "redis_server",
}
_failed = pytest.StashKey[bool]()
_measuring = pytest.StashKey[Measuring]()
_scratch = pytest.StashKey[Path]()

# A busy machine may take its time with a single example; a whole test is bounded by `timeout`.
# What nobody has changed must not fail a change: so what is tried at random is the same in CI.
hypothesis.settings.register_profile("tests", deadline=None, derandomize=bool(os.environ.get("CI")))
hypothesis.settings.load_profile("tests")


def _interrupt(signum: int, frame: FrameType | None) -> None:
    if os.getpid() == _SESSION:
        raise KeyboardInterrupt
    # A child forked by a test has nothing to clean up: it ends as it would have without us.
    signal.signal(signum, signal.SIG_DFL)
    os.kill(os.getpid(), signum)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Take `--mysql` and `--promises`."""
    parser.addoption(
        "--promises",
        type=Path,
        metavar="FILE",
        help="write to this file which promise has held on which driver, or add to what it says",
    )
    parser.addoption(
        "--mysql",
        action="store_true",
        help=f"run what uses the shared server on the MySQL that {URL_VARIABLE} names",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Make SIGTERM end the session as Ctrl-C does, so that fixtures stop their servers."""
    file = config.getoption("promises")
    if file is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(promises.Promises(file))
    config.stash[_scratch] = scratch.make()
    signal.signal(signal.SIGTERM, _interrupt)
    # A shell has what it starts in the background ignore SIGINT, and so would what tests start.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_report_header(config: pytest.Config) -> list[str]:
    """With `--mysql`, say what is tested."""
    if not config.getoption("mysql"):
        return []
    try:
        return [versions()]
    except ServerError as error:
        raise pytest.UsageError(str(error)) from None


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session: pytest.Session) -> None:
    """Measure no coverage of the collection."""
    session.config.stash[_measuring] = measuring = Measuring()
    measuring.pause_for_collection()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what needs a server, and deselect what is not for the server that is tested.

    Side by side, the long ones begin first, and those that share a fixture of their module follow
    one another: each process is given a row of them.
    """
    note_repeats(items)
    for item in items:
        promises.mark(item)
        uses_server = _SERVERS & set(getattr(item, "fixturenames", ()))
        starts_one = hasattr(getattr(item, "module", None), "postgres")
        if uses_server or starts_one or item.get_closest_marker("shared_server"):
            item.add_marker(pytest.mark.on_server)
    is_wanted = _is_for_mysql if config.getoption("mysql") else _is_for_mariadb
    deselected = [item for item in items if not is_wanted(item)]
    if deselected:
        config.hook.pytest_deselected(items=deselected)
        items[:] = filter(is_wanted, items)
    if hasattr(config, "workerinput"):
        items[:] = spread(items, config.workerinput["workercount"], _is_long, _group_of)


def pytest_collection_finish() -> None:
    """Keep the garbage collector from looking through all tests whenever one of them calls it."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    """After each module, keep the collector from what it has left behind for good: errors of the
    MariaDB connector take no part in garbage collection, and keep their frames.
    """
    yield
    if nextitem is None or nextitem.path != item.path:
        scratch.forget_apps(item.config.stash[_scratch])
        gc.collect()
        gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> None:
    """Measure coverage of it, or not."""
    item.config.stash[_measuring].begin(item)


def _is_long(item: pytest.Item) -> bool:
    return item.get_closest_marker("slow") is not None


def _group_of(item: pytest.Item) -> str:
    """Return the name of the group of tests that share what a fixture of their module made."""
    fixtures: dict[str, Any] = item._fixtureinfo.name2fixturedefs  # type: ignore[attr-defined]
    shared = {name for name in fixtures if fixtures[name][-1].scope == "module"}
    if not shared:
        return item.nodeid
    parameters = getattr(item, "callspec", None)
    made_from = _MADE_FROM if "preloaded" in shared else sorted(shared)
    values = [str(parameters.params.get(name, "")) for name in made_from] if parameters else []
    return "-".join([item.path.stem, *values])


def _is_for_mariadb(item: pytest.Item) -> bool:
    return item.get_closest_marker("mysql_only") is None


def _is_for_mysql(item: pytest.Item) -> bool:
    uses_it = "mariadb" in getattr(item, "fixturenames", ())
    marks = {mark.name for mark in item.iter_markers()}
    return (uses_it or "shared_server" in marks) and "mariadb_only" not in marks


def pytest_unconfigure(config: pytest.Config) -> None:
    """Give SIGTERM back, and see to it that the process ends, whatever a driver left in it."""
    scratch.remove(config.stash[_scratch])
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    faulthandler.dump_traceback_later(_TIME_TO_END, exit=True, file=sys.__stderr__ or sys.stderr)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Note which tests failed, for the leak detector."""
    report = yield
    if report.failed:
        item.stash[_failed] = True
    return report


@pytest.fixture(autouse=True)
def leak_detector(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves a thread, a connection or an app context behind.

    One that failed anyway is let off: its traceback keeps what it used alive.
    """
    if request.config.getoption("mysql"):  # its side connection goes to a port that is watched
        request.getfixturevalue("mariadb")
    before = Footprint.now()
    yield
    if request.node.stash.get(_failed, False):
        return
    leaks = wait_for_leaks_to_end(before)
    if leaks:
        pytest.fail(f"The test leaks: {'; '.join(leaks)}.", pytrace=False)


@pytest.fixture(scope="session")
def mariadb(pytestconfig: pytest.Config) -> Iterator[MariaDBServer]:
    """The MariaDB shared by all tests, in plaintext. Never stop, pause or reconfigure this one.

    With `--mysql` it is a MySQL.
    """
    with MySQLServer() if pytestconfig.getoption("mysql") else MariaDBServer() as server:
        yield server


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """The certificates of every server and proxy of the session that has TLS."""
    return make_certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="session")
def tls_mariadb(certificates: Certificates) -> Iterator[MariaDBServer]:
    """The MariaDB shared by all tests, with TLS, which its URLs ask for."""
    with MariaDBServer(certificates=certificates) as server:
        yield server


@pytest.fixture(params=[pytest.param("plain", marks=pytest.mark.shared_server), "tls"])
def server(request: pytest.FixtureRequest) -> MariaDBServer:
    """The shared MariaDB in plaintext, then the one with TLS: for promises on the wire."""
    server: MariaDBServer = request.getfixturevalue(_WIRES[request.param])
    return server


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[PostgreSQLServer]:
    """The PostgreSQL shared by all tests. Never stop or reconfigure it."""
    with PostgreSQLServer() as server:
        yield server


@pytest.fixture(scope="session")
def shared_postgresql(postgresql_server: PostgreSQLServer) -> str:
    """The URL of the PostgreSQL shared by all tests."""
    return postgresql_server.url()


@pytest.fixture(scope="session")
def pgbouncer(shared_postgresql: str) -> Iterator[PgBouncer]:
    """The pgbouncer shared by all tests, with one session for all. Never stop or reconfigure it."""
    with PgBouncer(shared_postgresql, {"default_pool_size": "1"}) as proxy:
        yield proxy


@pytest.fixture
def private_pgbouncer(shared_postgresql: str) -> Iterator[PgBouncer]:
    """A pgbouncer of the test's own, to be killed and started at will."""
    with PgBouncer(shared_postgresql) as proxy:
        yield proxy


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """The Redis shared by all tests. Empty it at the start."""
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="module")
def postgresql(shared_postgresql: str) -> str:
    """The URL of a database on PostgreSQL that is empty when a module begins."""
    with psycopg.connect(shared_postgresql.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")
    return shared_postgresql


@pytest.fixture
def private_mariadb() -> Iterator[MariaDBServer]:
    """A MariaDB of the test's own, to be stopped, killed and paused at will."""
    with MariaDBServer() as server:
        yield server


@pytest.fixture(params=list(_WIRES))
def private_server(request: pytest.FixtureRequest) -> Iterator[MariaDBServer]:
    """One like `private_mariadb` in plaintext, and one with TLS."""
    tls = request.param == "tls"
    certificates = request.getfixturevalue("certificates") if tls else None
    with MariaDBServer(certificates=certificates) as server:
        yield server


@pytest.fixture
def database(mariadb: MariaDBServer) -> str:
    """The name of an empty database on the shared server."""
    return mariadb.create_database()


@pytest.fixture
def proxy(server: MariaDBServer) -> Iterator[Proxy]:
    """A faulty network in front of `server` that can read what passes."""
    with Proxy(server.host, server.port, certificates=server.certificates) as proxy:
        yield proxy


@pytest.fixture
def tls_proxy(tls_mariadb: MariaDBServer) -> Iterator[Proxy]:
    """A faulty network in front of the shared server with TLS, for what only TLS has."""
    server = tls_mariadb
    with Proxy(server.host, server.port, certificates=server.certificates) as proxy:
        yield proxy


@pytest.fixture(params=list(SCHEMES))
def mariadb_driver(request: pytest.FixtureRequest) -> str:
    """Each driver for MariaDB in turn, by its name in URLs."""
    driver: str = request.param
    return driver


@pytest.fixture
def stage(server: MariaDBServer, mariadb_driver: str) -> Iterator[ServerStage]:
    """Our pool on MariaDB, through a proxy, in plaintext and over TLS."""
    with on_server("ours", server, mariadb_driver) as stage:
        yield stage


@pytest.fixture
def mariadb_stage(server: MariaDBServer, mariadb_driver: str) -> Iterator[ServerStage]:
    """The same, where `stage` is another one."""
    with on_server("ours", server, mariadb_driver) as stage:
        yield stage


ON_EVERY_WIRE = [
    pytest.param(("plain", "pymysql"), id="plain-pymysql", marks=pytest.mark.shared_server),
    pytest.param(
        ("plain", "mariadbconnector"),
        id="plain-mariadbconnector",
        marks=pytest.mark.shared_server,
    ),
    pytest.param(("tls", "pymysql"), id="tls-pymysql"),
    pytest.param(("tls", "mariadbconnector"), id="tls-mariadbconnector"),
    pytest.param((None, "psycopg"), id="psycopg", marks=pytest.mark.on_server),
]


@pytest.fixture(params=ON_EVERY_WIRE)
def wired_stage(request: pytest.FixtureRequest) -> Iterator[ServerStage]:
    """Our pool on each server in turn, through a proxy: for the core of each promise."""
    wire, driver = request.param
    if wire is None:
        yield request.getfixturevalue("psycopg_stage")
    else:
        with on_server("ours", request.getfixturevalue(_WIRES[wire]), driver) as stage:
            yield stage


@pytest.fixture
def sqlite_stage(tmp_path: Path) -> Iterator[FileStage]:
    """Our pool on an SQLite file."""
    with on_file("ours", tmp_path / "file.sqlite") as stage:
        yield stage


@pytest.fixture
def psycopg_stage(postgresql_server: PostgreSQLServer) -> Iterator[ServerStage]:
    """Our pool on PostgreSQL, through a proxy."""
    with on_server("ours", postgresql_server, "psycopg") as stage:
        yield stage


@pytest.fixture(params=[*ON_SHARED_SERVER, ON_PSYCOPG, *ON_FILES])
def any_stage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stage]:
    """Our pool on each database in turn, in plaintext: for what no wire has a part in."""
    yield from _stage_of(request, tmp_path)


@pytest.fixture(params=[*ON_SHARED_SERVER, *ON_FILES])
def forgiving_stage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stage]:
    """The same on each database on which an error of a statement costs that statement alone."""
    yield from _stage_of(request, tmp_path)


def _stage_of(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stage]:
    if request.param == "psycopg":
        yield request.getfixturevalue("psycopg_stage")
    elif request.param in ON_FILES:
        with on_file("ours", tmp_path / "file.sqlite", request.param) as stage:
            yield stage
    else:
        with on_server("ours", request.getfixturevalue("mariadb"), request.param) as stage:
            yield stage


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock by which deadlines end. What a server does in time it does by its own."""
    clock = Clock()
    monkeypatch.setattr("flask_pooled_db.lease.deadline.monotonic", clock)
    return clock


@pytest.fixture
def url(tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """An SQLite file."""
    promises.note(request.node, "sqlite")
    return f"sqlite:///{tmp_path / 'shop.db'}"


@pytest.fixture
def site(url: str) -> Iterator[tuple[Flask, PooledDB]]:
    """An app on that file, with the table `t`."""
    with bare_app(url=url) as pair:
        yield pair
