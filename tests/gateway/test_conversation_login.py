"""Who may talk: a token as a header, the page's cookie, or a first message; and nothing of anything before that."""

from __future__ import annotations

import contextlib
import json
import socket as sockets
from collections.abc import Iterator
from typing import Any

import pytest
from support.gateways import BEARER, TOKEN, RunningGateway, wait_until
from support.scripted_runs import Runs, gateway_of_runs
from support.talking import ask, closing, log_in, receive, stranger, talk, upgrade
from websockets.exceptions import ConnectionClosed, InvalidStatus

from bgpy.gateway import Limits, conversation

LOGGED_IN = {"type": "[status]:LOGGED_IN"}
#: What is no login, or not just that.
FIRST_MESSAGES: list[str | bytes] = [
    '{"action": "list"}',
    json.dumps({"action": "list", "token": TOKEN}),
    json.dumps({"Token": TOKEN}),
    json.dumps({"token": [TOKEN]}),
    '{"token": null}',
    '{"token": ""}',
    r'{"token": "\ud800"}',
    json.dumps([TOKEN]),
    f'"{TOKEN}"',
    TOKEN,
    "{}",
    "",
    "[" * 60_000,
    b"\xff\xff",
    b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x05token\x94.",
]


@pytest.fixture
def gateway(runs: Runs) -> Iterator[RunningGateway]:
    with gateway_of_runs(runs) as running:
        yield running


def cookie_of(gateway: RunningGateway) -> str:
    with gateway.client(token=None) as http:
        header: str = http.post("/login", json={"token": TOKEN}).headers["set-cookie"]
    return header.partition(";")[0]


def refusal(gateway: RunningGateway, path: str = "runtime", **headers: str) -> tuple[int, Any]:
    """Return status and body of an upgrade that is refused."""
    with pytest.raises(InvalidStatus) as refused, talk(gateway, path, headers=headers):
        pass
    return refused.value.response.status_code, json.loads(refused.value.response.body)


def test_the_token_comes_as_a_header_as_the_cookie_or_as_the_first_message(runs: Runs, gateway: RunningGateway) -> None:
    origin = gateway.url.rstrip("/")
    for headers in (BEARER, {"cookie": cookie_of(gateway), "origin": origin}):
        with talk(gateway, headers=headers) as socket:
            assert ask(socket, action="list")["type"] == "[status]:LIST"
    for headers in ({}, {"origin": origin}, {"cookie": "bgpy-1=1.2.3.4"}, {"authorization": "Basic dTpw"}):
        with talk(gateway, headers=headers) as socket:
            assert log_in(socket) == LOGGED_IN
            assert ask(socket, action="list")["type"] == "[status]:LIST"
    assert runs.asked == ["list_runs"] * 6


def test_the_first_message_may_have_an_id(gateway: RunningGateway) -> None:
    with stranger(gateway) as socket:
        assert ask(socket, token=TOKEN, id=3) == {**LOGGED_IN, "id": 3}


def test_who_is_logged_in_may_still_say_the_token(gateway: RunningGateway) -> None:
    with talk(gateway) as socket:
        assert log_in(socket) == LOGGED_IN
        assert log_in(socket) == LOGGED_IN
        assert ask(socket, action="list")["type"] == "[status]:LIST"


def test_a_wrong_token_ends_the_connection_also_of_who_was_logged_in(
    gateway: RunningGateway, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "bgpy.gateway")
    for opened in (talk, stranger):
        with opened(gateway) as socket:
            error = log_in(socket, TOKEN[:-1])
            assert error == {"type": "[error]", "message": "The token is wrong.", "action": None, "field": "token"}
            assert closing(socket) == (1008, "The token is wrong")
    assert caplog.messages == ["Refused /runtime of 127.0.0.1: The token is wrong"] * 2


def test_any_other_first_message_ends_the_connection(runs: Runs, gateway: RunningGateway) -> None:
    for first in FIRST_MESSAGES:
        with stranger(gateway) as socket:
            socket.send(first)
            with contextlib.suppress(ConnectionClosed):  # the answer may be here already
                socket.send('{"action": "list"}')  # which is not read any more
            error = receive(socket)
            assert (error["type"], error["field"]) == ("[error]", "token"), first
            assert TOKEN not in error["message"], first
            assert closing(socket)[0] == 1008, first
    assert runs.asked == []


