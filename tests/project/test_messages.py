"""Each message of docs/messages.md comes when the table says so."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import os
import pickle
import re
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from flask import Flask, abort

from flask_pooled_db import (
    ConfigError,
    PooledDB,
    PoolTimeout,
    db_connection_context,
    get_db_connection,
    signals,
)
from flask_pooled_db.config import PoolConfig
from flask_pooled_db.drivers.registry import make_driver
from flask_pooled_db.host import Duty, Location, publisher
from flask_pooled_db.host.directory import Directory
from flask_pooled_db.host.duties import Duties
from flask_pooled_db.host.orders import new_order, write_order
from flask_pooled_db.lease import hops, refusals
from flask_pooled_db.lease.aio import AsyncScope
from flask_pooled_db.lease.dbutils import Pool
from flask_pooled_db.lease.home import Leases
from flask_pooled_db.lease.line import Job, line_of
from flask_pooled_db.lease.scope import Scope
from flask_pooled_db.pool import checkup
from flask_pooled_db.pool.statements import Statement
from flask_pooled_db.runtime import Throttle, notices, reporter
from flask_pooled_db.telemetry import slow
from flask_pooled_db.telemetry.openfiles import Count, OpenFiles
from flask_pooled_db.telemetry.slow_acquire import SlowAcquire
from harness.processes import PROJECT
from harness.waiting import PATIENCE, wait_until
from tests.support import cipher
from tests.support.apps import pooled_app
from tests.support.fake_driver import FakeDriver
from tests.support.observers import Watcher
from tests.support.pools import call, open_pool
from tests.support.sites import bare_app, ids, insert, serve

TABLE = (PROJECT / "docs" / "messages.md").read_text(encoding="utf-8")
MESSAGES = re.findall(r"^\| `(.+?)` \|", TABLE, re.MULTILINE)


@pytest.fixture
def db(url: str) -> Iterator[tuple[Flask, PooledDB]]:
    """An app with a pool of one connection, inside its context."""
    with bare_app(url=url, maxconnections=1, acquire_timeout=0.05) as (app, db):
        yield app, db


Site = tuple[Flask, PooledDB]


def lose(site: Site, logged: Callable[[], str]) -> None:
    with site[0].app_context():
        conn = get_db_connection(timeout=PATIENCE)
        insert(conn, 1)
        conn.close()


def lose_often(site: Site, logged: Callable[[], str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(notices, "PAUSE", 0)
        for _ in range(2):
            lose(site, logged)


def run_again(site: Site, logged: Callable[[], str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slow, "throttle", Throttle(1))
        with pooled_app("sqlite://", slow_statement=1e-9, record_statements=True) as (_, db):
            for _ in range(11):
                db.fetch_all("SELECT 1")


def observe(site: Site, logged: Callable[[], str]) -> None:
    with open_pool(url="sqlite://", observer=Faulty()) as pool, pool.connection() as conn:
        conn.execute("SELECT 1")


def order_in_vain(site: Site, logged: Callable[[], str]) -> None:
    def fail(duty: Duty) -> dict[str, Any]:
        raise LookupError

    order = new_order("0" * 16, "drain", {}, PATIENCE, ())
    with tempfile.TemporaryDirectory() as folder, Location(folder, "shop").opened() as directory:
        write_order(directory, order)
        Duties(fail).attend(directory, "1" * 16, 0.0)
        wait_until(lambda: "Carrying out an order" in logged())


class Faulty(Watcher):
    """An observer that fails."""

    def ran(self, statement: Statement) -> None:
        raise LookupError


def forget(site: Site, logged: Callable[[], str]) -> None:
    with site[0].app_context():
        get_db_connection(timeout=PATIENCE)


def drop(site: Site, logged: Callable[[], str]) -> None:
    with site[0].app_context():
        pool = site[1].pool()
    pool.lease(timeout=PATIENCE)
    gc.collect()
    pool.lease(timeout=PATIENCE).close()
    wait_until(lambda: "was never given back" in logged())


def meet(spoil: Callable[[Path, pytest.MonkeyPatch], object]) -> Callable[..., None]:
    """Have a process publish where something is wrong."""

    def cause(site: Site, logged: Callable[[], str]) -> None:
        with tempfile.TemporaryDirectory() as place, pytest.MonkeyPatch.context() as patch:
            folder = Path(place, "parent", "run")
            folder.mkdir(parents=True)
            with pooled_app(f"sqlite:///{place}/shop.db", runtime_dir=folder) as (_, db):
                db.fetch_value("SELECT 1")
                db.host_stats()
                spoil(folder, patch)
                db.host_stats()
                wait_until(lambda: "not seen by others" in logged() or "ignored" in logged())
                patch.undo()

    return cause


def make_a_link(folder: Path, _: object) -> None:
    folder.rename(folder.parent / "real")
    folder.symlink_to(folder.parent / "real")


def give_away(_: object, patch: pytest.MonkeyPatch) -> None:
    mine = os.geteuid()
    patch.setattr(os, "geteuid", lambda: mine + 1)


def break_call(method: str, error: int) -> Callable[[object, pytest.MonkeyPatch], None]:
    def spoil(_: object, patch: pytest.MonkeyPatch) -> None:
        def failing(*_: object, **__: object) -> None:
            raise OSError(error, os.strerror(error))

        patch.setattr(method, failing)

    return spoil


def lose_locks(folder: Path, patch: pytest.MonkeyPatch) -> None:
    for file in folder.rglob("*.alive"):
        file.unlink()
    break_call("fcntl.lockf", errno.ENOLCK)(folder, patch)


def stop_disk(_: object, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(publisher, "PATIENCE", 0.05)
    replace = Directory.replace

    def slow(self: Directory, name: str, data: bytes) -> None:
        time.sleep(1.5)
        replace(self, name, data)

    patch.setattr(Directory, "replace", slow)


def damage(folder: Path, _: object) -> None:
    (folder_of_app,) = folder.iterdir()
    (folder_of_app / "0123456789abcdef.json").write_text("{")


def keep(site: Site, logged: Callable[[], str]) -> None:
    with open_pool(FakeDriver(), leak_threshold=0.05) as pool, pool.lease():
        wait_until(lambda: "has been out" in logged())
    wait_until(lambda: "is back" in logged())  # which another thread tells


def wait_long(site: Site, logged: Callable[[], str]) -> None:
    slow = SlowAcquire(0.05, "default")
    with open_pool(FakeDriver(), maxconnections=1, watchers=[slow]) as pool:
        lease = pool.lease()
        caller = call(pool.lease)
        wait_until(lambda: pool.stats().longest_lease > 0.1)
        lease.close()
        caller.result().close()


def open_many(site: Site, logged: Callable[[], str]) -> None:
    OpenFiles(lambda: Count(9, 10)).look()


def commit_by_text(site: Site, logged: Callable[[], str]) -> None:
    with site[0].app_context(), db_connection_context(timeout=PATIENCE) as conn:
        insert(conn, 1)
        conn.cursor().execute("COMMIT")


def answer_503(site: Site, logged: Callable[[], str]) -> None:
    def view() -> str:
        with db_connection_context():
            return "done"

    with site[0].app_context():
        pool = site[1].pool()
    with contextlib.closing(pool.lease(timeout=PATIENCE)):
        assert serve(site[0], "/", view).get("/").status_code == 503


def take_two(site: Site, logged: Callable[[], str]) -> None:
    with site[0].app_context(), db_connection_context(timeout=PATIENCE):
        get_db_connection()


def wait_in_vain(site: Site, logged: Callable[[], str]) -> None:
    with site[0].app_context(), db_connection_context(timeout=PATIENCE), site[1].deadline(0.02):
        get_db_connection()


def begin_too_late(site: Site, logged: Callable[[], str]) -> None:
    with site[0].app_context(), site[1].deadline(0):
        get_db_connection()


def stay_open(site: Site, logged: Callable[[], str]) -> None:
    with open_pool(FakeDriver(), transaction_timeout=0.01) as pool, pool.lease() as conn:
        for _ in range(2):
            conn.cursor().execute("INSERT")
            time.sleep(0.02)


def take_two_together(site: Site, logged: Callable[[], str]) -> None:
    binds = {"a": "sqlite://", "b": "sqlite://"}
    with pooled_app(binds=binds, binds_maxconnections=1), db_connection_context("a"):
        get_db_connection("b", timeout=0.05)


def connect_in_vain(site: Site, logged: Callable[[], str]) -> None:
    with pooled_app("sqlite:////no/such/folder/file"), db_connection_context():
        pass


def raise_for_url(site: Site, logged: Callable[[], str]) -> None:
    def tell() -> str:
        raise LookupError

    with open_pool(url=tell) as pool:
        pool.lease(timeout=0.2)


def answer_in_vain(site: Site, logged: Callable[[], str]) -> None:
    with open_pool(url=lambda: None) as pool:
        pool.lease(timeout=PATIENCE)


def serve_without_client(site: Site, logged: Callable[[], str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for name in [*sys.modules]:
            if name.startswith("prometheus_client") or name == "flask_pooled_db.flask.metrics":
                patch.delitem(sys.modules, name)
        patch.setitem(sys.modules, "prometheus_client", None)
        site[1].metrics_blueprint()


def serve_to_all(site: Site, logged: Callable[[], str]) -> None:
    site[1].page_blueprint()


def answer_strangely(site: Site, logged: Callable[[], str]) -> None:
    app = Flask("judged")
    app.register_blueprint(site[1].page_blueprint(authorize=lambda: "yes"))
    app.testing = True
    app.test_client().get("/pooled-db/")


def take_from_closed(site: Site, logged: Callable[[], str]) -> None:
    with site[0].app_context():
        site[1].close()
        get_db_connection()


def in_block(use: Callable[[Any], object]) -> Callable[[Site, Callable[[], str]], None]:
    def do(site: Site, logged: Callable[[], str]) -> None:
        with site[0].app_context(), db_connection_context(timeout=PATIENCE) as conn:
            use(conn)

    return do


def on_fake(use: Callable[[Any], object]) -> Callable[[Site, Callable[[], str]], None]:
    def do(site: Site, logged: Callable[[], str]) -> None:
        with open_pool(FakeDriver()) as pool, pool.lease() as conn:
            use(conn)

    return do


def fetch_too_late(site: Site, logged: Callable[[], str]) -> None:
    with site[0].app_context():
        with db_connection_context(timeout=PATIENCE) as conn:
            cur = conn.cursor()
            cur.execute("SELECT 1")
        cur.fetchall()


def swallow(site: Site, logged: Callable[[], str]) -> None:
    with open_pool(FakeDriver()) as pool:
        work_on(pool)


def work_on(pool: Pool) -> None:
    with pool.lease() as conn:
        with contextlib.suppress(LookupError):
            conn.call(fail)
        conn.cursor().execute("SELECT")


def fail() -> None:
    raise LookupError


def ask_for_autocommit(site: Site, logged: Callable[[], str]) -> None:
    with pooled_app("sqlite:///f?autocommit=1"):
        pass


def share_a_file(site: Site, logged: Callable[[], str]) -> None:
    with pooled_app("sqlite:///f", binds={"red": {"SERVER": "default", "SCHEMA": "red"}}):
        pass


def drain_a_tenant(site: Site, logged: Callable[[], str]) -> None:
    binds = {"red": {"SERVER": "default", "SCHEMA": "red"}}
    with pooled_app("mysql://app@db1/shop", binds=binds) as (_, db):
        db.pool("red").drain()


def nest(conn: Any) -> None:
    with db_connection_context() as inner:
        inner.commit()


def fetch_nothing(site: Site, logged: Callable[[], str]) -> None:
    with site[0].app_context():
        site[1].fetch_all("UPDATE t SET name = 'x'", readonly=False, timeout=PATIENCE)


def by_name(do: Callable[[PooledDB], object]) -> Callable[[Site, Callable[[], str]], None]:
    """Do something in an app of which one bind may be open, and every name exists."""

    def cause(site: Site, logged: Callable[[], str]) -> None:
        with pooled_app("sqlite://", max_binds=1) as (_, db):
            db.bind_loader(lambda name: None if name == "unknown" else "sqlite://")
            do(db)
            wait_until(lambda: "failed" in logged())

    return cause


def open_two(db: PooledDB) -> None:
    with db.connection_context("one"), db.connection_context("two", timeout=0.05):
        pass


def close_while_loading(db: PooledDB) -> None:
    def load(name: str) -> str:
        db.close_bind(name)
        return "sqlite://"

    db.loader = load
    db.execute("SELECT 1", bind="one")


def load_itself(db: PooledDB) -> None:
    db.loader = lambda name: db.fetch_value("SELECT 1", bind=name)
    db.execute("SELECT 1", bind="one")


def keep_pool(db: PooledDB) -> None:
    pool = db.pool("one")
    db.close_bind("one")
    pool.connection()


def break_guard(db: PooledDB) -> None:
    db.bind_guard(lambda: None)
    db.pool("one")
    with contextlib.suppress(PoolTimeout):
        db.pool("two")


def break_receiver(db: PooledDB) -> None:
    def receive(_app: Flask, **_: Any) -> None:
        raise LookupError

    with signals.bind_opened.connected_to(receive):
        db.pool("one")


def in_task(
    do: Callable[[PooledDB, Any], object],
) -> Callable[[Site, Callable[[], str]], None]:
    """Do something in an asynchronous block."""

    def cause(site: Site, logged: Callable[[], str]) -> None:
        async def main() -> None:
            async with site[1].async_connection_context(timeout=PATIENCE) as conn:
                do(site[1], conn)

        asyncio.run(main())

    return cause


async def coroutine_function() -> None: ...


def leave_loop_out(site: Site, logged: Callable[[], str]) -> None:
    site[1].async_connection_context().__aenter__().send(None)


def disturb(db: PooledDB, conn: Any) -> None:
    gate = threading.Event()
    line = line_of(conn.lease)
    line.submit(Job(gate.wait, (PATIENCE,), conn.lease))
    try:
        with db.connection_context():
            pass
    finally:
        gate.set()


def ask_for_health(site: Site, logged: Callable[[], str]) -> None:
    with tempfile.TemporaryDirectory() as place, pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkup, "INTERVAL", 0)
        app = Flask("app_under_test")
        app.config.update(POOLED_DB_URL=f"sqlite:///{place}/missing/shop.db")
        db = PooledDB(app)
        app.register_blueprint(db.health_blueprint())
        client = app.test_client()
        assert client.get("/healthz/ready").status_code == 503
        Path(place, "missing").mkdir()
        wait_until(lambda: client.get("/healthz/ready").status_code == 200)
        db.close(timeout=PATIENCE)
        wait_until(lambda: "is ready again" in logged())


def cancel_in_vain(site: Site, logged: Callable[[], str]) -> None:
    class Unreachable(FakeDriver):
        def ending(self, raw: Any) -> Callable[[Callable[[], Any]], object]:
            def end(helper: Callable[[], Any]) -> None:
                raise ConnectionError

            return end

    with open_pool(Unreachable()) as pool:
        pool.lease().give_up("its task was cancelled")
        wait_until(lambda: "cancelled task" in logged())


def task_scope(pool: Pool) -> AsyncScope:
    return AsyncScope(Scope(pool.engine, Leases()))


def cancel_what_goes_on(site: Site, logged: Callable[[], str]) -> None:
    driver = FakeDriver()
    gate = driver.hold("INSERT")

    async def main() -> None:
        async with task_scope(pool) as conn:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.05):
                    await conn.cursor().execute("INSERT")

    with open_pool(driver) as pool, pytest.MonkeyPatch.context() as patch:
        patch.setattr(hops, "PATIENCE", 0.05)
        try:
            asyncio.run(main())
        finally:
            gate.open()


def close_amid_commit(site: Site, logged: Callable[[], str]) -> None:
    driver = FakeDriver()
    gate = driver.hold("commit")
    tasks: list[asyncio.Task[None]] = []

    async def save() -> None:
        async with task_scope(pool) as conn:
            await conn.cursor().execute("INSERT")

    async def main() -> None:
        tasks.append(asyncio.create_task(coroutine))
        await asyncio.to_thread(gate.wait_for_arrivals)

    with open_pool(driver) as pool:
        coroutine, loop = save(), asyncio.new_event_loop()
        loop.run_until_complete(main())
        coroutine.close()
        gate.open()
        wait_until(lambda: not pool.stats().in_use)
        tasks[0]._log_destroy_pending = False  # type: ignore[attr-defined]
        loop.close()


def connect_with_wrong_key(site: Site, logged: Callable[[], str]) -> None:
    Path(site[1].pool().driver._arguments["database"] + "2").write_bytes(bytes(4096))
    connect_encrypted(site, "SELECT 1")


def change_key(site: Site, logged: Callable[[], str]) -> None:
    connect_encrypted(site, f"PRAGMA rekey={cipher.KEY!r}")


def set_for_process(site: Site, logged: Callable[[], str]) -> None:
    connect_encrypted(site, "PRAGMA soft_heap_limit=0")


def connect_encrypted(site: Site, sql: str) -> None:
    path = Path(site[1].pool().driver._arguments["database"] + "2")
    with pooled_app(cipher.url_of(path)), db_connection_context() as conn:
        conn.execute(sql)


def lack_a_session(site: Site, logged: Callable[[], str]) -> None:
    raise refusals.no_session("default", 1.0)


def set_behind_proxy(site: Site, logged: Callable[[], str]) -> None:
    config = PoolConfig.from_mapping({"URL": "postgresql://h/d", "PROXY": "transaction"})
    check = make_driver(config).check_call
    assert check is not None
    check(print, ("SET work_mem = '1MB'",))


def use_new_connector(site: Site, logged: Callable[[], str]) -> None:
    stand_in = ModuleType("mariadb")
    vars(stand_in).update(connect=print, apilevel="2.0", threadsafety=3, __version__="2.0.0rc2")
    with pooled_app(creator=stand_in):
        pass


def put_proxy_before_a_file(site: Site, logged: Callable[[], str]) -> None:
    with pooled_app("sqlite://", proxy="transaction"):
        pass


CAUSES: dict[str, Callable[[Site, Callable[[], str]], None]] = {
    "was rolled back: the connection taken at": lose,
    "was not given back by": forget,
    "was never given back; it is closed": drop,
    "has been out for": keep,
    "that had been out for too long is back": keep,
    "(POOLED_DB_SLOW_ACQUIRE is": wait_long,
    "files open, and may have": open_many,
    "by itself: this is more than one transaction": commit_by_text,
    "is a link, which is never followed": meet(make_a_link),
    "belongs to the user with id": meet(give_away),
    "others may write to": meet(lambda folder, _: folder.chmod(0o777)),
    "was removed, or can't be made since": meet(lambda folder, _: shutil.rmtree(folder.parent)),
    "make room on its disk": meet(break_call("os.rename", errno.ENOSPC)),
    "record locks don't work there": meet(lose_locks),
    "the disk of the directory does not answer": meet(stop_disk),
    "in POOLED_DB_RUNTIME_DIR is ignored": meet(damage),
    "more times since)": lose_often,
    "(POOLED_DB_SLOW_STATEMENT is": run_again,
    "N+1: a statement was run": run_again,
    "An observer of statements failed": observe,
    "Carrying out an order": order_in_vain,
    "is not ready: ": ask_for_health,
    "is ready again": ask_for_health,
    "Answering 503": answer_503,
    "The bind_guard failed, so that no bind is closed": by_name(break_guard),
    "A receiver of the signal": by_name(break_receiver),
    "A statement of a cancelled task goes on at its server": cancel_in_vain,
    "A coroutine was closed amid its COMMIT": close_amid_commit,
    "no connection in": take_two,
    "left no more time to wait": wait_in_vain,
    "of them already (": take_two,
    "had no session for this transaction in": lack_a_session,
    "MariaDB Connector/Python 2 is not supported yet": use_new_connector,
    "PROXY can't be 'transaction' with": put_proxy_before_a_file,
    "can't be used with PROXY 'transaction'": set_behind_proxy,
    "all binds together have": take_two_together,
    "and trying again won't help": connect_in_vain,
    "the function in URL raised it": raise_for_url,
    "what the function in URL returned": answer_in_vain,
    "the key is wrong, or it is missing": connect_with_wrong_key,
    "it lends no connections any more": take_from_closed,
    "could not be opened in": by_name(open_two),
    "was closed while it was being opened": by_name(close_while_loading),
    "is not open any more: ask for it by its name again": by_name(keep_pool),
    "needs to be told who may see the page": serve_to_all,
    "authorize() must return True, False or a response": answer_strangely,
    "needs prometheus-client": serve_without_client,
    "nothing is left of": begin_too_late,
    "the transaction was open for longer than its limit": stay_open,
    "and is closed to its caller": fetch_too_late,
    "the transaction of this connection is gone": swallow,
    "connection has no execute(): use a cursor": on_fake(lambda conn: conn.execute("SELECT")),
    "can't work on a pooled connection": on_fake(lambda conn: conn.cursor().execute("LISTEN x")),
    "connection has no attribute 'rowcount'": in_block(lambda conn: conn.rowcount),
    "the statement returns no rows": fetch_nothing,
    "cursor has no attribute": in_block(lambda conn: conn.cursor().foo),
    "autocommit can't be set": in_block(lambda conn: setattr(conn, "autocommit", True)),
    "the connect argument 'autocommit' can't be set": ask_for_autocommit,
    "which can't have tenants by schema": share_a_file,
    "its connections are those of the bind": drain_a_tenant,
    "close() inside db_connection_context()": in_block(lambda conn: conn.close()),
    "a lease can't change the key": change_key,
    "is a setting of the whole process": set_for_process,
    "inside a nested db_connection_context()": in_block(nest),
    "its driver has no way to end it": cancel_what_goes_on,
    "would block the event loop": in_task(lambda _, conn: conn.execute("SELECT 1")),
    "needs a running event loop of asyncio": leave_loop_out,
    "not a coroutine function, which nobody would await": in_task(
        lambda _, conn: conn.on_commit(coroutine_function)
    ),
    "is in use by another thread, task or greenlet": in_task(disturb),
    "there is no bind": by_name(lambda db: db.pool("unknown")),
    "can't be pickled or copied": in_block(pickle.dumps),
    "is asked for by what opens or closes it": by_name(load_itself),
    "is in the configuration, which keeps it open": by_name(lambda db: db.close_bind("default")),
}
"""What brings each message about. Whoever adds a row to the table adds its cause here."""


def test_table_is_complete() -> None:
    """Each row of the table has a cause here, and the other way round."""
    assert sorted(MESSAGES) == sorted(CAUSES)
    assert len(set(MESSAGES)) == len(MESSAGES)


@pytest.mark.parametrize("message", MESSAGES)
def test_message(db: Site, message: str, caplog: pytest.LogCaptureFixture) -> None:
    """The message comes, in the log or in an error."""
    raised = ""
    try:
        CAUSES[message](db, lambda: caplog.text)
    except Exception as error:
        raised = "\n".join(error.problems) if isinstance(error, ConfigError) else str(error)
    reporter.flush(PATIENCE)
    assert message in caplog.text or message in raised


# What the README says of habits


def test_t1_abort_and_return(site: Site) -> None:
    """`abort()` in a block rolls back, and `return ..., 400` commits."""
    app, _ = site

    def aborting() -> str:
        with db_connection_context() as conn:
            insert(conn, 1)
            abort(400)

    def returning() -> tuple[str, int]:
        with db_connection_context() as conn:
            insert(conn, 2)
            return "no", 400

    serve(app, "/abort", aborting)
    client = serve(app, "/return", returning)
    assert client.get("/abort").status_code == client.get("/return").status_code == 400
    with app.app_context():
        assert ids() == [2]


def test_t9_outer_block_of_test(site: Site) -> None:
    """A block around a test client's request takes the blocks of its view into its transaction."""
    app, _ = site

    def view() -> str:
        with db_connection_context() as conn:
            insert(conn, 1)
        return "done"

    client = serve(app, "/", view)
    with app.app_context():
        with contextlib.suppress(LookupError), db_connection_context():
            client.get("/")
            assert ids() == [1]
            raise LookupError
        assert ids() == []
