"""One state, arrival order, and errors that cost only their own request."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support.servers import COUNTER, Served, count, dial, nothing, running_server, start_count, tasks

import bgpy.wires
from bgpy.client import Client
from bgpy.errors import (
    AlreadyInitializedError,
    AuthenticationError,
    BgpyError,
    InvalidResultError,
    MessageTooLargeError,
    NoResponseError,
    NotInitializedError,
    RemoteError,
    ResponseError,
    SerializationError,
    ServerStartError,
    TlsError,
    TokenError,
)
from bgpy.protocol.frames import FLAG_AWAIT
from bgpy.protocol.messages import MessageType, dump
from bgpy.records import Registry
from bgpy.server import Server
from bgpy.sockets import ClientSocket
from bgpy.tls import Certificates

Args = dict[str, Any]
State = dict[str, Any]


class CarefulError(Exception):
    """An exception that both sides know."""


class Unreadable:
    """Pickles, and raises when it is unpickled."""

    def __reduce__(self) -> Any:
        return int, ("not a number",)


class Unpicklable:
    def __reduce__(self) -> Any:
        raise RuntimeError("cannot be pickled")


class Stubborn(Exception):
    """An exception that cannot be unpickled: its constructor wants more than its args."""

    def __init__(self, first: object, second: object) -> None:
        super().__init__(first)


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def raise_local() -> None:
    class Local(Exception):
        pass

    raise Local(threading.Lock())


def raise_careful() -> None:
    raise CarefulError("of no use", 42)


def raise_stubborn() -> None:
    raise Stubborn("a", "b")


def raise_mute() -> None:
    raise Mute


def interrupt() -> None:
    raise KeyboardInterrupt


RAISE = {
    "raise": raise_careful,
    "stubborn": raise_stubborn,
    "local": raise_local,
    "mute": raise_mute,
    "exit": lambda: sys.exit(3),
    "interrupt": interrupt,
}
RESPOND: dict[str, Any] = {
    "unpicklable": {"fine": 1, "lock": threading.Lock()},
    "no dict": [1, 2],
    "unreadable": {"value": Unreadable()},
}


def misbehave(client_socket: ClientSocket, state: State, args: Args) -> Any:
    """Do what `how` says; count where it says nothing."""
    how = args.get("how")
    if how in RAISE:
        RAISE[how]()
    elif how in RESPOND:
        client_socket.respond(RESPOND[how])
    elif how == "recurse":
        return misbehave(client_socket, state, args)
    elif how == "nothing":
        return None
    elif how in ("second", "after"):
        client_socket.respond({"number": 1})
        if how == "after":
            raise CarefulError("after the response")
        client_socket.respond({"number": 2})
    elif how == "large":
        client_socket.respond({"data": bytes(args["size"])})
    elif how == "recover":
        with contextlib.suppress(SerializationError):
            client_socket.respond({"lock": threading.Lock()})
        client_socket.respond({"recovered": True})
    return count(client_socket, state, args) if how is None else state


@pytest.fixture
def server(caplog: pytest.LogCaptureFixture) -> Iterator[Served]:
    """Run a server that has to be alive with its state after the test."""
    caplog.set_level(logging.CRITICAL + 1, "bgpy.server")
    with running_server(tasks(misbehave, start_count), max_message_size=1 << 20) as served, client_of(served) as client:
        assert client.execute({"add": 1}, await_response=True) == {"count": 1}
        yield served
        assert client.execute({"add": 1}, await_response=True) == {"count": 2}


def client_of(server: Served, **options: Any) -> Client:
    return Client(**{"port": server.port, "timeout": 20, **options})


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


def test_exec_before_init_and_init_twice() -> None:
    with running_server(None) as server, client_of(server) as client:
        for args in ({"await_response": True}, {"await_response": False}):
            with pytest.raises(NotInitializedError) as caught:
                client.execute({"add": 1}, **args)
            assert caught.value.executed is False
        assert client.initialize(COUNTER) == {"message": "Initialization successful."}
        with pytest.raises(AlreadyInitializedError):
            client.initialize(COUNTER)
        assert client.initialize(COUNTER, exist_ok=True) == {"message": "Already initialized."}
        assert client.execute({"add": 2}, await_response=True)["count"] == 2


def init_with(client_socket: ClientSocket) -> State:
    client_socket.respond({"hello": "from the init task"})
    return {"count": 10}


def init_without() -> State:
    return {"count": 20}


def init_badly(client_socket: ClientSocket) -> State:
    raise CarefulError("not today")


def init_no_dict() -> Any:
    return 7


def test_an_init_task_takes_its_client_or_nothing_and_may_fail_first() -> None:
    with running_server(None) as server, client_of(server) as client:
        with pytest.raises(RemoteError, match="not today"):
            client.initialize(init_badly, count, nothing)
        with pytest.raises(InvalidResultError, match="init_task returned int"):
            client.initialize(init_no_dict, count, nothing)
        assert client.initialize(init_with, count, nothing) == {"hello": "from the init task"}
        assert client.execute({"add": 1}, await_response=True)["count"] == 11
    with running_server(None) as server, client_of(server) as client:
        client.initialize(init_without, count, nothing)
        assert client.execute({"add": 1}, await_response=True)["count"] == 21


def note(client_socket: ClientSocket, state: State, args: Args) -> State:
    state["seen"].append(args["number"])
    client_socket.respond({"seen": list(state["seen"])})
    return state


def start_notes() -> State:
    return {"seen": []}


@pytest.mark.parametrize("method", ["execute", "submit", "mixed"])
def test_requests_of_one_thread_run_in_the_order_in_which_it_made_them(method: str) -> None:
    """Without the ticket drawn before the confirmation two of them swap."""
    with running_server(tasks(note, start_notes)) as server, client_of(server, max_connections=16) as client:
        futures = []
        for number in range(300):
            if method == "submit" or (method == "mixed" and number % 2):
                futures.append(client.submit({"number": number}))
            else:
                client.execute({"number": number})
        for future in futures:
            future.result(20)
        assert client.execute({"number": 300}, await_response=True)["seen"] == list(range(301))


def test_waiting_requests_have_their_turns_in_order_of_arrival() -> None:
    """Many connections queue up one after the other behind a task that holds the state."""
    begun, go_on = threading.Event(), threading.Event()

    def hold(client_socket: ClientSocket, state: State, args: Args) -> State:
        if args["number"] == 0:
            begun.set()
            assert go_on.wait(20)
        return note(client_socket, state, args)

    with running_server(tasks(hold, start_notes)) as server, client_of(server) as client:
        futures = [client.submit({"number": 0})]
        assert begun.wait(20)
        futures += [client.submit({"number": number}) for number in range(1, 41)]
        go_on.set()
        assert futures[-1].result(20)["seen"] == list(range(41))
        for future in futures:
            future.result(20)


def test_many_threads_share_one_client_and_the_state_is_exact() -> None:
    with running_server() as server, client_of(server, timeout=60) as client:

        def add(_: int) -> list[int]:
            return [client.execute({"add": 1}, await_response=True)["count"] for _ in range(200)]

        with ThreadPoolExecutor(64) as threads:
            counts = [number for numbers in threads.map(add, range(64)) for number in numbers]
        assert sorted(counts) == list(range(1, 64 * 200 + 1))


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


def test_a_request_whose_client_dies_while_it_runs_still_runs() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slow(client_socket: ClientSocket, state: State, args: Args) -> State:
        if args.get("slow"):
            begun.set()
            assert go_on.wait(20)
        return count(client_socket, state, args)

    with running_server(tasks(slow, start_count)) as server, client_of(server) as client:
        with dial(server.port) as connection:
            connection.transmit(MessageType.EXEC, FLAG_AWAIT, 0, 1, dump({"add": 1, "slow": True}))
            assert begun.wait(20)
        go_on.set()
        assert client.execute({"add": 1}, await_response=True) == {"count": 2}


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


def test_a_foreground_server_in_the_main_thread_says_its_port_and_ends_on_a_signal(tmp_path: Path) -> None:
    script = tmp_path / "serve.py"
    script.write_text(
        "import sys\nfrom bgpy.server import Server\n"
        "server = Server(tasks='bgpy.example.tasks')\n"
        "code = server.run(ready=lambda: print(server.port, server.pid, flush=True))\n"
        "print('code', code)\n"
    )
    with subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": ROOT}
    ) as process:
        assert process.stdout is not None
        port, pid = map(int, process.stdout.readline().split())
        assert pid == process.pid
        with Client(port=port, timeout=20) as client:
            response = client.execute({"command": "increase", "value_change": 10}, await_response=True)
            assert response == {"request_count": 1, "value": 1010}
        process.terminate()
        assert process.stdout.read() == "code 0\n"
        assert process.wait(20) == 0


ROOT = str(Path(bgpy.wires.__file__).parents[1])


def test_status_tells_what_there_is_to_know() -> None:
    with running_server(None, log_file="some.log") as server, client_of(server) as client:
        status = client.status()
        assert status["initialized"] is False
        client.initialize(COUNTER)
        client.execute({"add": 1}, await_response=True)
        status = client.status()
    assert {
        key: status[key]
        for key in ("name", "host", "port", "pid", "initialized", "requests", "failed", "failures", "connections")
    } == {
        "name": None,
        "host": "127.0.0.1",
        "port": server.port,
        "pid": os.getpid(),
        "initialized": True,
        "requests": 2,
        "failed": 0,
        "failures": [],
        "connections": 2,
    }
    assert status["uptime"] > 0
    assert status["memory"] > 1 << 20


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_a_server_listens_on_addresses_of_both_families_and_on_names(host: str) -> None:
    with running_server(host=host) as server, Client(host, server.port, timeout=20) as client:
        assert client.execute({"add": 1}, await_response=True) == {"count": 1}


def test_a_port_in_use_a_strange_host_and_bad_tasks_do_not_start() -> None:
    with running_server() as server, pytest.raises(ServerStartError, match=f"cannot listen on 127.0.0.1:{server.port}"):
        Server(port=server.port).run()
    with pytest.raises(ServerStartError, match="cannot listen"):
        Server("192.0.2.1", token="x" * 32).run()
    with pytest.raises(ServerStartError, match="not known"):
        Server("no-such-host.invalid").run()
    with pytest.raises(CarefulError):
        Server(tasks=tasks(count, init_badly)).run()
    with pytest.raises(InvalidResultError):
        Server(tasks=tasks(count, init_no_dict)).run()


@pytest.mark.parametrize(
    "options", [{"tls": "token", "token": ""}, {"tls": "strange"}, {"tls": Certificates("no.pem", "no.pem")}]
)
def test_a_start_that_fails_keeps_neither_its_name_nor_its_port(options: Any) -> None:
    with pytest.raises(TlsError):
        Server(name="held", **options).run()
    held = Registry().hold("held", "00")
    held.release()


@pytest.mark.parametrize(("host", "token"), [("0.0.0.0", "short"), ("0.0.0.0", ""), ("::", "")])
def test_off_loopback_a_real_token_is_needed(host: str, token: str) -> None:
    with pytest.raises(TokenError):
        Server(host, token=token).run()


def test_insecure_says_so_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with running_server(host="0.0.0.0", token="", insecure=True, entrance={"host": "127.0.0.1"}) as server:
        assert server.client().execute({"add": 1}, await_response=True) == {"count": 1}
    assert "without a token" in caplog.text
    caplog.clear()
    with running_server(host="0.0.0.0", token="t" * 22, entrance={"host": "127.0.0.1"}) as server:
        assert server.client().execute({"add": 1}, await_response=True) == {"count": 1}
    assert "can be read on the way" in caplog.text
    assert "t" * 22 not in caplog.text


@pytest.mark.parametrize(("ours", "theirs"), [("a" * 22, "b" * 22), ("a" * 22, ""), ("", "b" * 22), ("a" * 22, "a" * 23)])
def test_a_wrong_missing_or_empty_token_is_told_to_the_client(ours: str, theirs: str) -> None:
    with running_server(token=ours) as server:
        with Client(port=server.port, token=theirs) as client, pytest.raises(AuthenticationError) as caught:
            client.execute({"add": 1}, await_response=True)
        assert caught.value.executed is False
        assert ours not in str(caught.value) or not ours
        status = server.client().status()
        assert status["requests"] == 1


def show_token(client_socket: ClientSocket, state: State, args: Args) -> State:
    client_socket.respond({"token": os.environ.get("BGPY_TOKEN")})
    return state


def test_the_token_in_the_environment_is_gone_before_a_task_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment goes to every process that a task starts."""
    token = "t" * 40
    monkeypatch.setenv("BGPY_TOKEN", token)
    with running_server(tasks(show_token), entrance={"token": token}) as server:
        assert server.client().execute({}, await_response=True) == {"token": None}


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
