"""The workshops of the example app: a database for each customer, opened by its name."""

from __future__ import annotations

import contextlib
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from example_app import create_app, tenants
from example_app.database import db
from flask_pooled_db import PoolClosed, UnknownBind
from harness.proxy import Proxy
from harness.server import MariaDBServer
from harness.sockets import LOOPBACK, free_port
from harness.waiting import wait_until
from tests.example_app.requests import EVERY_DATABASE, close
from tests.example_app.served import Gunicorn

JOB = {"bicycle": "Red Kettler", "work": "Two spokes"}


@pytest.fixture
def app(url: str, tmp_path: Path) -> Iterator[Flask]:
    app = worker(url, tmp_path / "50% #1?")
    yield app
    end(app)


@pytest.fixture
def other(app: Flask) -> Iterator[FlaskClient]:
    """Another worker on the same databases."""
    app = worker(app.config["POOLED_DB_URL"], Path(app.config["WORKSHOPS_FOLDER"]))
    yield app.test_client()
    end(app)


def end(app: Flask) -> None:
    """Leave no database on a shared server. The end of one worker closes the pools of both."""
    with app.app_context(), contextlib.suppress(PoolClosed):
        for (name,) in db.fetch_all("SELECT name FROM workshops"):
            tenants.remove(name)
    close(app)


def worker(url: str, folder: Path, **config: Any) -> Flask:
    """The app, as each worker has it for itself."""
    return create_app({"POOLED_DB_URL": url, "WORKSHOPS_FOLDER": str(folder), **config})


def name_in(path: str) -> str:
    return path.rpartition("/")[2]


def add(client: FlaskClient, customer: str = "Ann") -> str:
    """Add a workshop; the path of its page."""
    answer = client.post("/workshops", data={"customer": customer})
    assert answer.status_code == 303, answer.text
    return answer.headers["Location"]


def files(app: Flask) -> list[str]:
    return sorted(path.name for path in Path(app.config["WORKSHOPS_FOLDER"]).glob("*"))


def is_open(app: Flask, path: str) -> bool:
    with app.app_context():
        return name_in(path) in tenants.open_here()


@EVERY_DATABASE
def test_each_workshop_has_its_own_jobs(client: FlaskClient, app: Flask) -> None:
    """A workshop that was added takes jobs at once, and no other workshop shows them."""
    ann, bob = add(client, "Ann <b>"), add(client, "Zoë 😀")
    assert client.post(f"{ann}/jobs", data=JOB).headers["Location"] == ann
    assert "Two spokes" in client.get(ann).text
    assert "Two spokes" not in client.get(bob).text
    assert is_open(app, ann)
    listed = client.get("/workshops").text
    assert "Ann &lt;b&gt;" in listed
    assert "Zoë 😀" in listed
    assert listed.count('class="open"') == 2


@EVERY_DATABASE
def test_removed_workshop(
    client: FlaskClient, app: Flask, caplog: pytest.LogCaptureFixture
) -> None:
    """A workshop that was removed is gone, with its database, and closed; the others stay."""
    ann, bob = add(client, "Ann"), add(client, "Bob")
    assert client.post(f"{ann}/remove").headers["Location"] == "/workshops"
    assert not is_open(app, ann)
    for answer in (
        client.get(ann),
        client.post(f"{ann}/jobs", data=JOB),
        client.post(f"{ann}/remove"),
    ):
        assert answer.status_code == 404
        assert "There is no such workshop." in answer.text
    assert client.get(bob).status_code == 200
    assert not caplog.records


def test_file_of_a_workshop(client: FlaskClient, app: Flask) -> None:
    """On SQLite a workshop is a file, named by the app and never by its customer."""
    path = add(client, "../../evil")
    assert {file.partition(".")[0] for file in files(app)} == {name_in(path)}
    client.post(f"{path}/remove")
    assert files(app) == []


@pytest.mark.parametrize(
    "url", [pytest.param("pymysql", marks=pytest.mark.shared_server)], indirect=True
)
def test_database_of_a_workshop(client: FlaskClient, mariadb: MariaDBServer) -> None:
    """On MariaDB a workshop is a database, and no connection to it is left after its end."""
    path = add(client)
    name = name_in(path)
    assert mariadb.query("SHOW DATABASES LIKE %s", name) == [(name,)]
    client.post(f"{path}/remove")
    assert mariadb.query("SHOW DATABASES LIKE %s", name) == []
    wait_until(lambda: not mariadb.connections(database=name), "the end of its connections")


