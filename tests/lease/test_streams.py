"""T6 and T7: responses that are streamed."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest
from flask import Response, stream_with_context
from werkzeug.serving import make_server

from flask_pooled_db import UsageError
from harness.sockets import LOOPBACK, free_port
from harness.waiting import wait_until
from harness.workloads import add, run
from tests.support.scenarios import interruptions
from tests.support.scenarios.base import assert_fit
from tests.support.stages import UNTOUCHED, Stage, join


def test_t6_abandoned_stream(direct_stage: Stage) -> None:
    """A streamed response closed half-way rolls back and releases."""
    interruptions.abandoned_stream(direct_stage)
    assert direct_stage.db.stats().in_use == 0


def test_t6_client_disconnects(direct_stage: Stage) -> None:
    """A client that disconnects from a real server makes the stream roll back and release."""

    @direct_stage.app.get("/endless")
    def endless() -> Response:
        def rows() -> Iterator[bytes]:
            with direct_stage.db.connection_context() as connection:
                add(connection, 1, -10)
                cursor = direct_stage.streaming_cursor(connection)
                cursor.execute(direct_stage.many_rows)
                while cursor.fetchone() is not None:
                    yield b"x" * 100_000

        return Response(stream_with_context(rows()))

    server = make_server(LOOPBACK, free_port(), direct_stage.app)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        with socket.create_connection((LOOPBACK, server.port)) as client:
            client.sendall(b"GET /endless HTTP/1.0\r\n\r\n")
            assert client.recv(100)
            assert direct_stage.db.stats().in_use == 1
        wait_until(lambda: direct_stage.db.stats().in_use == 0, "the connection is back")
    finally:
        server.shutdown()
        join(thread)
        server.server_close()
    assert direct_stage.committed() == UNTOUCHED
    assert_fit(direct_stage)


def test_t7_stream_after_block(direct_stage: Stage) -> None:
    """A generator that reads rows after its view's block has ended gets an error."""

    @direct_stage.app.get("/late")
    def late() -> Response:
        with direct_stage.db.connection_context() as connection:
            cursor = direct_stage.streaming_cursor(connection)
            cursor.execute(direct_stage.many_rows)

        def rows() -> Iterator[str]:
            with pytest.raises(UsageError, match="was released"):
                cursor.fetchone()
            yield "told"

        return Response(stream_with_context(rows()))

    assert direct_stage.app.test_client().get("/late").text == "told"
    with direct_stage.db.connection_context() as connection:
        assert run(connection, "SELECT 1") == [(1,)]
