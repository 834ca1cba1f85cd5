"""The example app's page of the pools in a real Chromium, with several workers under gunicorn."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from harness.waiting import PATIENCE
from tests.example_app.served import Gunicorn
from tests.support.browser import chromium, complaints

pytestmark = [pytest.mark.browser, pytest.mark.slow]

TEXT = "return document.querySelector(arguments[0])?.innerText ?? ''"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    with chromium(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Gunicorn]:
    env = {
        "WEB_CONCURRENCY": "2",
        "FLASK_TROUBLE_SECONDS": "25",
        "FLASK_POOLED_DB_ACQUIRE_TIMEOUT": "2",
        "FLASK_POOLED_DB_RUNTIME_DIR": str(tmp_path / "run"),
    }
    server = Gunicorn(tmp_path, f"sqlite:///{tmp_path}/scans.sqlite", **env)
    server.init_db()
    with server:
        yield server


def test_trouble_is_seen(browser: Chrome, server: Gunicorn) -> None:
    """A visitor makes trouble by a button, and sees on the page what is wrong, whichever worker
    answers; then a worker that was killed; then that the server is away, and that it is back.
    """

    def text(selector: str) -> str:
        return str(browser.execute_script(TEXT, selector))

    def wait(condition: Callable[[], object]) -> None:
        WebDriverWait(browser, PATIENCE, 0.1).until(lambda _: condition())

    server.get("/orders")
    server.get("/pooled-db/data")  # from here on what happens is told
    browser.get(f"{server.address}trouble")
    browser.find_element(By.XPATH, "//button[text()='Burst']").click()
    wait(lambda: "“burst” is under way" in text("#message"))
    browser.get(f"{server.address}pooled-db/")
    wait(lambda: "has no free connection in worker" in text("#findings"))
    holder = "Endpoint 'trouble.call_something_slow' holds 20 of 20 connections"
    wait(lambda: holder in text("#findings"))
    remedy = "Does endpoint 'trouble.call_something_slow' call something slow"
    wait(lambda: remedy in text("#findings"))
    assert "example_app/trouble.py" in text("#leases")
    wait(lambda: "5 callers of the default database got no connection" in text("#findings"))

    def sees_both() -> bool:
        server.request("GET", "/orders")  # until each of the two has used its pool
        return len(browser.find_elements(By.CSS_SELECTOR, "#workers tbody tr")) == 2

    wait(sees_both)
    first = int(text("#workers tbody th"))
    assert first in server.workers()
    os.kill(first, signal.SIGKILL)
    wait(lambda: "1 worker has ended in the last" in text("#findings"))
    assert str(first) in text("#findings")
    assert complaints(browser) == []

    server.stop()
    wait(lambda: text("#headline").startswith("No answer since "))
    server.start()
    wait(lambda: text("#link-text").startswith("Live"))
    complaints(browser)
