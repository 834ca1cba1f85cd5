"""A test session: it ends its servers, and its leak detector sees leaks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import flask
import pytest

from flask_pooled_db.runtime.housekeeper import housekeeper
from harness.processes import PROJECT
from harness.proxy import Proxy
from harness.server import MariaDBServer
from harness.signals import AS_AT_A_TERMINAL
from tests.harness.connections import SILENCE, connected
from tests.support.leaks import Footprint, wait_for_leaks_to_end

pytestmark = pytest.mark.mariadb_only


@pytest.mark.slow
class TestInterruptedSession:
    @pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
    def test_interrupted_session(self, tmp_path: Path, signum: signal.Signals) -> None:
        """Ctrl-C and SIGTERM leave no server and no directory behind."""
        (tmp_path / "test_it.py").write_text(
            "import time\n"
            "def test_it(private_mariadb):\n"
            "    print(private_mariadb.pid, private_mariadb._directory, flush=True)\n"
            "    time.sleep(60)\n"
        )
        pytest_here = [sys.executable, "-m", "pytest", "-q", "-s", "-p", "tests.conftest"]
        options = ["-c", os.devnull, "--rootdir", str(tmp_path), str(tmp_path)]
        session = subprocess.Popen(
            [*AS_AT_A_TERMINAL, *pytest_here, *options],
            stdout=subprocess.PIPE,
            cwd=PROJECT,
            text=True,
        )
        with session:
            assert session.stdout is not None
            pid, directory = session.stdout.readline().split()
            session.send_signal(signum)
            session.communicate(timeout=30)
        assert not Path("/proc", pid).exists()
        assert not Path(directory).exists()


class TestLeakDetector:
    def test_leak_of_connection(
        self, server: MariaDBServer, proxy: Proxy, mariadb_driver: str
    ) -> None:
        """An open connection is a leak, through the proxy or not."""
        for port in (server.port, proxy.port):
            before = Footprint.now()
            with connected(mariadb_driver, server.connect_args(port=port)):
                (leak,) = wait_for_leaks_to_end(before, patience=0)
                assert "left open" in leak
            assert wait_for_leaks_to_end(before) == []

    @pytest.mark.parametrize("end", [Proxy.cut, Proxy.close])
    def test_leak_of_dead_connection(
        self, mariadb: MariaDBServer, end: Callable[[Proxy], None]
    ) -> None:
        """A dead connection is a leak until it is closed, even if it was reset."""
        before = Footprint.now()
        proxy = Proxy(mariadb.host, mariadb.port)
        with connected("pymysql", mariadb.connect_args(port=proxy.port)):
            end(proxy)
            proxy.close()
            (leak,) = wait_for_leaks_to_end(before, patience=SILENCE)
            assert "1 connection(s) to a database left open" in leak
        assert wait_for_leaks_to_end(before) == []

    def test_leak_of_thread(self) -> None:
        """A thread with the package's prefix is a leak, and so is a second housekeeping thread."""
        housekeeper.stop()  # another test may have started the real one
        before = Footprint.now()
        end = threading.Event()
        names = ["flask-pooled-db housekeeping", "flask-pooled-db connect", "something else"]
        threads = [threading.Thread(target=end.wait, name=name) for name in names]
        for thread in threads:
            thread.start()
        leaks = wait_for_leaks_to_end(before, patience=0)
        end.set()
        for thread in threads:
            thread.join()
        assert leaks == ["threads left running: flask-pooled-db connect"]
        assert wait_for_leaks_to_end(before) == []

    def test_leak_of_app_context(self) -> None:
        """An app context that nobody popped is a leak."""
        before = Footprint.now()
        with flask.Flask(__name__).app_context():
            assert Footprint.now().leaks_since(before) == ["an app context left pushed"]
        assert Footprint.now().leaks_since(before) == []
