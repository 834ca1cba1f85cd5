"""A3: the database's password appears nowhere, whatever goes wrong."""

from __future__ import annotations

import contextlib
import gc
import io
import logging
import pickle
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from flask import Flask

from flask_pooled_db import (
    CommitOutcomeUnknown,
    ConfigError,
    ConnectFailed,
    PooledDB,
    PooledDBError,
    PoolTimeout,
    TransactionAborted,
    UsageError,
    db_connection_context,
    get_db_connection,
)
from flask_pooled_db.config import PoolConfig
from flask_pooled_db.config.url import parse_url
from flask_pooled_db.pool.upkeep import sweep
from harness.proxy import Proxy
from harness.server import APP_PASSWORD, APP_PASSWORD_WORD, APP_USER, SCHEMES, MariaDBServer
from harness.sockets import free_port
from harness.waiting import PATIENCE
from harness.workloads import connection_id
from tests.support.apps import pooled_app
from tests.support.pools import call, fail_to_connect

IN_VAIN = 0.3


class Ear:
    """All that is said: the log at its most talkative, the warnings, the errors."""

    def __init__(self) -> None:
        self._heard = io.StringIO()

    def hear(self, *things: object) -> None:
        """Take down each thing, as text and as it represents itself."""
        for thing in things:
            self._heard.write(f"{thing}\n{thing!r}\n")

    def hear_error(self, error: BaseException) -> None:
        """Take down an error: its traceback, its causes, its arguments and its attributes."""
        self.hear(error, error.args, vars(error))
        lines = traceback.TracebackException.from_exception(error, capture_locals=False).format()
        self._heard.write("".join(lines))

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Take down every log record of every library, and every warning."""
        handler = logging.StreamHandler(self._heard)
        handler.setFormatter(logging.Formatter("%(name)s %(levelname)s %(message)s %(args)s"))
        root = logging.getLogger()
        levels = {name: logging.getLogger(name).level for name in ("", "flask_pooled_db")}
        for name in levels:
            logging.getLogger(name).setLevel(logging.DEBUG)
        root.addHandler(handler)
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                yield
            for warning in caught:
                self.hear(warning.message)
        finally:
            root.removeHandler(handler)
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)

    @property
    def text(self) -> str:
        return self._heard.getvalue()


@pytest.fixture
def ear() -> Iterator[Ear]:
    """What a test heard; at its end the password must not be in it."""
    ear = Ear()
    with ear.listening():
        yield ear
    assert ear.text, "nothing was heard: the test shows nothing"
    assert APP_PASSWORD_WORD not in ear.text


@contextlib.contextmanager
def shop(url: str, **settings: Any) -> Iterator[tuple[Flask, PooledDB]]:
    """An app on this database; on one that is away its callers wait for `IN_VAIN` seconds."""
    with pooled_app(url, **{"acquire_timeout": PATIENCE, "connect_timeout": 2, **settings}) as pair:
        yield pair


def use(**options: Any) -> str:
    """A statement in a scope."""
    with db_connection_context(**options) as conn:
        conn.cursor().execute("SELECT 1")
    return "done"


def test_ear(mariadb: MariaDBServer) -> None:
    """A password in a log line, an error or its cause would be found."""
    for say in (
        lambda ear: logging.getLogger("any.library").debug("it is %s", APP_PASSWORD),
        lambda ear: ear.hear({"password": APP_PASSWORD}),
        lambda ear: ear.hear_error(ValueError(APP_PASSWORD)),
        lambda ear: warnings.warn(APP_PASSWORD, stacklevel=1),
    ):
        ear = Ear()
        with ear.listening():
            say(ear)
        assert APP_PASSWORD_WORD in ear.text


def test_a3_reprs(ear: Ear, mariadb: MariaDBServer, database: str, mariadb_driver: str) -> None:
    """No repr shows the password: config, URL, pool, lease, cursor, connection, driver, scope,
    stats, extension.
    """
    url = mariadb.url(mariadb_driver, database)
    with shop(url, binds={"other": {"URL": url, "CONNECT_ARGS": {"password": APP_PASSWORD}}}) as (
        app,
        db,
    ):
        ear.hear(parse_url(url), app, db, app.extensions)
        for bind in (None, "other"):
            pool = db.pool(bind)
            scope = db_connection_context(bind)
            ear.hear(pool, pool.config, pool.driver, pool.stats(), scope)
            with scope as conn, conn.cursor() as cur:
                cur.execute("SELECT 1")
                ear.hear(conn, cur, conn.usable(), conn.driver, conn.session)
                ear.hear(cur.driver_cursor)
            ear.hear(conn, cur, list(pool.engine.state.idle))


def test_a3_connect_args(ear: Ear, mariadb: MariaDBServer) -> None:
    """A password in CONNECT_ARGS is not shown, either."""
    made = PoolConfig.from_mapping(
        {"CREATOR": __import__("pymysql"), "CONNECT_ARGS": mariadb.connect_args()}
    )
    ear.hear(made)


def test_a3_wrong_password(
    ear: Ear, mariadb: MariaDBServer, database: str, mariadb_driver: str
) -> None:
    """The error about a wrong password does not show it."""
    wrong = f"{APP_PASSWORD_WORD}-but-wrong"
    with shop(mariadb.url(mariadb_driver, database, password=wrong)):
        with pytest.raises(ConnectFailed) as caught:
            use()
    ear.hear_error(caught.value)
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize("part", ["user", "database"])
def test_a3_wrong_user_or_database(
    ear: Ear, mariadb: MariaDBServer, mariadb_driver: str, part: str
) -> None:
    """The error about an unknown user or database does not show the password."""
    parts: dict[str, Any] = {"database": "mysql", part: "nobody"}
    with shop(mariadb.url(mariadb_driver, **parts)), pytest.raises(ConnectFailed) as caught:
        use()
    ear.hear_error(caught.value)


def test_a3_server_down(ear: Ear, mariadb_driver: str) -> None:
    """The timeout while the server is down does not show the password."""
    user, password = APP_USER, quote(APP_PASSWORD, safe="")
    url = f"{SCHEMES[mariadb_driver]}://{user}:{password}@127.0.0.1:{free_port()}/shop"
    with shop(url, acquire_timeout=IN_VAIN) as (_, db):
        fail_to_connect(db.pool())
        with pytest.raises(PoolTimeout) as caught:
            use()
        ear.hear_error(caught.value)
        ear.hear(db.pool(), db.stats())


def test_a3_unknown_host(ear: Ear, mariadb_driver: str) -> None:
    """The error about an unknown host does not show the password."""
    password = quote(APP_PASSWORD, safe="")
    url = f"{SCHEMES[mariadb_driver]}://{APP_USER}:{password}@host.invalid/shop"
    with shop(url, connect_timeout=1, acquire_timeout=IN_VAIN) as (_, db):
        fail_to_connect(db.pool())
        with pytest.raises((PoolTimeout, ConnectFailed)) as caught:
            use()
    ear.hear_error(caught.value)


@pytest.mark.parametrize("argument", ["no_such_argument", "port", "charset", "password_file"])
def test_a3_wrong_connect_argument(
    ear: Ear, mariadb: MariaDBServer, mariadb_driver: str, argument: str
) -> None:
    """The error about connect arguments shows none of their values."""
    app = Flask("app_under_test")
    app.config["POOLED_DB_URL"] = mariadb.url(mariadb_driver)
    app.config["POOLED_DB_CONNECT_ARGS"] = {argument: APP_PASSWORD_WORD}
    with pytest.raises(ConfigError) as caught:
        PooledDB(app)
    ear.hear_error(caught.value)


def test_a3_connect_argument_refused_late(
    ear: Ear, mariadb: MariaDBServer, mariadb_driver: str
) -> None:
    """The error about an argument that only a connect can tell does not show the password."""
    url = mariadb.url(mariadb_driver, init_command=f"SET @x='{APP_PASSWORD_WORD}' nonsense")
    with shop(url, acquire_timeout=IN_VAIN), pytest.raises(PooledDBError) as caught:
        use()
    ear.hear(caught.value)


PARTS: list[dict[str, Any]] = [
    {"drivername": "nosuch"},
    {"drivername": "sqlite"},
    {"drivername": f"mysql://ann:{APP_PASSWORD_WORD}@h"},
    {"drivername": "mysql", "host": f"ann:{APP_PASSWORD_WORD}@h"},
    {"drivername": "mysql", "port": APP_PASSWORD_WORD},
    {"drivername": "mysql", "database": [APP_PASSWORD_WORD]},
    {"drivername": "mysql", "password_file": "/run/secrets/db"},
    {"drivername": "mysql", "query": {"password_file": "/run/secrets/db"}},
    {"drivername": "mysql", "query": {"password": [APP_PASSWORD_WORD, "x"]}},
    {"drivername": "mysql", f"mysql://ann:{APP_PASSWORD_WORD}@h": 1},
    {"drivername": "mysql", "password": [APP_PASSWORD]},
    {"drivername": "mysql", "password": {APP_PASSWORD: APP_PASSWORD}},
]


@pytest.mark.parametrize("parts", PARTS)
def test_a3_wrong_parts(ear: Ear, parts: dict[str, Any]) -> None:
    """A `ConfigError` about a URL in parts does not show the password."""
    url = {"username": "ann", "password": APP_PASSWORD, "host": "h", **parts}
    app = Flask("app_under_test")
    app.config.update(POOLED_DB_URL=url, POOLED_DB_BINDS={"b": {"URL": url}})
    with pytest.raises(ConfigError) as caught:
        PooledDB(app)
    assert len(caught.value.problems) == 2
    ear.hear_error(caught.value)


@pytest.mark.parametrize("content", ["{}\n", "{}", "\n{}", "{}\xff", "{}" * 999])
def test_a3_password_file(
    ear: Ear, mariadb: MariaDBServer, mariadb_driver: str, tmp_path: Path, content: str
) -> None:
    """Neither an error nor a repr shows what was read from a password file."""
    file = tmp_path / "secret"
    file.write_text(content.format(*[f"{APP_PASSWORD_WORD}-but-wrong"] * 999), encoding="latin-1")
    url = mariadb.url(mariadb_driver, password="").replace(":@", "@")
    with shop(f"{url}?password_file={file}") as (_, db):
        with pytest.raises(ConnectFailed) as caught:
            use()
        ear.hear(db.pool().config, db.pool().driver, db.stats())
    ear.hear_error(caught.value)


def test_a3_text_of_connect_error(ear: Ear) -> None:
    """The text of a failed connect is not repeated anywhere."""

    def connect(**arguments: Any) -> Any:
        raise OSError(f"can't connect with {arguments}")

    with pooled_app(
        creator=connect, connect_args={"password": APP_PASSWORD}, acquire_timeout=IN_VAIN
    ) as (app, db):
        fail_to_connect(db.pool())
        with pytest.raises(PoolTimeout) as caught:
            use()
        ear.hear(caught.value, db.pool(), db.stats())
        app.add_url_rule("/", view_func=use)
        answer = call(app.test_client().get, "/").result()
    assert answer.status_code == 503
    ear.hear(answer.text, answer.headers)


def test_a3_hung_handshake(
    ear: Ear, server: MariaDBServer, proxy: Proxy, mariadb_driver: str
) -> None:
    """The error about a hung handshake does not show the password."""
    proxy.deaf()
    url = server.url(mariadb_driver, port=proxy.port)
    with (
        shop(url, connect_timeout=0.5, acquire_timeout=IN_VAIN),
        pytest.raises(PoolTimeout) as caught,
    ):
        use()
    ear.hear_error(caught.value)


def test_a3_killed_connection(
    ear: Ear, mariadb: MariaDBServer, database: str, mariadb_driver: str
) -> None:
    """The errors after a killed connection do not show the password, swallowed or not."""

    def use_and_lose(is_swallowed: bool) -> None:
        with db_connection_context() as conn:
            conn.cursor().execute("SELECT 1")
            mariadb.kill_connection(connection_id(conn))
            try:
                conn.cursor().execute("SELECT 2")
            except conn.Error as error:
                ear.hear_error(error)
                if not is_swallowed:
                    raise
            ear.hear(conn)

    with shop(mariadb.url(mariadb_driver, database)) as (_, db):
        for is_swallowed in (False, True):
            with pytest.raises((TransactionAborted, db.pool().driver.Error)) as caught:
                use_and_lose(is_swallowed)
            ear.hear_error(caught.value)


def test_a3_commit_outcome_unknown(
    ear: Ear, server: MariaDBServer, mariadb_driver: str, proxy: Proxy
) -> None:
    """CommitOutcomeUnknown does not show the password."""
    database = server.create_database()
    server.execute(f"CREATE TABLE `{database}`.t (id INT PRIMARY KEY)")

    def write() -> None:
        with db_connection_context() as conn:
            conn.cursor().execute("INSERT INTO t VALUES (1)")
            proxy.hold_replies_to(b"COMMIT")

    with shop(server.url(mariadb_driver, database, port=proxy.port)):
        with pytest.raises(CommitOutcomeUnknown) as caught:
            write()
    ear.hear_error(caught.value)


def test_a3_exhausted_pool(
    ear: Ear, mariadb: MariaDBServer, database: str, mariadb_driver: str
) -> None:
    """Error, log and 503 page of an exhausted pool do not show the password."""
    url = mariadb.url(mariadb_driver, database)
    with shop(url, maxconnections=1) as (app, _):
        with db_connection_context():
            with pytest.raises(PoolTimeout) as caught:
                use(independent=True, timeout=0)
            ear.hear_error(caught.value)
            app.add_url_rule("/", view_func=lambda: use(independent=True, timeout=0))
            answer = call(app.test_client().get, "/").result()
    assert answer.status_code == 503
    ear.hear(answer.text, answer.headers, answer.data)


def test_a3_error_page(ear: Ear, mariadb: MariaDBServer, mariadb_driver: str) -> None:
    """The 500 page of a failed connect, and its log, do not show the password."""
    url = mariadb.url(mariadb_driver, "nowhere")
    with shop(url) as (app, _):
        app.add_url_rule("/", view_func=use)
        answer = call(app.test_client().get, "/").result()
    assert answer.status_code == 500
    ear.hear(answer.text, answer.headers)


def test_a3_leak_warnings(
    ear: Ear, mariadb: MariaDBServer, database: str, mariadb_driver: str
) -> None:
    """The warnings about leaks do not show the password."""
    with shop(mariadb.url(mariadb_driver, database), leak_threshold=0.01) as (app, db):
        with app.app_context():
            kept = get_db_connection()
            kept.cursor().execute("SELECT 1")
        pool = db.pool()
        lost = pool.lease()
        del lost
        gc.collect()
        pool.lease(timeout=10).close()
        sweep(pool.engine)
        with pytest.raises(UsageError) as caught:
            kept.cursor()
    ear.hear_error(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        f"mysql://{APP_USER}:{APP_PASSWORD}@127.0.0.1/shop",
        f"mysql://{APP_USER}:{APP_PASSWORD_WORD}",
        f"{APP_USER}:{APP_PASSWORD_WORD}@127.0.0.1/shop",
        f"nosuch://{APP_USER}:{APP_PASSWORD_WORD}@127.0.0.1/shop",
        f"sqlite://{APP_USER}:{APP_PASSWORD_WORD}@127.0.0.1/shop",
        f"mysql://127.0.0.1/shop?password={APP_PASSWORD_WORD}&password={APP_PASSWORD_WORD}",
    ],
)
def test_a3_wrong_configuration(ear: Ear, url: str) -> None:
    """A `ConfigError` about a URL does not show the password."""
    app = Flask("app_under_test")
    app.config.update(
        POOLED_DB_URL=url,
        POOLED_DB_BINDS={"a": url, "b": {"URL": url, "CONNECT_ARGS": {"password": 5}}},
    )
    with pytest.raises(ConfigError) as caught:
        PooledDB(app)
    ear.hear_error(caught.value)
    ear.hear(pickle.loads(pickle.dumps(caught.value)))


def test_a3_pickled_errors(ear: Ear, mariadb: MariaDBServer, mariadb_driver: str) -> None:
    """A pickled error carries no more than it shows."""
    with shop(mariadb.url(mariadb_driver, "nowhere")), pytest.raises(PooledDBError) as caught:
        use()
    data = pickle.dumps(caught.value)
    assert APP_PASSWORD_WORD.encode() not in data
    ear.hear(pickle.loads(data))
