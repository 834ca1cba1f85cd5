"""The app under ASGI servers, by asgiref's `WsgiToAsgi`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from harness.asgi import HypercornServer, UvicornServer
from harness.gunicorn import GunicornServer
from harness.server import MariaDBServer
from harness.waiting import wait_until
from tests.flask import streaming_app
from tests.flask.served import MAXCONNECTIONS, Served

FACTORY = "tests.flask.streaming_app:create_asgi_app"
APP = f"{FACTORY}()"
SERVERS: dict[str, Callable[[Path, Mapping[str, str]], GunicornServer]] = {
    "gunicorn": lambda path, env: GunicornServer(path, [APP, "--worker-class=asgi"], env),
    "uvicorn": lambda path, env: UvicornServer(path, ["--factory", FACTORY], env),
    "hypercorn": lambda path, env: HypercornServer(path, [APP], env),
}
STORED = "SELECT token FROM {}.tokens"
CLIENTS, REQUESTS = 8, 80


@pytest.fixture(params=list(SERVERS))
def served(
    request: pytest.FixtureRequest, tmp_path: Path, mariadb: MariaDBServer
) -> Iterator[Served]:
    serve = SERVERS[request.param]
    served = Served(mariadb, streaming_app.TOKENS, lambda env: serve(tmp_path, env))
    with served.server:
        yield served


@pytest.mark.slow
def test_t1_requests_under_asgi(served: Served) -> None:
    """Requests in parallel, and some whose clients leave, are stored once each, and no connection
    stays out. (The adapter does not tell the app that a client has left: its answer goes on to its
    end, and its block commits.) A worker that is stopped ends the request that it is at, and leaves
    no connection on the server.
    """
    with ThreadPoolExecutor(CLIENTS) as clients:
        paths = [f"/save/{number}" for number in range(REQUESTS)]
        paths[::10] = [f"/stream/{number}?chunks=3" for number in range(0, REQUESTS, 10)]
        answers = list(clients.map(served.get, paths))
        assert [len(answer) for answer in answers[::10]] == [3 * streaming_app.CHUNK] * 8
        assert answers[1] == b"1"
        views = ["/save-async/a", "/save-async/b", "/save-awaited/c", "/save-awaited/d"]
        assert list(clients.map(served.get, views)) == [b"a", b"b", b"c", b"d"]
    served.leave("/save/left-view?seconds=0.1")
    served.leave("/stream/left-stream?chunks=200", after=10)
    served.wait_for_connections()
    expected = {*map(str, range(REQUESTS)), "left-view", "left-stream"}
    expected |= {token + child for token in "abcd" for child in ("", "-0", "-1")}
    assert set(served.query(STORED)) == expected
    assert 0 < len(served.connections()) <= MAXCONNECTIONS

    with ThreadPoolExecutor(1) as client:
        last = client.submit(served.get, "/save/last?seconds=0.8")
        wait_until(served.transactions, "its transaction", 0.15)  # the server looks no more often
        served.server.stop()
        assert last.result() == b"last"
    assert set(served.query(STORED)) == expected | {"last"}
    wait_until(lambda: not served.connections(), "the server to see the end")
    assert "Traceback" not in served.server.log
