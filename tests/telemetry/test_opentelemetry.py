"""POOLED_DB_OTEL: what OpenTelemetry is told of pools and statements."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Flask
from opentelemetry import context, metrics, trace
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.semconv._incubating.attributes import db_attributes
from opentelemetry.semconv._incubating.metrics import db_metrics
from opentelemetry.trace import SpanKind, StatusCode

from flask_pooled_db import ConfigError, PooledDB, PoolTimeout, TransactionAborted
from flask_pooled_db.config import PoolConfig
from flask_pooled_db.drivers import Driver
from flask_pooled_db.runtime import workers
from flask_pooled_db.telemetry.conventions import COUNTERS, GAUGES, TIMES, USE_TIME
from flask_pooled_db.telemetry.measures import MANY, Measures
from flask_pooled_db.telemetry.site import Site
from flask_pooled_db.telemetry.spans import operation_of
from harness.processes import PROJECT
from harness.server import MariaDBServer
from harness.waiting import PATIENCE, wait_until
from harness.workloads import add
from tests.config.configs import problems_of
from tests.support.apps import pooled_app
from tests.support.fake_driver import FakeDriver
from tests.support.otel import Seen, points, providers, recording
from tests.support.scenarios.base import must_raise
from tests.support.stages import on_server

CREATE = "CREATE TABLE t (id INTEGER, name TEXT)"
INSERT = "INSERT INTO t VALUES (%s, %s)"


@pytest.fixture
def seen() -> Iterator[Seen]:
    with recording() as seen:
        yield seen


@contextlib.contextmanager
def traced(url: Any = None, otel: str = "all", **settings: Any) -> Iterator[PooledDB]:
    """An app that tells OpenTelemetry, without what other apps have published."""
    with pooled_app(url, otel=otel, runtime_dir=False, **settings) as (_, db):
        yield db


# Metrics


def test_names_are_those_of_the_conventions(url: str, seen: Seen) -> None:
    """Every instrument has the name, the unit and the kind of the conventions, and each of theirs
    is there; the package's own are named alike.
    """
    theirs = {
        name: getattr(db_metrics, constant)
        for constant, name in vars(db_metrics).items()
        if constant.startswith("DB_CLIENT_CONNECTION_") and "CONNECTIONS" not in constant
    }
    with traced(url, "metrics") as db:
        db.execute(CREATE)
        db.pool().drain()
        found = seen.metrics()
    ours = {one.name: one for one in (*GAUGES, *COUNTERS, *TIMES)}
    assert found.keys() <= ours.keys()
    assert ours.keys() - theirs.keys() == {
        f"pooled_db.{name}"
        for name in ("commits", "rollbacks", "aborted", "evictions", "leaks", "implicit_commits")
    }
    assert theirs.keys() <= found.keys()
    for name in theirs:
        create = inspect.getsource(getattr(db_metrics, f"create_{name.replace('.', '_')}"))
        assert f'unit="{found[name].unit}"' in create
        kind = type(found[name].data).__name__
        wanted = {"create_histogram": "Histogram", "create_counter": "Sum"}
        expected = next((k for method, k in wanted.items() if method in create), "Sum")
        assert kind == expected
        assert ("create_counter" in create) == getattr(found[name].data, "is_monotonic", False)


def test_numbers(url: str, seen: Seen) -> None:
    """What is told is what the pool itself tells; there is a time for each checkout, for each
    return and for each connect.
    """
    with traced(url, "metrics", maxconnections=2) as db:
        db.execute(CREATE)
        with must_raise(LookupError), db.connection_context() as conn:
            conn.execute("INSERT INTO t VALUES (1, 'x')")
            raise LookupError
        with db.connection_context(), db.connection_context(independent=True):
            with must_raise(PoolTimeout):
                db.connection_context(independent=True, timeout=0).__enter__()
            found, stats = seen.metrics(), db.stats()
            connection = "db.client.connection"
            assert points(found[f"{connection}.count"]) == {("idle",): 0, ("used",): 2}
            assert points(found[f"{connection}.max"]) == {(): 2}
            assert points(found[f"{connection}.idle.max"]) == {(): 2}
            assert points(found[f"{connection}.idle.min"]) == {(): 0}
            assert points(found[f"{connection}.pending_requests"]) == {(): 0}
            assert points(found[f"{connection}.timeouts"]) == {(): 1}
            assert points(found["pooled_db.commits"]) == {(): stats.commits} != {(): 0}
            assert points(found["pooled_db.rollbacks"]) == {(): 1}
            assert points(found[f"{connection}.wait_time"])[()][0] == stats.checkouts == 4
            assert points(found[f"{connection}.use_time"])[()][0] == 2
            count, seconds = points(found[f"{connection}.create_time"])[()]
            assert (count, seconds) == (2, pytest.approx(stats.connect_time.sum))
        found, stats = seen.metrics(), db.stats()
        count, seconds = points(found[f"{connection}.use_time"])[()]
        assert (count, seconds) == (4, pytest.approx(stats.use_time.sum, abs=0.05))
        point = found[f"{connection}.use_time"].data.data_points[0]
        assert dict(point.attributes) == {"db.client.connection.pool.name": "default"}
        assert tuple(point.explicit_bounds) == stats.use_time.bounds


def test_t4_killed_transaction(mariadb: MariaDBServer, seen: Seen) -> None:
    """A transaction that was killed at its server is aborted, and no rollback; what its connection
    was closed for is told.
    """
    with on_server("ours", mariadb, "pymysql", otel="metrics", runtime_dir=False) as stage:
        with must_raise(TransactionAborted), stage.db.connection_context() as connection:
            add(connection, 1, 1)
            stage.kill(connection)
            with contextlib.suppress(Exception):
                add(connection, 2, 1)
        found = seen.metrics()
    assert points(found["pooled_db.aborted"]) == {(): 1}
    assert points(found["pooled_db.rollbacks"]) == {(): 0}
    evictions = points(found["pooled_db.evictions"])
    assert {reason: count for (reason,), count in evictions.items() if count} == {"broken": 1}


def test_nothing_is_lost_between_collections(seen: Seen) -> None:
    """However many checkouts there are between two collections, each is recorded once."""
    number = 3 * MANY + 7
    with traced(otel="metrics", creator=FakeDriver(), url="") as db:
        for _ in range(number):
            with db.connection_context():
                pass
        found = seen.metrics()
    assert points(found["db.client.connection.wait_time"])[()][0] == number
    assert points(found["db.client.connection.use_time"])[()][0] == number


def test_p12_interrupted_as_the_recorder_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a signal handler raises as the thread starts keeps no later time from being recorded."""
    measures, started = Measures(), []
    histogram = measures.histogram(USE_TIME)

    def interrupt(name: str, target: Callable[[], object]) -> None:
        started.append(name)
        if len(started) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(workers, "start", interrupt)
    for _ in range(MANY - 1):
        measures.put(histogram, 0.1, {})
    with pytest.raises(KeyboardInterrupt):
        measures.put(histogram, 0.1, {})
    measures.put(histogram, 0.1, {})
    assert started == ["measures"] * 2


