"""The pools that are compared, each as its users use it: a block that is a transaction."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import pymysql
from flask import Flask
from sqlalchemy import create_engine
from sqlalchemy.pool import QueuePool

from benchmarks import nothing
from benchmarks.measure import OURS
from flask_pooled_db import PooledDB, db_connection_context
from harness.naive import NaiveDB
from harness.server import SCHEMES, MariaDBServer

DBUTILS = "DBUtils"
SQLALCHEMY = "SQLAlchemy"
SQLALCHEMY_PING = "SQLAlchemy, pre_ping"
PRIVATE = "private connections"

Block = Callable[[], AbstractContextManager[Any]]


@dataclass(frozen=True)
class Contender:
    """A pool under measurement."""

    name: str
    block: Block
    """A block that is a transaction on a connection."""
    reading: Block
    """A block for reads alone: the same, where the pool knows no better."""
    around: Callable[[], AbstractContextManager[Any]] = nullcontext
    """What a thread stands in while it uses them."""


@dataclass(frozen=True)
class Place:
    """A database to connect to."""

    arguments: dict[str, Any]
    """What PyMySQL takes."""
    urls: dict[str, str]
    """The same as a URL, by the driver."""

    @classmethod
    def of(cls, server: MariaDBServer, database: str, port: int | None = None) -> Place:
        """A database of a server; `port` may be a proxy's."""
        return cls(
            server.connect_args(database, port=port),
            {driver: server.url(driver, database, port=port) for driver in SCHEMES},
        )


@contextmanager
def pooled_app(**config: Any) -> Iterator[Flask]:
    """An app on the extension; `config` has its keys, without their prefix."""
    app = Flask("benchmarks")
    app.config.update({f"POOLED_DB_{name}": value for name, value in config.items()})
    db = PooledDB(app)
    try:
        yield app
    finally:
        db.close()


def sizes(size: int) -> dict[str, Any]:
    """The extension's keys for a pool of so many connections, all kept, with time to wait."""
    return {"MINCACHED": 0, "MAXCACHED": size, "MAXCONNECTIONS": size, "ACQUIRE_TIMEOUT": 60}


@contextmanager
def ours(**config: Any) -> Iterator[Contender]:
    """The extension; `config` has its keys, without their prefix."""
    with pooled_app(**config) as app:
        reading = functools.partial(db_connection_context, readonly=True)
        yield Contender(OURS, db_connection_context, reading, app.app_context)


@contextmanager
def naive(pool: NaiveDB) -> Iterator[Contender]:
    """DBUtils with the usual context manager."""
    with pool:
        yield Contender(DBUTILS, pool.db_connection_context, pool.db_connection_context)


@contextmanager
def sqlalchemy(name: str, pool: QueuePool) -> Iterator[Contender]:
    """SQLAlchemy's pool with the usual context manager."""

    @contextmanager
    def block() -> Iterator[Any]:
        connection = pool.connect()
        try:
            yield connection
            connection.commit()
        except BaseException:
            connection.rollback()
            raise
        finally:
            connection.close()

    try:
        yield Contender(name, block, block)
    finally:
        pool.dispose()


def engine_pool(place: Place, size: int, driver: str = "pymysql", *, ping: bool) -> QueuePool:
    """The pool of an SQLAlchemy engine, which is what knows how to ping."""
    # Its dialect puts ssl_ca into a dict, which PyMySQL ignores beside ssl_verify_cert.
    url = place.urls[driver].replace("&ssl_verify_cert=true", "")
    engine = create_engine(url, pool_size=size, max_overflow=0, pool_timeout=60, pool_pre_ping=ping)
    assert isinstance(engine.pool, QueuePool)
    return engine.pool


@contextmanager
def private(place: Place) -> Iterator[Contender]:
    """No pool: each thread opens a connection and keeps it."""
    mine = threading.local()
    arguments: dict[str, Any] = {"ssl_disabled": "ssl_ca" not in place.arguments}
    arguments |= place.arguments
    with ExitStack() as opened:

        @contextmanager
        def block() -> Iterator[Any]:
            if not hasattr(mine, "connection"):
                connection = pymysql.connect(**arguments)
                mine.connection = opened.enter_context(closing(connection))
            yield mine.connection
            mine.connection.commit()

        yield Contender(PRIVATE, block, block)


@contextmanager
def pools_on(place: Place, size: int) -> Iterator[list[Contender]]:
    """All pools on one database: ours, DBUtils, SQLAlchemy with and without a ping."""
    naive_pool = NaiveDB(pymysql, maxcached=size, maxconnections=size, **place.arguments)
    with ExitStack() as stack:
        yield [
            stack.enter_context(contender)
            for contender in (
                ours(URL=place.urls["pymysql"], **sizes(size)),
                naive(naive_pool),
                sqlalchemy(SQLALCHEMY, engine_pool(place, size, ping=False)),
                sqlalchemy(SQLALCHEMY_PING, engine_pool(place, size, ping=True)),
            )
        ]


@contextmanager
def pools_on_nothing(size: int) -> Iterator[list[Contender]]:
    """The pools on the driver that does nothing: ours, DBUtils, SQLAlchemy."""
    queue_pool = QueuePool(nothing.connect, pool_size=size, max_overflow=0, timeout=60)  # type: ignore[arg-type]
    with ExitStack() as stack:
        yield [
            stack.enter_context(contender)
            for contender in (
                ours(CREATOR=nothing, **sizes(size)),
                naive(NaiveDB(nothing, maxcached=size, maxconnections=size)),
                sqlalchemy(SQLALCHEMY, queue_pool),
            )
        ]
