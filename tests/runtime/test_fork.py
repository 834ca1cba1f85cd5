"""P6: a fork inherits nothing.

Each test runs a program of its own that forks, and looks at what reached the server.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from harness.processes import without_coverage
from harness.proxy import Proxy
from harness.server import MariaDBServer
from tests.runtime.forking import CHILDREN, FORKING, run_program
from tests.support import cipher


@pytest.mark.parametrize("child", CHILDREN)
def test_p6_parents_connections(
    server: MariaDBServer, proxy: Proxy, mariadb_driver: str, child: str
) -> None:
    """A child, whatever it does, sends nothing on its parent's connections, and the parent goes on.
    Over TLS a goodbye would end the parent's session, too.
    """
    run_program(CHILDREN[child] + FORKING, server.url(mariadb_driver, port=proxy.port))
    for connection in (1, 2, 3):
        commands = [c for c in proxy.commands if c.connection == connection]
        texts = [c.payload for c in commands]
        before = max(i for i, text in enumerate(texts) if b"before the fork" in text)
        later = [i for i, text in enumerate(texts) if b"after the fork" in text]
        if later:
            assert later[0] == before + 1, commands
    assert not [c for c in proxy.commands if b"'child'" in c.payload]


UNKNOWN = """
import importlib
module = importlib.import_module("{module}")
port = int(url.rpartition(":")[2].partition("/")[0])
where = {{"host": "127.0.0.1", "port": port, "user": "postgres", "database": "postgres"}}
with open_pool(creator=module, connect_args=where) as pool:
    pid = "SELECT pg_backend_pid()"
    busy, idle = pool.lease(), pool.lease()
    pids = [ask(busy, pid), ask(idle, pid)]
    idle.close()
    def child():
        global busy, idle
        with pool.lease() as conn:
            assert ask(conn, pid) not in pids
        pool.close()
        busy = idle = None
        gc.collect()
    fork(child)
    assert ask(busy, pid) == pids[0]
    busy.commit()
    busy.close()
    with pool.lease() as first, pool.lease() as second:
        assert sorted([ask(first, pid), ask(second, pid)]) == sorted(pids)
"""


@pytest.mark.parametrize("module", ["psycopg2", "pg8000.dbapi"])
def test_p6_unknown_module(postgresql: str, module: str) -> None:
    """So it is with modules that are not known, whether the connection tells its socket or not."""
    run_program(UNKNOWN.format(module=module), postgresql)


each_sqlite = pytest.mark.parametrize("url_of", [lambda path: f"sqlite:///{path}", cipher.url_of])


@each_sqlite
@pytest.mark.parametrize("child", CHILDREN)
def test_p6_sqlite(tmp_path: Path, child: str, url_of: Callable[[Path], str]) -> None:
    """A child opens its own SQLite connections and does not touch its parent's."""
    run_program(CHILDREN[child] + FORKING, url_of(tmp_path / "db"))


def test_p6_common_limit(tmp_path: Path) -> None:
    """A child has all places of a limit over several pools, and so does the parent."""
    program = """
from flask_pooled_db.pool import Budget
budget = Budget(2)
with open_pool(url=url, budget=budget) as a, open_pool(url=url, bind="b", budget=budget) as b:
    lease, other = a.lease(), b.lease()
    held = a.engine.state.in_use_locked() + b.engine.state.in_use_locked()
    def child():
        assert budget.places.taken == 0
        lease.close()
        own = [a.lease(timeout=5), b.lease(timeout=5)]
        assert budget.places.taken == 2
        own.pop().close()
        with a.lease(timeout=5):
            assert (a.stats().open, b.stats().open, budget.places.taken) == (2, 0, 2)
        own.pop().close()
    fork(child)
    del held
    assert budget.places.taken == 2
    other.close()
    with a.lease(timeout=5):
        assert (a.stats().open, b.stats().open, budget.places.taken) == (2, 0, 2)
    lease.close()
"""
    run_program(program, f"sqlite:///{tmp_path}/db")


