"""`/metrics` and the collector: what Prometheus is told of all workers of this host."""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import sys
import weakref
from collections.abc import Mapping
from itertools import permutations
from pathlib import Path
from typing import Any

import prometheus_client
import pytest
from flask import Flask
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as openmetrics_families,
)
from prometheus_client.registry import CollectorRegistry

from flask_pooled_db import (
    HostStats,
    PooledDB,
    ProcessStats,
    TransactionAborted,
    UsageError,
    db_connection_context,
)
from flask_pooled_db.flask.numbers import AppNumbers, merge
from flask_pooled_db.telemetry.prometheus import PoolCollector
from flask_pooled_db.telemetry.seen import Seen
from flask_pooled_db.telemetry.usage import MOST_NAMES, OTHER
from harness.server import MariaDBServer
from harness.workloads import add
from tests.support.apps import pooled_app
from tests.support.busy_app import busy_app
from tests.support.scenarios.base import must_raise
from tests.support.scrapes import POOL, Samples, samples, scrape, value
from tests.support.stages import on_server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "run"
    path.mkdir(mode=0o700)
    return path


def use(times: int = 1, bind: str | None = None) -> str:
    for _ in range(times):
        with db_connection_context(bind) as conn:
            conn.cursor().execute("SELECT 1")
    return "done"


def test_everything_is_told(folder: Path) -> None:
    """All that is counted is told, by the names of the conventions, and agrees with what the pool
    itself tells; the leases and slow statements by endpoint.
    """
    with busy_app(folder) as (app, db):
        found, stats = scrape(app), db.stats()
        pool = {POOL: "default"}
        told = {
            "db_client_connection_max": stats.maxconnections,
            "db_client_connection_idle_max": stats.maxcached,
            "db_client_connection_idle_min": stats.mincached,
            "db_client_connection_pending_requests": stats.waiting,
            "db_client_connection_timeouts_total": stats.timeouts,
            "db_client_connection_create_time_seconds_count": stats.connect_time.count,
            "db_client_connection_create_time_seconds_sum": stats.connect_time.sum,
            "db_client_connection_wait_time_seconds_count": stats.checkouts,
            "db_client_connection_wait_time_seconds_sum": stats.wait_time.sum,
            "db_client_connection_use_time_seconds_count": stats.use_time.count,
            "db_client_connection_use_time_seconds_sum": stats.use_time.sum,
            "pooled_db_commits_total": stats.commits,
            "pooled_db_rollbacks_total": stats.rollbacks,
            "pooled_db_aborted_total": stats.aborted,
            "pooled_db_leaks_total": stats.leaked,
            "pooled_db_implicit_commits_total": stats.implicit_commits,
        }
        assert {name: value(found, name, **pool) for name in told} == pytest.approx(told, abs=1e-6)
        for state, number in (("idle", stats.idle), ("used", stats.in_use)):
            key = "db_client_connection_state"
            assert value(found, "db_client_connection_count", **pool, **{key: state}) == number
        for reason, number in stats.evictions.items():
            assert value(found, "pooled_db_evictions_total", reason=reason, **pool) == number
        bucket = "db_client_connection_wait_time_seconds_bucket"
        assert value(found, bucket, le="+Inf", **pool) == stats.checkouts
        for name in ("timeouts", "rollbacks", "aborted", "leaked", "implicit_commits", "commits"):
            assert getattr(stats, name) > 0, name
        seconds = value(found, "pooled_db_lease_seconds_total", endpoint="busy")
        assert 0 < value(found, "pooled_db_lease_idle_seconds_total", endpoint="busy") < seconds
        slow = db.slow_statements()["busy"]
        assert value(found, "pooled_db_slow_statements_total", endpoint="busy") == slow
        assert value(found, "pooled_db_own_numbers_only") == 0


def test_no_limit(url: str, folder: Path) -> None:
    """A limit that there is not is not told."""
    keys = {"maxconnections": 0, "maxcached": 0, "runtime_dir": folder}
    with pooled_app(url, **keys) as (app, db):
        app.register_blueprint(db.metrics_blueprint())
        use()
        names = {name for name, _ in scrape(app)}
        assert "db_client_connection_idle_min" in names
        assert not names & {"db_client_connection_max", "db_client_connection_idle_max"}


