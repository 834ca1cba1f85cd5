"""Commands, a scheduler and processes as docs/jobs.md has them."""

from __future__ import annotations

import json
import re
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

POOLS = """
import json, logging, multiprocessing, os, pathlib, sys, time
from jobs import pack
from shop import db

HELD = pathlib.Path("held")
IDS = "SELECT id FROM information_schema.processlist WHERE db = DATABASE()"


def work(code):
    pack(code)
    return code, os.getpid(), db.stats().in_use


def hold(code):
    with db.connection_context() as conn:
        conn.cursor().execute("UPDATE orders SET packed = 7 WHERE code = %s", (code,))
        HELD.touch()
        time.sleep(600)


def close(processes):
    one = processes.Process(target=work, args=("process",))
    one.start()
    one.join()
    assert one.exitcode == 0
    pool = processes.Pool(2)
    told = pool.map(work, "abcdef", chunksize=1)
    pool.close()
    pool.join()
    return told


def kill(processes):
    with processes.Pool(2) as pool:
        pool.apply_async(hold, ["held"])
        while not HELD.exists():
            time.sleep(0.05)
        return pool.map(work, "gh", chunksize=1)


if __name__ == "__main__":
    logging.basicConfig()
    pack("before")
    own = db.fetch_all(IDS)
    told = globals()[sys.argv[1]](multiprocessing.get_context(sys.argv[2]))
    while db.fetch_all(IDS) != own:
        time.sleep(0.05)
    pack("after")
    print("told", json.dumps(told))
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


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_p6_pool(shop: Site, method: str) -> None:
    """The processes of a `multiprocessing.Pool`, and a `Process`, use none of their parent's
    connections and none of each other's, keep none in use after a job, and leave none behind while
    their parent goes on. Those that come to their end say goodbye; where `with Pool()` kills them,
    a block is rolled back.
    """
    shop.env["FLASK_POOLED_DB_MINCACHED"] = "0"
    shop.write("pools.py", POOLS)
    jobs = {"close": "abcdef", "kill": "gh"}
    for code in ("before", "after", "process", "held", *"abcdefgh"):
        shop.execute("INSERT INTO {0}.orders VALUES (%s, 0)", code)
    for end, codes in jobs.items():
        shop.execute("DELETE FROM {0}.seen")
        said = shop.run("pools.py", end, method)
        shop.wait_until_none_is_left()
        assert (shop.aborted() == 0) == (end == "close")
        assert ("Forking with" in said) == (method == "fork")
        (line,) = re.findall("^told (.*)$", said, re.MULTILINE)
        told = json.loads(line)
        assert [(code, in_use) for code, _, in_use in told] == [(code, 0) for code in codes]
        used = {code: last for code, (*_, last) in shop.used().items()}
        assert used["before"] == used["after"]
        owners = {(used[code], pid) for code, pid, _ in told}
        assert len(owners) == len({id_ for id_, _ in owners}) == len({pid for _, pid in owners})
        assert not {id_ for id_, _ in owners} & {used["before"], used.get("process")}
        assert used.get("process") != used["before"]
    packed = {"before": 2, "after": 2, "held": 0}
    assert shop.packed() == dict.fromkeys(["process", *"abcdefgh"], 1) | packed


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
