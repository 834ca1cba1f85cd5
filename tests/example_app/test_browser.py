"""The scan station's page in a real Chromium: no scan is lost in the browser either."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select, WebDriverWait

from harness.sockets import LOOPBACK, free_port
from harness.waiting import PATIENCE
from tests.example_app.served import Gunicorn
from tests.support.browser import chromium, complaints

pytestmark = pytest.mark.browser

# What a network does that loses an answer: the request arrives, its response does not.
LOSE_ONE_ANSWER = """
    const realFetch = window.fetch;
    window.fetch = async (path, options) => {
      await realFetch(path, options);
      window.fetch = realFetch;
      throw new TypeError("Failed to fetch");
    };
"""
# The page would send what it kept by itself, and hide its button, at any moment.
NO_RETRIES = """
    for (let timer = setTimeout(() => {}); timer > 0; timer--) clearTimeout(timer);
    window.setTimeout = () => 0;
"""


class Station:
    """The page, as a worker sees and uses it."""

    def __init__(self, browser: Chrome) -> None:
        self.browser = browser

    def find(self, selector: str) -> WebElement:
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def field(self, name: str) -> WebElement:
        return self.find(f"#station [name={name}]")

    def set_up(self, order: str = "A-1001", operator: str = "Ann", quality: str = "ok") -> None:
        """Fill in what stays the same from scan to scan."""
        for name, text in (("order", order), ("operator", operator)):
            self.field(name).clear()
            self.field(name).send_keys(text, Keys.TAB)
        Select(self.field("quality")).select_by_value(quality)

    def scan(self, box: str) -> None:
        """Scan as a scanner does that ends with Enter, into whatever has the focus."""
        self.field("box").send_keys(box, Keys.ENTER)

    @property
    def message(self) -> str:
        return self.find("#message").text

    def table(self, selector: str) -> list[list[str]]:
        """The texts of a table's body, read at one moment."""
        script = """return [...document.querySelectorAll(arguments[0] + " tbody tr")].map(
            (row) => [...row.cells].map((cell) => cell.textContent))"""
        rows: list[list[str]] = self.browser.execute_script(script, selector)
        return rows

    @property
    def unsaved(self) -> list[str]:
        return [row[0] for row in self.table("#unsaved")]

    @property
    def last_scans(self) -> list[str]:
        return [row[1] for row in self.table("#scans")]

    def wait(self, condition: Callable[[], object]) -> None:
        WebDriverWait(self.browser, PATIENCE, 0.05).until(lambda _: condition())

    def wait_for_message(self, *parts: str) -> None:
        self.wait(lambda: all(part in self.message for part in parts))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    with chromium(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "scans.sqlite"


@pytest.fixture
def server(tmp_path: Path, file: Path) -> Iterator[Gunicorn]:
    server = Gunicorn(tmp_path, f"sqlite:///{file}", WEB_CONCURRENCY="1")
    server.init_db()
    with server:
        yield server


@pytest.fixture
def station(browser: Chrome, server: Gunicorn) -> Station:
    """The page, loaded. A server on a port of its own is an origin with a storage of its own."""
    browser.get("about:blank")
    browser.get_log("browser")  # type: ignore[no-untyped-call]  # another test's, whose server ended
    browser.get(server.address)
    station = Station(browser)
    station.set_up()
    return station


def saved(file: Path) -> list[tuple[Any, ...]]:
    with contextlib.closing(sqlite3.connect(file)) as connection:
        return connection.execute(
            "SELECT order_code, box, quality FROM scans ORDER BY box"
        ).fetchall()


def test_scan_shows_up(station: Station, file: Path) -> None:
    """A scan is said to be saved, listed and counted, and the next one can follow at once."""
    station.scan("box-1")
    station.wait_for_message("Saved", "BOX-1", "scan 1", "A-1001")
    station.wait(lambda: station.last_scans == ["BOX-1"])
    assert station.find("#approved").text == "1"
    Select(station.field("quality")).select_by_value("dent")
    assert station.browser.switch_to.active_element == station.field("box")
    station.scan("box-2")
    station.wait(lambda: station.last_scans == ["BOX-2", "BOX-1"])
    assert [station.find(f"#{name}").text for name in ("approved", "rejected", "scanned")] == [
        "1",
        "1",
        "2",
    ]
    assert station.field("box").get_attribute("value") == ""
    assert station.browser.switch_to.active_element == station.field("box")
    assert not station.find("#unsaved").is_displayed()
    assert saved(file) == [("A-1001", "BOX-1", "ok"), ("A-1001", "BOX-2", "dent")]
    assert complaints(station.browser) == []


def test_scan_of_another_worker(station: Station, server: Gunicorn) -> None:
    """What another worker scans shows up by itself, for the order on the page alone."""
    body = {"order": "A-1001", "box": "BOX-7", "quality": "ok", "operator": "Bob"}
    assert server.request("POST", "/scans", {**body, "order": "A-1002"})[0] == 201
    assert server.request("POST", "/scans", body)[0] == 201
    station.wait(lambda: station.last_scans == ["BOX-7"])
    assert station.find("#scanned").text == "1"
    station.set_up(order="A-1002")
    station.wait(lambda: station.find("#order-title").text == "Order A-1002")
    assert server.request("POST", "/scans", {**body, "order": "A-1002", "box": "BOX-8"})[0] == 201
    station.wait(lambda: station.last_scans == ["BOX-8", "BOX-7"])
    assert station.find("#message").text == "Ready."
    assert complaints(station.browser) == []


def test_scanner_without_enter(station: Station, file: Path) -> None:
    """A burst of characters submits itself."""
    station.field("box").send_keys("BOX-77")
    station.wait_for_message("Saved", "BOX-77")
    assert saved(file) == [("A-1001", "BOX-77", "ok")]


def test_station_is_remembered(station: Station) -> None:
    """Order, operator and quality outlive a reload, and the focus is on the box."""
    station.set_up("A-1002", "Bob", "label")
    station.browser.refresh()
    values = [
        station.field(name).get_attribute("value") for name in ("order", "operator", "quality")
    ]
    assert values == ["A-1002", "Bob", "label"]
    assert station.browser.switch_to.active_element == station.field("box")


def test_every_control_has_a_name(station: Station) -> None:
    """What a screen reader says for each field."""
    names = [
        station.field(name).accessible_name for name in ("order", "operator", "quality", "box")
    ]
    assert names == ["Order", "Operator", "Quality", "Box"]
    assert station.find("#message").get_attribute("aria-live") == "assertive"


def test_server_away_and_back(station: Station, server: Gunicorn, file: Path) -> None:
    """Not saved is said plainly; when the server is back the scans go by themselves, once each."""
    server.stop()
    station.scan("BOX-1")
    station.wait_for_message("NOT SAVED", "1 scan is")
    station.scan("BOX-2")
    station.wait_for_message("NOT SAVED", "2 scans are")
    assert station.unsaved == ["BOX-1", "BOX-2"]
    assert station.find("#unsaved-count").text == "2 not saved"
    server.start()
    station.wait(lambda: station.unsaved == [])
    station.wait(lambda: station.last_scans == ["BOX-2", "BOX-1"])
    assert "Saved" in station.message
    assert saved(file) == [("A-1001", "BOX-1", "ok"), ("A-1001", "BOX-2", "ok")]


def test_server_away_over_a_reload(station: Station, server: Gunicorn, file: Path) -> None:
    """A reload into the browser's own error page loses nothing."""
    server.stop()
    station.scan("BOX-1")
    station.wait_for_message("NOT SAVED")
    with contextlib.suppress(Exception):
        station.browser.refresh()
    server.start()
    station.browser.get(server.address)
    station.wait(lambda: station.last_scans == ["BOX-1"])
    assert station.unsaved == []
    assert saved(file) == [("A-1001", "BOX-1", "ok")]


def test_database_away_over_a_reload(browser: Chrome, tmp_path: Path, file: Path) -> None:
    """A 503 keeps the scan, a reload shows it, the button sends it when the database is back."""
    nowhere = f"mysql+pymysql://app@{LOOPBACK}:{free_port()}/app"
    server = Gunicorn(tmp_path, nowhere, WEB_CONCURRENCY="1", FLASK_POOLED_DB_ACQUIRE_TIMEOUT="0.2")
    station = Station(browser)
    with server:
        browser.get(server.address)
        station.set_up()
        station.scan("BOX-1")
        station.wait_for_message("NOT SAVED", "1 scan is")
        browser.refresh()
        station.wait(lambda: station.unsaved == ["BOX-1"])
        station.wait_for_message("NOT SAVED", "1 scan is")
        browser.execute_script(NO_RETRIES)
        server.stop()
        server.env["POOLED_DB_URL"] = f"sqlite:///{file}"
        del server.env["FLASK_POOLED_DB_ACQUIRE_TIMEOUT"]
        server.init_db()
        server.start()
        station.find("#send-now").click()
        station.wait(lambda: station.last_scans == ["BOX-1"])
        assert station.unsaved == []
        assert saved(file) == [("A-1001", "BOX-1", "ok")]


def test_lost_answer(station: Station, file: Path) -> None:
    """A scan whose answer was lost is sent again, found saved, and is there once."""
    station.browser.execute_script(LOSE_ONE_ANSWER)
    station.scan("BOX-1")
    station.wait_for_message("BOX-1 was saved before")
    assert station.unsaved == []
    station.wait(lambda: station.last_scans == ["BOX-1"])
    assert saved(file) == [("A-1001", "BOX-1", "ok")]


def test_refused_scan(station: Station, file: Path) -> None:
    """A refused scan is said so, is not sent again, and stays until it is dismissed."""
    station.set_up(order="NOPE")
    station.scan("BOX-1")
    station.wait_for_message("REFUSED", "BOX-1", "no order NOPE")
    station.set_up(order="A-1001")
    station.scan("BOX-2")
    station.wait_for_message("Saved", "BOX-2")
    station.browser.refresh()
    station.wait(lambda: station.unsaved == ["BOX-1"])
    assert not station.find("#send-now").is_displayed()
    station.find("#unsaved tbody button").click()
    assert station.unsaved == []
    assert not station.find("#unsaved").is_displayed()
    station.browser.refresh()
    station.wait(lambda: station.last_scans == ["BOX-2"])
    assert station.unsaved == []
    assert saved(file) == [("A-1001", "BOX-2", "ok")]


def test_box_scanned_with_another_quality(station: Station, file: Path) -> None:
    """Two scans of a box that say different things: the second is refused, with what stands."""
    station.scan("BOX-1")
    station.wait_for_message("Saved", "BOX-1")
    Select(station.field("quality")).select_by_value("dent")
    station.scan("BOX-1")
    station.wait_for_message("REFUSED", "BOX-1", "saved as ok", "Ann")
    assert station.unsaved == ["BOX-1"]
    assert saved(file) == [("A-1001", "BOX-1", "ok")]


def test_data_is_text(station: Station) -> None:
    """Markup in what workers type is shown as it was typed."""
    name = "<img src=x onerror=document.title='hit'>"
    station.set_up(operator=name)
    station.scan("BOX-1")
    station.wait(lambda: station.table("#scans") != [])
    assert station.table("#scans")[0][3] == name
    station.set_up(order="NOPE", operator=name)
    station.scan("<b>x</b>")
    station.wait(lambda: station.unsaved == ["<b>x</b>"])
    assert station.browser.find_elements(By.CSS_SELECTOR, "main img, main td b") == []
    assert station.browser.title == "Scan station"