def test_t4_killed_transaction(mariadb: MariaDBServer, folder: Path) -> None:
    """A transaction that was killed at its server is one that was aborted, and no rollback."""
    with on_server("ours", mariadb, "pymysql", runtime_dir=folder) as stage:
        stage.app.register_blueprint(stage.db.metrics_blueprint())
        with must_raise(TransactionAborted), stage.db.connection_context() as connection:
            add(connection, 1, 1)
            stage.kill(connection)
            with contextlib.suppress(Exception):
                add(connection, 2, 1)
        found = scrape(stage.app)
    assert value(found, "pooled_db_aborted_total") == 1
    assert value(found, "pooled_db_rollbacks_total") == 0
    assert value(found, "pooled_db_evictions_total", reason="broken") == 1


def test_it_uses_no_connection(url: str, folder: Path) -> None:
    """A scrape takes no connection, and opens no pool."""
    with pooled_app(url, runtime_dir=folder) as (app, db):
        app.register_blueprint(db.metrics_blueprint())
        assert value(scrape(app), "pooled_db_own_numbers_only") == 0
        assert (db.stats().checkouts, db.stats().open) == (0, 0)


def test_answer(url: str, folder: Path) -> None:
    """It is in the format that is asked for, whatever that is, and never from a cache."""
    with pooled_app(url, runtime_dir=folder) as (app, db):
        app.register_blueprint(db.metrics_blueprint(), url_prefix="/inner")
        use()
        client = app.test_client()
        for accept in ("", "text/plain; version=0.0.4", "*/*", "text/plain; version=x"):
            answer = client.get("/inner/metrics", headers={"Accept": accept})
            assert answer.content_type == "text/plain; version=0.0.4; charset=utf-8"
            assert answer.headers["Cache-Control"] == "no-store"
            assert value(samples(answer.text), "pooled_db_commits_total") == 0
        accept = "application/openmetrics-text; version=1.0.0"
        answer = client.get("/inner/metrics", headers={"Accept": accept})
        assert answer.content_type.startswith("application/openmetrics-text; version=1.0.0")
        families = {family.name: family for family in openmetrics_families(answer.text)}  # type: ignore[no-untyped-call]
        assert families["db_client_connection_timeouts"].type == "counter"
        assert families["db_client_connection_wait_time_seconds"].type == "histogram"


HOSTILE = 'a"b\\c\nd\ud800e{f}é\x00'


def test_hostile_names(url: str, folder: Path) -> None:
    """Whatever is in the name of a bind or an endpoint, the answer can be read, and has it."""
    binds = {HOSTILE: url}
    with pooled_app(url, runtime_dir=folder, binds=binds) as (app, db):
        app.register_blueprint(db.metrics_blueprint())
        view = lambda: use(1, HOSTILE)  # noqa: E731
        view.__name__ = HOSTILE
        app.add_url_rule("/", HOSTILE.replace("\0", ""), view)
        app.test_client().get("/")
        found = scrape(app)
    shown = HOSTILE.replace("\ud800", "\\ud800")
    assert value(found, "db_client_connection_wait_time_seconds_count", **{POOL: shown}) == 1
    assert any(name == "pooled_db_lease_seconds_total" for name, _ in found)


def stats_of(processes: dict[str, tuple[int, dict[str, Any]]], ended: dict[str, Any]) -> HostStats:
    """What is told of processes with these tokens, process ids and numbers."""
    totals = ended
    for _, numbers in processes.values():
        totals = merge(totals, numbers)
    told = [ProcessStats(token, pid, 1.0, 0.5, n) for token, (pid, n) in processes.items()]
    return HostStats(tuple(told), totals, ended)


def collected(stats: HostStats, *, worker_label: bool) -> Samples:
    """What a registry makes of these numbers."""
    registry = CollectorRegistry()
    counters_of = lambda numbers: merge({}, dict(numbers))  # noqa: E731
    registry.register(PoolCollector(lambda: stats, counters_of, worker_label=worker_label))
    return samples(prometheus_client.generate_latest(registry).decode())


def pool_numbers(commits: int, in_use: int) -> dict[str, Any]:
    numbers = {"commits": commits, "in_use": in_use, "idle": 1, "maxconnections": 20}
    return {"pools": {"default": numbers}, "closed": {"gone": {"commits": 100}}}


