"""One stream for all who wait for the ends of requests, against a server that is a script."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from bgpy.errors import BgpyError, ConnectError, ConnectionLostError, RefusedError
from bgpy.gateway import ends as hub
from bgpy.gateway.ends import MAX_STARTING, Declined, Ends, Waiting

ALIVE = {"event": "alive", "number": 0}
FIELDS = {"connid": "a", "time": 5}


class Upstream:
    """A server that tells what the test puts into its stream; each stream is a queue of its own, and an error breaks it."""

    def __init__(self) -> None:
        self.streams: list[asyncio.Queue[dict[str, Any] | BaseException | None]] = []
        self.open = 0
        self.closed = asyncio.Event()
        self.refuses: BgpyError | None = None
        self.answers: dict[int, Any] = {}
        #: What it was asked, in order.
        self.asked: list[dict[str, Any]] = []
        self.next_number = 1
        #: What each start waits for, None for nothing.
        self.gate: asyncio.Event | None = None
        self.begun = asyncio.Semaphore(0)
        self.starting = 0
        self.most_starting = 0

    def tell(self, event: Any) -> None:
        self.streams[-1].put_nowait(event)

    async def taken(self) -> None:
        """Wait until all has been taken that was told."""
        await self.streams[-1].join()

    def end(self, number: int, answer: Any = None) -> None:
        self.tell({"event": "ended", "request": number, "number": 5, "answer": answer})

    async def stream(self, message: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        assert message == {"command": "watch_requests"}
        if self.refuses is not None:
            raise self.refuses
        queue: asyncio.Queue[dict[str, Any] | BaseException | None] = asyncio.Queue()
        self.streams.append(queue)
        self.open += 1
        self.closed.clear()
        try:
            yield {"request_result": True, "result": ALIVE}
            while (event := await queue.get()) is not None:
                if isinstance(event, BaseException):
                    raise event
                yield event if "request_result" in event else {"request_result": True, "result": event}
                queue.task_done()
        finally:
            self.open -= 1
            self.closed.set()

    async def execute(self, message: dict[str, Any], timeout: float | None = None) -> dict[str, Any]:
        self.asked.append(message)
        if message["command"] == "recall_requests":
            found = {str(number): self.answers.get(number) for number in message["requests"]}
            failure = next((answer for answer in found.values() if isinstance(answer, BaseException)), None)
            if failure is not None:
                raise failure
            return {"request_result": True, "result": found}
        assert message["command"] == "start_request"
        if message["connid"] == "taken":
            return {"request_result": False, "result": "It runs already", "field": "connid"}
        number, self.next_number = self.next_number, self.next_number + 1
        self.starting += 1
        self.begun.release()
        self.most_starting = max(self.starting, self.most_starting)
        if self.gate is not None:
            await self.gate.wait()
        self.starting -= 1
        return {"request_result": True, "result": {"status": "Started", "request": number}}

    @property
    def recalled(self) -> list[list[int]]:
        return [message["requests"] for message in self.asked if message["command"] == "recall_requests"]


class Scene:
    """A hub, its server, and tasks that wait for requests."""

    def __init__(self) -> None:
        self.upstream = Upstream()
        self.ends = Ends(self.upstream)  # type: ignore[arg-type]

    async def start(self, connid: Any = "a") -> asyncio.Task[dict[str, Any]]:
        """Start a request; return the task that waits for its end."""
        started = asyncio.Event()
        task = asyncio.create_task(self.ends.run({"connid": connid, "time": 5}, started.set))
        waiting = asyncio.create_task(started.wait())
        await asyncio.wait((task, waiting), return_when=asyncio.FIRST_COMPLETED, timeout=10)
        waiting.cancel()
        return task


def play(act: Callable[[Scene], Awaitable[None]]) -> Scene:
    """Run one test in an event loop, and see that no stream is left open."""

    async def run() -> Scene:
        scene = Scene()
        await asyncio.wait_for(asyncio.ensure_future(act(scene)), 20)
        if scene.upstream.streams:
            await asyncio.wait_for(scene.upstream.closed.wait(), 20)
        assert scene.upstream.open == 0
        return scene

    return asyncio.run(run())


def test_an_end_reaches_its_own_starter_and_all_share_one_stream() -> None:
    async def act(scene: Scene) -> None:
        first, second = await scene.start("a"), await scene.start("b")
        scene.upstream.end(2, {"status": "Ok", "connid": "b"})
        assert await second == {"status": "Ok", "connid": "b"}
        assert not first.done()
        scene.upstream.end(1, {"status": "Killed", "connid": "a"})
        assert await first == {"status": "Killed", "connid": "a"}

    scene = play(act)
    assert len(scene.upstream.streams) == 1
    assert scene.upstream.recalled == []


def test_the_stream_is_closed_with_the_last_and_opened_again_with_the_next() -> None:
    async def act(scene: Scene) -> None:
        for number in (1, 2):
            task = await scene.start()
            scene.upstream.end(number, {"status": "Ok"})
            await task
            await scene.upstream.closed.wait()
            assert scene.upstream.open == 0

    assert len(play(act).upstream.streams) == 2


def test_whoever_is_cancelled_leaves_the_others_waiting() -> None:
    async def act(scene: Scene) -> None:
        first, second = await scene.start("a"), await scene.start("b")
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        scene.upstream.end(1, {"status": "Ok", "connid": "a"})
        scene.upstream.end(2, {"status": "Ok", "connid": "b"})
        assert (await second)["connid"] == "b"

    play(act)


def test_an_end_that_is_told_before_the_start_is_answered_is_not_lost() -> None:
    async def act(scene: Scene) -> None:
        scene.upstream.gate = asyncio.Event()
        task = asyncio.create_task(scene.ends.run(FIELDS))
        await scene.upstream.begun.acquire()
        scene.upstream.end(1, {"status": "Ok"})
        await scene.upstream.taken()
        scene.upstream.gate.set()
        assert await task == {"status": "Ok"}

    assert play(act).upstream.recalled == []


@pytest.mark.parametrize("how", ["large", "gap", "many"])
def test_an_end_that_went_by_during_the_start_is_asked_for(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "MAX_EARLY", 1)

    async def act(scene: Scene) -> None:
        scene.upstream.gate = asyncio.Event()
        task = asyncio.create_task(scene.ends.run(FIELDS))
        await scene.upstream.begun.acquire()
        scene.upstream.answers[1] = {"status": "Ok", "value": "large"}
        if how == "gap":
            scene.upstream.tell({"event": "gap", "missed": [1, 5]})
        elif how == "large":
            scene.upstream.end(1, None)
        else:
            scene.upstream.end(77, {"status": "Ok"})
            scene.upstream.end(1, {"status": "Ok"})
        await scene.upstream.taken()
        scene.upstream.gate.set()
        assert await task == {"status": "Ok", "value": "large"}

    assert play(act).upstream.recalled == [[1]]


def test_a_large_answer_is_recalled_and_ends_of_others_are_not() -> None:
    async def act(scene: Scene) -> None:
        task = await scene.start()
        scene.upstream.answers = {1: {"status": "Ok", "value": "large"}}
        scene.upstream.end(77, None)
        scene.upstream.end(1, None)
        assert await task == {"status": "Ok", "value": "large"}

    assert play(act).upstream.recalled == [[1]]


def test_after_a_gap_the_server_is_asked_for_all_and_those_that_run_are_waited_for() -> None:
    async def act(scene: Scene) -> None:
        ended, runs = await scene.start("a"), await scene.start("b")
        scene.upstream.answers = {1: {"status": "Ok", "connid": "a"}, 2: None}
        scene.upstream.tell({"event": "gap", "missed": [1, 5]})
        assert (await ended)["connid"] == "a"
        scene.upstream.end(2, {"status": "Ok", "connid": "b"})
        assert (await runs)["connid"] == "b"

    assert play(act).upstream.recalled == [[1, 2]]


@pytest.mark.parametrize("broken", [ConnectionLostError("server", "reset", None), None])
def test_a_stream_that_breaks_is_opened_again_and_what_it_missed_is_asked_for(broken: BgpyError | None) -> None:
    async def act(scene: Scene) -> None:
        ended, runs = await scene.start("a"), await scene.start("b")
        scene.upstream.answers = {1: {"status": "Ok", "connid": "a"}}
        scene.upstream.tell(broken)
        assert (await ended)["connid"] == "a"
        scene.upstream.end(2, {"status": "Ok", "connid": "b"})
        assert (await runs)["connid"] == "b"

    scene = play(act)
    assert len(scene.upstream.streams) == 2
    assert scene.upstream.recalled == [[1, 2]]


def test_whoever_waits_is_told_when_the_server_has_gone_and_the_next_one_tries_again() -> None:
    async def act(scene: Scene) -> None:
        tasks = [await scene.start(connid) for connid in "ab"]
        scene.upstream.refuses = ConnectError("server", "refused")
        scene.upstream.tell(ConnectionLostError("server", "reset", None))
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [ConnectError, ConnectError]
        with pytest.raises(ConnectError):
            await scene.ends.run(FIELDS)
        scene.upstream.refuses = None
        task = await scene.start()
        scene.upstream.end(3, {"status": "Ok"})
        assert await task == {"status": "Ok"}

    play(act)


def test_a_start_under_way_when_the_server_goes_does_not_wait_for_ever() -> None:
    async def act(scene: Scene) -> None:
        scene.upstream.gate = asyncio.Event()
        task = asyncio.create_task(scene.ends.run(FIELDS))
        await scene.upstream.begun.acquire()
        scene.upstream.refuses = ConnectError("server", "refused")
        scene.upstream.tell(ConnectionLostError("server", "reset", None))
        await scene.upstream.closed.wait()
        scene.upstream.gate.set()
        with pytest.raises(ConnectError):
            await task

    play(act)


def test_what_the_server_cannot_recall_is_told_to_whoever_waits() -> None:
    async def act(scene: Scene) -> None:
        task = await scene.start()
        scene.upstream.answers = {1: ConnectionLostError("server", "reset", False)}
        scene.upstream.end(1, None)
        with pytest.raises(ConnectionLostError):
            await task

    play(act)


def test_a_refused_start_is_declined_with_the_whole_envelope() -> None:
    async def act(scene: Scene) -> None:
        with pytest.raises(Declined) as declined:
            await scene.ends.run({"connid": "taken", "time": 1})
        assert declined.value.envelope["field"] == "connid"

    play(act)


@pytest.mark.parametrize(
    "event", [{"request_result": False, "result": "no such command"}, {"echo": 1}, {"event": "ended", "request": "x"}]
)
def test_a_server_that_speaks_of_something_else_is_no_reason_to_wait(event: dict[str, Any]) -> None:
    async def act(scene: Scene) -> None:
        task = await scene.start()
        scene.upstream.refuses = RefusedError("no")
        scene.upstream.tell({"request_result": True, **event} if "echo" in event else event)
        with pytest.raises(RefusedError):
            await task

    play(act)


def test_a_stream_that_never_begins_is_an_error() -> None:
    async def act(scene: Scene) -> None:
        async def nothing(message: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
            for event in tuple[dict[str, Any], ...]():
                yield event

        scene.upstream.stream = nothing  # type: ignore[method-assign]
        with pytest.raises(RefusedError, match="task set of requests"):
            await scene.ends.run(FIELDS)

    play(act)


def test_an_error_that_nobody_thought_of_is_told_too(caplog: pytest.LogCaptureFixture) -> None:
    async def act(scene: Scene) -> None:
        task = await scene.start()
        scene.upstream.tell(ZeroDivisionError("a bug"))
        with pytest.raises(RefusedError, match="The gateway failed"):
            await task

    play(act)
    assert "a bug" in caplog.text


def test_no_more_are_started_at_once_than_the_server_is_to_have_connections_for() -> None:
    async def act(scene: Scene) -> None:
        scene.upstream.gate = asyncio.Event()
        tasks = [asyncio.create_task(scene.ends.run({"connid": number, "time": 1})) for number in range(3 * MAX_STARTING)]
        for _ in range(MAX_STARTING):
            await scene.upstream.begun.acquire()
        scene.upstream.gate.set()
        for _ in range(2 * MAX_STARTING):
            await scene.upstream.begun.acquire()
        for number in range(3 * MAX_STARTING):
            scene.upstream.end(number + 1, {"status": "Ok"})
        assert await asyncio.gather(*tasks) == [{"status": "Ok"}] * len(tasks)

    scene = play(act)
    assert scene.upstream.most_starting == MAX_STARTING
    assert len(scene.upstream.streams) == 1


def test_it_serves_one_event_loop_after_another() -> None:
    scene = play(_one_request)
    ends = scene.ends

    async def again(other: Scene) -> None:
        other.ends = ends
        ends._upstream = other.upstream  # type: ignore[assignment]
        await _one_request(other)

    play(again)


async def _one_request(scene: Scene) -> None:
    task = await scene.start()
    scene.upstream.end(1, {"status": "Ok"})
    assert await task == {"status": "Ok"}


def test_early_ends_are_kept_no_longer_than_starts_are_under_way() -> None:
    waiting = Waiting()
    waiting.end(1, {"status": "Ok"})
    assert waiting._early == {}
    with waiting.starting():
        with waiting.starting():
            waiting.end(2, {"status": "Ok"})
        assert waiting._early == {2: {"status": "Ok"}}
        waiting.miss()
    assert (waiting._early, waiting._missed) == ({}, False)