def test_closed_binds_and_garbage_apps(url: str, seen: Seen) -> None:
    """The counters of a bind that was closed stay; an app that is garbage is told of no more, and
    not kept alive.
    """
    app = Flask("app_under_test")
    keys = {"URL": url, "RUNTIME_DIR": False, "MINCACHED": 0, "OTEL": "all"}
    app.config.update({f"POOLED_DB_{name}": value for name, value in keys.items()})
    db = PooledDB(app)
    db.bind_loader(lambda name: f"{url}-{name}")
    for turn in (1, 2):
        with db.connection_context("north") as conn:
            conn.execute(f"CREATE TABLE t{turn} (id INTEGER)")
        seen.metrics()
        db.close_bind("north")
        commits = seen.metrics()["pooled_db.commits"].data.data_points
        counts = {one.attributes["db.client.connection.pool.name"]: one.value for one in commits}
        assert counts["north"] == turn
    db.close()
    reference = weakref.ref(app)
    del app, db, conn
    gc.collect()
    assert reference() is None

    def is_silent() -> bool:
        gc.collect()  # a thread may have been at work on the pool
        return later.metrics() == {}

    with recording() as later:
        wait_until(is_silent, "the end of its numbers")


def test_p6_a_child_begins_with_nothing(url: str, seen: Seen) -> None:
    """A forked child tells nothing that happened in its parent."""
    with traced(url, "metrics") as db:
        db.execute(CREATE)
        if (child := os.fork()) == 0:
            status = 1
            with contextlib.suppress(BaseException):
                db.fetch_all("SELECT 1")
                found = seen.metrics()
                waits = points(found["db.client.connection.wait_time"])[()][0]
                commits = points(found["pooled_db.commits"])[()]
                status = 0 if (waits, commits) == (1, 0) else 2
            os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
        assert points(seen.metrics()["db.client.connection.wait_time"])[()][0] == 1