@pytest.mark.parametrize("name", ["default", "workshop_00000000", "..%2Fscans", "x" * 5000, "%00"])
def test_unknown_workshop(client: FlaskClient, name: str) -> None:
    """Any name that the app has not made is a 404 page."""
    answer = client.get(f"/workshops/{name}")
    assert answer.status_code == 404
    assert answer.mimetype in ("text/html", "application/json")


def test_idle_workshop_is_closed(url: str, tmp_path: Path) -> None:
    """A workshop that nobody uses is closed, the list says so, and its next use opens it."""
    app = worker(url, tmp_path, POOLED_DB_BIND_IDLE_TIMEOUT=0.05)
    app.test_cli_runner().invoke(args=["init-db"])
    client = app.test_client()
    path = add(client)
    wait_until(lambda: not is_open(app, path), "the end of an idle workshop")
    assert "closed</td>" in client.get("/workshops").text
    assert client.post(f"{path}/jobs", data=JOB).status_code == 303
    assert "Two spokes" in client.get(path).text
    close(app)


@EVERY_DATABASE
@pytest.mark.parametrize("method", ["show", "add job", "remove"])
def test_removed_by_another_worker(
    client: FlaskClient, app: Flask, other: FlaskClient, method: str
) -> None:
    """A workshop that another worker has removed is a 404 where it is open still, and is closed
    there; nothing is written into what is left of it.
    """
    path = add(client)
    assert {worker.get(path).status_code for worker in (client, other)} == {200}
    assert other.post(f"{path}/remove").status_code == 303
    assert is_open(app, path)
    if method == "show":
        answer = client.get(path)
    else:
        answer = client.post(f"{path}/{'jobs' if method == 'add job' else 'remove'}", data=JOB)
    assert answer.status_code == 404
    assert not is_open(app, path)
    assert files(app) == []


@EVERY_DATABASE
@pytest.mark.parametrize("state", ["closed", "open, without a connection"])
def test_removed_amid_a_request(
    client: FlaskClient, app: Flask, other: FlaskClient, state: str
) -> None:
    """A request that has seen the workshop just before another worker removes it is a 404 too, and
    makes no file anew.
    """
    path = add(client)
    name = name_in(path)

    def use_it_after_its_removal() -> None:
        with tenants.existing(name):
            if state == "closed":
                db.close_bind(name)
            else:
                db.replace_bind(name)
                db.pool(name)
            assert other.post(f"{path}/remove").status_code == 303
            db.fetch_all("SELECT * FROM jobs", bind=name)

    with app.app_context(), pytest.raises(UnknownBind):
        use_it_after_its_removal()
    assert not is_open(app, path)
    assert files(app) == []


def test_workers_of_gunicorn(tmp_path: Path) -> None:
    """Each worker opens a workshop for itself; what one has removed is a 404 in all of them."""
    env = {"WEB_CONCURRENCY": "2", "FLASK_WORKSHOPS_FOLDER": str(tmp_path)}
    gunicorn = Gunicorn(tmp_path, f"sqlite:///{tmp_path}/scans.sqlite", **env)
    gunicorn.init_db()
    with gunicorn:
        assert gunicorn.submit("/workshops", customer="Ann")
        (path,) = re.findall(r"/workshops/workshop_\w+", gunicorn.request("GET", "/workshops")[1])

        def is_open_everywhere() -> bool:
            assert gunicorn.request("GET", path)[0] == 200
            text = gunicorn.request("GET", "/workshops")[1]
            if 'class="open"' in text:
                workers.update(re.findall(r"process (\d+)", text))
            return len(workers) == 2

        workers: set[str] = set()
        wait_until(is_open_everywhere, "both workers' use of the workshop")
        assert gunicorn.submit(f"{path}/jobs", **JOB) == 303
        assert gunicorn.submit(f"{path}/remove") == 303
        assert {gunicorn.request("GET", path)[0] for _ in range(20)} == {404}
        assert gunicorn.stop() == 0
    assert "Traceback" not in gunicorn.log
    assert list(tmp_path.glob("workshop*")) == []


def test_pages_let_nothing_in(client: FlaskClient) -> None:
    """Pages load nothing from elsewhere, and take no form that another site sent."""
    path = add(client)
    for page in ("/workshops", path, "/workshops/none"):
        assert client.get(page).headers["Content-Security-Policy"] == "default-src 'self'"
    elsewhere = {"Sec-Fetch-Site": "cross-site"}
    assert client.post(f"{path}/remove", headers=elsewhere).status_code == 403
    assert client.get(path, headers=elsewhere).status_code == 200


@pytest.mark.parametrize("customer", ["", "  ", "x" * 65, "a\nb"])
def test_wrong_customer(client: FlaskClient, app: Flask, customer: str) -> None:
    """A form that is not right is a page that says what is wrong, and makes nothing."""
    answer = client.post("/workshops", data={"customer": customer})
    assert answer.status_code == 400
    assert "customer must be" in answer.text
    assert files(app) == []


