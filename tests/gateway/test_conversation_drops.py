"""Connections that go nowhere: who is dropped, who is not, and what is kept for them meanwhile."""

from __future__ import annotations

import asyncio
import json
import socket as sockets
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.websockets import WebSocket
from support.gateways import RunningGateway, wait_until
from support.scripted_runs import Runs, gateway_of_runs
from support.talking import PYTHON, STATS, ask, closing, receive, talk
from uvicorn.protocols.utils import ClientDisconnected
from websockets.frames import CloseCode

from bgpy.gateway import Limits, watching
from bgpy.gateway.conversation import MAX_UNDER_WAY, Conversation
from bgpy.gateway.limits import ClientGone


@pytest.fixture
def gateway(runs: Runs) -> Iterator[RunningGateway]:
    with gateway_of_runs(runs) as running:
        yield running


class Silent:
    """A language in which nothing is said."""

    max_size = 100
    logged_in: dict[str, Any] = {}  # noqa: RUF012 - nobody logs in here


def connections(gateway: RunningGateway) -> list[Any]:
    """Return the WebSockets that the gateway has, as its server knows them."""
    return [one for one in list(gateway.server._server.server_state.connections) if hasattr(one, "writable")]


def hurry_pings(connection: Any) -> None:
    """Ping as often as a test can wait for."""
    connection.ping_interval = connection.ping_timeout = connection.close_timeout = 0.05
    connection.loop.call_soon_threadsafe(connection.start_keepalive)


def nothing_is_asked(gateway: RunningGateway) -> None:
    """Wait until the server is asked for nothing more."""
    made = gateway.server.app._upstream._made
    wait_until(lambda: not made.requests._connections and not made.waits._connections)


def tell_much(runs: Runs, session: str, megabytes: int) -> None:
    for _ in range(megabytes):
        runs.tell(session, "[output]:STDOUT", text="x" * (1 << 20))


def test_a_client_that_takes_no_more_is_dropped_and_the_others_go_on(
    runs: Runs, gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "SEND_TIMEOUT", 0.5)
    with talk(gateway) as other, talk(gateway, max_size=None, max_queue=1) as deaf:
        session = ask(deaf, action="run", python=PYTHON)["sessionId"]
        tell_much(runs, session, 200)
        deaf.send(json.dumps(STATS))
        assert ask(other, action="list")["sessions"] == [session]
        wait_until(lambda: gateway.server.app._upstream.watchers == 0)
        wait_until(lambda: runs.watchers == 0, 20)
        # What was on its way when it stalled: kernel buffers and one message or so at each step.
        assert runs.streamed < 100 << 20
        wait_until(lambda: len(connections(gateway)) == 1)
        assert ask(other, action="list")["sessions"] == [session]
        assert closing(deaf)[0] == 1006


def test_a_client_that_answers_no_ping_is_dropped_with_what_it_does_not_take(runs: Runs, gateway: RunningGateway) -> None:
    with talk(gateway, max_size=None, max_queue=1) as deaf:
        session = ask(deaf, action="run", python=PYTHON)["sessionId"]
        tell_much(runs, session, 64)
        (connection,) = connections(gateway)
        wait_until(lambda: not connection.writable.is_set())
        hurry_pings(connection)
        wait_until(lambda: not connections(gateway))
        wait_until(lambda: runs.watchers == 0, 20)
        assert closing(deaf)[0] == 1006


def test_a_client_that_waits_for_its_answers_is_not_taken_for_dead(runs: Runs, gateway: RunningGateway) -> None:
    """No more is read while 32 requests are under way, and so no answer to a ping either."""
    runs.answers["get_stats"] = runs.wait_at_the_gate
    with talk(gateway) as socket:
        for _ in range(MAX_UNDER_WAY + 8):
            socket.send(json.dumps(STATS))
        for _ in range(MAX_UNDER_WAY):
            assert runs.begun.acquire(timeout=20)
        (connection,) = connections(gateway)
        wait_until(lambda: connection.read_paused)
        hurry_pings(connection)
        pinged = connection.ping_sent_at
        for _ in range(5):
            wait_until(lambda: connection.ping_sent_at != pinged)  # noqa: B023 - called at once
            pinged = connection.ping_sent_at
        runs.open.set()
        for _ in range(MAX_UNDER_WAY + 8):
            assert receive(socket)["name"] == "late"
        assert ask(socket, action="list")["type"] == "[status]:LIST"