def test_shared_connections(seen: Seen) -> None:
    """A checkout of a connection that others have as well is one, too."""
    fake = FakeDriver(threadsafety=2)
    with traced(otel="metrics", creator=fake, maxshared=1, maxconnections=1) as db:
        leases = [db.pool().connection() for _ in range(3)]
        for lease in leases:
            lease.close()
        found, checkouts = seen.metrics(), db.stats().checkouts
    assert points(found["db.client.connection.wait_time"])[()][0] == checkouts == 3


# Spans


def test_spans_of_a_request(url: str, seen: Seen) -> None:
    """A block has a span for its checkout, for each statement and for its COMMIT, which are parts
    of the caller's span, lie inside it, and have the conventions' attributes.
    """
    tracer = trace.get_tracer("app")
    with traced(url) as db:
        db.execute(CREATE)
        seen.spans()
        with tracer.start_as_current_span("request") as request:
            with db.connection_context() as conn:
                conn.execute(INSERT, (1, "secret"))
                conn.execute("/* all */ select * from t")
        told = seen.spans()
    names = [one.name for one in told]
    parts = [f"{name} shop.db" for name in ("checkout", "INSERT", "SELECT", "COMMIT")]
    assert names == [*parts, "request"]
    whole = told.pop()
    for one in told:
        assert one.kind is SpanKind.CLIENT
        assert one.parent is not None
        assert one.parent.span_id == request.get_span_context().span_id
        times = [whole.start_time, one.start_time, one.end_time, whole.end_time]
        assert times == sorted(filter(None, times))
        assert one.status.status_code is StatusCode.UNSET
    common = {
        "db.system.name": "sqlite",
        "db.namespace": "shop.db",
        "db.client.connection.pool.name": "default",
    }
    attributes = [dict(one.attributes or {}) for one in told]
    assert attributes[0] == common
    assert attributes[1] == common | {
        "db.operation.name": "INSERT",
        "db.query.text": "INSERT INTO t VALUES (?, ?)",
    }
    assert attributes[3] == common | {"db.operation.name": "COMMIT"}
    known = {value for name, value in vars(db_attributes).items() if name.startswith("DB_")}
    assert {name for one in attributes for name in one} <= known
    assert "secret" not in str(attributes)


def only(spans: list[ReadableSpan], name: str) -> ReadableSpan:
    (found,) = [one for one in spans if one.name.startswith(name)]
    return found