def test_wrong_job(client: FlaskClient) -> None:
    """So is one with a job."""
    path = add(client)
    answer = client.post(f"{path}/jobs", data={"bicycle": "x", "work": "y" * 201})
    assert answer.status_code == 400
    assert "work must be 200 characters at most" in answer.text


@pytest.mark.shared_server
def test_user_without_the_right(mariadb: MariaDBServer, tmp_path: Path) -> None:
    """A user who may not create databases is told so in the page, and nothing is left."""
    main, user = mariadb.create_database(), f"u{uuid.uuid4().hex[:8]}"
    mariadb.execute(f"CREATE USER '{user}'@'%%' IDENTIFIED BY %s", "secret")
    try:
        mariadb.execute(f"GRANT ALL ON `{main}`.* TO '{user}'@'%'")
        app = worker(mariadb.url("pymysql", main, user, "secret"), tmp_path)
        assert app.test_cli_runner().invoke(args=["init-db"]).exit_code == 0
        answer = app.test_client().post("/workshops", data={"customer": "Ann"})
        assert answer.status_code == 503
        assert "needs the right" in answer.text
        assert "There is none yet." in app.test_client().get("/workshops").text
        close(app)
    finally:
        mariadb.execute(f"DROP USER '{user}'@'%'")


def test_folder_that_cannot_be_written(url: str, tmp_path: Path) -> None:
    """On SQLite, so is a folder that can't be made."""
    (tmp_path / "file").touch()
    app = worker(url, tmp_path / "file" / "folder")
    app.test_cli_runner().invoke(args=["init-db"])
    answer = app.test_client().post("/workshops", data={"customer": "Ann"})
    assert answer.status_code == 503
    assert "WORKSHOPS_FOLDER" in answer.text
    close(app)


@pytest.mark.parametrize("url", ["postgresql://app@h/shop", {"drivername": "mysql"}])
def test_database_without_workshops(url: Any, tmp_path: Path) -> None:
    """On another database, or with a URL in parts, the page says what workshops take."""
    answer = worker(url, tmp_path).test_client().post("/workshops", data={"customer": "Ann"})
    assert answer.status_code == 503
    assert "has to be the text of a URL of SQLite, MariaDB or MySQL" in answer.text


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("mysql+pymysql://u:p@h1:3306,h2/shop", "mysql+pymysql://u:p@h1:3306,h2/new"),
        ("mariadb://u:a/b?c#d@h/shop", "mariadb://u:a/b?c#d@h/new"),
        ("mysql://u@h", "mysql://u@h/new"),
        ("mysql://h?ssl_ca=/etc/ca.pem", "mysql://h/new?ssl_ca=/etc/ca.pem"),
        ("mysql:///shop?unix_socket=/run/s", "mysql:///new?unix_socket=/run/s"),
        ("mysql://u@[::1]:3306/shop", "mysql://u@[::1]:3306/new"),
    ],
)
def test_url_beside(url: str, expected: str) -> None:
    """A workshop's URL is that of the main database, but for the database's name."""
    assert tenants.beside(url, "new") == expected


def test_database_away(tmp_path: Path) -> None:
    """While the database is down, each page says so, in a page."""
    nowhere = f"mysql+pymysql://app@{LOOPBACK}:{free_port()}/app"
    app = worker(nowhere, tmp_path, POOLED_DB_ACQUIRE_TIMEOUT=0.1)
    client = app.test_client()
    pages = [client.get("/workshops"), client.post("/workshops", data={"customer": "Ann"})]
    for answer in (*pages, client.get("/workshops/workshop_00000000")):
        assert (answer.status_code, answer.mimetype) == (503, "text/html")
        assert "The database is away" in answer.text
        assert answer.headers["Retry-After"]
    close(app)


def test_lost_answer_to_commit(server: MariaDBServer, proxy: Proxy, tmp_path: Path) -> None:
    """Where nobody knows whether a job was saved the page says so: a second try would add another
    one.
    """
    url = server.url("pymysql", server.create_database(), port=proxy.port)
    app = worker(url, tmp_path)
    assert app.test_cli_runner().invoke(args=["init-db"]).exit_code == 0
    client = app.test_client()
    path = add(client)
    proxy.hold_replies_to(b"COMMIT")
    answer = client.post(f"{path}/jobs", data=JOB)
    assert answer.status_code == 503
    assert "look before you send it again" in answer.text
    assert "Two spokes" in client.get(path).text
    end(app)
