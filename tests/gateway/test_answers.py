"""The envelope: which status an error has, and JSON of values of every kind."""

from __future__ import annotations

import json
import math
import pickle
from typing import Any

import pytest

from bgpy import errors
from bgpy.gateway.answers import dump_json, failure_answer, json_answer, refusal

FAILURES = [
    (errors.RefusedError("no", "name"), 400),
    (errors.ConnectError("127.0.0.1:1", "refused"), 503),
    (errors.ConnectionLostError("127.0.0.1:1", "reset", False), 503),
    (errors.ConnectionLostError("127.0.0.1:1", "reset", None), 503),
    (errors.AuthenticationError("127.0.0.1:1", "wrong"), 503),
    (errors.ServerNotFoundError("models"), 503),
    (errors.ServerEndingError(), 503),
    (errors.OverloadedError("full"), 503),
    (errors.ClientClosedError(), 503),
    (errors.VersionMismatchError("1", "2"), 503),
    (errors.TlsError("no", "mend"), 503),
    (errors.RequestTimeoutError(3.0, "the answer", None), 504),
    (errors.MessageTooLargeError(2, 1, False), 413),
    (errors.MessageTooLargeError(2, 1, True), 200),
    (errors.RemoteError("ValueError", "bad", "Traceback"), 200),
    (errors.NoResponseError(), 200),
    (errors.InvalidResultError("exec_task", "int"), 200),
    (errors.NotInitializedError(), 200),
    (errors.AnswerLostError("gone"), 200),
    (errors.SerializationError("Cannot unpickle", None, "pandas", True), 200),
]


@pytest.mark.parametrize(("failure", "status"), FAILURES, ids=lambda value: type(value).__name__)
def test_every_error_has_a_status_and_the_envelope(failure: errors.BgpyError, status: int) -> None:
    answer = failure_answer(failure)
    envelope = json.loads(answer.body)
    assert answer.status == status
    assert envelope["request_result"] is False
    assert isinstance(envelope["result"], str)
    assert envelope["result"]
    if not isinstance(failure, errors.RefusedError):
        assert envelope["executed"] is failure.executed


@pytest.mark.parametrize(("failure", "status"), FAILURES, ids=lambda value: type(value).__name__)
def test_only_what_did_not_run_may_be_sent_again(failure: errors.BgpyError, status: int) -> None:
    again = dict(failure_answer(failure).headers).get(b"retry-after")
    assert (again is not None) == (status == 503 and failure.executed is False)


def test_a_refusal_names_the_field() -> None:
    assert json.loads(failure_answer(errors.RefusedError("no", "name")).body)["field"] == "name"


def test_what_a_task_raised_is_told_in_parts() -> None:
    envelope = json.loads(failure_answer(errors.RemoteError("ValueError", "bad", "Traceback ...")).body)
    assert envelope["error"] == {"type": "ValueError", "message": "bad", "traceback": "Traceback ..."}
    assert envelope["result"] == "A task raised ValueError: bad"


def test_an_error_that_nobody_thought_of_is_logged_and_not_told(caplog: pytest.LogCaptureFixture) -> None:
    answer = failure_answer(ZeroDivisionError("a secret"))
    assert answer.status == 500
    assert b"secret" not in answer.body
    assert "a secret" in caplog.text


def test_who_is_not_logged_in_is_told_how() -> None:
    assert dict(refusal(401, "no").headers)[b"www-authenticate"] == b"Bearer"
    assert b"www-authenticate" not in dict(refusal(403, "no").headers)


class Hostile:
    """Fails whatever it is asked."""

    def __repr__(self) -> str:
        raise RuntimeError("no repr")

    __str__ = __repr__


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        [math.inf, -math.inf],
        {"a": math.nan, 1: 2, None: 3, (1, 2): 4},
        b"bytes",
        {1, 2},
        object(),
        Hostile(),
        {"deep": nested(5000)},
        "\ud800 half a pair",
        {"\udcff": "\udcff"},
        10**5000,
        pickle.PickleBuffer(b"x"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_no_value_is_too_odd_for_json(value: Any) -> None:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    json.loads(dump_json({"request_result": True, "result": value}), parse_constant=refuse)


def test_plain_data_stays_as_it_is() -> None:
    value = {"a": [1, 2.5, None, True, "ä€😀"], "b": {}}
    assert json.loads(dump_json(value)) == value
    assert dump_json("ä") == '"ä"'.encode()


def test_an_answer_is_json() -> None:
    answer = json_answer({"a": 1}, 201, {"x-more": "1"})
    assert (answer.status, answer.body) == (201, b'{"a":1}')
    assert answer.headers == [(b"content-type", b"application/json"), (b"x-more", b"1")]