@pytest.mark.parametrize(
    "path", [f"runtime?token={TOKEN}", f"runtime?access_token={TOKEN}", f"runtime/?{TOKEN}"], ids=["token", "access", "bare"]
)
def test_a_token_in_the_address_gets_nothing(runs: Runs, gateway: RunningGateway, path: str) -> None:
    """It would be in the log of every proxy on the way."""
    address = path.replace(" ", "%20")
    with stranger(gateway, address) as socket:
        assert ask(socket, action="list")["type"] == "[error]"
        assert closing(socket)[0] == 1008
    assert runs.asked == []
    assert refusal(gateway, address.replace("runtime", "watch"))[0] == 401


def test_a_token_as_a_subprotocol_gets_nothing(runs: Runs, gateway: RunningGateway) -> None:
    with stranger(gateway, subprotocols=["bearer", TOKEN.replace(" ", "-")]) as socket:
        assert socket.subprotocol is None
        assert ask(socket, action="list")["type"] == "[error]"
        assert closing(socket)[0] == 1008
    assert runs.asked == []


def test_the_rules_of_host_and_origin_hold_for_who_has_nothing_to_show(gateway: RunningGateway) -> None:
    assert refusal(gateway, origin="http://evil.example")[0] == 403
    assert refusal(gateway, origin="null")[0] == 403
    assert refusal(gateway, **{**BEARER, "origin": "http://evil.example"})[0] == 403
    assert refusal(gateway, authorization="Bearer wrong")[0] == 401
    assert refusal(gateway, cookie=cookie_of(gateway))[0] == 403  # a cookie is worth nothing without an Origin
    # A page whose name was pointed at this machine.
    connection, head = upgrade(gateway.port, "Host: evil.example", "Origin: http://evil.example")
    connection.close()
    assert head.startswith("HTTP/1.1 403 ")


def test_without_a_token_a_page_of_the_gateway_talks_at_once(runs: Runs) -> None:
    with gateway_of_runs(runs, no_token=True) as gateway:
        with talk(gateway, headers={"origin": gateway.url.rstrip("/")}) as socket:
            assert ask(socket, action="list")["type"] == "[status]:LIST"
            assert log_in(socket, "anything") == LOGGED_IN
        assert refusal(gateway)[0] == 403


def test_the_first_message_is_waited_for_a_bounded_time(runs: Runs) -> None:
    with gateway_of_runs(runs, limits=Limits(login_timeout=0.1)) as gateway:
        with stranger(gateway) as silent:
            assert closing(silent) == (1008, "No token within 0.1 s")
        with stranger(gateway) as slow:  # a message that does not end is none
            for connection in gateway.server._server.server_state.connections:
                connection.close_timeout = 0.1  # it cannot hear the client say good-bye behind that
            slow.socket.sendall(b"\x81\xfe\x40\x00abcd" + b"x" * 100)
            assert closing(slow) == (1008, "No token within 0.1 s")


def test_who_has_logged_in_is_not_asked_again(runs: Runs) -> None:
    # Enough to log in on a busy machine.
    with gateway_of_runs(runs, limits=Limits(login_timeout=1)) as gateway, talk(gateway) as socket:
        log_in(socket)
        with stranger(gateway) as silent:
            closing(silent)
        assert ask(socket, action="list")["type"] == "[status]:LIST"


def test_five_seconds_are_the_time(gateway: RunningGateway) -> None:
    assert Limits().login_timeout == 5
    assert conversation.MAX_STRANGERS == 64


def test_who_has_not_logged_in_takes_one_of_a_bounded_number_of_places(runs: Runs, gateway: RunningGateway) -> None:
    conversations = gateway.server.app._conversations
    with contextlib.ExitStack() as opened:
        waiting = [opened.enter_context(stranger(gateway)) for _ in range(conversation.MAX_STRANGERS)]
        status, body = refusal(gateway)
        assert status == 503
        assert "64 others" in body["result"]
        with talk(gateway) as socket:  # who shows the token needs no place
            assert ask(socket, action="list")["type"] == "[status]:LIST"
        assert log_in(waiting[0]) == LOGGED_IN  # gives its place back
        with stranger(gateway) as socket:
            assert log_in(socket) == LOGGED_IN
        waiting[1].close()
        waiting[2].socket.shutdown(sockets.SHUT_RDWR)
        wait_until(lambda: conversations.strangers == conversation.MAX_STRANGERS - 3)
    wait_until(lambda: conversations.strangers == 0)
