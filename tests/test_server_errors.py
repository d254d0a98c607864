"""Errors that cost only their own request: of tasks, messages, and clients that go in the middle."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from support.failing import CarefulError, Unpicklable, Unreadable, misbehave
from support.servers import Served, client_of, dial, running_server, start_count, tasks

import bgpy.wires
from bgpy.errors import (
    BgpyError,
    InvalidResultError,
    MessageTooLargeError,
    NoResponseError,
    RemoteError,
    ResponseError,
    SerializationError,
)
from bgpy.protocol.frames import FLAG_AWAIT
from bgpy.protocol.messages import MessageType, dump

Args = dict[str, Any]


@pytest.fixture
def server(caplog: pytest.LogCaptureFixture) -> Iterator[Served]:
    """Run a server that has to be alive with its state after the test."""
    caplog.set_level(logging.CRITICAL + 1, "bgpy.server")
    with running_server(tasks(misbehave, start_count), max_message_size=1 << 20) as served, client_of(served) as client:
        assert client.execute({"add": 1}, await_response=True) == {"count": 1}
        yield served
        assert client.execute({"add": 1}, await_response=True) == {"count": 2}


def failure_of(server: Served, args: Args) -> BgpyError:
    """Return the error of a request, after which the same connection still works."""
    with client_of(server) as client:
        with pytest.raises(BgpyError) as caught:
            client.execute(args, await_response=True)
        assert "count" in client.execute({}, await_response=True)
    return caught.value


def test_a_task_that_raises_gives_its_exception_and_traceback(server: Served) -> None:
    error = failure_of(server, {"how": "raise"})
    assert isinstance(error, RemoteError)
    assert error.executed is True
    assert error.type_name.endswith("CarefulError")
    assert error.message == "('of no use', 42)"
    assert 'raise CarefulError("of no use", 42)' in error.traceback_text
    assert isinstance(error.__cause__, CarefulError)
    assert error.__cause__.args == ("of no use", 42)


@pytest.mark.parametrize(
    ("how", "type_name"),
    [("stubborn", "Stubborn"), ("local", "Local"), ("mute", "Mute"), ("exit", "SystemExit"), ("interrupt", "KeyboardInterrupt")],
)
def test_whatever_a_task_raises_is_told(server: Served, how: str, type_name: str) -> None:
    error = failure_of(server, {"how": how})
    assert isinstance(error, RemoteError)
    assert error.type_name.endswith(type_name)
    assert error.executed is True
    assert (error.__cause__ is None) == (how in ("stubborn", "local"))


def test_endless_recursion_is_an_error_of_its_request(server: Served) -> None:
    """With a smaller stack than Python's default it would be a segmentation fault."""
    error = failure_of(server, {"how": "recurse"})
    assert isinstance(error, RemoteError)
    assert error.type_name == "RecursionError"


def test_a_task_that_returns_no_dict_leaves_the_state_as_it_was(server: Served) -> None:
    error = failure_of(server, {"how": "nothing"})
    assert isinstance(error, InvalidResultError)
    assert (error.task, error.type_name, error.executed) == ("exec_task", "NoneType", True)


def test_a_task_that_never_responds_is_known_at_once(server: Served) -> None:
    error = failure_of(server, {"how": "silent"})
    assert isinstance(error, NoResponseError)
    assert error.executed is True


def test_a_response_that_cannot_be_pickled_names_its_key(server: Served) -> None:
    error = failure_of(server, {"how": "unpicklable"})
    assert isinstance(error, SerializationError)
    assert (error.key, error.executed) == ("lock", True)


def test_a_response_that_is_no_dict_is_an_error(server: Served) -> None:
    error = failure_of(server, {"how": "no dict"})
    assert isinstance(error, ResponseError)
    assert "list" in str(error)
    assert error.executed is True


def test_a_response_that_the_client_cannot_unpickle_is_an_error_that_ran(server: Served) -> None:
    error = failure_of(server, {"how": "unreadable"})
    assert isinstance(error, SerializationError)
    assert error.executed is True


def test_a_task_may_recover_from_a_response_that_failed(server: Served) -> None:
    with client_of(server) as client:
        assert client.execute({"how": "recover"}, await_response=True) == {"recovered": True}


@pytest.mark.parametrize(("how", "error"), [("second", "ResponseError"), ("after", "CarefulError")])
def test_what_fails_after_the_response_is_counted_and_the_client_keeps_its_answer(server: Served, how: str, error: str) -> None:
    with client_of(server) as client:
        failed = client.status()["failed"]
        assert client.execute({"how": how}, await_response=True) == {"number": 1}
        client.execute({}, await_response=True)  # has its turn once the other one is settled
        status = client.status()
    assert status["failed"] == failed + 1
    assert status["failures"][-1]["error"].startswith(error)
    assert status["failures"][-1]["where"] == "after its response"


def test_a_request_that_nobody_waits_for_is_logged_and_told_by_status(server: Served, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR, "bgpy.server")
    with client_of(server) as client:
        failed = client.status()["failed"]
        assert client.execute({"how": "raise"}) == {"message": "Received 'EXEC'"}
        client.execute({}, await_response=True)
        status = client.status()
    assert status["failed"] == failed + 1
    assert status["failures"][-1] == {
        "time": status["failures"][-1]["time"],
        "request": "EXEC",
        "where": "with nobody waiting",
        "error": "CarefulError: ('of no use', 42)",
    }
    assert 'raise CarefulError("of no use", 42)' in caplog.text


