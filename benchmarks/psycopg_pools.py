"""The pools on PostgreSQL that are compared, each as its users use it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any

import psycopg
from psycopg_pool import ConnectionPool

from benchmarks.contenders import PRIVATE, Contender, ours, sizes

PSYCOPG_POOL = "psycopg_pool"
PSYCOPG_POOL_CHECK = "psycopg_pool, check"


def conninfo_of(url: str) -> str:
    """What psycopg takes in place of a URL of the extension's."""
    return url.replace("+psycopg", "", 1)


@contextmanager
def opened_pool(
    url: str, size: int, check: Callable[[Any], None] | None = None
) -> Iterator[ConnectionPool]:
    """psycopg's own pool, with all its connections."""
    with ConnectionPool(conninfo_of(url), min_size=size, check=check, timeout=60) as pool:
        pool.wait()
        yield pool


@contextmanager
def private(url: str) -> Iterator[Contender]:
    """No pool: each thread opens a connection and keeps it."""
    mine = threading.local()
    with ExitStack() as opened:

        @contextmanager
        def block() -> Iterator[Any]:
            if not hasattr(mine, "connection"):
                connection = psycopg.connect(conninfo_of(url))
                mine.connection = opened.enter_context(closing(connection))
            yield mine.connection
            mine.connection.commit()

        yield Contender(PRIVATE, block, block)


@contextmanager
def pools_on(url: str, size: int) -> Iterator[list[Contender]]:
    """All pools on one database: ours, psycopg_pool with and without a check."""
    with ExitStack() as stack:
        plain = stack.enter_context(opened_pool(url, size))
        checking = stack.enter_context(opened_pool(url, size, ConnectionPool.check_connection))
        yield [
            stack.enter_context(ours(URL=url, **sizes(size))),
            Contender(PSYCOPG_POOL, plain.connection, plain.connection),
            Contender(PSYCOPG_POOL_CHECK, checking.connection, checking.connection),
        ]
