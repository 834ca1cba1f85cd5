"""The page without a browser: who is let in, what is sent, and what that costs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, Response, abort, redirect
from flask.testing import FlaskClient

from flask_pooled_db import PooledDB, UsageError, db_connection_context, get_db_connection
from flask_pooled_db.flask.page.blueprint import BEFORE, FOLDER, make_blueprint
from flask_pooled_db.flask.page.board import Board
from flask_pooled_db.host import HostStats
from flask_pooled_db.telemetry.past import sample_of
from harness.processes import PROJECT
from harness.waiting import PATIENCE, wait_until
from tests.support.apps import pooled_app
from tests.support.page_scenes import SCENES, host, process

FILES = sorted(path.name for path in FOLDER.iterdir() if path.suffix in (".css", ".js", ".svg"))
PATHS = ["/pooled-db/", "/pooled-db/data", *(f"/pooled-db/{name}" for name in FILES)]


def yes() -> bool:
    return True


def view_of(client: FlaskClient, path: str = "/pooled-db/data") -> Any:
    return client.get(path).json


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "run"
    path.mkdir(mode=0o700)
    return path


@pytest.fixture
def shop(url: str, folder: Path) -> Iterator[tuple[Flask, PooledDB]]:
    """An app with the page, whose database has been used."""
    with pooled_app(url, runtime_dir=folder) as (app, db):
        app.register_blueprint(db.page_blueprint(authorize=yes))
        with db_connection_context() as conn:
            conn.cursor().execute("SELECT 1")
        yield app, db


def client_of(authorize: Any, answer: Any = lambda _: b"{}") -> FlaskClient:
    """A client of an app with the page alone, which answers errors as in production."""
    app = Flask("app_under_test")
    app.register_blueprint(make_blueprint(answer, authorize, lambda _: None, "/pooled-db"))
    app.config["PROPAGATE_EXCEPTIONS"] = False
    return app.test_client()


# Who is let in


@pytest.mark.parametrize("path", PATHS)
def test_let_in(path: str) -> None:
    """Each request is judged: True lets it in, False and nothing are a 403."""
    asked = []

    def authorize() -> Any:
        asked.append(path)
        return [True, False, None, 0, ""][len(asked) - 1]

    client = client_of(authorize)
    assert [client.get(path).status_code for _ in range(5)] == [200, 403, 403, 403, 403]
    assert len(asked) == 5


@pytest.mark.parametrize("path", PATHS)
def test_failing_authorize(path: str) -> None:
    """Nothing is served when the judge fails, or says something else than it may."""

    def authorize() -> bool:
        raise ZeroDivisionError

    for judge in (authorize, lambda: "yes", lambda: 1, lambda: ("no", 401)):
        answer = client_of(judge, lambda _: b'"secret"').get(path)
        assert answer.status_code == 500
        assert b"Internal Server Error" in answer.data
        assert len(answer.data) < 500
        assert b"secret" not in answer.data


def test_answer_of_authorize() -> None:
    """What the judge returns or aborts with is sent in place of the page, as it is."""

    def refuse() -> bool:
        abort(401)

    assert client_of(lambda: redirect("/login")).get("/pooled-db/data").location == "/login"
    answer = client_of(lambda: Response("sign in", 403)).get("/pooled-db/")
    assert (answer.status_code, answer.text) == (403, "sign in")
    assert "Content-Security-Policy" not in answer.headers  # it is the app's own
    assert client_of(refuse).get("/pooled-db/").status_code == 401


def test_asynchronous_authorize() -> None:
    """The judge may be a coroutine function."""

    async def authorize() -> bool:
        return answers.pop()

    answers = [False, True]
    client = client_of(authorize)
    assert [client.get("/pooled-db/data").status_code for _ in range(2)] == [200, 403]


def test_judge_is_needed() -> None:
    """A page that nobody guards is refused when it is made, with what to pass."""
    with pytest.raises(UsageError, match=r"who may see the page: give it a function"):
        PooledDB().page_blueprint()
    with pytest.raises(UsageError, match="authorize must be a function"):
        PooledDB().page_blueprint(authorize=True)  # type: ignore[arg-type]
    for prefix in ("", "/", "pooled-db", None):
        with pytest.raises(UsageError, match="url_prefix must be a path"):
            PooledDB().page_blueprint(yes, url_prefix=prefix)  # type: ignore[arg-type]


def test_off_by_default(url: str, folder: Path) -> None:
    """An app that does not register the page has none, and counts no leases for it."""
    with pooled_app(url, runtime_dir=folder) as (app, db):
        db.page_blueprint(authorize=yes)
        assert app.test_client().get("/pooled-db/").status_code == 404
        assert not app.extensions["pooled_db"].watch.seen.wants_usage
        with db_connection_context() as conn:
            conn.cursor().execute("SELECT 1")
        assert db.host_stats().totals["callers"] == {}


def test_registered_before_init_app(url: str, folder: Path) -> None:
    """The page may be registered before the extension is initialised on the app."""
    app, db = Flask("app_under_test"), PooledDB()
    app.register_blueprint(db.page_blueprint(authorize=yes, url_prefix="/ops/pools"))
    app.config.update(POOLED_DB_URL=url, POOLED_DB_RUNTIME_DIR=folder, POOLED_DB_MINCACHED=0)
    db.init_app(app)
    assert view_of(app.test_client(), "/ops/pools/data")["workers"] == []
    db.close()


# What is sent


@pytest.mark.parametrize("path", PATHS)
def test_headers(path: str) -> None:
    """Nothing is loaded from elsewhere, nothing runs but the page's own script, and no other site
    can frame it or use it.
    """
    headers = client_of(yes).get(path).headers
    policy = dict(part.split(" ", 1) for part in headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    for name in ("base-uri", "form-action", "frame-ancestors"):
        assert policy[name] == "'none'"
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    is_asset = path.rpartition("/")[2] in FILES
    assert headers["Cache-Control"] == ("private, no-cache" if is_asset else "no-store")


def test_nothing_inline() -> None:
    """The document holds no script, no style and no address of another host."""
    document = (FOLDER / "page.html").read_text()
    assert not re.search(r"<style|style=|<script(?! type=\"module\" src=)| on\w+=", document)
    for path in FOLDER.iterdir():
        if path.suffix in (".html", ".js", ".css"):
            text = path.read_text().replace("http://www.w3.org/2000/svg", "")
            assert not re.search(r"https?://|innerHTML|outerHTML|insertAdjacent|eval\(", text), path


def test_other_files() -> None:
    """No other file of the package can be asked for, nor anything outside of it."""
    client = client_of(yes)
    for name in ("board.py", "page.html", "..", "%2e%2e/context.py", "__init__.py", "nothing"):
        assert client.get(f"/pooled-db/{name}").status_code == 404
    assert client.post("/pooled-db/data").status_code == 405


def test_scripts_are_asked_for_again() -> None:
    """A script that has not changed is not sent again."""
    client = client_of(yes)
    first = client.get("/pooled-db/page.js")
    again = client.get("/pooled-db/page.js", headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.data) == (304, b"")


def test_data_of_an_app(shop: tuple[Flask, PooledDB]) -> None:
    """The data tells of a real lease who holds it, where, and for how long."""
    app, _ = shop
    client = app.test_client()

    @app.get("/hold")
    def hold() -> Any:
        with db_connection_context() as conn:
            conn.cursor().execute("SELECT 1")
            return app.test_client().get("/pooled-db/data").json

    view = view_of(client, "/hold")
    (lease,) = view["leases"]
    assert (lease["name"], lease["bind"]) == ("endpoint 'hold'", "default")
    assert lease["place"][0].endswith("test_page.py")
    assert lease["age"] >= lease["idle"] >= 0
    (bind,) = view["binds"]
    assert (bind["in_use"], bind["max"], bind["checkouts"]) == (1, 20, 2)
    assert [one["pid"] for one in view["workers"]] == [os.getpid()]
    assert view["verdict"] == {"severity": "good", "text": "All is well"}
    assert (view["app"], view["alone"]) == ("app_under_test", False)


def test_finding_of_an_app(url: str, folder: Path) -> None:
    """A pool that is used up is found in real numbers, who holds it, and who waited in vain."""
    settings = {"maxconnections": 1, "acquire_timeout": 0.05, "runtime_dir": folder}
    with pooled_app(url, **settings) as (app, db):
        app.register_blueprint(db.page_blueprint(authorize=yes))
        client = app.test_client()
        app.add_url_rule("/take", "take", lambda: str(get_db_connection()))
        with db_connection_context():
            before = json.dumps(view_of(client)["sample"])
            assert client.get("/take").status_code == 503
            wait_until(lambda: view_of(client)["binds"][0]["timeouts"])
            view = client.get("/pooled-db/data", headers={BEFORE: before}).json
            assert view is not None
        titles = [one["title"] for one in view["findings"]]
        assert titles[0].startswith(
            "1 caller of the default database got no connection in the last"
        )
        assert titles[1].startswith("The default database has no free connection in worker")
        assert view["verdict"]["text"] == "Callers got no connection, and 1 more"


def test_hostile_data() -> None:
    """Whatever names hold, the data is JSON in ASCII."""
    board = Board()
    body = board.answer(lambda: SCENES["hostile"](30.0))
    assert body.isascii()
    assert json.loads(body)["app"].startswith("<img")


# What it costs


class Asked:
    """Counts how often the numbers are read."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> HostStats:
        self.times += 1
        return host(process())