def test_workers() -> None:
    """Gauges are the sums of those that live, counters also of those that have ended. With the
    label, the latter are a worker of their own, so that the sum is the same.
    """
    living = {"x": (7, pool_numbers(1, 2)), "y": (8, pool_numbers(10, 3))}
    stats = stats_of(living, merge({}, pool_numbers(1000, 5)))
    plain, labelled = (collected(stats, worker_label=has_label) for has_label in (False, True))
    used = {"db_client_connection_state": "used"}
    for found in (plain, labelled):
        assert value(found, "db_client_connection_count", **used) == 5
        assert value(found, "db_client_connection_max") == 40
        assert value(found, "pooled_db_commits_total", **{POOL: "default"}) == 1011
        assert value(found, "pooled_db_commits_total", **{POOL: "gone"}) == 300
    assert value(labelled, "db_client_connection_count", worker="8", **used) == 3
    assert value(labelled, "pooled_db_commits_total", worker="7", **{POOL: "default"}) == 1
    assert value(labelled, "pooled_db_commits_total", worker="ended", **{POOL: "default"}) == 1000
    assert not any(name == "worker" for _, labels in plain for name, _ in labels)


def test_workers_of_one_process_id() -> None:
    """Processes of several containers that have the same id are told from each other."""
    living = {"x": (1, pool_numbers(1, 2)), "y": (1, pool_numbers(10, 3))}
    found = collected(stats_of(living, {}), worker_label=True)
    assert value(found, "pooled_db_commits_total", worker="1-x", **{POOL: "default"}) == 1
    assert value(found, "pooled_db_commits_total", worker="1-y", **{POOL: "default"}) == 10


def test_own_numbers_only(url: str) -> None:
    """A process that can't read the others tells its own numbers, and that they are."""
    with pooled_app(url, runtime_dir=False) as (app, db):
        app.register_blueprint(db.metrics_blueprint(worker_label=True))
        use(2)
        found = scrape(app)
    assert value(found, "pooled_db_own_numbers_only") == 1
    assert value(found, "db_client_connection_wait_time_seconds_count") == 2


def test_exact_sums() -> None:
    """Times of several processes have the same sum in whatever order they are added up, so that no
    counter goes back by a rounding error when one of them ends.
    """
    parts = []
    for number in range(1, 6):
        seen = Seen()
        seen.usage.add("a", number / 3, number / 7)
        parts.append(AppNumbers("app", seen).collect())
    told = [functools.reduce(add_all, order, NOTHING) for order in permutations(parts)]
    assert all(one == told[0] for one in told)
    assert told[0]["callers"]["a"]["seconds"] == pytest.approx(5.0, abs=1e-5)


NOTHING: dict[str, Any] = {}


def add_all(totals: dict[str, Any], numbers: Mapping[str, Any]) -> dict[str, Any]:
    return merge(totals, dict(numbers))


def names_of(prefix: str, number: int, *, beyond: int = 0) -> dict[str, int]:
    """That many names, counted once each."""
    return {f"{prefix}{i:04}": 1 for i in range(number)} | ({OTHER: beyond} if beyond else {})


def test_endpoints_are_bounded() -> None:
    """At most 200 endpoints are told from each other, however many processes have counted others;
    none is lost, and no number ever goes back, in whatever order processes come and end.
    """
    parts = [names_of(prefix, MOST_NAMES, beyond=3) for prefix in "dbac"]
    seen: dict[str, int] = {}
    nothing: dict[str, int] = {}
    for count in range(1, len(parts) + 1):
        told = [
            functools.reduce(add_names, order, nothing) for order in permutations(parts[:count])
        ]
        assert all(one == told[0] for one in told)
        assert len(told[0]) == MOST_NAMES + 1
        assert sum(told[0].values()) == count * (MOST_NAMES + 3)
        assert all(told[0][name] >= number for name, number in seen.items() if name in told[0])
        seen = told[0]


def add_names(totals: dict[str, int], numbers: dict[str, int]) -> dict[str, int]:
    merged = merge({"slow_statements": totals}, {"slow_statements": numbers})
    return dict(merged["slow_statements"])


