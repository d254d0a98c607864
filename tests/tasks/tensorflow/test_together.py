"""Several requests in one message: each is carried out as if it had come alone, and the last end answers all."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from support.hosts import WAIT, Desk
from support.scripted import KeepingSocket

from bgpy.errors import MessageTooLargeError
from bgpy.tasks.tensorflow.commands import MAX_TOGETHER
from bgpy.tasks.tensorflow.dispatch import dispatch
from bgpy.tasks.tensorflow.together import Together
from bgpy.tasks.workspace.answering import SMALL_ANSWER
from bgpy.tasks.workspace.values import Packed


def inference(body: bytes, **fields: Any) -> dict[str, Any]:
    message = {"command": "infer", "name": "w", "protocol": "v1", "verb": "predict", "timeout": WAIT}
    return {**message, "body": Packed(b"", (body,)), **fields}


def bodies(answers: list[dict[str, Any]]) -> list[bytes]:
    return [bytes(answer["result"]["result"].buffers[0]) for answer in answers]


def send(desk: Desk, *requests: dict[str, Any], client: KeepingSocket | None = None) -> KeepingSocket:
    return desk.send({"command": "infer_all", "requests": list(requests), "timeout": WAIT}, client)


def test_each_request_has_its_answer_in_its_place(desk: Desk) -> None:
    desk.run("deploy", path="m")
    answer = send(desk, inference(b"abc"), inference(b"d"), inference(b"ef")).answer()
    assert answer["request_result"] is True
    assert bodies(answer["result"]) == [b"cba", b"d", b"fe"]
    assert [each["result"]["job"] for each in answer["result"]] == [1, 2, 3]


def test_an_answer_tells_how_many_the_model_takes_at_once(desk: Desk) -> None:
    assert desk.answer(inference(b"abc"))["result"]["max_batch"] == 64
    desk.run("deploy", path="m")
    assert desk.answer(inference(b"abc"))["result"]["max_batch"] == 3


def test_a_request_that_is_refused_costs_only_itself(desk: Desk) -> None:
    answers = send(desk, inference(b"abc"), inference(b"", name="nope"), inference(b"", verb=1), inference(b"ef")).answer()[
        "result"
    ]
    assert bodies([answers[0], answers[3]]) == [b"cba", b"fe"]
    assert [(answer["request_result"], answer["error"]) for answer in answers[1:3]] == [
        (False, "WorkspaceNotFoundError"),
        (False, "RefusedError"),
    ]


def test_nobody_hears_before_the_last_has_ended(desk: Desk) -> None:
    desk.run("push_job", job="done", type=1)
    desk.ask("create_workspace", name="other")
    desk.run("push_job", name="other", job="done", type=1)
    gate = desk.of("other").gate = threading.Event()
    client = send(desk, inference(b"abc"), inference(b"ef", name="other"))
    assert desk.of("other").at_gate.wait(WAIT)
    desk.run("predict")  # behind the first of them
    assert client.responses.empty()
    gate.set()
    assert bodies(client.answer()["result"]) == [b"cba", b"fe"]


def test_one_whose_time_is_over_is_answered_as_it_is(desk: Desk) -> None:
    desk.run("push_job", job="done", type=1)
    desk.backend.gate = threading.Event()
    late, refused = send(desk, inference(b"abc", timeout=0.05), inference(b"", name="nope")).answer()["result"]
    desk.backend.gate.set()
    assert (late["result"]["finish"], late["result"]["state"], refused["request_result"]) == (False, "running", False)


@pytest.mark.parametrize(
    "requests", [None, {}, [], [1], [{"command": "deploy", "name": "w", "path": "m"}], [inference(b"")] * (MAX_TOGETHER + 1)]
)
def test_what_is_no_array_of_inferences_is_refused(desk: Desk, requests: Any) -> None:
    answer = desk.answer({"command": "infer_all", "requests": requests})
    assert (answer["request_result"], answer["field"], answer["error"]) == (False, "requests", "RefusedError")


def test_large_answers_go_out_by_a_thread_of_their_own() -> None:
    threads = []

    class Client(KeepingSocket):
        def respond(self, response: dict[str, Any], *, more: bool = False) -> None:
            threads.append(threading.current_thread())
            super().respond(response, more=more)

    def answers(size: int) -> threading.Thread:
        client = Client()
        together = Together(client, 2)
        for part in together.parts:
            part.respond({"request_result": True, "result": {"result": Packed(b"", (bytes(size),))}})
        client.answer()
        return threads.pop()

    assert answers(SMALL_ANSWER // 2) is threading.current_thread()
    answering = answers(SMALL_ANSWER // 2 + 1)
    assert answering is not threading.current_thread()
    answering.join(WAIT)


def test_answers_that_are_too_large_together_are_refused_in_words() -> None:
    class Small(KeepingSocket):
        def respond(self, response: dict[str, Any], *, more: bool = False) -> None:
            if response["request_result"]:
                raise MessageTooLargeError(2, 1, True)
            super().respond(response, more=more)

    client = Small()
    (part,) = Together(client, 1).parts
    part.respond({"request_result": True, "result": {"result": None}})
    assert client.answer()["error"] == "MessageTooLargeError"


def test_a_task_that_cannot_defer_has_all_answers_when_it_returns(desk: Desk) -> None:
    desk.run("deploy", path="m")
    client = KeepingSocket()
    dispatch(desk.state["fleet"], client, {"command": "infer_all", "requests": [inference(b"abc"), inference(b"ef")]})
    assert client.deferred is None
    assert bodies(client.answer()["result"]) == [b"cba", b"fe"]
