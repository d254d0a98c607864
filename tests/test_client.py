"""What a client does for its callers: waits that end, threads, streams, futures, and errors that arrive whatever they are."""

from __future__ import annotations

import logging
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.proxies import Proxy
from support.servers import Served, running_server, tasks
from support.slow import Slow

import bgpy
import bgpy.protocol.messages
import bgpy.serving.requests
import bgpy.sockets
from bgpy.errors import ClientClosedError, NoResponseError, PythonVersionError, RemoteError, RequestTimeoutError
from bgpy.protocol import exchange
from bgpy.sockets import ClientSocket

Args = dict[str, Any]
State = dict[str, Any]


@pytest.mark.parametrize("connected", [False, True])
def test_a_timeout_gives_up_the_wait_and_not_the_request(server: Served, slow: Slow, connected: bool) -> None:
    client = server.client()
    if connected:
        client.execute({}, await_response=True)
    with pytest.raises(RequestTimeoutError) as caught:
        client.execute({"add": 1, "slow": True}, await_response=True, timeout=1)  # enough to connect on a busy machine
    assert caught.value.executed is None
    assert caught.value.timeout == 1
    second = client.submit({"add": 10})
    slow.open.set()
    # The late answer met nobody: this is the answer to this request.
    assert second.result(20) == {"count": 11}


def test_the_clients_own_timeout_is_that_of_each_request(server: Served, slow: Slow) -> None:
    client = server.client(timeout=1)  # enough to connect on a busy machine
    with pytest.raises(RequestTimeoutError):
        client.execute({"slow": True}, await_response=True)
    slow.open.set()
    assert client.execute({"add": 1}, await_response=True, timeout=20) == {"count": 1}


def test_a_submitted_request_times_out_in_its_future(server: Served, slow: Slow) -> None:
    client = server.client()
    client.execute({}, await_response=True)  # connected, the request is out before its time is up
    future = client.submit({"add": 1, "slow": True}, timeout=0.1)
    with pytest.raises(RequestTimeoutError) as caught:
        future.result(20)
    assert caught.value.executed is None
    slow.open.set()
    assert client.execute({}, await_response=True) == {"count": 1}


def test_a_pool_that_is_used_up_lets_threads_wait_until_their_time_is_up(server: Served, slow: Slow) -> None:
    client = server.client(max_connections=2)
    futures = [client.submit({"add": 1, "slow": True}) for _ in range(2)]
    with pytest.raises(RequestTimeoutError, match="2 connections") as caught:
        client.execute({"add": 1}, timeout=0.05)
    assert caught.value.executed is False
    assert client.status()["connections"] == 3  # a connection of its own: it gets through
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(client.execute, {"add": 1}, await_response=True)
        slow.open.set()
        assert waiting.result(20) == {"count": 3}
    assert [future.result(20)["count"] for future in futures] == [1, 2]


def test_a_closed_client_says_so(server: Served) -> None:
    with server.client() as client:
        client.execute({})
    with pytest.raises(ClientClosedError):
        client.execute({})
    client.close()


def test_closing_a_client_leaves_its_submitted_request_its_answer(server: Served, slow: Slow) -> None:
    client = server.client()
    future = client.submit({"add": 1, "slow": True})
    client.close()
    slow.open.set()
    assert future.result(20) == {"count": 1}


def test_a_client_logs_where_it_is_told_to(server: Served, tmp_path: Path) -> None:
    logger = logging.getLogger("bgpy.client")
    level = logger.level
    try:
        with server.client(log_level="DEBUG", log_file=str(tmp_path / "client.log")):
            logger.debug("a line")
        assert logger.level == logging.DEBUG
        assert "a line" in (tmp_path / "client.log").read_text()
        assert not logger.handlers
    finally:
        logger.setLevel(level)


def stream(client_socket: ClientSocket, state: State, args: Args) -> State:
    """Respond with some parts, then as told."""
    for part in range(args["parts"]):
        client_socket.respond({"part": part}, more=True)
    if args.get("then") == "last":
        client_socket.respond({"part": "last"})
    if args.get("then") == "raise":
        raise ValueError("in the middle")
    return state


def test_a_stream_ends_with_its_last_part_with_the_task_or_with_its_error() -> None:
    with running_server(tasks(stream)) as server:
        client = server.client()
        assert list(client.stream({"parts": 3, "then": "last"})) == [{"part": 0}, {"part": 1}, {"part": 2}, {"part": "last"}]
        assert list(client.stream({"parts": 2})) == [{"part": 0}, {"part": 1}]
        parts = client.stream({"parts": 1, "then": "raise"})
        assert next(parts) == {"part": 0}
        with pytest.raises(RemoteError, match="in the middle"):
            next(parts)
        with pytest.raises(NoResponseError):
            list(client.stream({"parts": 0}))
        # Who does not stream gets the last one alone, and left in the middle the rest meets nobody.
        assert client.execute({"parts": 3, "then": "last"}, await_response=True) == {"part": "last"}
        parts = client.stream({"parts": 5, "then": "last"})
        assert next(parts) == {"part": 0}
        parts.close()  # type: ignore[attr-defined]
        assert list(client.stream({"parts": 1})) == [{"part": 0}]


