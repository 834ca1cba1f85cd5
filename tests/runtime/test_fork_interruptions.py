"""P6 and P12: forks at the same time, and signal and log handlers that raise during a fork."""

from __future__ import annotations

from pathlib import Path

from tests.runtime.forking import run_program, untraced

TWO_AT_ONCE = """
from flask_pooled_db.runtime import guard
barrier = threading.Barrier(2)

def fork_now():
    barrier.wait()
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitpid(pid, 0)
    barrier.wait()  # so that each is alive while the other is in its hooks

warnings.filterwarnings("ignore", ".* is multi-threaded", DeprecationWarning)
with open_pool(url=url, maxconnections=2, acquire_timeout=20) as pool:
    for _ in range(20):
        threads = [threading.Thread(target=fork_now) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive(), "a fork does not return"
        assert guard.lock.acquire(timeout=20), "the lock is held for good"
        guard.lock.release()
        with pool.lease() as conn:
            assert ask(conn, "SELECT 1") == 1
"""

RAISES_IN_HOOKS = """
import random, signal

class Interrupted(BaseException):
    pass

def handle(*_):
    raise Interrupted

sys.unraisablehook = lambda _: None  # Python ignores what a fork hook raises
signal.signal(signal.SIGALRM, handle)
with open_pool(url=url, maxconnections=2, acquire_timeout=10) as pool:
    pool.lease().close()
    started = time.perf_counter()
    fork(lambda: os._exit(0))
    took = time.perf_counter() - started
    forks = interruptions = 0
    while forks < 300 or (interruptions <= 30 and forks < 3000):  # a busy machine interrupts less
        forks += 1
        try:
            signal.setitimer(signal.ITIMER_REAL, random.uniform(0.00003, took))
            pid = os.fork()
            if not pid:
                os._exit(0)
            interruptions += signal.setitimer(signal.ITIMER_REAL, 0) == (0.0, 0.0)
            os.waitpid(pid, 0)
        except Interrupted:
            pass
        pool.drain()  # so that an opener and the housekeeping are needed
        with pool.lease() as conn:
            assert ask(conn, "SELECT 1") == 1
    assert interruptions > 30, f"the hooks were interrupted {interruptions} times alone"
"""

RAISING_LOG_HANDLER = """
class Raising(logging.Handler):
    def emit(self, record):
        raise RuntimeError("the handler is broken")

logging.getLogger("flask_pooled_db").addHandler(Raising())
with open_pool(url=url, maxconnections=2) as pool:
    pool.lease().close()
    assert pool.stats().idle == 1
    fork(lambda: None)
    assert pool.stats().idle == 0, "SQLite's connections are closed before a fork"
    with pool.lease() as conn:
        assert ask(conn, "SELECT 1") == 1
"""


def test_p12_two_forks_at_once(tmp_path: Path) -> None:
    """Two threads that fork at the same time go on, and so does the pool."""
    run_program(TWO_AT_ONCE, f"sqlite:///{tmp_path}/db")


def test_p12_interrupted_fork_hooks(tmp_path: Path) -> None:
    """A signal handler that raises inside the fork hooks leaves nothing paused."""
    run_program(RAISES_IN_HOOKS, f"sqlite:///{tmp_path}/db", untraced())


def test_p12_fork_with_raising_log_handler(tmp_path: Path) -> None:
    """A log handler that raises keeps no step of a fork from being taken."""
    run_program(RAISING_LOG_HANDLER, f"sqlite:///{tmp_path}/db")
