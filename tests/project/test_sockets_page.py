"""The code of docs/sockets.md runs, in the order it is read in."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import websocket
from werkzeug.serving import make_server

from harness.processes import PROJECT
from harness.sockets import LOOPBACK, free_port
from harness.waiting import PATIENCE, wait_until

PAGE = (PROJECT / "docs" / "sockets.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


@pytest.fixture
def station(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """The names that the page's blocks define, with an empty table."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "station"}
    for block in BLOCKS:
        exec(compile(block, "sockets.md", "exec"), names)
    names["db"].execute("CREATE TABLE scans (box TEXT PRIMARY KEY)")
    yield names
    names["executor"].shutdown()
    names["db"].close(timeout=PATIENCE)


def boxes(station: dict[str, Any]) -> str:
    """What is stored, when no connection is in use."""
    db = station["db"]
    wait_until(lambda: db.stats().in_use == 0)
    return " ".join(box for (box,) in db.fetch_all("SELECT box FROM scans ORDER BY box"))


def test_views_and_streams(station: dict[str, Any]) -> None:
    """The views save, in whatever thread, and both streams tell what is saved."""
    client = station["app"].test_client()
    assert client.post("/scans/a").text == "saved a"
    assert client.post("/pairs/b/c").json == ["saved b", "saved c"]
    assert client.post("/later/d").status_code == 202
    wait_until(lambda: boxes(station) == "a b c d")
    for path in ("/scans.csv", "/parts.csv"):
        assert client.get(path).text == "a\nb\nc\nd\n"
    with client.get("/scans.csv", buffered=False) as answer:
        assert next(iter(answer.response)) == b"a\n"
        assert station["db"].stats().in_use == 1
    assert boxes(station) == "a b c d"


def test_websockets(station: dict[str, Any]) -> None:
    """Each message saves, and nothing is in use between two of them."""
    server = make_server(LOOPBACK, free_port(), station["app"], threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        url = f"ws://{LOOPBACK}:{server.port}/scan"
        with closing(websocket.create_connection(url, PATIENCE)) as socket:
            for box, stored in (("a", "a"), ("b", "a b")):
                socket.send(box)
                assert socket.recv() == f"saved {box}"
                assert station["db"].stats().in_use == 0
                assert boxes(station) == stored
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    events = station["socketio"].test_client(station["app"])
    assert events.emit("scan", "c", callback=True) == "saved c"
    events.disconnect()
    assert boxes(station) == "a b c"
