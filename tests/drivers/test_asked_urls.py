"""A URL that a function tells at each connect, for passwords that live for minutes."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

import pytest
import sqlalchemy

from flask_pooled_db import ConfigError, ConnectFailed, PooledDB, PoolTimeout
from flask_pooled_db.config import PoolConfig
from flask_pooled_db.drivers import make_driver
from flask_pooled_db.lease.dbutils import Pool
from flask_pooled_db.pool.interrupter import Helper
from flask_pooled_db.pool.upkeep import upkeep
from flask_pooled_db.runtime import guard
from harness.server import APP_PASSWORD, APP_USER, MariaDBServer
from harness.sockets import free_port
from harness.waiting import PATIENCE
from tests.drivers.rotating import Rotating
from tests.support.apps import pooled_app
from tests.support.pools import open_pool
from tests.support.sites import bare_app

SECRET = "Kolibri7"


class Tokens:
    """Tells the URL of a server with a password that is good until it is asked again."""

    def __init__(self, server: Rotating, form: Callable[[dict[str, Any]], Any]) -> None:
        self.asked = 0
        self._server = server
        self._form = form
        self._guard = threading.Lock()

    def __call__(self) -> Any:
        with self._guard:
            self.asked += 1
            password = f"{SECRET} é {self.asked}"
            self._server.set_password(password)
        return self._form({**self._server.parts, "password": password})


def as_text(parts: dict[str, Any]) -> str:
    form = "{drivername}://{username}:{secret}@{host}:{port}/{name}"
    secret = quote(parts["password"], safe="")
    return form.format(**parts, secret=secret, name=parts.get("database", ""))


def sqlalchemy_url(parts: dict[str, Any]) -> Any:
    return sqlalchemy.engine.URL.create(**parts)


def ask(lease: Any, sql: str = "SELECT 1") -> Any:
    cursor = lease.cursor()
    cursor.execute(sql)
    return cursor.fetchone()[0]


def works(pool: Pool) -> bool:
    with pool.lease(timeout=PATIENCE) as lease:
        return bool(ask(lease) == 1)


def fails(pool: Pool) -> str:
    """What is said of a connect that fails for good."""
    with pytest.raises(ConnectFailed) as caught:
        pool.lease(timeout=PATIENCE)
    return str(caught.value)


def times_out(pool: Pool) -> PoolTimeout:
    with pytest.raises(PoolTimeout) as caught:
        pool.lease(timeout=0.2)
    return caught.value


@pytest.mark.parametrize(
    "form",
    [as_text, dict, sqlalchemy_url],
    ids=["text", "map", "alch"],
)
def test_token_for_each_connect(rotating: Rotating, form: Callable[..., Any]) -> None:
    """Each connect asks once, for a URL in any of its forms; what is open goes on with the last."""
    tokens = Tokens(rotating, form)
    with open_pool(url=tokens, maxconnections=3) as pool:
        assert tokens.asked == 0
        leases = []
        for number in range(1, 4):
            leases.append(pool.lease(timeout=PATIENCE))
            assert [ask(lease) for lease in leases] == [1] * number
            assert tokens.asked == number
        for lease in leases:
            lease.close()
        assert works(pool)
        assert tokens.asked == 3
        pool.drain()
        assert works(pool)
        assert tokens.asked == 4
        assert pool.stats().connect_errors == 0


def test_token_after_reset(rotating: Rotating) -> None:
    """A session that was changed is reset, or its connection replaced, with a token of its own."""
    with open_pool(url=Tokens(rotating, dict), reset="session") as pool:
        assert all(works(pool) for _ in range(3))


def test_token_of_helper(rotating: Rotating, monkeypatch: pytest.MonkeyPatch) -> None:
    """What interrupts statements connects to the server of the statement, with a new token."""
    tokens = Tokens(rotating, dict)
    with open_pool(url=tokens) as pool:
        lease = pool.lease(timeout=PATIENCE)
        ask(lease)
        (entry,) = pool.engine.state.in_use_locked()
        port = rotating.parts["port"]
        rotating.parts["port"] = free_port()  # where the next answer leads
        # MariaDB has no name of its own: all servers are one here.
        monkeypatch.setattr(type(entry.driver), "identity", lambda *_: None)
        helper = Helper(pool.driver, PATIENCE)
        try:
            assert helper.connection(entry) is not None
            assert tokens.asked == 2
        finally:
            helper.close()
            rotating.parts["port"] = port
            lease.close()


def test_p7_nobody_asks_early(rotating: Rotating) -> None:
    """The function is called by the thread that connects, without a lock, and not before."""
    seen: list[tuple[str, bool]] = []

    def tell() -> Any:
        seen.append((threading.current_thread().name, guard.is_inside()))
        return tokens()

    tokens = Tokens(rotating, dict)
    with pooled_app(cast("Any", tell)) as (_, db):
        assert not seen
        assert ask(db.connection) == 1
    ((name, was_inside),) = seen
    assert "opener" in name
    assert not was_inside


def test_rejected_token(rotating: Rotating) -> None:
    """A token that expired between the answer and the connect is no lasting failure: the next
    answer is tried.
    """
    tokens = Tokens(rotating, dict)
    outdated = True

    def tell() -> Any:
        nonlocal outdated
        parts, outdated = {**tokens(), **({"password": "expired"} if outdated else {})}, False
        return parts

    with open_pool(url=tell) as pool:
        assert works(pool)
        assert pool.stats().connect_errors == 1


def test_rejected_tokens(rotating: Rotating) -> None:
    """Tokens that are rejected one after the other fail for good, and none is shown."""
    with open_pool(url=lambda: {**rotating.parts, "password": SECRET}) as pool:
        told = fails(pool)
    assert SECRET not in told


@pytest.fixture
def pair() -> Iterator[tuple[MariaDBServer, MariaDBServer]]:
    with MariaDBServer() as first, MariaDBServer() as second:
        yield first, second


def hosts_of(*servers: MariaDBServer) -> dict[str, Any]:
    return {
        "drivername": "mysql",
        "username": APP_USER,
        "password": APP_PASSWORD,
        "host": ",".join(f"127.0.0.1:{server.port}" for server in servers),
    }


def test_several_hosts(pair: tuple[MariaDBServer, MariaDBServer]) -> None:
    """The function may name several hosts, of which the primary is taken, and others each time."""
    first, second = pair
    first.execute("SET GLOBAL read_only=1")
    answers = [hosts_of(first, second), hosts_of(second, first), hosts_of(second)]
    asked: list[Any] = []

    def tell() -> Any:
        asked.append(answers[len(asked)])
        return asked[-1]

    with open_pool(url=tell, target="primary") as pool:
        for number in range(1, 3):
            with pool.lease(timeout=PATIENCE) as lease:
                assert ask(lease, "SELECT @@port") == second.port
            assert len(asked) == number
            pool.drain()


def test_failures_of_hosts_that_stay() -> None:
    """A host that did not answer is left alone also when the next answer names it with others."""
    names = iter(["h1,h2", "h2,h1,h3"])
    config = PoolConfig.from_mapping({"URL": lambda: {"drivername": "mysql", "host": next(names)}})
    driver = make_driver(config)
    earlier = driver.for_connect().servers
    earlier.failed(earlier.candidates()[1])
    later = driver.for_connect().servers
    assert [server.arguments["host"] for server in later.candidates()] == ["h1", "h3"]


@pytest.mark.parametrize("name", ["/{}/shop.db", "/:memory:", ""])
def test_sqlite_url_asked(tmp_path: Path, name: str) -> None:
    """On SQLite all connections of a pool have one database, in memory too."""
    asked: list[None] = []

    def tell() -> str:
        asked.append(None)
        return "sqlite://" + name.format(tmp_path)

    with bare_app(url=tell) as (app, db), app.app_context():
        with db.connection_context() as conn, db.connection_context(independent=True) as other:
            conn.cursor().execute("INSERT INTO t VALUES (1, 'a')")
            conn.commit()
            assert ask(other, "SELECT count(*) FROM t") == 1
        assert len(asked) == 2
        assert db.fetch_value("SELECT count(*) FROM t") == 1


def test_p6_sqlite_file_asked(tmp_path: Path) -> None:
    """What the answers tell of forks counts: idle connections to a file are closed before one."""
    with open_pool(url=lambda: f"sqlite:///{tmp_path}/shop.db") as pool:
        assert works(pool)
        upkeep.before_fork()
        assert pool.stats().idle == 0


def test_sqlite_file_of_instance(tmp_path: Path) -> None:
    """A file that an answer names relatively is in the app's instance folder."""
    config = PoolConfig.from_mapping({"URL": lambda: "sqlite:///shop.db", "MINCACHED": 0})
    pool = Pool(config, make_driver(config, str(tmp_path)))
    assert works(pool)
    pool.close()
    assert (tmp_path / "shop.db").exists()


