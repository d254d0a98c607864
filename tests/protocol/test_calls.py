"""What clients ask for, and what they make of the answers."""

from __future__ import annotations

from collections.abc import Callable
from pickle import PickleBuffer
from typing import Any

import pytest

from bgpy.errors import AlreadyInitializedError, NoResponseError, NotInitializedError, RemoteProtocolError, SerializationError
from bgpy.protocol.calls import (
    ALREADY_INITIALIZED,
    STATUS_LANE,
    STREAM_FLAGS,
    SUBMIT_FLAGS,
    Call,
    execute_call,
    execute_flags,
    exit_call,
    initialize_call,
    read_answer,
    read_initialized,
    status_call,
)
from bgpy.protocol.failures import dump_failure
from bgpy.protocol.frames import FLAG_AWAIT, FLAG_CONFIRM, FLAG_STREAM, Frame
from bgpy.protocol.messages import MessageType, Payload, dump, load

CALL = status_call()


class Secret:
    """Pickles here and does not unpickle anywhere."""

    def __reduce__(self) -> Any:
        return _refuse, ()


def _refuse() -> None:
    raise RuntimeError("no")


def tasks() -> tuple[Callable[..., Any], ...]:
    return len, print, repr


def frame(kind: MessageType, payload: Payload) -> Frame:
    return Frame(kind, 0, 0, 1, payload.pickle, payload.buffers)


def message_of(call: Call) -> object:
    return load(call.payload.pickle, call.payload.buffers)


def test_initialize_sends_three_tasks_and_waits() -> None:
    call = initialize_call(tasks(), {})
    assert (call.kind, call.flags) == (MessageType.INIT, FLAG_AWAIT)
    assert message_of(call) == call.message == {"init_task": len, "exec_task": print, "exit_task": repr}
    for wrong, error in (
        ((), TypeError),
        ((1,), TypeError),
        ((len, 1, len), TypeError),
        (("no_such_module",), ModuleNotFoundError),
    ):
        with pytest.raises(error):
            initialize_call(wrong, {})


@pytest.mark.parametrize("flags", [execute_flags(True), execute_flags(False), SUBMIT_FLAGS, STREAM_FLAGS])
def test_execute_sends_its_dict_with_the_flags_of_its_verb(flags: int) -> None:
    call = execute_call({"a": 1}, flags)
    assert (call.kind, call.flags) == (MessageType.EXEC, flags)
    assert message_of(call) == call.message == {"a": 1}


def test_each_verb_says_how_it_wants_to_be_answered() -> None:
    assert execute_flags(True) == FLAG_AWAIT
    assert execute_flags(False) == FLAG_CONFIRM
    assert SUBMIT_FLAGS == FLAG_AWAIT | FLAG_CONFIRM
    assert STREAM_FLAGS == FLAG_AWAIT | FLAG_STREAM


@pytest.mark.parametrize(("args", "sent"), [(None, {}), ({"a": 1}, {"a": 1})])
def test_exit_sends_arguments_and_grace(args: dict[str, Any] | None, sent: dict[str, Any]) -> None:
    for await_response, flags in ((True, FLAG_AWAIT), (False, 0)):
        call = exit_call(args, await_response, 2.5)
        assert (call.kind, call.flags) == (MessageType.EXIT, flags)
        assert message_of(call) == call.message == {"args": sent, "grace": 2.5}


def test_status_sends_nothing_over_a_lane_of_its_own() -> None:
    assert (CALL.kind, CALL.flags, CALL.payload) == (MessageType.STATUS, FLAG_AWAIT, Payload(b"", [], False))
    assert STATUS_LANE == 0xFFFF


@pytest.mark.parametrize("wrong", [None, [], "text"])
def test_arguments_are_a_dict(wrong: Any) -> None:
    with pytest.raises(TypeError, match="args must be a dict, not"):
        execute_call(wrong, 0)
    if wrong is not None:
        with pytest.raises(TypeError, match="exit_args must be a dict, not"):
            exit_call(wrong, False, None)


def test_an_answer_is_its_dict_and_an_end_is_none() -> None:
    assert read_answer({}, frame(MessageType.OK, dump({"a": PickleBuffer(bytes(100_000))}))) == {"a": bytes(100_000)}
    assert read_answer({}, frame(MessageType.END, Payload(b"", [], False))) is None


def test_an_error_is_raised() -> None:
    with pytest.raises(NoResponseError):
        read_answer({}, frame(MessageType.ERROR, dump_failure(NoResponseError())))


@pytest.mark.parametrize(
    ("failure", "key"),
    [
        (SerializationError("reason", None, "decimal"), "b"),
        (SerializationError("reason", None, "no_such_module"), None),
        (SerializationError("reason", "a", "decimal"), "a"),
        (SerializationError("reason"), None),
    ],
)
def test_an_error_about_a_missing_module_names_the_key_that_needs_it(failure: SerializationError, key: str | None) -> None:
    from decimal import Decimal

    with pytest.raises(SerializationError) as caught:
        read_answer({"a": 1, "b": Decimal(1)}, frame(MessageType.ERROR, dump_failure(failure)))
    assert caught.value.key == key
    assert caught.value.executed is False


def test_an_answer_that_cannot_be_unpickled_says_that_the_request_ran() -> None:
    with pytest.raises(SerializationError) as caught:
        read_answer({}, frame(MessageType.OK, dump({"a": Secret()})))
    assert caught.value.executed is True


def test_an_answer_that_is_no_dict_says_that_the_request_ran() -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        read_answer({}, frame(MessageType.OK, dump([])))
    assert caught.value.executed is True


@pytest.mark.parametrize("payload", [dump([]), dump({"error": "Unknown"}), Payload(b"\x80", [], False), Payload(b"", [], False)])
def test_an_error_that_cannot_be_read_says_that_nobody_knows_whether_the_request_ran(payload: Payload) -> None:
    with pytest.raises((RemoteProtocolError, SerializationError)) as caught:
        read_answer({}, frame(MessageType.ERROR, payload))
    assert caught.value.executed is None


def test_initialized_already_is_an_error_or_a_message() -> None:
    call = initialize_call(tasks(), {})
    already = frame(MessageType.ERROR, dump_failure(AlreadyInitializedError()))
    with pytest.raises(AlreadyInitializedError):
        read_initialized(call, already, False)
    answer = read_initialized(call, already, True)
    assert answer == ALREADY_INITIALIZED == {"message": "Already initialized."}
    assert answer is not ALREADY_INITIALIZED


def test_other_answers_to_initialize_are_as_they_are() -> None:
    call = initialize_call(tasks(), {})
    assert read_initialized(call, frame(MessageType.OK, dump({"a": 1})), True) == {"a": 1}
    assert read_initialized(call, frame(MessageType.END, Payload(b"", [], False)), True) == {}
    with pytest.raises(NotInitializedError):
        read_initialized(call, frame(MessageType.ERROR, dump_failure(NotInitializedError())), True)
