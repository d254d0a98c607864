"""
The ends of timed requests: one stream of the server for all that wait for one, however many these are.

The stream is opened with the first that waits and closed with the last. Where it has a gap, or breaks, the server is asked how
those have ended that are waited for; where it cannot be asked, they are told so: nobody waits for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import aclosing
from typing import Any

from bgpy.errors import BgpyError, RefusedError
from bgpy.gateway.answers import failure_envelope
from bgpy.gateway.upstream import Upstream
from bgpy.tasks.requests.commands import MAX_RECALLED, RECALL_REQUESTS, START_REQUEST, WATCH_REQUESTS

#: Requests that are being started at once; more would only wait at the server.
MAX_STARTING = 16
#: Ends that are kept for requests whose start is not answered yet.
MAX_EARLY = 1000
_ALIEN = "The server has not answered as the task set of requests does; was it initialised with that?"

Message = dict[str, Any]
#: The answer of a request, or why it cannot be known.
Outcome = Message | BgpyError


class Declined(Exception):
    """
    Say that the server has answered a request with no.

    Parameters
    ----------
    envelope
        Its answer.
    """

    def __init__(self, envelope: Message) -> None:
        super().__init__(envelope)
        self.envelope = envelope


class Ends:
    """Start requests and wait for their ends. For one event loop after another: what waits belongs to one."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._hub: _Hub | None = None

    async def run(self, fields: Message, started: Callable[[], object] = lambda: None) -> Message:
        """
        Start a request, call `started`, and return the answer at its end. Who is cancelled leaves the request running.

        Raises
        ------
        Declined
            The server has not started it.
        BgpyError
            As `Upstream.execute`; or how it ends cannot be known.
        """
        if self._hub is None or not self._hub.serves():
            self._hub = _Hub(self._upstream)
        with self._hub.joined():
            return await self._hub.run(fields, started)


class Waiting:
    """
    Who waits for the end of which request, and the ends that came before anybody could wait. No I/O.

    An end may be told by the stream before the answer to the start is here, which has the number.
    """

    def __init__(self) -> None:
        self._waiting: dict[int, list[asyncio.Future[Outcome]]] = {}
        self._starting = 0
        self._early: dict[int, Message] = {}
        self._missed = False

    @contextlib.contextmanager
    def starting(self) -> Iterator[None]:
        """Keep the ends that come meanwhile: one may be that of a request whose number is on its way."""
        self._starting += 1
        try:
            yield
        finally:
            self._starting -= 1
            if not self._starting:
                self._early.clear()
                self._missed = False

    def add(self, number: int, future: asyncio.Future[Outcome]) -> bool:
        """Let a future wait, while it is `starting`; returns whether the server must be asked, as the end may have gone by."""
        answer = self._early.pop(number, None)
        if answer is not None:
            future.set_result(answer)
            return False
        self._waiting.setdefault(number, []).append(future)
        return self._missed

    def take_back(self, number: int, future: asyncio.Future[Outcome]) -> None:
        """Forget a future, which may have been told."""
        waiting = self._waiting.get(number, [])
        if future in waiting:
            waiting.remove(future)
            if not waiting:
                del self._waiting[number]

    def numbers(self) -> list[int]:
        """Return the requests that are waited for."""
        return list(self._waiting)

    def end(self, number: int, answer: Message | None) -> bool:
        """
        Take an end.

        Parameters
        ----------
        answer
            None where it is too large for the stream.

        Returns
        -------
        ask
            Whether somebody waits for the answer, and the server must be asked for it.
        """
        if number in self._waiting:
            if answer is not None:
                self.tell(number, answer)
            return answer is None
        if answer is not None and self._starting and len(self._early) < MAX_EARLY:
            self._early[number] = answer
        else:
            self.miss()
        return False

    def miss(self) -> None:
        """Take word that ends may have gone by."""
        self._missed = bool(self._starting)

    def tell(self, number: int, outcome: Outcome) -> None:
        """Tell all who wait for a request."""
        for future in self._waiting.pop(number, ()):
            if not future.done():  # cancelled, and not taken back yet
                future.set_result(outcome)

    def fail(self, failure: BgpyError) -> None:
        """Tell everybody that the ends cannot be known."""
        for number in self.numbers():
            self.tell(number, failure)