class TokenServiceDown(Exception):
    """What an application's function raises."""


@pytest.mark.parametrize(
    "error", [TokenServiceDown(SECRET), ConfigError([SECRET]), OSError(SECRET), SystemExit(SECRET)]
)
def test_a3_function_raises(error: BaseException, caplog: pytest.LogCaptureFixture) -> None:
    """What the function raises is a failed connect: its class is told, and its text never."""
    is_up = threading.Event()

    def tell() -> str:
        if not is_up.is_set():
            raise error
        return "sqlite://"

    with open_pool(url=tell) as pool:
        caught = times_out(pool)
        assert caught.__cause__ is error
        assert f"{type(error).__name__}: the function in URL raised it" in str(caught)
        assert SECRET not in str(caught)
        is_up.set()
        assert works(pool)
    assert SECRET not in caplog.text


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (None, "is None: it has to return a database URL"),
        (SECRET, "does not have the form"),
        (7, "must be a database URL or a mapping of its parts, not 7"),
        (lambda: SECRET, "not a value of type function"),
        (f"oracle://ann:{SECRET}@h/d", "the scheme oracle:// is not known"),
        (f"mysql://ann:{SECRET}@h/d?sssl=1", "takes no connect argument 'sssl'"),
        (f"sqlite://ann:{SECRET}@h/d", "an SQLite URL names no host and no user"),
        ({"drivername": "mysql", "password": SECRET, "prot": 1}, "has no field 'prot'"),
    ],
)
def test_a3_unusable_answer(answer: Any, told: str) -> None:
    """An answer that can't be used is told clearly, and not shown."""
    with open_pool(url=lambda: answer) as pool:
        message = fails(pool)
    assert "what the function in URL returned" in message
    assert told in message
    assert SECRET not in message


