"""What may take its time, as steps: a thread waits for each, an event loop goes on meanwhile.

Whoever describes such work writes a generator of steps, once; who takes the steps decides how one
waits.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, NamedTuple, TypeVar

from flask_pooled_db.pool.entry import Entry
from flask_pooled_db.pool.queue import Wait

T = TypeVar("T")


class Call(NamedTuple):
    """Call a function that may wait for a server, of which it may use this connection."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    victim: Entry | None = None

    def take(self) -> Any:
        """Take the step in this thread."""
        return self.function(*self.args)


class Turn(NamedTuple):
    """Call a function that sends nothing, but not while a call of this lease is under way."""

    lease: Any
    function: Callable[..., Any]
    args: tuple[Any, ...]

    def take(self) -> Any:
        """Take the step in this thread."""
        return self.function(*self.args)


Step = Wait | Call | Turn
Steps = Generator[Step, Any, T]


def run(steps: Steps[T]) -> T:
    """Take the steps in this thread, and return what they lead to."""
    try:
        step = next(steps)
        while True:
            try:
                result = step.take()
            except BaseException as error:  # noqa: BLE001  it is raised there
                step = steps.throw(error)
            else:
                step = steps.send(result)
    except StopIteration as end:
        led_to: T = end.value
        return led_to
    finally:
        steps.close()
