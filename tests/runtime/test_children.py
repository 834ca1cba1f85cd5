"""P12: a child of multiprocessing ends as a process does, and takes along nothing of its parent."""

from __future__ import annotations

import copy
import pickle

import pytest
from flask import Flask

from flask_pooled_db import PooledDB, db_connection_context
from harness.protocol import COM_QUIT
from harness.proxy import Proxy
from harness.server import MariaDBServer
from harness.waiting import wait_until
from tests.runtime.forking import run_program

PROGRAM = """
import multiprocessing
processes = multiprocessing.get_context("fork")
with open_pool(url=url, mincached=0) as pool:
    def use():
        with pool.connection() as conn:
            assert ask(conn, "SELECT 'child'") == "child"
    def beget():
        use()
        start(use)
    def start(target):
        child = processes.Process(target=target)
        child.start()
        child.join()
        assert child.exitcode == 0
    start(use)
    with pool.connection() as conn:
        ask(conn, "SELECT 1")
    start(beget)
    with pool.connection() as conn:
        ask(conn, "SELECT 1")
"""


def test_p12_goodbye_of_children(server: MariaDBServer, proxy: Proxy, mariadb_driver: str) -> None:
    """A forked child of multiprocessing closes its connections with a goodbye, and so does a
    grandchild; each opens its own, also where its parent has one.
    """
    run_program(PROGRAM, server.url(mariadb_driver, port=proxy.port))

    def ends() -> dict[int, int]:
        return {command.connection: command.code for command in proxy.commands}

    wait_until(lambda: ends() == dict.fromkeys(range(1, 5), COM_QUIT))


LATE = """
import multiprocessing
processes = multiprocessing.get_context("fork")
reader, writer = os.pipe()
with open_pool(url=url) as pool:
    def use_late():
        time.sleep(0.3)  # until what its main thread does is done
        with pool.connection() as conn:
            os.write(writer, str(ask(conn, "SELECT 7")).encode())
    def beget():
        pool.connection().close()
        threading.Thread(target=use_late).start()
    child = processes.Process(target=beget)
    child.start()
    os.close(writer)
    assert os.read(reader, 10) == b"7"
    child.join()
"""


def test_p12_threads_of_children(url: str) -> None:
    """A thread that a child waits for at its end uses the pool until then."""
    run_program(LATE, url)


def test_p6_pickling(site: tuple[Flask, PooledDB]) -> None:
    """What belongs to a process is neither pickled nor copied, and the error says what to do."""
    app, db = site
    with app.app_context(), db_connection_context(rows="dict") as conn, conn.cursor() as cur:
        things = [PooledDB(), db, db.fetch_value, db.pool(), conn, conn.commit, cur, cur.execute]
        with db_connection_context(rows="tuple") as plain:
            things += [plain.cursor(), [db.connection]]
        for thing in things:
            with pytest.raises(TypeError, match=r"can't be pickled or copied: \w+"):
                pickle.dumps(thing)
        with pytest.raises(TypeError, match="another process has one of its own"):
            copy.copy(db)