def test_pings_are_not_answered_to_who_reads_no_answer(runs: Runs, gateway: RunningGateway) -> None:
    """Else each ping is kept as an answer, without a bound."""
    with talk(gateway, max_queue=1, max_size=None, close_timeout=0.1) as deaf:
        session = ask(deaf, action="run", python=PYTHON)["sessionId"]
        tell_much(runs, session, 64)
        (connection,) = connections(gateway)
        wait_until(lambda: not connection.writable.is_set())
        for number in range(20_000):
            deaf.ping(b"%0125d" % number)
        deaf.send(json.dumps({"action": "list"}))
        wait_until(lambda: runs.asked[-1] == "list_runs")  # so all pings have been read
        assert connection.transport.get_write_buffer_size() < 3 << 19  # a message of the run, not 2.5 MB of pings as well


def test_an_answer_that_comes_behind_the_end_finds_nobody(gateway: RunningGateway, caplog: pytest.LogCaptureFixture) -> None:
    """The server ends a connection that breaks the rules before the app hears of it."""
    with talk(gateway) as socket:
        assert ask(socket, action="list")["type"] == "[status]:LIST"
        (connection,) = connections(gateway)

        async def answer() -> None:
            connection._fail(CloseCode.MESSAGE_TOO_BIG, "of this test")
            with pytest.raises(ClientDisconnected):
                await connection.send({"type": "websocket.send", "text": "late"})

        asyncio.run_coroutine_threadsafe(answer(), connection.loop).result(20)
        assert closing(socket) == (1009, "of this test")
    assert not [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")]


def test_pings_are_answered_to_who_reads(gateway: RunningGateway) -> None:
    with talk(gateway) as socket:
        assert socket.ping(b"there?").wait(20)


def test_what_is_under_way_is_given_up_when_its_client_goes(runs: Runs, gateway: RunningGateway) -> None:
    runs.answers["get_stats"] = runs.wait_at_the_gate
    with talk(gateway) as socket:
        socket.send(json.dumps(STATS))
        assert runs.begun.acquire(timeout=20)
    nothing_is_asked(gateway)


def test_that_a_client_has_gone_is_noticed_while_there_is_no_room(runs: Runs, gateway: RunningGateway) -> None:
    """Nobody reads then what comes next: it may be the end."""
    runs.answers["get_stats"] = runs.wait_at_the_gate
    with talk(gateway) as socket:
        for _ in range(MAX_UNDER_WAY + 1):
            socket.send(json.dumps(STATS))
        for _ in range(MAX_UNDER_WAY):
            assert runs.begun.acquire(timeout=20)
        socket.socket.shutdown(sockets.SHUT_RDWR)  # without a word
        nothing_is_asked(gateway)
        assert connections(gateway) == []


def test_a_message_behind_the_end_finds_nobody_whatever_the_server_says_to_it(caplog: pytest.LogCaptureFixture) -> None:
    for failure in (RuntimeError("Unexpected ASGI message 'websocket.send'"), OSError()):

        async def send(message: Any) -> None:
            if message["type"] == "websocket.send":
                raise failure  # noqa: B023 - called at once

        async def receive() -> Any:
            return {"type": "websocket.connect"}

        async def say() -> None:
            socket = WebSocket({"type": "websocket"}, receive, send)
            await socket.accept()
            talk = Conversation(socket, Limits(), "", lambda conversation: Silent())  # type: ignore[arg-type, return-value]
            for _ in range(2):  # the second one is refused by the socket itself
                with pytest.raises(ClientGone):
                    await talk.send({})

        asyncio.run(say())
    assert not caplog.records


def test_the_end_of_the_gateway_is_said_to_all(runs: Runs, gateway: RunningGateway) -> None:
    runs.answers["get_stats"] = runs.wait_at_the_gate
    with talk(gateway) as hears, talk(gateway) as waits, talk(gateway, headers={}) as silent:
        ask(hears, action="run", python=PYTHON)
        waits.send(json.dumps(STATS))
        assert runs.begun.acquire(timeout=20)
        assert gateway.end() == 0
        told = receive(waits)
        assert (told["type"], told["action"]) == ("[error]", "get_stats")
        assert told["message"] == "The gateway is ending; the request may go on"
        for socket in (hears, waits, silent):
            assert closing(socket) == (1001, "The gateway is ending")


def test_one_message_is_sent_at_a_time() -> None:
    """Of many that wait for a slow client, each may be large: all but one wait as what they are, not as text."""
    sending, most, sent = 0, 0, []

    async def send(message: Any) -> None:
        nonlocal sending, most
        if message["type"] != "websocket.send":
            return
        sending += 1
        most = max(most, sending)
        turn = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_later(0.005, turn.set_result, None)
        await turn
        sending -= 1
        sent.append(json.loads(message["text"]))

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def say_all() -> None:
        socket = WebSocket({"type": "websocket"}, receive, send)
        await socket.accept()
        talk = Conversation(socket, Limits(), "", lambda conversation: Silent())  # type: ignore[arg-type, return-value]
        await asyncio.gather(*(talk.send({"number": number}) for number in range(10)))

    asyncio.run(say_all())
    assert most == 1
    assert sent == [{"number": number} for number in range(10)]