def test_answers_merge_connect_args() -> None:
    """CONNECT_ARGS count with each answer, and must not contradict one."""
    url = "mysql://ann:{}@127.0.0.1:1/d".format
    with open_pool(url=lambda: url(SECRET), connect_args={"password": "other"}) as pool:
        assert "the URL and CONNECT_ARGS differ on 'password'" in fails(pool)


def test_answers_change_scheme() -> None:
    """The answers have to agree on the driver."""
    answers = iter(["sqlite://", *["mysql://h/d"] * 9])
    with open_pool(url=lambda: next(answers)) as pool:
        assert works(pool)
        pool.drain()
        assert "is for pymysql, and what it returned before for sqlite3" in fails(pool)


def test_slow_function() -> None:
    """A function that takes longer than a connect may has failed, and its answer is not used."""
    calls: list[None] = []

    def tell() -> str:
        calls.append(None)
        time.sleep(0.3 if len(calls) == 1 else 0)
        return "sqlite://"

    with open_pool(url=tell, connect_timeout=0.2) as pool:
        assert works(pool)
        assert pool.stats().connect_errors == 1


def test_p5_function_hangs() -> None:
    """A function that does not return holds a caller up no longer than its deadline, and a place no
    longer than a connect may take.
    """
    gate = threading.Event()
    calls: list[None] = []

    def tell() -> str:
        calls.append(None)
        if len(calls) == 1:
            gate.wait(PATIENCE)
        return "sqlite://"

    with open_pool(url=tell, connect_timeout=0.1, maxconnections=1) as pool:
        try:
            assert times_out(pool).waiting == 0
            assert works(pool)
        finally:
            gate.set()


def test_tls_context_of_answers(
    tls_mariadb: MariaDBServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pool of PyMySQL has one TLS context, whoever told the URL."""
    import ssl

    built: list[None] = []
    make = ssl.create_default_context

    def create(*args: Any, **kwargs: Any) -> ssl.SSLContext:
        built.append(None)
        return make(*args, **kwargs)

    monkeypatch.setattr(ssl, "create_default_context", create)
    with open_pool(url=lambda: tls_mariadb.url("pymysql")) as pool:
        for _ in range(3):
            assert works(pool)
            pool.drain()
        assert pool.stats().connects == 3
    assert len(built) == 1


def test_maxshared_without_driver() -> None:
    """Sharing needs a driver that is known when the pool is made: that is said."""
    with pytest.warns(RuntimeWarning, match="a function tells its URL"):
        with open_pool(url=lambda: "sqlite://", maxshared=2) as pool:
            assert works(pool)


def test_function_of_binds() -> None:
    """A bind may be a function, or a mapping with one; one function may serve several."""
    asked: list[None] = []

    def tell() -> str:
        asked.append(None)
        return "sqlite://"

    with bare_app(url=tell, binds={"a": tell, "b": {"URL": tell}}) as (app, db):
        with app.app_context():
            for bind in "ab":
                assert db.fetch_value("SELECT 1", bind=bind) == 1
    assert len(asked) == 3


async def _coroutine() -> str:
    return "sqlite://"


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (_coroutine, "is a coroutine function"),
        (lambda bind: f"sqlite:///{bind}", "is a function that needs arguments"),
        (PooledDB.stats, "is a function that needs arguments"),
    ],
)
def test_refused_functions(function: Any, told: str) -> None:
    """What can't be called without arguments, or returns no URL, is refused at the start."""
    with pytest.raises(ConfigError) as caught:
        PoolConfig.from_mapping({"URL": function})
    assert told in caught.value.problems[0]


def test_a3_repr_of_function() -> None:
    """The repr of a configuration does not show what a function was made of."""
    function = functools.partial(str.format, "mysql://ann:{}@h", SECRET)
    assert SECRET not in repr(PoolConfig.from_mapping({"URL": function}))
