"""The page in a real Chromium, of hosts that are made up: what people see, hear and do."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from selenium.webdriver import Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from flask_pooled_db.host import HostStats
from harness.waiting import PATIENCE, wait_until
from tests.support.browser import chromium, complaints, emulate, hurry, resize
from tests.support.page_scenes import SCENES, host, load, pool, process
from tests.support.page_served import ServedScene

pytestmark = pytest.mark.browser

SPEED = 20.0
"""How much faster than ours the time of these pages and hosts is."""

SCROLLS = "return document.documentElement.scrollWidth > document.documentElement.clientWidth"
STANDS_OUT = """
    const right = (node) => node.getBoundingClientRect().right;
    return [...document.querySelectorAll(".tile *")]
      .filter((node) => right(node) > right(node.closest(".tile")) + 1)
      .map((node) => node.textContent)"""
TEXTS = "return document.querySelector(arguments[0])?.innerText ?? ''"
ROWS = """return [...document.querySelectorAll(arguments[0] + " tbody tr")].map(
    (row) => [...row.cells].map((cell) => cell.innerText))"""
COUNT_CHANGES = """
    window.changes = 0;
    const counter = new MutationObserver((all) => { window.changes += all.length; });
    const watched = document.querySelector(arguments[0]);
    counter.observe(watched, { childList: true, characterData: true, subtree: true });
"""
HIDE = """
    Object.defineProperty(document, "hidden", { value: arguments[0], configurable: true });
    document.dispatchEvent(new Event("visibilitychange"));
