"""A real Chromium, as the tests of pages drive it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-sync",
    "--no-first-run",
    "--no-proxy-server",
    "--window-size=1000,1100",
)


@contextmanager
def chromium(folder: Path) -> Iterator[Chrome]:
    """A browser that keeps its own things in this folder, and its console's lines for the test."""
    options = ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for flag in (*FLAGS, f"--user-data-dir={folder}"):
        options.add_argument(flag)
    browser = Chrome(options, Service("/usr/bin/chromedriver"))
    try:
        yield browser
    finally:
        browser.quit()


def complaints(browser: Chrome) -> list[str]:
    """What the console has complained of since it was asked last."""
    log = browser.get_log("browser")  # type: ignore[no-untyped-call]
    return [entry["message"] for entry in log if entry["level"] in ("WARNING", "SEVERE")]


def resize(browser: Chrome, width: int, height: int = 800) -> None:
    """Make the page's own width what it is on a device."""
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def emulate(browser: Chrome, **features: str) -> None:
    """Have the page see other preferences, as prefers_color_scheme="dark"."""
    given = [{"name": name.replace("_", "-"), "value": each} for name, each in features.items()]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": given})


def hurry(browser: Chrome, speed: float) -> None:
    """Let the time of the pages that are loaded from now on run faster."""
    source = f"""
        const [now, wait] = [performance.now.bind(performance), window.setTimeout];
        performance.now = () => now() * {speed};
        window.setTimeout = (call, pause) => wait(call, pause / {speed});
    """
    browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": source})