def test_other_registry(url: str, folder: Path) -> None:
    """What else an app measures is shown too; a collector that is in that registry as well is not
    shown twice.
    """
    with pooled_app(url, runtime_dir=folder) as (app, db):
        registry = CollectorRegistry()
        prometheus_client.Counter("orders", "Orders.", registry=registry).inc(3)
        registry.register(db.prometheus_collector())
        app.register_blueprint(db.metrics_blueprint(registry=registry))
        use()
        found = scrape(app)
    assert value(found, "orders_total") == 3
    assert value(found, "db_client_connection_wait_time_seconds_count") == 1


def test_collector(url: str, folder: Path) -> None:
    """A collector can be registered anywhere, once, and does not keep its app alive."""
    app = Flask("app_under_test")
    keys = {"URL": url, "RUNTIME_DIR": str(folder), "MINCACHED": 0}
    app.config.update({f"POOLED_DB_{name}": each for name, each in keys.items()})
    db = PooledDB(app)
    registry = CollectorRegistry(auto_describe=True)
    registry.register(db.prometheus_collector(worker_label=True))
    with pytest.raises(ValueError, match="Duplicated"):
        registry.register(db.prometheus_collector())
    with app.app_context():
        use(2)
    labels = {POOL: "default", "worker": str(os.getpid())}
    assert registry.get_sample_value("pooled_db_aborted_total", labels) == 0
    db.close()
    reference = weakref.ref(app)
    del app, db
    gc.collect()
    assert reference() is None
    assert list(registry.collect()) == []


@pytest.mark.parametrize("comes_first", ["app", "blueprint", "collector"])
def test_endpoints_from_the_first_lease_on(url: str, folder: Path, comes_first: str) -> None:
    """What shows the leases by endpoint has them counted, in whatever order an app is set up; what
    shows nothing costs nothing.
    """
    app, db = Flask("app_under_test"), PooledDB()
    keys = {"URL": url, "RUNTIME_DIR": str(folder), "MINCACHED": 0}
    app.config.update({f"POOLED_DB_{name}": each for name, each in keys.items()})
    blueprint = db.metrics_blueprint()
    if comes_first == "blueprint":
        app.register_blueprint(blueprint)
        db.init_app(app)
    else:
        db.init_app(app)
        watch = app.extensions["pooled_db"].watch
        assert not watch.seen.wants_usage
        if comes_first == "app":
            app.register_blueprint(blueprint)
        else:
            db.prometheus_collector()
    app.add_url_rule("/", "shop.order", use)
    app.test_client().get("/")
    assert set(db.host_stats().totals["callers"]) == {"shop.order"}
    db.close()


def test_several_apps(tmp_path: Path) -> None:
    """One blueprint may be registered on several apps: it tells of the one that is asked."""
    db = PooledDB()
    blueprint, apps = db.metrics_blueprint(), []
    for number in (1, 2):
        app = Flask(f"app_{number}")
        app.config["POOLED_DB_URL"] = f"sqlite:///{tmp_path}/{number}.sqlite"
        app.config["POOLED_DB_RUNTIME_DIR"] = False
        db.init_app(app)
        app.register_blueprint(blueprint)
        with app.app_context():
            use(number)
        apps.append(app)
    name = "db_client_connection_wait_time_seconds_count"
    assert [value(scrape(app), name) for app in apps] == [1, 2]
    db.close()


def test_arguments(site: tuple[Flask, PooledDB]) -> None:
    """Wrong arguments are refused at the call."""
    db: Any = site[1]
    with pytest.raises(UsageError, match="worker_label must be True or False"):
        db.metrics_blueprint(worker_label="yes")
    with pytest.raises(UsageError, match="worker_label must be True or False"):
        db.prometheus_collector(worker_label=1)
    with pytest.raises(UsageError, match="registry must be a registry of prometheus-client"):
        db.metrics_blueprint(registry="postgres://u:p@h/d")


@pytest.mark.parametrize("name", ["metrics_blueprint", "prometheus_collector"])
def test_missing_package(
    site: tuple[Flask, PooledDB], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without prometheus-client the call says what to install."""
    for module in [*sys.modules]:
        if module.startswith("prometheus_client") or module.endswith(("metrics", ".prometheus")):
            monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(UsageError, match=r"pip install 'flask-pooled-db\[prometheus\]'"):
        getattr(site[1], name)()
