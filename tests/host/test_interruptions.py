"""P12: what a signal handler raises, at any line, blocks nobody and loses no numbers."""

from __future__ import annotations

import contextlib
import itertools
from pathlib import Path

import pytest

from flask_pooled_db.host import Publisher, publisher
from flask_pooled_db.host.publisher import publishing
from tests.host.meeting import NAME, files_in, publisher_in, total_in
from tests.pool.injections import Injection


class Interruption(BaseException):
    """What a signal handler raises."""


def test_p12_interrupted_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever beginning, asking and ending are interrupted, others go on to ask, and at the exit
    the files are removed, and what was published is counted once.
    """
    monkeypatch.setattr(publisher, "FIRST_INTERVAL", 60.0)
    for line in itertools.count():
        folder = tmp_path / str(line)
        folder.mkdir(mode=0o700)
        one, counting = publisher_in(folder, 5)
        injection = Injection(line, Interruption)
        with contextlib.suppress(Interruption), injection.here():
            use(one)
        seen = total_in(folder)
        with contextlib.suppress(Interruption):
            assert one.read().problem is None
        publishing.at_exit()
        assert total_in(folder) in (seen, 5), injection.where
        assert total_in(folder) >= seen, injection.where
        assert not (folder / NAME).exists() or files_in(folder) == set(), injection.where
        assert counting.n == 5
        if not injection.is_done:
            assert (seen, line > 10) == (5, True)
            return


def use(one: Publisher) -> None:
    one.begin()
    one.read()
    one.end()