def test_arguments_that_cannot_be_pickled_name_their_key_and_do_not_run(server: Served) -> None:
    with client_of(server) as client, pytest.raises(SerializationError) as caught:
        client.execute({"fine": 1, "bad": Unpicklable()}, await_response=True)
    assert (caught.value.key, caught.value.executed) == ("bad", False)


def test_arguments_that_the_server_cannot_unpickle_do_not_run(server: Served) -> None:
    error = failure_of(server, {"add": 1, "value": Unreadable()})
    assert isinstance(error, SerializationError)
    assert error.executed is False


def test_a_class_that_the_server_cannot_import_is_named_with_its_module_and_key(
    server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pickled as if it were installed: sent by name, and then missing over there."""
    import types

    module = types.ModuleType("absent_package")
    module.Thing = type("Thing", (), {"__module__": "absent_package"})  # type: ignore[attr-defined]
    from bgpy.protocol import modules

    monkeypatch.setattr(modules.NeededModules, "by_name", lambda self, obj: True)
    thing = module.Thing()
    with client_of(server) as client:
        # Only while it is pickled: the server shares this process, and must not find it.
        from bgpy.protocol import calls

        def dump_here(message: Args) -> Any:
            sys.modules["absent_package"] = module
            try:
                return dump(message)
            finally:
                del sys.modules["absent_package"]

        monkeypatch.setattr(calls, "dump", dump_here)
        with pytest.raises(SerializationError) as caught:
            client.execute({"add": 1, "thing": thing}, await_response=True)
    assert caught.value.module == "absent_package"
    assert caught.value.executed is False


@pytest.mark.parametrize("args", [[1], None, "text"])
def test_arguments_are_a_dict(server: Served, args: Any) -> None:
    with client_of(server) as client, pytest.raises(TypeError, match="dict"):
        client.execute(args)


def test_a_message_that_is_no_dict_is_refused_by_the_server_too(server: Served) -> None:
    with dial(server.port) as connection:
        connection.transmit(MessageType.EXEC, FLAG_AWAIT, 0, 1, dump([1]))
        assert connection.receive().kind == MessageType.ERROR


def test_a_request_above_the_servers_limit_is_refused_before_it_is_sent(server: Served) -> None:
    with client_of(server) as client:
        with pytest.raises(MessageTooLargeError) as caught:
            client.execute({"data": bytes(1 << 20)}, await_response=True)
        assert caught.value.executed is False
        assert caught.value.limit == 1 << 20
        assert client.execute({"data": bytes((1 << 20) - 100)}, await_response=True)


def test_an_answer_above_the_clients_limit_is_an_error_that_ran(server: Served) -> None:
    with client_of(server, max_message_size=10_000) as client:
        with pytest.raises(MessageTooLargeError) as caught:
            client.execute({"how": "large", "size": 20_000}, await_response=True)
        assert (caught.value.executed, caught.value.limit) == (True, 10_000)
        assert client.execute({"how": "large", "size": 9_000}, await_response=True)


def test_a_client_that_dies_within_a_message_costs_nothing(server: Served) -> None:
    requests = status_of(server)["requests"]
    for keep in (1, 23, 24, 40):
        with dial(server.port) as connection:
            connection.wire.sock.send(b"".join(encode({"add": 1, "more": "x" * 100}))[:keep])
    assert status_of(server)["requests"] == requests


def status_of(server: Served) -> dict[str, Any]:
    with client_of(server) as client:
        return client.status()


def encode(args: Args) -> list[bytes]:
    from bgpy.protocol.frames import encode_frame

    payload = dump(args)
    return [bytes(part) for part in encode_frame(MessageType.EXEC, FLAG_AWAIT, 0, 1, payload.pickle, payload.buffers)]


def test_a_client_that_stops_reading_a_large_answer_holds_the_state_for_the_progress_limit_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bgpy.wires, "PROGRESS_TIMEOUT", 0.2)
    with running_server(tasks(misbehave, start_count)) as server, client_of(server) as client:
        with dial(server.port) as connection:
            connection.transmit(MessageType.EXEC, FLAG_AWAIT, 0, 1, dump({"how": "large", "size": 64 << 20}))
            with pytest.raises(StopReading):
                connection.receive(announced=refuse_to_read)
            assert client.execute({"add": 1}, await_response=True) == {"count": 1}


def refuse_to_read(header: Any) -> None:
    """The answer has begun: from here on nothing is read."""
    raise StopReading


class StopReading(Exception):
    pass


class Unloadable:
    def __reduce__(self) -> Any:
        return int, ("no number",)


def test_arguments_that_cannot_be_unpickled_are_told_by_the_status_too() -> None:
    with running_server() as server:
        client = server.client()
        with pytest.raises(SerializationError, match="no number"):
            client.execute({"value": Unloadable()})
        status = client.status()
        assert status["failed"] == 1
        assert "no number" in status["failures"][0]["error"]
