"""The station's websocket: other workers' scans, live."""

from __future__ import annotations

import json
import os
import runpy
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
import websocket
from flask.testing import FlaskClient

from example_app import create_app, live
from harness.sockets import LOOPBACK
from harness.waiting import PATIENCE
from tests.example_app.requests import PACKAGE, SCAN, close
from tests.example_app.served import Gunicorn

WORKERS, SOCKETS_PER_WORKER = 2, 2


@pytest.fixture
def server(tmp_path: Path, file: Path) -> Iterator[Gunicorn]:
    """Two workers of which each has one connection, and room for two sockets."""
    server = Gunicorn(
        tmp_path,
        f"sqlite:///{file}",
        WEB_CONCURRENCY=str(WORKERS),
        GUNICORN_THREADS=str(4 + SOCKETS_PER_WORKER),
        FLASK_POOLED_DB_MAXCONNECTIONS="1",
    )
    server.init_db()
    with server:
        yield server


def connect(server: Gunicorn, **options: Any) -> Any:
    url = f"ws://{LOOPBACK}:{server.port}/live"
    return websocket.create_connection(url, PATIENCE, **options)


def news(socket: Any) -> tuple[str, int, list[str]]:
    """The next message: the order, how many it counts, and the boxes of its last scans."""
    found = json.loads(socket.recv())
    order = found["order"]
    boxes = [scan["box"] for scan in found["scans"]]
    return order["code"], order["approved"] + order["rejected"], boxes


@pytest.mark.slow
def test_live_scans(server: Gunicorn) -> None:
    """All sockets hear of a scan, whichever worker has saved it; they hold no connection, keep no
    request from being served, and end with their worker at once.
    """
    with ExitStack() as stack:
        sockets = [stack.enter_context(closing(connect(server))) for _ in range(SOCKETS_PER_WORKER)]
        for socket in sockets:
            socket.send("a-1001")
            assert news(socket) == ("A-1001", 0, [])
        for box in ("BOX-1", "BOX-2"):
            assert server.request("POST", "/scans", {**SCAN, "box": box})[0] == 201
        for socket in sockets:
            while (last := news(socket)) != ("A-1001", 2, ["BOX-2", "BOX-1"]):
                assert last == ("A-1001", 1, ["BOX-1"])
        for unknown in ("NOPE", "", "<order>"):
            sockets[0].send(unknown)
        sockets[0].send("A-1002")
        assert news(sockets[0]) == ("A-1002", 0, [])

        # The seats of both workers, and one socket more.
        all_seats = WORKERS * SOCKETS_PER_WORKER
        others = [stack.enter_context(closing(connect(server))) for _ in range(all_seats)]
        for socket in others:
            socket.send("A-1001")
        refused = [socket for socket in others if is_refused(socket)]
        assert len(refused) >= SOCKETS_PER_WORKER
        assert server.get("/healthz/ready")["status"] == "ready"
        with pytest.raises(websocket.WebSocketBadStatusException, match="403"):
            connect(server, origin="http://elsewhere.example")

        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < PATIENCE / 3
    assert "Traceback" not in server.log


def is_refused(socket: Any) -> bool:
    """Whether the socket was closed, instead of an answer."""
    try:
        frame = socket.recv_frame()
    except (OSError, websocket.WebSocketConnectionClosedException):
        return True  # what was sent to it came too late
    is_end: bool = frame.opcode == websocket.ABNF.OPCODE_CLOSE
    assert not is_end or int.from_bytes(frame.data[:2]) == live.TRY_LATER
    return is_end


def test_page_with_socket(client: FlaskClient) -> None:
    """The page is told that there is a socket, which takes no plain request."""
    assert "<body data-live>" in client.get("/").text
    assert client.get("/live").status_code == 400


@pytest.mark.parametrize("why", ["no room", "no flask-sock"])
def test_page_without_socket(why: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without room for sockets, or without flask-sock, there is none, and the page knows it."""
    if why == "no flask-sock":
        monkeypatch.setattr(live, "Sock", None)
    sockets = 0 if why == "no room" else 8
    app = create_app({"POOLED_DB_URL": url, "LIVE_SOCKETS": sockets, "TESTING": True})
    client = app.test_client()
    assert "<body>" in client.get("/").text
    assert client.get("/live").status_code == 404
    close(app)


@pytest.mark.parametrize(
    ("worker_class", "threads", "sockets"), [("gthread", 16, 12), ("sync", 1, 0)]
)
def test_room_for_sockets(
    monkeypatch: pytest.MonkeyPatch, worker_class: str, threads: int, sockets: int
) -> None:
    """Sockets leave four threads to requests; a sync worker serves none."""
    monkeypatch.setenv("GUNICORN_WORKER_CLASS", worker_class)
    monkeypatch.delenv("GUNICORN_THREADS", raising=False)
    monkeypatch.setenv("FLASK_LIVE_SOCKETS", "")
    del os.environ["FLASK_LIVE_SOCKETS"]
    settings = runpy.run_path(str(PACKAGE / "gunicorn.conf.py"))
    assert (settings["threads"], os.environ["FLASK_LIVE_SOCKETS"]) == (threads, str(sockets))


@pytest.mark.slow
def test_stress_over_sockets(tmp_path: Path, file: Path) -> None:
    """Sockets that send their orders again and again are answered, and the workers have lent no
    connection in the end.
    """
    run = {"POOLED_DB_RUNTIME_DIR": str(tmp_path / "run")}
    env = {f"FLASK_{name}": value for name, value in run.items()}
    server = Gunicorn(tmp_path, f"sqlite:///{file}", WEB_CONCURRENCY="2", **env)
    server.init_db()
    app = create_app({"POOLED_DB_URL": f"sqlite:///{file}", **run})
    with server:
        args = ["--sockets=6", "--seconds=0.5", f"--url={server.address}", "--json"]
        result = app.test_cli_runner().invoke(args=["pooled-db", "stress", *args])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["sent"] >= found["times"]["answered"]["count"] >= 6
    assert (found["left"]["connections_in_use"], found["failed"]) == (0, {})
    close(app)
