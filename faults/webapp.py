"""The application that gunicorn serves in `workers`: transfers over HTTP."""

from __future__ import annotations

import json
import os
import time
from typing import Any

from flask import Flask
from flask.typing import ResponseReturnValue

from faults.bank import Transfer
from faults.databases import Place
from faults.systems import SYSTEMS, is_documented, name_of
from flask_pooled_db import CommitOutcomeUnknown

TASK = "FAULTS_TASK"
ERROR, DOCUMENTED, UNKNOWN = "X-Error", "X-Documented", "X-Unknown"
HANGING = 60.0


def create_app() -> Flask:
    """Read from the environment: which system it is on, and where the database is."""
    task = json.loads(os.environ[TASK])
    place = Place([(host, port) for host, port in task["hosts"]], task["database"])
    system = SYSTEMS[task["kind"]](place)
    app = system.app

    @app.post("/transfer/<int:number>/<int:source>/<int:target>/<amount>")
    def transfer(number: int, source: int, target: int, amount: str) -> str:
        system.transact(Transfer(number, source, target, int(amount)))
        return "done"

    @app.post("/hang/<int:number>/<int:source>/<int:target>/<amount>")
    def hang(number: int, source: int, target: int, amount: str) -> str:
        def work(connection: Any) -> None:
            Transfer(number, source, target, int(amount))(connection)
            time.sleep(HANGING)

        system.transact(work)
        return "done"

    @app.get("/")
    def state() -> dict[str, int]:
        return {"pid": os.getpid(), "in_use": system.in_use()}

    @app.errorhandler(Exception)
    def failed(error: Exception) -> ResponseReturnValue:
        headers = {
            ERROR: name_of(error),
            DOCUMENTED: str(int(is_documented(error))),
            UNKNOWN: str(int(isinstance(error, CommitOutcomeUnknown))),
        }
        return "failed", 500, headers

    return app
