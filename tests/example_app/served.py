"""The example app under gunicorn."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from harness.gunicorn import GunicornServer
from harness.processes import PROJECT
from harness.sockets import LOOPBACK
from harness.waiting import PATIENCE


class Gunicorn(GunicornServer):
    """The example app under gunicorn."""

    def __init__(self, directory: Path, url: str, **env: str) -> None:
        options = ["--config", "example_app/gunicorn.conf.py"]
        super().__init__(directory, options, {"POOLED_DB_URL": url, "WEB_CONCURRENCY": "3", **env})

    @property
    def address(self) -> str:
        return f"http://{LOOPBACK}:{self.port}/"

    def init_db(self) -> None:
        """Run the app's own command, which may wait for its connection."""
        command = [sys.executable, "-m", "flask", "--app", "example_app", "init-db"]
        env = {**self.env, "FLASK_POOLED_DB_ACQUIRE_TIMEOUT": "10"}
        subprocess.run(command, cwd=PROJECT, env=env, check=True, timeout=PATIENCE)

    def request(self, method: str, path: str, body: object = None) -> tuple[int, str]:
        """The status and the text of an answer, on a connection of its own."""
        text = json.dumps(body) if body is not None else None
        return self._send(method, path, text, "application/json")

    def submit(self, path: str, **fields: str) -> int:
        """The status of the answer to a form."""
        return self._send("POST", path, urlencode(fields), "application/x-www-form-urlencoded")[0]

    def _send(self, method: str, path: str, text: str | None, kind: str) -> tuple[int, str]:
        connection = self.connect()
        headers = {"Content-Type": kind} if text is not None else {}
        try:
            connection.request(method, path, text, headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def get(self, path: str) -> Any:
        """The JSON of a 200."""
        status, text = self.request("GET", path)
        assert status == 200, text
        return json.loads(text)