"""


class Page:
    """The page, as its visitor sees and uses it."""

    def __init__(self, browser: Chrome, served: ServedScene) -> None:
        self.browser = browser
        self.served = served

    def open(self) -> None:
        self.browser.get(self.served.address)
        self.wait(lambda: self.text("#link-text").startswith("Live"))

    def find(self, selector: str) -> WebElement:
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        return str(self.browser.execute_script(TEXTS, selector))

    def rows(self, table: str) -> list[list[str]]:
        found: list[list[str]] = self.browser.execute_script(ROWS, table)
        return found

    def wait(self, condition: Callable[[], object]) -> None:
        WebDriverWait(self.browser, PATIENCE, 0.05).until(lambda _: condition())

    def wait_for_polls(self, number: int = 3) -> None:
        """Wait until it has asked for the numbers a few times more."""
        wanted = self.served.asked + number
        wait_until(lambda: self.served.asked >= wanted, "the next polls")

    def run(self, script: str, *args: Any) -> Any:
        return self.browser.execute_script(script, *args)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    with chromium(tmp_path_factory.mktemp("chromium")) as browser:
        hurry(browser, SPEED)
        yield browser


@pytest.fixture(scope="module")
def served() -> Iterator[ServedScene]:
    with ServedScene("all-well", speed=SPEED) as served:
        yield served


@pytest.fixture
def page(request: pytest.FixtureRequest, browser: Chrome, served: ServedScene) -> Page:
    """The page of a scene, loaded, on a wide screen."""
    served.show(getattr(request, "param", "all-well"))
    resize(browser, 1280)
    page = Page(browser, served)
    complaints(browser)
    page.open()
    return page


def of(scene: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("page", [scene], indirect=True, ids=[scene])


FULLEST = "On the server\n41 of 151\nActive, idle\n5, 34\nIdle in transaction"

HEADLINES = {
    "all-well": r"✓ All is well",
    "full-pool": r"✖ A pool has no free connection",
    "leak": r"▲ A transaction rests on a server, and \d more",
    "database-away": r"✖ A database is away",
    "worker-killed": r"▲ (A worker is silent|Workers have ended)",
    "many-binds": r"✖ A pool has no free connection",
    "hostile": r"✖ A database is away, and \d more",
    "nothing-yet": r"i No worker has used a database yet",
}


@pytest.mark.parametrize(
    ("page", "headline"), HEADLINES.items(), indirect=["page"], ids=list(HEADLINES)
)
def test_scene(page: Page, headline: str) -> None:
    """The first line says what is wrong; on a phone nothing has to be scrolled sideways; no text
    stands out of its tile; and the browser has nothing to complain of: the content security policy
    holds.
    """
    page.wait(lambda: re.search(headline, page.text("#verdict h2")))
    for width in (1280, 390):
        resize(page.browser, width)
        assert not page.run(SCROLLS), width
        assert page.run(STANDS_OUT) == [], width
    assert complaints(page.browser) == []


def test_all_scenes() -> None:
    """Every host that is made up is looked at."""
    assert HEADLINES.keys() == SCENES.keys()


@of("full-pool")
def test_who_holds_connections(page: Page) -> None:
    """A pool that is used up: the finding, the longest leases with file and line, the callers by
    their share, and the state of the database.
    """
    page.wait(lambda: "Endpoint 'orders' holds 18 of 20" in page.text("#findings"))
    row = page.rows("#leases")[0]
    assert row[0] == "orders shop/views/orders.py:41"
    assert row[1] == "default"
    assert re.fullmatch(r"▲ \d+ s", row[2])
    assert (row[3], row[5], row[6]) == ("95 %", "● open", "4101")
    page.wait(lambda: page.rows("#endpoints")[0][0] == "orders")
    assert "✖ used up in 1 of 3" in page.rows("#binds")[0][1]
    assert "mysql db.internal:3306/shop" in page.rows("#binds")[0][0]
    page.wait(lambda: "▲" in page.text("#rates"))


def test_server_load(page: Page) -> None:
    """What the fullest server's connections do, and what those of one database's do."""
    page.wait(lambda: page.text("#rates").endswith(FULLEST + "\n2, up to 700 ms"))
    page.run("[...document.querySelectorAll('#binds .pick')].at(-1).click()")
    page.wait(lambda: page.text("#scope") == "of reports")
    assert page.text("#rates").endswith("On the server\n9 of 97\nActive, idle\n1, 8")
    page.find("#unscope").click()


@of("leak")
def test_server_rests_in_transaction(page: Page) -> None:
    """A transaction in which nothing runs for long is marked, and found."""
    page.wait(lambda: page.text("#rates").endswith(FULLEST + "\n▲ 2, up to 5 min"))
    page.wait(lambda: "2 connections of the server of the default" in page.text("#findings"))


@pytest.mark.parametrize("told", [{"in_transaction": None, "oldest": None}, None])
def test_server_tells_less(page: Page, told: dict[str, Any] | None) -> None:
    """What a server does not tell this account is not shown; nothing is, where it tells nothing."""
    server = told and load(**told)
    page.served.show(lambda at: host(process(pools={"a": pool(checkouts=int(at), server=server)})))
    page.wait(lambda: page.rows("#binds") and page.rows("#binds")[0][0].startswith("a"))
    page.wait_for_polls()
    assert ("On the server\n41 of 151\nActive, idle\n5, 34" in page.text("#rates")) == bool(told)
    assert "Idle in transaction" not in page.text("#rates")
    assert complaints(page.browser) == []


@of("database-away")
def test_database_away(page: Page) -> None:
    """A database that is away: which one, since when and why; the others go on."""
    page.wait(lambda: "has been away for" in page.text("#findings"))
    assert "OperationalError (2003)" in page.text("#findings")
    states = {row[0].split("\n")[0]: row[1] for row in page.rows("#binds")}
    assert states["default"].startswith("✖ away for")
    assert not states["reports"].startswith("✖")


@of("worker-killed")
def test_workers(page: Page) -> None:
    """Workers that were killed have ended; one that hangs is pointed out in the table too."""
    page.wait(lambda: "workers have ended" in page.text("#findings"))
    page.wait(lambda: page.rows("#workers")[0][3].startswith("▲"))
    assert page.rows("#workers")[0][0] == "4101"


@of("hostile")
def test_hostile_names(page: Page) -> None:
    """Markup is text, nothing runs, and no character is on the page that cannot be seen."""
    page.wait_for_polls()
    for button in page.browser.find_elements(By.CSS_SELECTOR, ".more:not([hidden])"):
        button.click()
    assert page.browser.title.startswith("✖ <img src=x")
    assert page.browser.find_elements(By.CSS_SELECTOR, "body img, body script") == []
    shown = page.run("return document.body.textContent + document.title")
    assert "<script>" in shown
    assert r"\u{202e}gpj.exe" in shown
    assert not re.search(
        "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\ud800-\udfff]", shown
    )
    assert complaints(page.browser) == []


@of("many-binds")
def test_many_databases(page: Page) -> None:
    """Of 200 databases those are shown that need it, with what the others do in one line; all on
    demand; and a filter finds one.
    """
    assert page.rows("#binds")[0][0].startswith("customer-117")
    assert len(page.rows("#binds")) == 8
    assert re.search(r"193 more databases: \d+ in use", page.text("#binds ~ .note"))
    page.find("#filter").send_keys("-04")
    page.wait(lambda: page.text("#filtered") == "10 of 201")
    page.wait_for_polls()
    assert page.browser.switch_to.active_element == page.find("#filter")
    assert all("customer-04" in row[0] for row in page.rows("#binds"))
    page.find("#filter").clear()
    page.find("#filter").send_keys("nobody")
    page.wait(lambda: page.text("#binds ~ .note") == "No database has a name like that.")
    page.find("#filter").send_keys(Keys.BACKSPACE * 6)
    page.find("#pause").click()  # so many rows take a while, and time runs fast here
    page.find("#binds ~ .more").click()
    assert len(page.rows("#binds")) == 201
    page.find("#binds ~ .more").click()
    assert len(page.rows("#binds")) == 8
    assert complaints(page.browser) == []


@of("many-binds")
def test_one_database(page: Page) -> None:
    """The charts tell of one database when its name is chosen, by keyboard too; the focus stays
    where it is while numbers come in and rows change their places.
    """
    name = "customer-117"
    button = page.find("#binds tbody .pick")
    button.send_keys(Keys.ENTER)
    page.wait(lambda: page.text("#scope") == f"of {name}")
    assert page.find("#binds tbody .pick").get_attribute("aria-pressed") == "true"
    assert page.text("#tile-waiting b").endswith("6")
    page.wait_for_polls()
    assert page.browser.switch_to.active_element.text == name
    page.find("#unscope").click()
    page.wait(lambda: page.text("#scope") == "")


def test_focus_in_rows_that_move(page: Page) -> None:
    """The focus stays on a database's name while its row goes up and down."""

    def swapping(at: float) -> HostStats:
        used = (1, 2) if int(at / 3) % 2 else (2, 1)
        pools = {name: pool(in_use=number) for name, number in zip("ab", used, strict=True)}
        return host(process(pools=pools))

    page.served.show(swapping)
    page.wait(lambda: len(page.rows("#binds")) == 2 and page.rows("#binds")[0][0][0] in "ab")
    orders = set()

    def has_moved() -> bool:
        orders.add("".join(row[0][0] for row in page.rows("#binds")))
        return len(orders) == 2

    buttons = page.browser.find_elements(By.CSS_SELECTOR, "#binds .pick")
    (button,) = [one for one in buttons if one.text == "a"]
    page.run("arguments[0].focus()", button)
    for _ in range(2):
        orders.clear()
        page.wait(has_moved)
        assert page.browser.switch_to.active_element == button


