"""Where in a driver an error arose: what it was doing then proves what it had not done yet."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator
from pathlib import Path
from types import CodeType, ModuleType
from typing import NamedTuple

# What Python itself raises when a value is not what a line expects. Anything else may have been
# thrown in from outside, by a signal handler for example.
OWN_ERRORS = (TypeError, ValueError, LookupError, AttributeError, StopIteration)

_OURS = str(Path(__file__).parents[1])


class Place(NamedTuple):
    """The innermost function of some modules that an error came through."""

    function: str
    """Its name; an empty one if the error came through none of them."""
    below: tuple[CodeType, ...]
    """What it had called, of other modules."""

    @property
    def is_outside(self) -> bool:
        """Whether the error arose where this package calls the driver, and not in its code."""
        return not self.function and any(
            code.co_filename.startswith(_OURS) for code in self.below[-1:]
        )


def place_of(error: BaseException, modules: Collection[ModuleType]) -> Place:
    """Return where in these modules an error arose."""
    files = {module.__file__ for module in modules}
    function = ""
    below: list[CodeType] = []
    for code in codes_of(error):
        if code.co_filename in files:
            function, below = code.co_name, []
        else:
            below.append(code)
    return Place(function, tuple(below))


def codes_of(error: BaseException) -> Iterator[CodeType]:
    """Yield the code of each function that an error came through, the innermost last."""
    step = error.__traceback__
    while step is not None:
        yield step.tb_frame.f_code
        step = step.tb_next


def is_generator(code: CodeType) -> bool:
    """Return whether a function is a generator."""
    return bool(code.co_flags & inspect.CO_GENERATOR)