@each_sqlite
def test_p6_sqlite_transaction(tmp_path: Path, url_of: Callable[[Path], str]) -> None:
    """The parent's transaction on SQLite keeps its lock and commits as a whole."""
    program = """
with open_pool(url=url) as pool:
    with pool.connection() as conn:
        conn.cursor().execute("CREATE TABLE t (a)")
        conn.cursor().execute("INSERT INTO t VALUES (1)")
        conn.commit()
        conn.cursor().execute("INSERT INTO t VALUES (2)")
        def child():
            with pool.connection() as own:
                assert ask(own, "SELECT count(*) FROM t") == 1
        fork(child)
        conn.cursor().execute("INSERT INTO t VALUES (3)")
        conn.commit()
    def child():
        with pool.connection() as own:
            assert ask(own, "SELECT count(*) FROM t") == 3
            own.cursor().execute("INSERT INTO t VALUES (4)")
            own.commit()
        pool.close()
    fork(child)
    with pool.connection() as conn:
        assert ask(conn, "SELECT count(*) FROM t") == 4
        assert ask(conn, "PRAGMA integrity_check") == "ok"
"""
    run_program(program, f"sqlite:///{tmp_path}/db")


def test_p6_sqlite_in_memory() -> None:
    """The child's database in memory is empty; the parent's keeps its content."""
    program = """
with open_pool(url=url) as pool:
    with pool.connection() as conn:
        conn.cursor().execute("CREATE TABLE t (a)")
        conn.commit()
    def child():
        with pool.connection() as own:
            assert ask(own, "SELECT count(*) FROM sqlite_master") == 0
    fork(child)
    with pool.connection() as conn:
        assert ask(conn, "SELECT count(*) FROM t") == 0
"""
    run_program(program, "sqlite:///:memory:")


def test_p6_locks_held_at_fork(mariadb: MariaDBServer, mariadb_driver: str) -> None:
    """The child has new locks and its own housekeeping thread."""
    program = """
from flask_pooled_db.runtime import guard
with open_pool(url=url, maxconnections=2, idle_timeout=0.2) as pool:
    pool.connection().close()
    held, release = threading.Event(), threading.Event()
    def hold():
        with guard.lock:
            held.set()
            release.wait()
    thread = threading.Thread(target=hold, daemon=True)
    thread.start()
    held.wait()
    def child():
        with pool.lease(timeout=20) as conn:
            assert ask(conn, "SELECT 1") == 1
        wait_until(lambda: pool.stats().open == 0)  # its housekeeping works
        pool.close()
    fork_amid_threads(child)
    release.set()
    thread.join()
    with pool.connection() as conn:
        assert ask(conn, "SELECT 1") == 1
"""
    run_program(program, mariadb.url(mariadb_driver))


def test_p6_fork_during_connects(mariadb: MariaDBServer, mariadb_driver: str) -> None:
    """After a fork during connects and statements of other threads, child and parent both go on."""
    program = """
with open_pool(url=url, maxconnections=4, maxusage=3) as pool:
    stop, errors = threading.Event(), []
    def work():
        try:
            while not stop.is_set():
                with pool.lease(timeout=20) as conn:
                    assert ask(conn, "SELECT 7") == 7
        except BaseException as error:
            errors.append(error)
    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    def child():
        for _ in range(10):
            with pool.lease(timeout=20) as conn:
                assert ask(conn, "SELECT 8") == 8
        assert check_counts(pool).open <= 4
    for _ in range(10):
        fork_amid_threads(child)
    stop.set()
    for thread in threads:
        thread.join()
    assert not errors, errors
"""
    run_program(program, mariadb.url(mariadb_driver))


@pytest.mark.alone  # beside others the forks rarely meet a handshake
def test_p6_forks_during_tls_connects(tls_mariadb: MariaDBServer, mariadb_driver: str) -> None:
    """No child inherits a lock of the TLS library that a thread of its parent holds."""
    program = """
with open_pool(url=url, maxconnections=4, maxusage=1) as pool:
    stop, errors = threading.Event(), []
    def work():
        try:
            while not stop.is_set():
                with pool.lease(timeout=20) as conn:
                    assert ask(conn, "SELECT 7") == 7
        except BaseException as error:
            errors.append(error)
    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    def child():
        with pool.lease(timeout=20) as conn:
            assert ask(conn, "SELECT 8") == 8
        os._exit(0)  # what is measured is the connect
    for _ in range(250):
        fork(child)
    stop.set()
    for thread in threads:
        thread.join()
    assert not errors, errors
"""
    # Each child would write its coverage: ten times the time of the forks.
    run_program(program, tls_mariadb.url(mariadb_driver), without_coverage())