class _Hub:
    """The one stream, and all that wait; from the first of them to the last. For one event loop."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._loop = asyncio.get_running_loop()
        self._waiting = Waiting()
        self._room = asyncio.Semaphore(MAX_STARTING)
        self._users = 0
        self._reader: asyncio.Task[None] | None = None
        #: Set when the stream has begun, or could not.
        self._opened = asyncio.Event()
        self._failure: BgpyError | None = None

    def serves(self) -> bool:
        """Whether it can be joined, in this event loop."""
        ended = self._reader is not None and (self._reader.done() or not self._users)
        return not ended and self._failure is None and self._loop is asyncio.get_running_loop()

    @contextlib.contextmanager
    def joined(self) -> Iterator[None]:
        """Keep the stream open meanwhile."""
        self._users += 1
        if self._reader is None:
            self._reader = asyncio.create_task(self._read())
        try:
            yield
        finally:
            self._users -= 1
            if not self._users:
                self._reader.cancel()

    async def run(self, fields: Message, started: Callable[[], object]) -> Message:
        """See `Ends.run`."""
        await self._opened.wait()
        if self._failure is not None:
            raise self._failure
        future: asyncio.Future[Outcome] = self._loop.create_future()
        async with self._room:
            with self._waiting.starting():
                response = await self._upstream.execute({**fields, "command": START_REQUEST.name})
                if response.get("request_result") is False:
                    raise Declined(response)
                number = _field(_result(response), "request")
                ask = self._waiting.add(number, future)
        try:
            started()
            if self._failure is not None:  # while it was started: nobody reads any more
                raise self._failure
            if ask:
                await self._recall([number])
            outcome = await future
        finally:
            self._waiting.take_back(number, future)
        if isinstance(outcome, BgpyError):
            raise outcome
        return outcome

    async def _read(self) -> None:
        """Read the stream, and another one where it breaks, until one does not even begin."""
        try:
            while True:
                await self._read_once()
        except BgpyError as failure:
            self._failure = failure
        except Exception as failure:  # noqa: BLE001 - whatever it is, nobody may wait for ever
            self._failure = RefusedError(failure_envelope(failure)["result"])
        finally:
            if self._failure is not None:
                self._opened.set()
                self._waiting.fail(self._failure)

    async def _read_once(self) -> None:
        begun = False
        try:
            async with aclosing(self._upstream.stream({"command": WATCH_REQUESTS.name})) as responses:  # type: ignore[type-var]
                async for response in responses:
                    event = _result(response)
                    if not begun:
                        # What has ended before this stream began is not told by it.
                        begun = True
                        self._opened.set()
                        event = {"event": "gap"}
                    await self._take(event)
        except BgpyError:
            if not begun:
                raise
        if not begun:
            raise RefusedError(_ALIEN)

    async def _take(self, event: Message) -> None:
        if event.get("event") == "gap":
            self._waiting.miss()
            await self._recall(self._waiting.numbers())
        elif event.get("event") == "ended":
            number = _field(event, "request")
            if self._waiting.end(number, event.get("answer")):
                await self._recall([number])

    async def _recall(self, numbers: Iterable[int]) -> None:
        """Ask the server how requests have ended, and tell who waits; those that run are waited for all the same."""
        left = list(numbers)
        while left:
            asked, left = left[:MAX_RECALLED], left[MAX_RECALLED:]
            try:
                response = await self._upstream.execute({"command": RECALL_REQUESTS.name, "requests": asked})
                answers = _result(response)
            except BgpyError as failure:
                answers = dict.fromkeys(map(str, asked), failure)
            for number in asked:
                answer = answers.get(str(number))
                if answer is not None:
                    self._waiting.tell(number, answer)


def _result(response: Message) -> Message:
    """Return what is in an envelope; raises RefusedError where the server says no, or speaks of something else."""
    if response.get("request_result") is False:
        raise RefusedError(str(response.get("result")).rstrip("."), response.get("field"))
    result = response.get("result")
    if not isinstance(result, dict):
        raise RefusedError(_ALIEN)
    return result


def _field(message: Message, name: str) -> int:
    number = message.get(name)
    if not isinstance(number, int):
        raise RefusedError(_ALIEN)
    return number