def give_code(client_socket: ClientSocket, state: State, args: Args) -> State:
    client_socket.respond({"function": lambda: 1} if args.get("code") else {"fine": True})
    return state


def test_code_by_value_does_not_travel_between_two_versions_of_python(monkeypatch: pytest.MonkeyPatch) -> None:
    with running_server(tasks(give_code)) as server:
        client = server.client()
        assert client.execute({"code": True}, await_response=True)["function"]() == 1
        assert client.execute({"function": lambda: 2}, await_response=True) == {"fine": True}
        here = f"{sys.version_info[0]}.{sys.version_info[1]}"
        for module, args, executed in ((exchange, {"function": lambda: 2}, False), (bgpy.sockets, {"code": True}, True)):
            with monkeypatch.context() as patched:
                patched.setattr(module, "own_python", lambda: "3.99")
                with pytest.raises(PythonVersionError) as caught:
                    client.execute(args, await_response=True)
            assert (caught.value.ours, caught.value.theirs, caught.value.executed) == ("3.99", here, executed)
            assert client.execute({"plain": 1}, await_response=True) == {"fine": True}


def test_connections_are_kept_and_reused(server: Served) -> None:
    with Proxy(server.port) as proxy:
        client = server.client(port=proxy.port)
        for _ in range(50):
            client.execute({"add": 1}, await_response=True)
            client.execute({"add": 1})
        client.execute({}, await_response=True)
        # Usually three: where the end of a confirmed request is late, the next one takes another connection.
        assert len(proxy.links) <= 10


def test_futures_cannot_be_cancelled_and_hold_the_tasks_error(server: Served, slow: Slow) -> None:
    client = server.client()
    future = client.submit({"slow": True, "add": "text"})
    assert not future.cancel()
    slow.open.set()
    with pytest.raises(RemoteError, match="TypeError"):
        future.result(20)


def test_the_log_of_a_client_tells_of_its_connections(server: Served, tmp_path: Path) -> None:
    path = tmp_path / "client.log"
    with server.client(log_level="DEBUG", log_file=str(path)) as client:
        client.execute({"add": 1}, await_response=True)
    assert "DEBUG bgpy.client: Lane 0 connected to 127.0.0.1:" in path.read_text()


def test_a_closed_client_has_no_status(server: Served) -> None:
    client = server.client()
    client.close()
    with pytest.raises(ClientClosedError):
        client.status()


class Told(Exception):
    """An exception that both sides know."""


def raise_at_length(client_socket: ClientSocket, state: State, args: Args) -> State:
    raise Told("x" * 5000)


def test_an_error_is_cut_to_what_the_client_takes() -> None:
    """It was above the client's limit: an awaited one was lost, and one that nobody awaited hit the next request."""
    with running_server(tasks(raise_at_length)) as server:
        client = server.client(max_message_size=3000, max_connections=1)
        client.execute({})
        with pytest.raises(RemoteError) as caught:
            client.execute({}, await_response=True)
        assert caught.value.type_name.endswith("Told")
        assert caught.value.message.startswith("xxx")


def raise_local(client_socket: ClientSocket, state: State, args: Args) -> State:
    class Local(Exception):
        pass

    raise Local("by value")


def test_an_exception_by_value_does_not_travel_to_another_version_of_python(monkeypatch: pytest.MonkeyPatch) -> None:
    with running_server(tasks(raise_local)) as server:
        client = server.client()
        with pytest.raises(RemoteError, match="by value") as caught:
            client.execute({}, await_response=True)
        assert caught.value.__cause__ is not None
        monkeypatch.setattr(bgpy.serving.requests, "own_python", lambda: "9.9")
        with pytest.raises(RemoteError, match="by value") as caught:
            client.execute({}, await_response=True)
        assert caught.value.__cause__ is None


@pytest.mark.parametrize("timeout", [float("nan"), -1.0])
def test_a_timeout_that_is_none_is_refused_before_anything_is_sent(server: Served, timeout: float) -> None:
    client = server.client()
    with pytest.raises(ValueError, match="number of seconds"):
        client.execute({"add": 1}, timeout=timeout)
    with pytest.raises(ValueError, match="number of seconds"):
        server.client(timeout=timeout)
    assert client.execute({"add": 0}, await_response=True) == {"count": 0}