def test_failures(url: str, seen: Seen) -> None:
    """What has failed says so, by its class and never by its text; an exception that leaves a block
    is a ROLLBACK.
    """
    with traced(url, maxconnections=1) as db:
        db.execute(CREATE)
        seen.spans()
        with must_raise(Exception), db.connection_context() as conn:
            conn.execute(INSERT, (1, "x"))
            conn.execute("SELECT secret FROM t")
        spans = seen.spans()
        failed = only(spans, "SELECT")
        assert failed.status.status_code is StatusCode.ERROR
        assert failed.status.description is None
        assert failed.attributes is not None
        assert failed.attributes["error.type"] == "sqlite3.OperationalError"
        assert failed.attributes["db.response.status_code"] == "SQLITE_ERROR"
        assert not failed.events
        assert only(spans, "ROLLBACK").status.status_code is StatusCode.UNSET
        with db.connection_context(), must_raise(PoolTimeout):
            db.connection_context(independent=True, timeout=0).__enter__()
        got, refused = (one for one in seen.spans() if one.name.startswith("checkout"))
        assert got.status.status_code is StatusCode.UNSET
        assert refused.status.status_code is StatusCode.ERROR
        assert refused.attributes is not None
        assert refused.attributes["error.type"] == "flask_pooled_db.errors.PoolTimeout"


def test_spans_on_mariadb(mariadb: MariaDBServer, seen: Seen) -> None:
    """Spans name the server and the database, and an error by its number; no password is told."""
    with on_server("ours", mariadb, "pymysql", otel="all", runtime_dir=False) as stage:
        seen.spans()
        with must_raise(Exception), stage.db.connection_context() as connection:
            add(connection, 1, 1)
            connection.cursor().execute("SELECT * FROM nowhere WHERE name = %s", ("secret",))
        spans = seen.spans()
        url = stage.db.pool().config.url
    operations = [one.name.partition(" ")[0] for one in spans]
    assert operations == ["checkout", "UPDATE", "SELECT", "ROLLBACK"]
    for one in spans:
        found = dict(one.attributes or {})
        assert found["db.system.name"] == url.dialect
        assert found["db.namespace"] == stage.database
        assert (found["server.address"], found["server.port"]) == (url.host, url.port)
    failed = dict(spans[2].attributes or {})
    assert failed["error.type"] == "pymysql.err.ProgrammingError"
    assert failed["db.response.status_code"] == "1146"
    assert failed["db.query.text"] == "SELECT * FROM nowhere WHERE name = %s"
    everything = "".join(one.to_json() for one in spans)
    assert url.password
    assert url.password not in everything
    assert "secret" not in everything


def test_spans_of_a_task(url: str, seen: Seen) -> None:
    """What a task runs in worker threads is a part of the task's own span."""
    tracer = trace.get_tracer("app")

    async def work(db: PooledDB, name: str) -> None:
        with tracer.start_as_current_span(name):
            async with db.async_connection_context() as conn, conn.cursor() as cur:
                await cur.execute(f"CREATE TABLE {name} (id INTEGER)")

    async def both(db: PooledDB) -> None:
        await asyncio.gather(work(db, "a"), work(db, "b"))

    with traced(url) as db:
        db.fetch_all("SELECT 1")
        seen.spans()
        asyncio.run(both(db))
        spans = seen.spans()
    tasks = {one.context.span_id: one.name for one in spans if one.name in "ab" and one.context}
    assert len(tasks) == 2
    parts = [(tasks[one.parent.span_id], one.name) for one in spans if one.parent]
    expected = ["checkout shop.db", "CREATE shop.db", "COMMIT shop.db"]
    assert {name: sorted(part for task, part in parts if task == name) for name in "ab"} == {
        name: sorted(expected) for name in "ab"
    }


