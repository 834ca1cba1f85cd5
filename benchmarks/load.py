"""A load generator: clients that each send one request after the other to a local HTTP server.

It runs as a process of its own (`python -m benchmarks.load`), so that it takes nothing from the
CPU time of a measuring process's threads, and prints what it saw as JSON.
"""

from __future__ import annotations

import http.client
import json
import sys
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from benchmarks.measure import percentile

HOST = "127.0.0.1"
TIMEOUT = 10.0
MOST_REQUESTS = 5_000  # of one client
JSON = {"Content-Type": "application/json"}


class Answered(NamedTuple):
    """What all clients saw together; times in milliseconds."""

    requests_a_second: float
    median: float
    percentile_99: float


class Request(NamedTuple):
    """One request and the only status that is right."""

    method: str
    path: str
    body: str | None
    status: int


def get_order(client: int) -> Request:
    """Ask for the client's order."""
    return Request("GET", f"/orders/{order_of(client)}", None, 200)


def post_scan(client: int) -> Request:
    """Scan a box that nobody has scanned, for the client's order."""
    scan = {"order": order_of(client), "box": uuid.uuid4().hex, "quality": "ok", "operator": "Load"}
    return Request("POST", "/scans", json.dumps(scan), 201)


def order_of(client: int) -> str:
    """Each client has an order to itself: what is measured is not the wait for a row's lock."""
    return f"LOAD-{client}"


KINDS: dict[str, Callable[[int], Request]] = {
    "GET /orders/<code>": get_order,
    "POST /scans": post_scan,
}


def load(port: int, kind: str, clients: int, seconds: float) -> Answered:
    """Send requests of a kind for so many seconds. Raises for an answer that is not right."""
    start = threading.Barrier(clients)

    def ask(client: int) -> tuple[list[float], float]:
        times: list[float] = []
        start.wait()
        began = time.monotonic()
        while len(times) < MOST_REQUESTS and (asked := time.monotonic()) < began + seconds:
            send(port, KINDS[kind](client))
            times.append(time.monotonic() - asked)
        return times, time.monotonic() - began

    with ThreadPoolExecutor(clients) as executor:
        results = list(executor.map(ask, range(clients)))
    times = [took * 1000 for took_by_one, _ in results for took in took_by_one]
    longest = max(lasted for _, lasted in results)
    return Answered(len(times) / longest, percentile(times, 50), percentile(times, 99))


def send(port: int, request: Request) -> None:
    """One request on a connection of its own, as from a reverse proxy."""
    connection = http.client.HTTPConnection(HOST, port, timeout=TIMEOUT)
    try:
        connection.request(request.method, request.path, request.body, JSON if request.body else {})
        answer = connection.getresponse()
        text = answer.read()
    finally:
        connection.close()
    if answer.status != request.status:
        raise RuntimeError(f"{request.method} {request.path}: {answer.status} {text!r}")


if __name__ == "__main__":
    port, kind, clients, seconds = sys.argv[1:]
    print(json.dumps(load(int(port), kind, int(clients), float(seconds))))