def test_p6_grandchild(server: MariaDBServer, proxy: Proxy, mariadb_driver: str) -> None:
    """A grandchild inherits no connection, either."""
    program = """
with open_pool(url=url) as pool:
    with pool.connection() as conn:
        first = ask(conn, "SELECT CONNECTION_ID()")
    def grandchild():
        with pool.connection() as conn:
            assert ask(conn, "SELECT CONNECTION_ID()") not in (first, second)
        pool.close()
    def child():
        global second
        with pool.connection() as conn:
            second = ask(conn, "SELECT CONNECTION_ID()")
            assert second != first
        fork(grandchild)
        with pool.connection() as conn:
            assert ask(conn, "SELECT CONNECTION_ID()") == second
        pool.close()
    fork(child)
    with pool.connection() as conn:
        assert ask(conn, "SELECT CONNECTION_ID()") == first
"""
    run_program(program, server.url(mariadb_driver, port=proxy.port))
    assert proxy.connections == 3


def test_p6_warning(tmp_path: Path) -> None:
    """Connections opened before a fork cause one warning, however often the process forks."""
    program = """
with open_pool(url=url) as pool:
    lease = pool.connection()
    for _ in range(3):
        fork(lambda: pool.connection().close())
    lease.close()
"""
    _, errors = run_program(program, f"sqlite:///{tmp_path}/db")
    assert errors.count("Forking with 1 open database connections") == 1
    assert errors.count("\n") == 1


def test_p6_no_warning(tmp_path: Path) -> None:
    """A fork before the first connection causes no warning."""
    program = """
with open_pool(url=url) as pool:
    fork(lambda: pool.connection().close())
    pool.connection().close()
"""
    assert run_program(program, f"sqlite:///{tmp_path}/db") == ("", "")


def test_p6_closed_pool(tmp_path: Path) -> None:
    """A closed pool is closed in the child, too, and a lease of the parent is refused there."""
    program = """
from flask_pooled_db.errors import PoolClosed
with open_pool(url=url) as pool:
    lease = pool.connection()
    pool.close()
    def child():
        try:
            pool.connection()
        except PoolClosed:
            return
        sys.exit("the child has an open pool")
    fork(child)
    lease.close()
"""
    run_program(program, f"sqlite:///{tmp_path}/db")


@pytest.mark.parametrize("hook", ["settrace", "setprofile"])
def test_p6_fork_while_traced(tmp_path: Path, hook: str) -> None:
    """A fork returns under a debugger, a profiler or a coverage tool."""
    program = f"""
with open_pool(url=url) as pool:
    with pool.connection() as conn:
        assert ask(conn, "SELECT 1") == 1
    def child():
        with pool.connection() as own:
            assert ask(own, "SELECT 2") == 2
    def look(frame, event, argument):
        return look
    sys.{hook}(look)
    fork(child)
    sys.{hook}(None)
    with pool.connection() as conn:
        assert ask(conn, "SELECT 3") == 3
"""
    run_program(program, f"sqlite:///{tmp_path}/db")


def test_p6_fork_in_signal_handler(tmp_path: Path) -> None:
    """A fork in a signal handler returns, even if the handler interrupted its own pool's lock."""
    program = """
import signal
def handle(*_):
    def child():
        with pool.connection() as own:
            assert ask(own, "SELECT 2") == 2
    fork(child)
signal.signal(signal.SIGUSR1, handle)
with open_pool(url=url) as pool:
    with pool.connection() as conn:
        assert ask(conn, "SELECT 1") == 1
    with pool.engine.state.lock:
        os.kill(os.getpid(), signal.SIGUSR1)
        for _ in range(1000):
            pass  # the handler runs between two instructions
    with pool.connection() as conn:
        assert ask(conn, "SELECT 3") == 3
"""
    _, said = run_program(program, f"sqlite:///{tmp_path}/db")
    assert "Fork outside of signal handlers" in said


TOTALS = """
with open_pool(url=url) as pool:
    pool.lease().close()
    before = pool.stats()
    assert (before.checkouts, before.connects) == (1, 1)
    def child():
        now = pool.stats()
        assert (now.checkouts, now.connects, now.open) == (0, 0, 0), now
        pool.lease().close()
        now = pool.stats()
        assert (now.checkouts, now.connects, now.open) == (1, 1, 1), now
        pool.close()
    fork(child)
    pool.lease().close()
    assert pool.stats().checkouts == 2
"""


def test_p6_totals(url: str) -> None:
    """A child counts from zero, and its parent goes on to count."""
    run_program(TOTALS, url)