def test_first_look(page: Page) -> None:
    """The charts begin empty, and say why; then they fill."""
    assert "the server keeps no history" in page.text("#begun")
    page.wait(lambda: page.text("#begun").startswith("Since "))
    length = (
        "return document.querySelector('#tile-in_use .line').getAttribute('d').split('L').length"
    )
    before = page.run(length)
    page.wait(lambda: page.run(length) > before + 3)
    assert re.fullmatch(r"p50\n(<1|\d+) ms\np95\n.*\np99\n.*", page.text("#wait"))


def test_server_lost_and_back(page: Page) -> None:
    """A page without its server says so, and since when, and keeps what it has; it goes on by
    itself.
    """
    page.wait_for_polls(8)
    points = (
        "return document.querySelector('#tile-in_use .line').getAttribute('d').split('L').length"
    )
    page.served.stop()
    try:
        page.wait(lambda: page.text("#headline").startswith("No answer since "))
        page.wait(lambda: "The server does not answer." in page.text("#findings"))
        assert page.text("#link-text") == "No answer"
        assert page.browser.title.startswith("✖")
        rows = page.rows("#binds")
        assert [row[0].split("\n")[0] for row in rows] == ["default", "reports"]
        before = page.run(points)
        said = page.text("#findings")
        page.wait(lambda: page.text("#findings") != said)  # it has tried again
        assert page.rows("#binds") == rows
    finally:
        page.served.start()
    page.wait(lambda: page.text("#headline") == "All is well")
    assert page.text("#link-text").startswith("Live")
    page.wait(lambda: page.run(points) >= before)
    complaints(page.browser)


def test_signed_out(page: Page) -> None:
    """A visitor who is not let in any more is told so."""
    page.served.is_let_in = False
    try:
        page.wait(lambda: "You are not let in any more" in page.text("#findings"))
    finally:
        page.served.is_let_in = True
    page.wait(lambda: page.text("#headline") == "All is well")
    complaints(page.browser)


def test_hidden_tab(page: Page) -> None:
    """A tab that nobody sees asks for nothing; it asks at once when it is seen again."""
    page.wait_for_polls(2)
    page.run(HIDE, True)
    before = page.served.asked + 1  # one may be under way
    began = page.run("return performance.now()")
    page.wait(lambda: page.run("return performance.now()") > began + 8000)
    assert page.served.asked <= before
    page.run(HIDE, False)
    page.wait_for_polls(2)


