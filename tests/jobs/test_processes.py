"""Commands, a scheduler and processes as docs/jobs.md has them."""

from __future__ import annotations

import signal

import pytest

from harness.waiting import wait_until
from tests.jobs.sites import Site

pytestmark = pytest.mark.mariadb_only  # its process list

NOW = """
import datetime, timetable
for job in timetable.scheduler.get_jobs():
    job.modify(next_run_time=datetime.datetime.now(datetime.timezone.utc))
timetable.scheduler.start()
"""

AROUND = """
import logging, packing
from shop import db
logging.basicConfig()
def write(code):
    db.execute("INSERT INTO orders VALUES (%s, 1)", (code,))
if __name__ == "__main__":
    write("before")
    packing.pack_all()
    write("after")
"""

FAILING = """
import shop
from flask_pooled_db import get_db_connection
@shop.app.cli.command()
def fail():
    conn = get_db_connection()
    conn.cursor().execute("INSERT INTO orders VALUES ('lost', 0)")
    raise LookupError
app = shop.app
"""


@pytest.mark.parametrize("method", ["spawn", "fork", "forkserver"])
def test_p6_executor(shop: Site, method: str) -> None:
    """The processes of an executor use none of their parent's connections, which lives on, and all
    are closed at the end, with a goodbye.
    """
    text = (shop.folder / "packing.py").read_text(encoding="utf-8")
    shop.write("packing.py", text.replace('"spawn"', f'"{method}"'))
    shop.env["FLASK_POOLED_DB_MINCACHED"] = "0"
    shop.write("around.py", AROUND)
    codes = list("abcdef")
    for code in codes:
        shop.execute("INSERT INTO {0}.orders VALUES (%s, 0)", code)
    said = shop.run("around.py")
    shop.wait_until_packed([*codes, "before", "after"])
    used = shop.used()
    assert used["before"] == used["after"]
    assert used["before"][0] not in {used[code][-1] for code in codes}
    shop.wait_until_none_is_left()
    assert shop.aborted() == 0
    assert ("Forking with" in said) == (method == "fork")


def test_scheduler(shop: Site) -> None:
    """A scheduler's jobs leave nothing but idle connections, which are closed with it."""
    for code in "ab":
        shop.execute("INSERT INTO {0}.orders VALUES (%s, 0)", code)
    shop.write("now.py", NOW)
    with shop.worker("now.py") as worker:
        shop.wait_until_packed("ab")
        wait_until(lambda: len(shop.connections()) == 3)
        assert worker.tell_to_end(signal.SIGINT)() != 0
    shop.wait_until_none_is_left()
    assert shop.aborted() == 0


def test_p12_command(shop: Site) -> None:
    """A command leaves nothing open, neither one that ends well nor one that fails amid its work,
    and what that one had not committed is rolled back.
    """
    assert shop.packed() == {}  # `create-tables` ran
    shop.wait_until_none_is_left()
    shop.write("failing.py", FAILING)
    with pytest.raises(AssertionError, match="LookupError"):
        shop.run("-m", "flask", "--app", "failing", "fail")
    shop.wait_until_none_is_left()
    assert shop.aborted() == 0
    assert shop.packed() == {}
