"""The page of a host that is made up, served by a thread; its time may run faster than ours."""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic
from types import TracebackType
from typing import Any, Self

from flask import Flask
from werkzeug.serving import make_server

from flask_pooled_db.flask.page.blueprint import make_blueprint
from flask_pooled_db.flask.page.board import Board
from flask_pooled_db.host import HostStats
from harness.sockets import LOOPBACK
from tests.support.page_scenes import SCENES


class ServedScene:
    """A context manager: the page at `address`, of the scene that `scene` names."""

    def __init__(self, scene: str, *, speed: float = 1.0) -> None:
        self.speed = speed
        self.asked = 0
        self.is_let_in = True
        self._began = monotonic()
        self.show(scene)
        self._server: Any = None
        self._port = 0
        self._app = Flask("scene")
        page = make_blueprint(self._answer, lambda: self.is_let_in, lambda _: None, "/pooled-db")
        self._app.register_blueprint(page)

    def show(self, scene: str | Callable[[float], HostStats]) -> None:
        """Show another scene from its beginning."""
        self._scene = SCENES[scene] if isinstance(scene, str) else scene
        self._scene_began = self.time()
        self._board = Board(self.time)

    def time(self) -> float:
        """The seconds that have passed here."""
        return 1000 + (monotonic() - self._began) * self.speed

    def _answer(self, before: str | None) -> bytes:
        self.asked += 1
        return self._board.answer(lambda: self._scene(self.time() - self._scene_began), before)

    @property
    def address(self) -> str:
        """Where the page is."""
        return f"http://{LOOPBACK}:{self._port}/pooled-db/"

    def start(self) -> None:
        """Serve, at the same port each time."""
        self._server = make_server(LOOPBACK, self._port, self._app, threaded=True)
        self._port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def stop(self) -> None:
        """Serve nobody any more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