def test_pause(page: Page) -> None:
    """The page can be held still, by keyboard alone."""
    for _ in range(2):  # past the link that skips what is above
        page.browser.switch_to.active_element.send_keys(Keys.TAB)
    assert page.browser.switch_to.active_element == page.find("#pause")
    page.find("#pause").send_keys(Keys.SPACE)
    page.wait(lambda: page.text("#link-text") == "Paused")
    before = page.served.asked + 1
    began = page.run("return performance.now()")
    page.wait(lambda: page.run("return performance.now()") > began + 8000)
    assert page.served.asked <= before
    page.find("#pause").send_keys(Keys.SPACE)
    page.wait(lambda: page.text("#link-text").startswith("Live"))
    page.wait_for_polls(2)


@of("database-away")
def test_read_aloud(page: Page) -> None:
    """Only the first line is read aloud, and only when it becomes another one."""
    live = (
        "return [...document.querySelectorAll('[role=status], [aria-live]')].map((one) => one.id)"
    )
    assert page.run(live) == ["headline", "filtered"]
    page.wait_for_polls(6)
    page.run(COUNT_CHANGES, "#headline")
    said = page.text("#findings")
    page.wait(lambda: page.text("#findings") != said)
    page.wait_for_polls(4)
    assert page.run("return window.changes") == 0


@of("many-binds")
def test_structure(page: Page) -> None:
    """Landmarks, headings, tables with captions and headed rows and columns, charts with a text."""
    page.wait_for_polls()
    names = (
        "return [...document.querySelectorAll(arguments[0])].map((one) => one.textContent.trim())"
    )
    assert len(page.run(names, "main")) == 1
    assert len(page.run(names, "h1")) == 1
    assert all(page.run(names, "h2, h3"))
    captions = page.run(names, "table caption")
    assert len(captions) == len(page.browser.find_elements(By.CSS_SELECTOR, "table")) == 6
    assert all(captions)
    assert page.browser.find_elements(By.CSS_SELECTOR, "table th:not([scope])") == []
    label = page.find("#tile-in_use > svg").get_attribute("aria-label") or ""
    assert re.fullmatch(r"In use: now \d+, lowest \d+, highest \d+ in the last .+", label)
    assert page.find("#filter").accessible_name.startswith("Filter")
    assert page.find("#binds .pick").accessible_name == "customer-117"
    unnamed = "section:not([aria-labelledby]), svg:not([aria-label]):not([aria-hidden])"
    assert page.browser.find_elements(By.CSS_SELECTOR, unnamed) == []


def test_colours(page: Page) -> None:
    """Light and dark follow the system, and all text has the contrast that WCAG 2 asks for."""
    grounds = set()
    for scheme in ("light", "dark"):
        emulate(page.browser, prefers_color_scheme=scheme)
        grounds.add(page.run("return getComputedStyle(document.documentElement).backgroundColor"))
        tokens = page.run(
            "const style = getComputedStyle(document.documentElement);"
            "return Object.fromEntries(arguments[0].map("
            "(name) => [name, style.getPropertyValue('--' + name).trim()]))",
            [*INKS, *GROUNDS],
        )
        for ink in INKS:
            for ground in GROUNDS:
                if ground in ("card", "ground") or ink in ("ink", "soft", ground.partition("-")[0]):
                    ratio = contrast(tokens[ink], tokens[ground])
                    assert ratio >= 4.5, (scheme, ink, ground, ratio)
    assert len(grounds) == 2
    emulate(page.browser, prefers_color_scheme="light")


def test_reduced_motion(page: Page) -> None:
    """Nothing moves for those who asked for that."""
    emulate(page.browser, prefers_reduced_motion="reduce")
    moves = "return getComputedStyle(document.querySelector('.bar .fill')).transitionDuration"
    assert page.run(moves) == "0s"
    emulate(page.browser, prefers_reduced_motion="no-preference")


INKS = ("ink", "soft", "use", "good", "warning", "bad")
GROUNDS = ("card", "ground", "good-ground", "warning-ground", "bad-ground")


def contrast(one: str, other: str) -> float:
    """The ratio of two colours' luminances, as WCAG 2 defines it."""

    def luminance(colour: str) -> float:
        digits = colour.removeprefix("#")
        digits = "".join(2 * each for each in digits) if len(digits) == 3 else digits
        parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
        linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)