def test_p12_inside_the_sdk(url: str, seen: Seen) -> None:
    """What runs inside the SDK, which holds its locks, may use the pool: as a finalizer may, that
    interrupts it anywhere. Nothing hangs, and nothing is lost.
    """
    users: list[PooledDB] = []

    def use(options: CallbackOptions) -> list[Observation]:
        for one in users:
            one.execute(INSERT, (1, "x"))
        return []

    metrics.get_meter("flask_pooled_db").create_observable_gauge(f"app.{id(users)}", [use])
    with traced(url) as db:
        db.execute(CREATE)
        seen.spans()
        users.append(db)
        try:
            seen.metrics()
            found = seen.metrics()
        finally:
            users.clear()
        assert points(found["pooled_db.commits"])[()] >= 2
        wait_for_spans(seen, {"COMMIT shop.db": 2, "INSERT shop.db": 2, "checkout shop.db": 2})
        assert points(seen.metrics()["db.client.connection.wait_time"])[()][0] == 3


class Using(SpanProcessor):
    """A processor that holds a lock while a span ends, and uses the pool meanwhile."""

    def __init__(self, use: Callable[[], object]) -> None:
        self.use: Callable[[], object] | None = use
        self.was_free: list[bool] = []
        self._lock = threading.Lock()

    def on_end(self, span: ReadableSpan) -> None:
        is_free = self._lock.acquire(timeout=PATIENCE)
        self.was_free.append(is_free)
        try:
            if self.use is not None and span.name == "request":
                self.use()
        finally:
            if is_free:
                self._lock.release()


def test_p12_inside_a_processor(url: str, seen: Seen) -> None:
    """Where a processor of spans is interrupted, or uses the pool, which ends further spans, it is
    not entered once more by its own thread.
    """
    with traced(url) as db:
        db.execute(CREATE)
        processor = Using(lambda: db.execute(INSERT, (1, "x")))
        providers()[1].add_span_processor(processor)
        seen.spans()
        try:
            trace.get_tracer("app").start_span("request").end()
            wait_for_spans(seen, {"COMMIT shop.db": 1, "INSERT shop.db": 1, "checkout shop.db": 1})
        finally:
            processor.use = None
    assert all(processor.was_free)


SET_UP_LATE = """
from flask import Flask
from flask_pooled_db import PooledDB
from tests.support.otel import points, recording

def make():
    app = Flask("app")
    keys = {"URL": "sqlite://", "OTEL": "all", "RUNTIME_DIR": False, "MINCACHED": 0}
    app.config.update({f"POOLED_DB_{name}": value for name, value in keys.items()})
    return app, PooledDB(app)

pairs = [make(), make()]
with recording() as seen:
    pairs.append(make())
    for _, db in pairs:
        db.fetch_all("SELECT 1")
    found = seen.metrics()
    print(points(found["db.client.connection.count"])[("idle",)])
    print(points(found["db.client.connection.wait_time"])[()][0])
    print(len(seen.spans()))
"""


def test_set_up_late() -> None:
    """An SDK that is set up when there are apps already, as in a worker that was forked, is told of
    them; the numbers of several apps are added up.
    """
    done = subprocess.run(
        [sys.executable, "-c", SET_UP_LATE], capture_output=True, text=True, check=True, cwd=PROJECT
    )
    idle, waits, spans = map(int, done.stdout.split())
    assert (idle, waits) == (3, 3)
    assert spans >= 6


def wait_for_spans(seen: Seen, wanted: dict[str, int]) -> None:
    """Wait until there are so many of these names."""
    names: list[str] = []

    def has_come() -> bool:
        names.extend(one.name for one in seen.spans())
        return {name: names.count(name) for name in wanted} == wanted

    wait_until(has_come, str(wanted))


def test_suppressed(url: str, seen: Seen) -> None:
    """Where instrumentation is suppressed, as in an exporter, there are no spans."""
    with traced(url) as db:
        token = context.attach(context.set_value(context._SUPPRESS_INSTRUMENTATION_KEY, True))
        try:
            db.execute(CREATE)
        finally:
            context.detach(token)
        assert seen.spans() == []


