"""`flask pooled-db stress --sockets`."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import re
import socket
import sys
import time
from pathlib import Path

import pytest

from flask_pooled_db import PooledDB
from flask_pooled_db.flask.commands.stress import remains, sockets
from flask_pooled_db.host import HostStats, ProcessStats
from harness.gunicorn import GunicornServer
from harness.sockets import LOOPBACK
from tests.flask.stressing import (
    Site,
    stress,
    told,
)
from tests.support.live_app import APP as LIVE_APP
from tests.support.live_app import create_app as create_live_app
from tests.support.pools import call

WEBSOCKETS = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455
SWITCH = (
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Accept: {}\r\n\r\n"
)


def test_sockets_without_library(empty: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without what opens websockets, it names what to install; a URL of no server is refused."""
    result = stress(empty, "--sockets=1", "--url=nowhere")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "--url must be like" in result.stderr
    monkeypatch.setitem(sys.modules, "simple_websocket", None)
    result = stress(empty, "--sockets=1")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "pip install simple-websocket" in result.stderr


@pytest.mark.usefixtures("hasty")
def test_sockets_to_nobody(empty: Site) -> None:
    """If nobody serves, no message is answered: the exit status is 1."""
    result = stress(empty, "--sockets=2", "--seconds=0.2", "--url=http://127.0.0.1:1", "--json")
    assert result.exit_code == 1
    assert "No message was answered" in result.stderr
    assert told(result)["failed"].keys() == {"ConnectionRefusedError 111"}


def test_sockets_to_silent_server(empty: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that opens sockets and then says nothing, no goodbye either, leaves no thread and no
    file in the command.
    """
    monkeypatch.setattr(sockets, "ANSWER_PATIENCE", 0.1)
    monkeypatch.setattr(remains, "PATIENCE", 0.5)
    opened: list[socket.socket] = []

    def serve() -> None:
        with contextlib.suppress(OSError):  # it is closed
            while True:
                client, _ = listener.accept()
                asked = client.recv(4096).decode()
                if found := re.search(r"Sec-WebSocket-Key: (\S+)", asked, re.IGNORECASE):
                    digest = hashlib.sha1(f"{found[1]}{WEBSOCKETS}".encode()).digest()
                    client.sendall(SWITCH.format(base64.b64encode(digest).decode()).encode())
                opened.append(client)

    with socket.create_server((LOOPBACK, 0)) as listener:
        serving = call(serve)
        url = f"http://{LOOPBACK}:{listener.getsockname()[1]}"
        result = stress(empty, "--sockets=2", "--seconds=0.5", f"--url={url}", "--json")
        for client in opened:
            client.close()
        listener.shutdown(socket.SHUT_RDWR)
        serving.wait()
    found = told(result)
    assert (found["sent"] > 0, found["times"]["answered"]["count"]) == (True, 0)
    # The other ends of its sockets, which the server had in this process, are not the command's.
    assert (found["left"]["threads"], found["left"]["open_files"]) == (0, len(opened))


def test_what_workers_have_published() -> None:
    """Workers are told once each of them has published something since the end; the process that
    asks is none.
    """

    def one(pid: int, age: float, in_use: int) -> ProcessStats:
        numbers = {"pools": {"a": {"in_use": in_use}, "b": {"in_use": 0}}}
        return ProcessStats(str(pid), pid, 9.0, age, numbers)

    stats = HostStats((one(1, 0.1, 2), one(2, 5.0, 3), one(os.getpid(), 0.1, 4)))
    now = time.monotonic()
    assert sockets.look(stats, now - 1.0) == (2, 5, None, False)
    assert sockets.look(stats, now - 9.0) == (2, 5, None, True)
    assert not sockets.look(HostStats((one(os.getpid(), 0.0, 0),)), now - 9.0).are_all_told
    alone = HostStats((ProcessStats("", 1, 9.0, 0.1, {}),), problem="none")
    assert sockets.look(alone, now - 9.0) == (0, 0, "none", False)


@pytest.mark.slow
def test_sockets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages are answered, and no worker keeps a connection; one that leaks is found."""
    env = {
        "FLASK_POOLED_DB_URL": f"sqlite:///{tmp_path}/shop.db",
        "FLASK_POOLED_DB_RUNTIME_DIR": str(tmp_path / "run"),
        "FLASK_POOLED_DB_MINCACHED": "0",
    }
    keys = {name.removeprefix("FLASK_"): value for name, value in env.items()}
    app = create_live_app(**{**keys, "POOLED_DB_MINCACHED": 0})
    options = [LIVE_APP, "--workers=2", "--worker-class=gthread", "--threads=8"]
    db: PooledDB = app.extensions["pooled_db"].extension
    with GunicornServer(tmp_path, options, env) as server:
        args = ["--sockets=4", "--seconds=0.5", f"--url=http://{LOOPBACK}:{server.port}", "--json"]
        result = stress((app, db), *args)
        assert result.exit_code == 0, result.output
        found = told(result)
        assert found["times"]["answered"]["count"] >= 4
        assert found["left"] == {"connections_in_use": 0, "threads": 0, "open_files": 0}
        assert found["workers"] > 0
        monkeypatch.setattr(remains, "PATIENCE", 2.5)  # each worker publishes once a second
        result = stress((app, db), *args, "--message=leak")
        assert result.exit_code == 1
        assert "connections in use" in result.stderr
        assert told(result)["left"]["connections_in_use"] > 0
    db.close()
