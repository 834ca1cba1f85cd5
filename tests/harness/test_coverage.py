"""Coverage, while tests interrupt what it measures."""

from __future__ import annotations

import subprocess
import sys

import pytest

from harness.processes import PROJECT, without_coverage

INTERRUPTED = """
import os, signal, sys, threading, time
import coverage
from tests.support.coverage import lock_in_c

if sys.argv[1] == "ours":
    lock_in_c()
measured = coverage.Coverage(
    source=["flask_pooled_db"], data_file=None, config_file=False, concurrency="thread"
)
measured.start()
from flask_pooled_db.config import shown

def interrupt(*_):
    raise KeyboardInterrupt

def send(number):
    time.sleep(number % 7 / 2000)
    signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)

signal.signal(signal.SIGUSR1, interrupt)
for number in range(200):
    sender = threading.Thread(target=send, args=(number,))
    try:
        sender.start()
        while True:
            shown("name")
    except KeyboardInterrupt:
        pass
    sender.join()
    other = threading.Thread(target=shown, args=("name",), daemon=True)
    other.start()
    other.join(5)
    if other.is_alive():
        print("a thread waits for good", flush=True)
        os._exit(0)
print("all threads went on")
"""


@pytest.mark.parametrize(
    ("how", "told"), [("ours", "all threads went on"), ("theirs", "a thread waits for good")]
)
def test_interrupted(how: str, told: str) -> None:
    """No interruption leaves coverage's lock taken. Where it keeps its own way, one soon does: once
    this fails, coverage has mended it, and `lock_in_c()` may go.
    """
    command = [sys.executable, "-c", INTERRUPTED, how]
    printed = subprocess.run(
        command, cwd=PROJECT, env=without_coverage(), check=True, stdout=subprocess.PIPE, text=True
    ).stdout
    assert printed.strip() == told
