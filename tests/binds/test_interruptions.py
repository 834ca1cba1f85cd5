"""P12, P13: an interruption at any line of opening and closing binds blocks no name, and loses no
place among those that may be open.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from flask_pooled_db import PoolTimeout
from flask_pooled_db.pool import slots, turns
from flask_pooled_db.pool.registry import Registry
from tests.binds.names import Names, registry, use
from tests.pool.injections import Injection


class Interruption(BaseException):
    """What a signal handler raises."""


def evict(binds: Registry) -> None:
    use(binds, "a")
    use(binds, "b")


def close(binds: Registry) -> None:
    use(binds, "a")
    binds.close_bind("a")


def replace(binds: Registry) -> None:
    use(binds, "a")
    binds.replace_bind("a")
    use(binds, "a")


STEP = 7  # every so many lines, from another one on each time
OF_OPENING = ("registry.py",)
WORK: dict[str, Callable[[Registry], None]] = {
    "evict": evict,
    "close": close,
    "replace": replace,
}


def interrupted(
    work: Callable[[Registry], None], binds: Registry, injection: Injection
) -> list[BaseException]:
    """Do something that is interrupted. Returns the error that came of it."""
    errors: list[BaseException] = []
    with contextlib.suppress(Interruption), injection.here():
        try:
            work(binds)
        except Interruption as error:
            errors.append(error)
            raise
        except PoolTimeout:
            if not injection.is_done:
                raise
    return errors


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("work", WORK.values(), ids=WORK)
@pytest.mark.parametrize("is_kept", [False, True], ids=["dropped", "kept"])
def test_p12_interrupted_anywhere(
    work: Callable[[Registry], None], is_kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an interruption at any line, each name can be opened, one at a time. While its error is
    kept, and with it the frames, that holds for those of opening a bind.
    """
    for module in (turns, slots):  # the tracer keeps frames, and with them tickets, for a while
        monkeypatch.setattr(module, "GLANCE", 0.01)
    for line in itertools.count(random.randrange(STEP), STEP):
        names = Names()
        injection = Injection(line, Interruption)
        with registry(names, most=1, timeout=2.0) as binds:
            errors = interrupted(work, binds, injection)
            if injection.is_done and not errors:
                continue  # it came in a finalizer, where nobody hears of it
            if not is_kept or Path(injection.where.partition(":")[0]).name not in OF_OPENING:
                errors.clear()
            gc.collect()
            try:
                for name in ("c", "a", "b", "a"):
                    use(binds, name)
                assert binds.close_bind("a")
            except BaseException as error:
                error.add_note(f"after an interruption at {injection.where}")
                raise
            assert len(binds.opened) <= 1
        if not injection.is_done:
            return
