"""Which predictions go to the server in one message, who gets which answer, and what a client that goes away takes with it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from support.loops import in_loop, turn_of_the_loop
from support.scripted_models import inferred, job

from bgpy.errors import ConnectError
from bgpy.gateway.gathering import Gathering
from bgpy.tasks.tensorflow.commands import MAX_TOGETHER

LARGE = (64 << 10) + 1


class Server:
    """Answers each message when the test says so; an inference with its own number."""

    def __init__(self, max_batch: int | None = 64) -> None:
        self.told = {} if max_batch is None else {"max_batch": max_batch}
        #: The numbers of the requests of each message.
        self.messages: list[list[int]] = []
        self.size = 2
        self.gate = asyncio.Event()
        self.gate.set()
        self.cancelled = 0
        self.failure: Exception | None = None
        self.refusal: dict[str, Any] | None = None

    async def execute(self, message: dict[str, Any]) -> dict[str, Any]:
        requests = message.get("requests", [message])
        assert all(request["command"] == "infer" for request in requests)
        assert message["timeout"] == 300
        self.messages.append([request["number"] for request in requests])
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.failure is not None:
            raise self.failure
        answers = [self.answer(request["number"]) for request in requests]
        if message["command"] == "infer":
            return answers[0]
        return self.refusal or {"request_result": True, "result": answers}

    def answer(self, number: int) -> dict[str, Any]:
        return {"request_result": True, "result": {**inferred(bytes(self.size)), **self.told, "job": number}}


def inference(number: int, name: str = "half") -> dict[str, Any]:
    return {"command": "infer", "name": name, "timeout": 300, "number": number}


async def ask(gathering: Gathering, *numbers: int, name: str = "half", size: int = 2) -> list[int]:
    """Ask for predictions at once, and return the numbers that their answers have."""
    answers = await asyncio.gather(*(gathering.infer(inference(number, name), size) for number in numbers))
    return [answer["result"]["job"] for answer in answers]


async def knowing(server: Server, *names: str) -> Gathering:
    """Return one that has asked models once."""
    gathering = Gathering(server.execute)
    for name in names or ("half",):
        await ask(gathering, 0, name=name)
    server.messages.clear()
    return gathering


@in_loop
async def test_before_a_model_has_said_what_it_takes_each_goes_alone() -> None:
    server = Server()
    gathering = Gathering(server.execute)
    server.gate.clear()
    first = asyncio.ensure_future(ask(gathering, 1, 2, 3))
    for _ in range(3):
        await turn_of_the_loop()
    server.gate.set()
    assert await first == [1, 2, 3]
    assert server.messages == [[1], [2], [3]]


@in_loop
async def test_those_of_one_turn_go_together_and_each_has_its_own_answer() -> None:
    server = Server()
    gathering = await knowing(server)
    assert await ask(gathering, 1, 2, 3) == [1, 2, 3]
    assert await ask(gathering, 4) == [4]
    assert server.messages == [[1, 2, 3], [4]]


@in_loop
async def test_nothing_waits_for_what_comes_later_or_for_an_answer() -> None:
    server = Server()
    gathering = await knowing(server)
    server.gate.clear()
    first = asyncio.ensure_future(ask(gathering, 1))
    for _ in range(3):
        await turn_of_the_loop()
    second = asyncio.ensure_future(ask(gathering, 2))
    for _ in range(3):
        await turn_of_the_loop()
    assert server.messages == [[1], [2]]
    server.gate.set()
    assert await asyncio.gather(first, second) == [[1], [2]]


@in_loop
async def test_models_do_not_wait_for_each_other() -> None:
    server = Server()
    gathering = await knowing(server, "half", "other")
    await asyncio.gather(ask(gathering, 1, 2), ask(gathering, 3, 4, name="other"))
    assert server.messages == [[1, 2], [3, 4]]


@pytest.mark.parametrize(("max_batch", "messages"), [(2, [[1, 2], [3, 4], [5]]), (1, [[1], [2], [3], [4], [5]])])
@in_loop
async def test_no_more_go_together_than_the_model_takes_at_once(max_batch: int, messages: list[list[int]]) -> None:
    server = Server(max_batch)
    gathering = await knowing(server)
    assert await ask(gathering, 1, 2, 3, 4, 5) == [1, 2, 3, 4, 5]
    assert server.messages == messages


@in_loop
async def test_a_message_has_an_end_however_many_the_model_takes() -> None:
    server = Server(10_000)
    gathering = await knowing(server)
    numbers = list(range(MAX_TOGETHER + 1))
    assert await ask(gathering, *numbers) == numbers
    assert server.messages == [numbers[:-1], numbers[-1:]]


@in_loop
async def test_an_older_server_gets_each_alone() -> None:
    server = Server(None)
    gathering = await knowing(server)
    await ask(gathering, 1, 2)
    assert server.messages == [[1], [2]]


@in_loop
async def test_large_bodies_go_alone() -> None:
    server = Server()
    gathering = await knowing(server)
    await ask(gathering, 1, 2, size=LARGE)
    assert server.messages == [[1], [2]]


@in_loop
async def test_after_a_large_answer_each_goes_alone() -> None:
    server = Server()
    gathering = await knowing(server)
    server.size = LARGE
    await ask(gathering, 1, 2)
    server.size = 2
    await ask(gathering, 3, 4)
    await ask(gathering, 5, 6)
    assert server.messages == [[1, 2], [3], [4], [5, 6]]


@in_loop
async def test_what_has_failed_tells_nothing_of_the_model() -> None:
    server = Server()
    gathering = await knowing(server)
    server.answer = lambda number: {"request_result": True, "result": job("failed", job=number)}  # type: ignore[method-assign]
    await ask(gathering, 1, 2)
    await ask(gathering, 3, 4)
    assert server.messages == [[1, 2], [3, 4]]


@in_loop
async def test_a_message_that_is_refused_or_lost_is_told_to_each_of_its_requests() -> None:
    server = Server()
    gathering = await knowing(server)
    server.refusal = {"request_result": False, "result": "too large", "field": None, "error": "MessageTooLargeError"}
    requests = (gathering.infer(inference(number), 2) for number in (1, 2))
    assert await asyncio.gather(*requests) == [server.refusal] * 2
    server.failure = ConnectError("127.0.0.1:1", "refused")
    found = await asyncio.gather(*(gathering.infer(inference(number), 2) for number in (3, 4)), return_exceptions=True)
    assert found == [server.failure] * 2
    assert server.messages == [[1, 2], [3, 4]]


@in_loop
async def test_a_client_that_goes_away_takes_no_other_with_it() -> None:
    server = Server()
    gathering = await knowing(server)
    server.gate.clear()
    first, second = (asyncio.ensure_future(ask(gathering, number)) for number in (1, 2))
    for _ in range(3):
        await turn_of_the_loop()
    first.cancel()
    await turn_of_the_loop()
    server.gate.set()
    assert await second == [2]
    assert (server.messages, server.cancelled) == ([[1, 2]], 0)


@in_loop
async def test_the_wait_for_the_server_ends_with_the_last_client_that_goes_away() -> None:
    server = Server()
    gathering = await knowing(server)
    server.gate.clear()
    requests = [asyncio.ensure_future(ask(gathering, number)) for number in (1, 2)]
    for _ in range(3):
        await turn_of_the_loop()
    for request in requests:
        request.cancel()
    await asyncio.wait(requests)
    await turn_of_the_loop()
    assert (server.messages, server.cancelled) == ([[1, 2]], 1)


def test_what_an_event_loop_has_not_sent_holds_up_nobody_in_another_one() -> None:
    left = asyncio.new_event_loop()
    gathering = left.run_until_complete(knowing(Server()))
    stuck = left.create_task(gathering.infer(inference(1), 2))
    left.call_soon(left.stop)
    left.run_forever()  # for one turn: it waits with its loop
    assert asyncio.run(asyncio.wait_for(ask(gathering, 2, 3), 10)) == [2, 3]
    assert left.run_until_complete(stuck)["result"]["job"] == 1
    left.close()
