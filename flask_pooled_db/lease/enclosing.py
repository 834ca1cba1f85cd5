"""Which blocks enclose a caller: those whose frames are under way.

A context variable tells which scopes are open, and not which of them the caller is inside of: a
scope that a generator holds across a `yield` is open while somebody else's code runs.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Protocol, TypeVar

SUSPENDS = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
"""The flags of code that can be left in its middle."""

_DRIVING = frozenset({"__enter__", "__aenter__"})

ENTERING = _DRIVING | {
    "enter_context",
    "enter_async_context",
    "enterContext",
    "enterClassContext",
    "enterModuleContext",
    "enterAsyncContext",
    "_enter_context",  # of unittest
}
"""The names of functions that enter a context manager for their caller."""


class Framed(Protocol):
    """A block, and the frame that holds it."""

    @property
    def frame(self) -> FrameType | None:
        """The generator or coroutine that the block is in; None if there is none."""


Block = TypeVar("Block", bound=Framed)


def holder_of(frame: FrameType | None) -> FrameType | None:
    """Return the frame of the generator or coroutine that holds a block entered in `frame`.

    None says that it encloses whatever comes before its end: it was entered in a function, or in a
    generator that a context manager or a fixture of pytest drives. A function may have entered it
    for its caller. Coroutines that await each other are one: the first of them is returned.
    """
    coroutine = None
    while frame is not None:
        flags, driver = frame.f_code.co_flags, frame.f_back
        if flags & inspect.CO_COROUTINE:
            coroutine = frame
        elif flags & SUSPENDS:
            if _is_fixture(driver):
                return None
            if driver is None or driver.f_code.co_name not in _DRIVING:
                return frame
        elif coroutine is not None:
            return coroutine
        frame = driver
    return coroutine


def _is_fixture(driver: FrameType | None) -> bool:
    return (
        driver is not None
        and driver.f_code.co_name == "call_fixture_func"
        and driver.f_globals.get("__name__") == "_pytest.fixtures"
    )


def enclosing(blocks: Sequence[Block]) -> list[Block]:
    """Return the blocks that enclose the caller, from the inside out; `blocks` come newest first.

    The frame of a generator that is suspended has no frame behind it.
    """
    held = [(block, block.frame) for block in blocks]
    held = [(block, frame) for block, frame in held if frame is None or frame.f_back is not None]
    if all(frame is None for _, frame in held):
        return [block for block, _ in held]
    # A generator may have been resumed inside a newer block: the stack knows, the age does not.
    order = {frame: place for place, frame in enumerate(_stack())}
    elsewhere, outermost = len(order), len(order) + 1
    held.sort(key=lambda pair: order.get(pair[1], elsewhere) if pair[1] else outermost)
    return [block for block, _ in held]


def _stack() -> Iterator[FrameType]:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back


def place_of(frame: FrameType) -> tuple[str, int]:
    """Return the file and the line where a block was entered, for a message."""
    while frame.f_code.co_name in ENTERING and frame.f_back is not None:
        frame = frame.f_back
    return frame.f_code.co_filename, frame.f_lineno
