"""An app with as many databases as customers."""

from __future__ import annotations

import threading
from time import thread_time

import pytest
from flask import Flask

from flask_pooled_db import PooledDB

BINDS = 10_000
LONGEST = 5.0
"""Seconds of this thread: many times what the start takes, so that no busy machine fails it."""


@pytest.mark.slow
@pytest.mark.parametrize(
    "url",
    [
        "sqlite:////nowhere/{}.db",
        "mysql+pymysql://app:secret@127.0.0.1:3306/d{}",
        "mariadb://app:secret@127.0.0.1:3306/d{}",
        "postgresql+psycopg://app:secret@127.0.0.1/d{}",
    ],
)
def test_p7_ten_thousand_binds(url: str) -> None:
    """Ten thousand binds cost a start next to nothing, and no thread at all."""
    app = Flask("app_under_test")
    app.config["POOLED_DB_BINDS"] = {f"b{number}": url.format(number) for number in range(BINDS)}
    threads, began = threading.active_count(), thread_time()
    db = PooledDB(app)
    took = thread_time() - began
    assert threading.active_count() < threads + 10  # those of other tests come and go
    assert took < LONGEST
    with app.app_context():
        assert db.stats("b9999").open == 0
