"""Makes the screenshots of the page that the documentation shows: `python -m` with this module's
name. With a folder, it makes those of every scene in there, wide and narrow, light and dark.
"""

from __future__ import annotations

import base64
import sys
import tempfile
import time
from pathlib import Path

from selenium.webdriver import Chrome

from harness.processes import PROJECT
from tests.support.browser import chromium, emulate, hurry, resize
from tests.support.page_scenes import SCENES
from tests.support.page_served import ServedScene

SPEED = 30.0
SECONDS = 290.0 / SPEED
"""Until the charts are full, nearly."""

IMAGES = PROJECT / "docs" / "images"
WIDE, HIGH, NARROW = 1280, 800, 390
TALLEST = 3000


def capture(browser: Chrome, path: Path, width: int, height: int) -> None:
    """Write what the page shows at its top."""
    clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
    options = {"captureBeyondViewport": True, "clip": clip}
    told = browser.execute_cdp_cmd("Page.captureScreenshot", options)
    path.write_bytes(base64.b64decode(told["data"]))


def of_documentation(browser: Chrome) -> None:
    """The first look at a pool that is used up."""
    IMAGES.mkdir(exist_ok=True)
    with ServedScene("full-pool", speed=SPEED) as served:
        resize(browser, WIDE, HIGH)
        browser.get(served.address)
        time.sleep(SECONDS)
        for scheme in ("light", "dark"):
            emulate(browser, prefers_color_scheme=scheme)
            time.sleep(0.3)
            capture(browser, IMAGES / f"pool-page-{scheme}.png", WIDE, HIGH)


def of_scenes(browser: Chrome, folder: Path) -> None:
    """Every scene, to be looked at."""
    folder.mkdir(exist_ok=True)
    for name in SCENES:
        with ServedScene(name, speed=SPEED) as served:
            for width in (WIDE, NARROW):
                resize(browser, width, HIGH)
                browser.get(served.address)
                time.sleep(SECONDS / 2)
                for scheme in ("light", "dark"):
                    emulate(browser, prefers_color_scheme=scheme)
                    time.sleep(0.3)
                    height = browser.execute_script("return document.documentElement.scrollHeight")
                    path = folder / f"{name}-{width}-{scheme}.png"
                    capture(browser, path, width, min(height, TALLEST))


def main(arguments: list[str]) -> None:
    """Make the screenshots that are asked for."""
    with tempfile.TemporaryDirectory() as own, chromium(Path(own)) as browser:
        hurry(browser, SPEED)
        if arguments:
            of_scenes(browser, Path(arguments[0]))
        else:
            of_documentation(browser)


if __name__ == "__main__":
    main(sys.argv[1:])
