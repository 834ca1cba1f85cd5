"""Python's garbage collector, where it is put off."""

from __future__ import annotations

import gc
import os

import pytest

from flask_pooled_db.runtime.collector import no_collections
from tests.support.pools import call


def test_put_off() -> None:
    """It goes on after the block, whatever ends that, and after the outermost one."""

    def interrupted() -> None:
        with no_collections():
            with no_collections():
                assert not gc.isenabled()
            assert not gc.isenabled()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert gc.isenabled()


def test_put_off_by_the_app() -> None:
    """An app that does without the collector goes on to do so."""
    gc.disable()
    try:
        with no_collections():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_p6_child_of_another_thread() -> None:
    """A child that another thread forks meanwhile has its collector."""

    def fork() -> int:
        if (child := os.fork()) == 0:
            os._exit(0 if gc.isenabled() else 1)
        return os.waitpid(child, 0)[1]

    with no_collections():
        assert call(fork).result() == 0
    assert gc.isenabled()
