"""Asynchronous scopes for callers that block, as scenarios do, and what tests of them await."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from types import TracebackType
from typing import Any, TypeVar

from harness.waiting import PATIENCE
from tests.support.stages import Stage

T = TypeVar("T")
AnyStage = TypeVar("AnyStage", bound=Stage)


class Actor:
    """A task in a thread's loop that does one thing after the other, and owns what it takes."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._orders: asyncio.Queue[Any] = asyncio.Queue()
        run = copy_context().run
        self._thread = threading.Thread(target=run, args=(self._run,), daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._act())

    async def _act(self) -> None:
        while (order := await self._orders.get()) is not None:
            function, outcome, is_done = order
            try:
                result = function()
                outcome.append(await result if asyncio.iscoroutine(result) else result)
            except BaseException as error:
                outcome.extend((None, error))
            is_done.set()

    def do(self, function: Callable[[], Any]) -> Any:
        """Have the task call a function, and await what it returns if that can be awaited."""
        outcome: list[Any] = []
        is_done = threading.Event()
        self._loop.call_soon_threadsafe(self._orders.put_nowait, (function, outcome, is_done))
        assert is_done.wait(PATIENCE), "the task did not come to its end"
        if len(outcome) > 1:
            raise outcome[1]
        return outcome[0]

    def end(self) -> None:
        """End the task and its loop."""
        self._loop.call_soon_threadsafe(self._orders.put_nowait, None)
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()


class Blocking:
    """An asynchronous object whose methods block."""

    def __init__(self, actor: Actor, thing: Any) -> None:
        self._actor = actor
        self._thing = thing

    def __getattr__(self, name: str) -> Any:
        attribute = self._actor.do(lambda: getattr(self._thing, name))
        if not callable(attribute) or isinstance(attribute, type):
            return attribute
        return lambda *args, **kwargs: self._actor.do(lambda: attribute(*args, **kwargs))

    def __enter__(self) -> Any:
        entered = self._actor.do(self._thing.__aenter__)
        return BlockingConnection(self._actor, entered) if entered is not self._thing else self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._actor.do(lambda: self._thing.__aexit__(exc_type, exc, traceback))


class BlockingConnection(Blocking):
    """A connection of an asynchronous scope, whose methods block."""

    @property
    def _entry(self) -> Any:
        return self._thing.lease._entry

    def cursor(self, *args: Any, **kwargs: Any) -> Blocking:
        return Blocking(self._actor, self._actor.do(lambda: self._thing.cursor(*args, **kwargs)))


class Face:
    """An extension whose `connection_context()` is the asynchronous one."""

    def __init__(self, db: Any, actor: Actor) -> None:
        self._db = db
        self._actor = actor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._db, name)

    def connection_context(self, *args: Any, **kwargs: Any) -> Blocking:
        make = self._db.async_connection_context
        return Blocking(self._actor, self._actor.do(lambda: make(*args, **kwargs)))


@contextmanager
def asynchronous(stage: AnyStage) -> Iterator[AnyStage]:
    """The same stage, with asynchronous scopes."""
    actor = Actor()
    try:
        yield dataclasses.replace(stage, db=Face(stage.db, actor))
    finally:
        actor.end()


async def add(connection: Any, account: int, amount: int) -> None:
    """Add to an account's balance, in the connection's transaction."""
    async with connection.cursor() as cursor:
        await cursor.execute(
            "UPDATE accounts SET balance = balance + %s WHERE id = %s", (amount, account)
        )


async def value(connection: Any, sql: str) -> Any:
    """What a statement returns, which is one value."""
    async with connection.cursor() as cursor:
        await cursor.execute(sql)
        return (await cursor.fetchone())[0]


async def until(condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Wait until something holds, without holding up the loop."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, "it did not come to hold"
        await asyncio.sleep(0.002)


def run(main: Callable[[], Awaitable[T]]) -> T:
    """Run a coroutine in a loop of its own, in the context of the caller's app."""

    async def bounded() -> T:
        return await asyncio.wait_for(main(), PATIENCE * 2)

    return asyncio.run(bounded())
