"""Streamed answers, and threads with a copied context, under gunicorn: nothing stays out."""

from __future__ import annotations

import http.client
import inspect
import os
import re
import signal
from collections.abc import Iterator
from contextlib import closing

import pytest

from harness.gunicorn import GunicornServer
from harness.server import MariaDBServer
from harness.waiting import wait_until
from tests.flask import streaming_app
from tests.flask.served import Served

pytestmark = pytest.mark.slow

APP = "tests.flask.streaming_app:create_app()"
ENDLESS = 1_000_000
WORKER_CLASSES = {"sync": [], "gthread": ["--threads=8"]}
each_way = pytest.mark.parametrize("way", ["stream", "stream-alone"])


@pytest.fixture(scope="module", params=list(WORKER_CLASSES))
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, mariadb: MariaDBServer
) -> Iterator[Served]:
    options = [APP, f"--worker-class={request.param}", "--graceful-timeout=1"]
    options += WORKER_CLASSES[request.param]
    directory = tmp_path_factory.mktemp("streaming")
    served = Served(
        mariadb, streaming_app.TOKENS, lambda env: GunicornServer(directory, options, env)
    )
    yield served
    served.server.close()


@pytest.fixture(autouse=True)
def started(served: Served) -> None:
    if not served.server.is_running:
        served.server.start()


def tokens(served: Served, like: str) -> list[str]:
    return served.query("SELECT token FROM {}.tokens WHERE token LIKE %s ORDER BY token", like)


@each_way
def test_t1_stream_of_block(served: Served, way: str) -> None:
    """A generator's block commits when the generator ends. If it raises, or the client has left,
    the block is rolled back; each time its connection comes back.
    """
    assert len(served.get(f"/{way}/{way}-ends?chunks=20")) == 20 * streaming_app.CHUNK
    with pytest.raises(http.client.IncompleteRead):
        served.get(f"/{way}/{way}-fails?chunks=20&fails")
    served.leave(f"/{way}/{way}-left?chunks={ENDLESS}", after=10)
    served.wait_for_connections()
    assert tokens(served, f"{way}-%") == [f"{way}-ends"]


def test_t1_stream_cut_by_server(served: Served) -> None:
    """A worker that is aborted, as one that takes too long, or stopped, leaves no connection of the
    stream that it cuts, and nothing of its block.
    """
    for way, cut in (("stream", signal.SIGABRT), ("stream-alone", signal.SIGTERM)):
        with closing(served.server.connect()) as connection:
            connection.request("GET", f"/{way}/cut-{way}?chunks={ENDLESS}")
            served.read(connection, 10)
            before = served.connections()
            assert before
            if cut is signal.SIGABRT:
                os.kill(served.server.workers()[0], cut)
            else:
                assert served.server.stop() == 0
        served.wait_for_end_of(before)
    assert tokens(served, "cut-%") == []


def test_t9_threads_with_copied_context(served: Served) -> None:
    """Threads and jobs with a copy of the context have connections of their own, which come back;
    also that of a job which forgets it, though the executor's thread goes on.
    """
    assert served.get("/threads/t") == b"t"
    served.wait_for_connections()
    stored = ["t-0", "t-1", "t-2", "t-3", "t-request-threads"]
    assert tokens(served, "t-%") == stored
    forgotten = re.compile(rf"taken at {re.escape(streaming_app.__file__)}:(\d+), was never given")
    wait_until(lambda: forgotten.search(served.server.log), "the report")
    found = forgotten.search(served.server.log)
    assert found is not None
    line = inspect.getsource(streaming_app).splitlines()[int(found[1]) - 1]
    assert "get_db_connection()" in line
