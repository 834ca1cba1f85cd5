"""Checkout and return on a driver that does nothing: what the pool itself costs.

The time is that of the thread's CPU, since nothing here waits.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from dbutils.pooled_db import PooledDB
from sqlalchemy.pool import QueuePool

from benchmarks import nothing
from benchmarks.contenders import DBUTILS, SQLALCHEMY, pooled_app
from benchmarks.effort import Effort
from benchmarks.measure import OURS, Bar, Row, compare, in_turn
from flask_pooled_db import db_connection_context

SIZE = 5
STATIC = "a bind of POOLED_DB_BINDS"
HELD = "held"
MOST_TO_KNOW = 2.0
"""Microseconds a checkout."""
UNOBSERVED = "without SLOW_STATEMENT"


def run(effort: Effort) -> list[Row]:
    """The whole block of ours against the bare checkout and return of the others."""
    dbutils = PooledDB(nothing, maxcached=SIZE, maxconnections=SIZE, blocking=True)
    queue_pool = QueuePool(nothing.connect, pool_size=SIZE)  # type: ignore[arg-type]

    def our_scope() -> None:
        with db_connection_context():
            pass

    def one_statement(bind: str) -> None:
        with db_connection_context(bind) as conn:
            conn.cursor().execute("SELECT 1")

    def by_name(bind: str) -> None:
        with db_connection_context(bind):
            pass

    settings = {"CREATOR": nothing, "MAXCONNECTIONS": SIZE}
    with pooled_app(**settings, BINDS=binds_of(settings)) as app, app.test_request_context():
        extension = app.extensions["pooled_db"].extension
        extension.bind_loader(lambda _: settings)
        contenders: dict[str, Callable[[], None]] = {
            OURS: our_scope,
            DBUTILS: lambda: dbutils.connection().close(),
            SQLALCHEMY: lambda: queue_pool.connect().close(),
        }
        samples = in_turn(
            {name: partial(microseconds, call, effort.calls) for name, call in contenders.items()},
            effort.rounds,
        )
        binds = in_turn(
            {
                OURS: partial(microseconds, partial(by_name, "loaded"), effort.calls),
                STATIC: partial(microseconds, partial(by_name, "static"), effort.calls),
            },
            effort.rounds,
        )
        held = in_turn(
            {
                OURS: partial(microseconds, partial(by_name, HELD), effort.calls),
                STATIC: partial(microseconds, partial(by_name, "static"), effort.calls),
            },
            effort.rounds,
        )
        observed = in_turn(
            {
                OURS: partial(microseconds, partial(one_statement, "observed"), effort.calls),
                UNOBSERVED: partial(microseconds, partial(one_statement, "static"), effort.calls),
            },
            effort.rounds,
        )
    dbutils.close()
    queue_pool.dispose()
    bars = {SQLALCHEMY: Bar(0.6, at_most=True)}
    more = [own - other for own, other in zip(held[OURS], held[STATIC], strict=True)]
    return [
        *compare("a scope without a statement, no server", "µs", samples, bars),
        *compare(
            "the same on a bind that was opened by its name",
            "µs",
            binds,
            {STATIC: Bar(1.05, at_most=True)},
        ),
        *compare(
            "what it takes more to know who holds the connection",
            "µs",
            {OURS: more, SQLALCHEMY: samples[SQLALCHEMY]},
            {SQLALCHEMY: Bar(MOST_TO_KNOW, at_most=True, of_ratio=False)},
        ),
        *compare("a scope with one statement, SLOW_STATEMENT on", "µs", observed),
    ]


def binds_of(settings: dict[str, object]) -> dict[str, object]:
    """The binds beside the default one: one like it, one whose holders are known, and one whose
    statements are observed.
    """
    held, observed = {"LEAK_THRESHOLD": 60}, {"SLOW_STATEMENT": 3600}
    return {"static": settings, HELD: settings | held, "observed": settings | observed}


def microseconds(call: Callable[[], object], count: int) -> float:
    """The thread's CPU time that a call takes, the mean of many."""
    call()  # whoever comes first opens the connection
    started = time.thread_time()
    for _ in range(count):
        call()
    return (time.thread_time() - started) / count * 1e6
