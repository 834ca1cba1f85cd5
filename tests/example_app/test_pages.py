"""The page of the example app, and its answers to other paths."""

from __future__ import annotations

import pytest
from flask.testing import FlaskClient

from example_app.parsing import QUALITIES
from tests.example_app.requests import EVERY_DATABASE, PACKAGE


def test_page(client: FlaskClient) -> None:
    """The page is HTML, offers every quality, and lets nothing in from elsewhere."""
    answer = client.get("/")
    assert answer.status_code == 200
    assert answer.mimetype == "text/html"
    assert answer.headers["Content-Security-Policy"] == "default-src 'self'"
    assert all(f'<option value="{quality}">' in answer.text for quality in QUALITIES)
    assert "http://" not in answer.text
    assert "https://" not in answer.text


@pytest.mark.parametrize("name", sorted(path.name for path in (PACKAGE / "static").iterdir()))
def test_static_files(client: FlaskClient, name: str) -> None:
    """What the page refers to is served."""
    with client.get(f"/static/{name}") as answer:
        assert answer.status_code == 200


def test_unknown_path_and_method(client: FlaskClient) -> None:
    """Flask's own errors are JSON too, with their headers."""
    assert client.get("/nowhere").get_json()["error"]
    answer = client.delete("/scans")
    assert answer.status_code == 405
    assert "POST" in answer.headers["Allow"]
    assert answer.get_json()["error"]


@EVERY_DATABASE
def test_healthz(client: FlaskClient) -> None:
    """200 while the process answers, and while the database does."""
    assert client.get("/healthz/live").status_code == 200
    answer = client.get("/healthz/ready")
    assert answer.status_code == 200
    assert answer.get_json() == {"status": "ready", "binds": {"default": "ok"}}