def test_systems(url: str, seen: Seen) -> None:
    """The kind of the database is told by the URL, also where a function tells that; a module that
    is not known has another one.
    """
    with traced(lambda: url) as db:
        db.fetch_all("SELECT 1")
        db.fetch_all("SELECT 1")
        last = seen.spans()[-1]
    assert (last.attributes or {})["db.system.name"] == "sqlite"
    with traced(None, creator=FakeDriver()) as db, db.connection_context() as conn:
        conn.cursor().execute("SELECT 1")
        spans = seen.spans()
    assert [one.name for one in spans][:2] == ["checkout", "SELECT"]
    assert all((one.attributes or {})["db.system.name"] == "other_sql" for one in spans)


def test_a3_secrets_in_names() -> None:
    """What stands in place of a name, and may hold a password, is not told."""
    secret = {"dbname": "dbname=shop password=secret", "host": "postgresql://u:secret@h/d"}
    fake: Any = FakeDriver()
    config = PoolConfig(creator=fake, connect_args={**secret, "port": 1})
    site = Site("a", config, Driver(fake, None, {}, 1.0))
    assert site.attributes == {
        "db.client.connection.pool.name": "a",
        "server.port": 1,
    }


@pytest.mark.parametrize(
    ("text", "operation"),
    [
        ("SELECT 1", "SELECT"),
        (" ( select 1)", "SELECT"),
        ("/* a */ -- b\n  Update t SET a = 1", "UPDATE"),
        ("", None),
        ("secret", None),
        ("copy()", "COPY"),
        ("(" * 100_000, None),
        ("/*" * 100_000, None),
        ("-- " * 100_000, None),
    ],
)
def test_operations(text: str, operation: str | None) -> None:
    """The operation of a statement is its verb, and nothing else that it may begin with."""
    assert operation_of(text) == operation


# The key


@pytest.mark.parametrize("value", ["on", True, 1, ["all"], "postgres://u:p@h/d"])
def test_wrong_setting(value: Any) -> None:
    """What is neither "metrics" nor "all" is refused, and not shown."""
    (problem,) = problems_of({"POOLED_DB_OTEL": value})
    assert problem.startswith("POOLED_DB_OTEL must be 'metrics' or 'all', not ")
    assert "postgres" not in problem


def test_off(url: str, seen: Seen) -> None:
    """By default, and with what an environment has that sets nothing, nothing is told."""
    for setting in (None, ""):
        with traced(url, setting) as db:  # type: ignore[arg-type]
            db.fetch_all("SELECT 1")
            assert seen.metrics() == {}
            assert seen.spans() == []


def test_metrics_alone(url: str, seen: Seen) -> None:
    """With "metrics" there are no spans, and statements are not observed."""
    with traced(url, "metrics", record_statements=False) as db:
        db.fetch_all("SELECT 1")
        assert seen.spans() == []
        assert not db.pool().engine.terms.observer.is_on()


def test_key_of_the_app() -> None:
    """It is a key of the app: no bind has one."""
    (problem,) = problems_of({"POOLED_DB_BINDS": {"a": {"URL": "sqlite://", "OTEL": "all"}}})
    assert "POOLED_DB_BINDS['a'].OTEL is not a key of a bind" in problem


def test_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without OpenTelemetry the app's one error says what to install, beside its other problems."""
    package = "flask_pooled_db.telemetry"
    own = {f"{package}.{name}" for name in ("opentelemetry", "measures", "spans")}
    for module in [*sys.modules]:
        if module in own or module.partition(".")[0] == "opentelemetry":
            monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    app = Flask("app_under_test")
    app.config.update(POOLED_DB_OTEL="all", POOLED_DB_PING=9)
    with pytest.raises(ConfigError) as caught:
        PooledDB(app)
    assert len(caught.value.problems) == 2
    assert "POOLED_DB_OTEL needs opentelemetry-api: pip install 'flask-pooled-db[otel]'" in (
        caught.value.problems
    )
