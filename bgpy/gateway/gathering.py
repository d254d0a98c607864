"""
Predictions that are asked for at the same moment, sent to the server in one message.

A message's way to the server and back costs more than the prediction that it brings. Nothing waits for more to come: together go
those that the event loop has read in one turn. They are answered together too, when the last one has ended; so only those of a
model that takes several at once, as it has said in its last answer, and only small ones.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from bgpy.tasks.tensorflow.commands import MAX_TOGETHER
from bgpy.tasks.workspace.values import Packed

Message = dict[str, Any]

#: Bytes of a body, asked or answered, above which a prediction goes alone: its own bytes are what costs then.
_SMALL = 64 << 10
#: Models of which it is known how many predictions they take at once.
_MAX_KNOWN = 1000


class Gathering:
    """
    Send predictions, for one event loop at a time.

    Parameters
    ----------
    execute
        Sends one message and returns the answer.
    """

    def __init__(self, execute: Callable[[Message], Awaitable[Message]]) -> None:
        self._execute = execute
        self._room: dict[str, int] = {}
        self._open: dict[str, _Batch] = {}

    async def infer(self, message: Message, size: int) -> Message:
        """
        Return the answer to a message of the command `infer`, whose body has so many bytes; raises as `execute` does.

        Who gives up the wait cuts it short for nobody else.
        """
        name = message["name"]
        room = self._room.get(name, 1) if size <= _SMALL else 1
        answer = await (self._execute(message) if room == 1 else self._together(name, message, room))
        learned = _room(answer)
        if learned is not None:
            if len(self._room) >= _MAX_KNOWN:
                self._room.clear()
            self._room[name] = learned
        return answer

    async def _together(self, name: str, message: Message, room: int) -> Message:
        loop = asyncio.get_running_loop()
        batch = self._open.get(name)
        if batch is None or batch.loop is not loop or len(batch.waiting) >= room:
            # One that is full leaves as it would have, with those that have come before.
            batch = self._open[name] = _Batch(loop, self._execute)
            loop.call_soon(self._leave, name, batch)
        answer: asyncio.Future[Message] = loop.create_future()
        batch.waiting.append((message, answer))
        try:
            return await answer
        finally:
            batch.give_up()

    def _leave(self, name: str, batch: _Batch) -> None:
        if self._open.get(name) is batch:
            del self._open[name]
        batch.leave()


class _Batch:
    """What goes in one message, and who waits for it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, execute: Callable[[Message], Awaitable[Message]]) -> None:
        self.loop = loop
        self.waiting: list[tuple[Message, asyncio.Future[Message]]] = []
        self._execute = execute
        self._task: asyncio.Task[None] | None = None

    def leave(self) -> None:
        """Send it, without waiting for that."""
        self._task = self.loop.create_task(self._carry())

    def give_up(self) -> None:
        """End the wait for the server's answer where nobody waits any more."""
        if self._task is not None and all(answer.cancelled() for _, answer in self.waiting):
            self._task.cancel()

    async def _carry(self) -> None:
        try:
            for (_, answer), found in zip(self.waiting, await self._ask(), strict=True):
                if not answer.done():
                    answer.set_result(found)
        except Exception as error:  # noqa: BLE001 - each of those that wait raises it
            for _, answer in self.waiting:
                if not answer.done():
                    answer.set_exception(error)
        finally:
            for _, answer in self.waiting:
                answer.cancel()  # those that have none: the event loop ends

    async def _ask(self) -> list[Message]:
        messages = [message for message, _ in self.waiting]
        if len(messages) == 1:
            return [await self._execute(messages[0])]
        whole = await self._execute({"command": "infer_all", "requests": messages, "timeout": messages[0]["timeout"]})
        return whole["result"] if whole.get("request_result") is True else [whole] * len(messages)


def _room(answer: Message) -> int | None:
    """Return with how many others the next prediction may go, by what this one was answered; None where that tells nothing."""
    result = answer.get("result")
    if not isinstance(result, dict) or result.get("state") != "done":
        return None
    packed = result["result"]
    if not isinstance(packed, Packed) or packed.size > _SMALL:
        return 1
    room: int = result.get("max_batch", 1)  # an older server does not tell, and does not know infer_all
    return min(room, MAX_TOGETHER)
