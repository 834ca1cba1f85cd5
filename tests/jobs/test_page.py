"""The code of docs/jobs.md as a program imports it, and what the page says beside it."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import pytest

from flask_pooled_db import UsageError, db_connection_context, get_db_connection
from flask_pooled_db.errors import PoolClosed
from harness.sockets import LOOPBACK, free_port
from harness.waiting import PATIENCE
from tests.jobs.sites import BLOCKS, PAGE, write_page

Import = Callable[[str], ModuleType]


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Import]:
    """Import a module of the page. Its database is a file, and its Redis is away."""
    write_page(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("REDIS_URL", f"redis://{LOOPBACK}:{free_port()}")
    before = set(sys.modules)
    shop = importlib.import_module("shop")
    assert shop.app.test_cli_runner().invoke(args=["create-tables"]).exit_code == 0
    yield importlib.import_module
    shop.db.close(timeout=PATIENCE)
    for name in {name for name, _ in BLOCKS} & {f"{name}.py" for name in set(sys.modules) - before}:
        del sys.modules[name.removesuffix(".py")]


def test_blocks() -> None:
    """Each block of the page is a file, and each file is imported or run by a test of jobs."""
    assert PAGE.count("```python") == len(BLOCKS)
    tests = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("*.py"))
    for name, _ in BLOCKS:
        assert re.search(rf"\b{name.removesuffix('.py')}\b", tests), name


def test_queue_is_away(page: Import, caplog: pytest.LogCaptureFixture) -> None:
    """An order that can't be queued is committed, the error is logged, and the scheduler's job does
    it later, once.
    """
    jobs, timetable = page("jobs"), page("timetable")
    jobs.order("a")
    assert "A function given to on_commit() failed" in caplog.text
    for _ in range(2):
        timetable.pack_what_is_left()
        assert jobs.db.fetch_all("SELECT * FROM orders") == [("a", 1)]


def test_context_is_needed(page: Import) -> None:
    """What the page says needs an app context does, and its job has one."""
    db = page("shop").db
    for use in (db_connection_context, get_db_connection, lambda: db.connection):
        with pytest.raises(UsageError, match=r"with app\.app_context\(\)"):
            use()
    db.execute("INSERT INTO orders VALUES ('a', 0)")
    page("old_jobs").cancel("a")
    assert db.fetch_value("SELECT count(*) FROM orders") == 0
    assert db.stats().in_use == 0


def test_context_of_worker(page: Import) -> None:
    """What jobs forget in a context of the whole worker is out until its end."""
    shop = page("shop")
    with shop.app.app_context():
        for _ in range(3):
            get_db_connection()
        assert shop.db.stats().in_use == 3
    assert shop.db.stats().in_use == 0


def test_close_is_for_good(page: Import) -> None:
    """After `db.close()` the next job of the process fails."""
    db = page("shop").db
    db.close()
    with pytest.raises(PoolClosed):
        db.execute("DELETE FROM orders")


def test_threads(page: Import) -> None:
    """Threads share the process's pool."""
    db = page("packing").db
    with ThreadPoolExecutor(2) as threads:
        assert threads.submit(db.fetch_value, "SELECT 1").result() == 1
    assert db.stats().in_use == 0