@pytest.mark.parametrize("timeout", [timedelta(seconds=5), "5", b"5", [5]])
def test_a_timeout_that_is_no_number_is_refused_in_words(server: Served, timeout: Any) -> None:
    client = server.client()
    for call in (client.execute, client.submit):
        with pytest.raises(TypeError, match="number of seconds"):
            call({"add": 1}, timeout=timeout)
    with pytest.raises(TypeError, match="number of seconds"):
        client.terminate(timeout=timeout)
    for option in ("timeout", "connect_timeout"):
        with pytest.raises(TypeError, match="number of seconds"):
            server.client(**{option: timeout})
    assert client.execute({"add": 0}, await_response=True) == {"count": 0}


@pytest.mark.parametrize("timeout", [Decimal(20), Fraction(20), pytest.param(20, id="float32")])
def test_a_number_of_any_class_is_a_timeout(server: Served, timeout: Any, request: pytest.FixtureRequest) -> None:
    """The system's own waits take ints and floats only."""
    if "float32" in request.node.name:
        timeout = pytest.importorskip("numpy").float32(timeout)
    client = server.client(timeout=timeout, connect_timeout=timeout)
    assert client.execute({"add": 1}, await_response=True) == {"count": 1}
    assert client.execute({"add": 1}, await_response=True, timeout=timeout) == {"count": 2}
    assert client.status(timeout=timeout)["initialized"]


def test_a_client_may_connect_for_as_long_as_it_takes(server: Served) -> None:
    assert server.client(connect_timeout=float("inf")).execute({"add": 1}, await_response=True) == {"count": 1}


@pytest.mark.parametrize("host", [None, 5, b"localhost"])
def test_a_host_that_is_no_text_is_refused_at_once(host: Any) -> None:
    with pytest.raises(TypeError, match="A host is a text"):
        bgpy.Client(host)


@pytest.mark.parametrize("port", ["54321", None, 54321.0])
def test_a_port_that_is_no_whole_number_is_refused_at_once(port: Any) -> None:
    with pytest.raises(TypeError, match="A port is a whole number"):
        bgpy.Client("127.0.0.1", port)


def test_a_clients_log_level_is_a_name_or_a_number(request: pytest.FixtureRequest) -> None:
    """A server has always taken the names in small letters."""
    logger = logging.getLogger("bgpy.client")
    request.addfinalizer(lambda level=logger.level: logger.setLevel(level))
    bgpy.Client(log_level="error").close()
    assert logger.level == logging.ERROR
    with pytest.raises(ValueError, match="'LOUD' is no log level"):
        bgpy.Client(log_level="LOUD")
    with pytest.raises(TypeError, match=r"a whole number, not 1\.5"):
        bgpy.Client(log_level=1.5)  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [{"max_connections": 0}, {"max_connections": 65_535}, {"max_message_size": -1}], ids=repr)
def test_a_limit_that_cannot_work_is_refused_at_once(server: Served, options: dict[str, int]) -> None:
    """With no connection every request waited for ever."""
    with pytest.raises(ValueError, match=r"1 to|from 1 on"):
        server.client(**options)


@pytest.mark.parametrize("value", ["64", None, 1.5])
def test_a_number_of_connections_that_is_no_whole_one_is_refused_at_once(value: Any) -> None:
    with pytest.raises(TypeError, match="max_connections is a whole number, not "):
        bgpy.Client(max_connections=value)


def test_an_ssl_context_that_is_none_is_refused_at_once() -> None:
    with pytest.raises(bgpy.TlsError, match=r"An ssl_context is an ssl\.SSLContext, not 'cert\.pem'"):
        bgpy.Client(ssl_context="cert.pem")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "timeout", [1e7, 1e10, float("inf"), 10**400, Fraction(10**400)], ids=["months", "years", "infinite", "digits", "class"]
)
def test_a_very_long_timeout_is_a_long_wait(server: Served, timeout: float) -> None:
    """The system's own wait takes milliseconds in 32 bits: the request ran, and the call raised OverflowError."""
    assert server.client(timeout=timeout).execute({"add": 1}, await_response=True) == {"count": 1}


def test_a_message_is_pickled_once_however_it_goes(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large text of plain values was pickled for the short way, and once more for the way that it went."""
    pickled: list[int] = []

    def dumps(message: object, protocol: int, **options: Any) -> bytes:
        data = pickle.dumps(message, protocol, **options)
        pickled.append(len(data))
        return data

    client = server.client()
    monkeypatch.setattr(bgpy.protocol.messages, "_pickle", SimpleNamespace(dumps=dumps, loads=pickle.loads))
    for size in (10, 100_000, 10):  # over a connection that is made, one that is large, the usual way
        client.execute({"add": 0, "text": "x" * size}, await_response=True)
    assert len([size for size in pickled if size > 100_000]) == 1
    assert len(pickled) == 6, "three messages and three answers"
