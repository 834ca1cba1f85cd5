"""Real ASGI servers on free ports of 127.0.0.1, beside gunicorn's worker for ASGI."""

from __future__ import annotations

from harness.gunicorn import GunicornServer
from harness.sockets import LOOPBACK


class UvicornServer(GunicornServer):
    """uvicorn in place of gunicorn; it has no arbiter."""

    program = "uvicorn"

    def where(self) -> list[str]:
        """The options that say where it listens."""
        return [f"--host={LOOPBACK}", f"--port={self.port}"]


class HypercornServer(GunicornServer):
    """hypercorn in place of gunicorn."""

    program = "hypercorn"

    def where(self) -> list[str]:
        """The options that say where it listens."""
        return [f"--bind={LOOPBACK}:{self.port}"]