def test_answers_are_kept_for_a_second() -> None:
    """Many pages cost as much as one; when nobody looks, nothing is read."""
    now, asked = 100.0, Asked()
    board = Board(lambda: now)
    for _ in range(50):
        board.answer(asked)
    assert asked.times == 1
    now += 1.1
    board.answer(asked)
    assert asked.times == 2


def test_slow_read() -> None:
    """While one request waits for a disk, others get the last answer, and do not wait too."""
    now, gate, asked = 100.0, threading.Event(), Asked()
    board = Board(lambda: now)
    first = board.answer(asked)
    now += 2.0

    def hang() -> HostStats:
        gate.wait(PATIENCE)
        return host(process(), process(4102))

    thread = threading.Thread(target=board.answer, args=(hang,))
    thread.start()
    wait_until(lambda: board.is_building, "the one that reads")
    assert board.answer(asked) == first
    gate.set()
    thread.join()
    assert board.answer(asked) != first


def test_failed_read() -> None:
    """A read that fails fails its request alone."""
    board = Board()
    with pytest.raises(ZeroDivisionError):
        board.answer(lambda: 1 // 0)  # type: ignore[arg-type, return-value]
    assert board.answer(Asked())
    assert not board.is_building


@pytest.mark.slow  # no coverage is measured then, which takes its time
@pytest.mark.parametrize(("scene", "share"), [("full-pool", 0.01), ("many-binds", 0.01)])
def test_cost(scene: str, share: float) -> None:
    """An open page takes less than a hundredth of a worker: the processor's time of one answer, of
    which there is one in two seconds.
    """
    stats, times = SCENES[scene](60.0), []
    before = json.dumps(sample_of(stats, time.monotonic()).as_dict())
    client = client_of(yes, lambda seen: Board().answer(lambda: stats, seen))
    for _ in range(5):
        began = time.thread_time()
        assert client.get("/pooled-db/data", headers={BEFORE: before}).status_code == 200
        times.append(time.thread_time() - began)
    assert min(times) / 2.0 < share


def test_files_in_a_wheel(tmp_path: Path) -> None:
    """What a wheel is made of holds the page's document, its scripts, its style and its icon."""
    for name in ("setup.cfg", "README.md", "LICENSE", "flask_pooled_db"):
        subprocess.run(["cp", "-r", PROJECT / name, tmp_path], check=True)
    code = "import setuptools; setuptools.setup()"
    command = [sys.executable, "-W", "ignore", "-c", code, "--quiet", "build_py", "-d", "built"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=PATIENCE)
    built = tmp_path / "built" / "flask_pooled_db"
    assert {*FILES, "page.html"} <= {path.name for path in (built / "flask" / "page").iterdir()}
    assert (built / "py.typed").exists()
