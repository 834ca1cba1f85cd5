"""Makes the screenshots of the page that the documentation shows: `python -m` with this module's
name. With a folder, it makes those of every scene in there, wide and narrow, light and dark.
"""

from __future__ import annotations

import base64
import struct
import sys
import tempfile
import time
import zlib
from pathlib import Path

from selenium.webdriver import Chrome

from flask_pooled_db.host import HostStats
from harness.processes import PROJECT
from tests.support.browser import chromium, emulate, hurry, resize
from tests.support.page_scenes import SCENES, all_well, full_pool
from tests.support.page_served import ServedScene

SPEED = 30.0
SECONDS = 290.0 / SPEED
"""Until the charts are full, nearly."""

IMAGES = PROJECT / "docs" / "images"
WIDE, HIGH, NARROW = 1280, 800, 390
TALLEST = 3000


CALM = 210.0
"""Seconds for which all is well in the documentation's scene."""

COLOURS = """
    const [source, done] = arguments;
    const image = new Image();
    image.onload = () => {
      const canvas = new OffscreenCanvas(image.width, image.height);
      const context = canvas.getContext("2d");
      context.drawImage(image, 0, 0);
      const { data } = context.getImageData(0, 0, image.width, image.height);
      const counts = new Map();
      const pixels = new Uint32Array(data.buffer);
      for (const pixel of pixels) counts.set(pixel, (counts.get(pixel) ?? 0) + 1);
      const parts = (pixel) => [pixel & 255, (pixel >> 8) & 255, (pixel >> 16) & 255];
      const known = [];
      const is_like = (one, other) => one.every((part, at) => Math.abs(part - other[at]) < 7);
      for (const [pixel] of [...counts].sort((a, b) => b[1] - a[1])) {
        const colour = parts(pixel);
        if (known.length < 256 && !known.some((one) => is_like(one, colour))) known.push(colour);
      }
      const nearest = new Map();
      const find = (pixel) => {
        const [red, green, blue] = parts(pixel);
        let [best, least] = [0, Infinity];
        known.forEach(([r, g, b], at) => {
          const distance = (r - red) ** 2 + (g - green) ** 2 + (b - blue) ** 2;
          if (distance < least) [best, least] = [at, distance];
        });
        nearest.set(pixel, best);
        return best;
      };
      const indexes = Array.from(pixels, (pixel) => nearest.get(pixel) ?? find(pixel));
      done([image.width, image.height, known.flat(), indexes]);
    };
    image.src = source;
"""
"""Makes an image one of the 256 colours that it has most of, of those that differ."""


def chunk(kind: bytes, data: bytes) -> bytes:
    """A part of a PNG file."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def smaller(browser: Chrome, path: Path) -> None:
    """Write an image anew, with a palette: it takes a third of the room."""
    source = "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
    browser.get("about:blank")
    width, height, palette, indexes = browser.execute_async_script(COLOURS, source)
    rows = [b"\0" + bytes(indexes[at : at + width]) for at in range(0, width * height, width)]
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    parts = (
        (b"IHDR", header),
        (b"PLTE", bytes(palette)),
        (b"IDAT", zlib.compress(b"".join(rows), 9)),
    )
    chunks = b"".join(chunk(kind, data) for kind, data in (*parts, (b"IEND", b"")))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)


def rising(at: float) -> HostStats:
    """All is well; then one endpoint uses a pool up."""
    return all_well(at) if at < CALM else full_pool(at - CALM)


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
        served.show(rising)
        resize(browser, WIDE, HIGH)
        browser.get(served.address)
        time.sleep(SECONDS)
        for scheme in ("light", "dark"):
            emulate(browser, prefers_color_scheme=scheme)
            time.sleep(0.3)
            capture(browser, IMAGES / f"pool-page-{scheme}.png", WIDE, HIGH)
    for scheme in ("light", "dark"):
        smaller(browser, IMAGES / f"pool-page-{scheme}.png")


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
