"""Streams of events, over a WebSocket and as server-sent events, and how they end."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from socket import SHUT_RDWR
from typing import Any

import httpx
import pytest
from support.gateways import BEARER, TOKEN, RunningGateway, Workspaces, running_gateway, wait_until
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from bgpy.gateway import Limits, app, watching


def socket(gateway: RunningGateway, **options: Any) -> ClientConnection:
    headers = options.pop("headers", BEARER)
    watcher: ClientConnection = connect(
        gateway.url.replace("http", "ws", 1) + "watch", additional_headers=headers, proxy=None, **options
    )
    return watcher


def receive(watcher: ClientConnection) -> Any:
    return json.loads(watcher.recv(timeout=20))


def closing(watcher: ClientConnection) -> tuple[int, str]:
    """Wait for the end of a WebSocket and return code and reason."""
    with contextlib.suppress(ConnectionClosed):
        while True:
            watcher.recv(timeout=20)
    assert watcher.close_code is not None
    return watcher.close_code, watcher.close_reason or ""


def no_watcher(gateway: RunningGateway) -> None:
    wait_until(lambda: gateway.server.app._upstream.watchers == 0)


def test_a_websocket_gets_every_event_until_the_last(gateway: RunningGateway, workspaces: Workspaces) -> None:
    with socket(gateway) as watcher:
        watcher.send('{"name": "lab", "since": 3}')
        begun = receive(watcher)
        assert begun["request_result"] is True
        assert begun["result"]["fields"] == {"name": "lab", "since": 3, "until": None}
        workspaces.events.put({"event": "output", "number": 4, "text": "ä"})
        assert receive(watcher) == {"request_result": True, "result": {"event": "output", "number": 4, "text": "ä"}}
        workspaces.events.put(None)
        assert receive(watcher)["result"] == {"event": "end"}
        assert closing(watcher) == (1000, "")
    no_watcher(gateway)


def test_a_refused_watch_is_told_and_closed(gateway: RunningGateway) -> None:
    with socket(gateway) as watcher:
        watcher.send("{}")
        assert receive(watcher)["field"] == "name"
        assert closing(watcher)[0] == 1000


@pytest.mark.parametrize("message", ["no json", "[]", '{"since": NaN}', b"\xff", "[" * 5000])
def test_a_first_message_that_is_no_json_object_closes(gateway: RunningGateway, message: str | bytes) -> None:
    with socket(gateway) as watcher:
        watcher.send(message)
        code, reason = closing(watcher)
        assert code == 1007
        assert reason


def test_a_message_that_is_too_large_closes(workspaces: Workspaces) -> None:
    with running_gateway(workspaces, limits=Limits(max_message_size=1000)) as gateway:
        for pieces in (["x" * 1001], ["x" * 600, "x" * 600]):
            with socket(gateway) as watcher:
                with contextlib.suppress(ConnectionClosed):  # it may be closed before the last piece has gone
                    watcher.send(pieces[0] if len(pieces) == 1 else iter(pieces))
                assert closing(watcher)[0] == 1009


def test_a_first_message_is_waited_for_a_bounded_time(workspaces: Workspaces) -> None:
    with running_gateway(workspaces, limits=Limits(first_message_timeout=0.1)) as gateway, socket(gateway) as watcher:
        assert closing(watcher) == (1008, "No message within 0.1 s")
        no_watcher(gateway)


def test_a_websocket_without_a_login_is_refused_before_it_opens(gateway: RunningGateway) -> None:
    for headers in ({}, {"authorization": "Bearer wrong"}, {**BEARER, "origin": "http://evil.example"}):
        with pytest.raises(InvalidStatus) as refused:
            socket(gateway, headers=headers)
        assert refused.value.response.status_code == (403 if "origin" in headers else 401)
        assert json.loads(refused.value.response.body)["request_result"] is False


def test_a_refused_websocket_is_no_error_of_ours(gateway: RunningGateway, caplog: pytest.LogCaptureFixture) -> None:
    """A page whose cookie has ended tries again and again."""
    with pytest.raises(InvalidStatus) as refused:
        with connect(gateway.url.replace("http", "ws") + "watch", proxy=None):
            pass
    assert refused.value.response.status_code == 401
    gateway.end()
    assert [record.getMessage() for record in caplog.records if record.levelname in ("WARNING", "ERROR")] == []


def test_a_browser_comes_with_cookie_and_origin(gateway: RunningGateway) -> None:
    origin = gateway.url.rstrip("/")
    with gateway.client(token=None) as http:
        cookie = http.post("/login", json={"token": TOKEN}).headers["set-cookie"].partition(";")[0]
    with socket(gateway, headers={"cookie": cookie, "origin": origin}) as watcher:
        watcher.send('{"name": "lab"}')
        assert receive(watcher)["request_result"] is True
    with pytest.raises(InvalidStatus):
        socket(gateway, headers={"cookie": cookie})


@pytest.mark.parametrize("politely", [True, False])
def test_the_stream_ends_when_the_client_of_a_websocket_goes(
    gateway: RunningGateway, workspaces: Workspaces, politely: bool
) -> None:
    with socket(gateway) as watcher:
        watcher.send('{"name": "lab"}')
        receive(watcher)
        assert gateway.server.app._upstream.watchers == 1
        if not politely:
            watcher.socket.shutdown(SHUT_RDWR)
    no_watcher(gateway)  # though no event has come since


def test_a_server_that_dies_ends_a_websocket_with_the_reason(gateway: RunningGateway, workspaces: Workspaces) -> None:
    def vanish(args: dict[str, Any]) -> dict[str, Any]:
        raise ValueError("no more")

    workspaces.answers["watch"] = vanish
    with socket(gateway) as watcher:
        watcher.send('{"name": "lab"}')
        assert receive(watcher)["error"]["type"] == "ValueError"
        assert closing(watcher) == (1011, "RemoteError")
    gateway.served.end()
    with socket(gateway) as watcher:
        watcher.send('{"name": "lab"}')
        assert receive(watcher)["executed"] is False
        assert closing(watcher) == (1013, "ConnectError")


def test_watchers_are_bounded_and_leave_room_for_requests(workspaces: Workspaces) -> None:
    with running_gateway(workspaces, limits=Limits(max_watchers=2, max_requests=1)) as gateway, gateway.client() as http:
        with socket(gateway) as first, socket(gateway) as second, socket(gateway) as third:
            for watcher in (first, second, third):
                watcher.send('{"name": "lab"}')
                envelope = receive(watcher)
            assert "2 watchers are the most" in envelope["result"]
            assert closing(third)[0] == 1013
            assert http.post("/watch/", json={"name": "lab"}).status_code == 503
            assert http.post("/get_workspace/").status_code == 200
        no_watcher(gateway)


class Events:
    """Read server-sent events as they come."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self._lines: Iterator[str] = response.iter_lines()

    def next(self) -> tuple[str | None, Any]:
        """Return id and data of the next event."""
        number = None
        for line in self._lines:
            if line.startswith("id: "):
                number = line[4:]
            elif line.startswith("data: "):
                return number, json.loads(line[6:])
        return None, None


def test_server_sent_events_come_one_by_one_with_their_numbers(
    gateway: RunningGateway, http: httpx.Client, workspaces: Workspaces
) -> None:
    with http.stream("POST", "/watch/", json={"name": "lab"}) as response:
        assert response.status_code == 200
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert response.headers["cache-control"] == "no-store"
        events = Events(response)
        assert events.next()[1]["result"]["event"] == "begun"
        workspaces.events.put({"event": "output", "number": 7, "text": "two\nlines"})
        assert events.next() == ("7", {"request_result": True, "result": {"event": "output", "number": 7, "text": "two\nlines"}})
        workspaces.events.put(None)
        assert events.next()[1]["result"] == {"event": "end"}
        assert events.next() == (None, None)
    no_watcher(gateway)


def test_a_stream_of_events_goes_on_behind_the_last_one_that_was_seen(http: httpx.Client, workspaces: Workspaces) -> None:
    workspaces.events.put(None)
    with http.stream("POST", "/watch", json={"name": "lab"}, headers={"last-event-id": "41"}) as response:
        assert Events(response).next()[1]["result"]["fields"]["since"] == 41
    workspaces.events.put(None)
    with http.stream("POST", "/watch", json={"name": "lab", "since": 5}, headers={"last-event-id": "41"}) as response:
        assert Events(response).next()[1]["result"]["fields"]["since"] == 5


def test_a_refused_watch_is_a_plain_answer(http: httpx.Client) -> None:
    answer = http.post("/watch/", json={})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["field"] == "name"


def test_the_stream_ends_when_the_client_of_server_sent_events_goes(gateway: RunningGateway, workspaces: Workspaces) -> None:
    with gateway.client() as http, http.stream("POST", "/watch/", json={"name": "lab"}) as response:
        events = Events(response)
        events.next()
        assert gateway.server.app._upstream.watchers == 1
    no_watcher(gateway)


def test_a_silent_stream_begins_and_shows_that_it_is_alive(
    gateway: RunningGateway, workspaces: Workspaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "BEAT", 0.01)
    monkeypatch.setattr(watching, "_FIRST_WAIT", 0.01)
    workspaces.answers["watch"] = workspaces.wait_at_the_gate
    with gateway.client() as http, http.stream("POST", "/watch/", json={"name": "lab"}) as response:
        assert response.status_code == 200
        beats = response.iter_raw()
        assert next(beats) == b":\n\n"
        assert next(beats).startswith(b":\n\n")
        workspaces.open.set()


def test_a_stream_that_breaks_says_why(gateway: RunningGateway, workspaces: Workspaces, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "_FIRST_WAIT", 0.0)

    def fail(args: dict[str, Any]) -> dict[str, Any]:
        workspaces.wait_at_the_gate(args)
        raise ValueError("no more")

    workspaces.answers["watch"] = fail
    with gateway.client() as http, http.stream("POST", "/watch/", json={"name": "lab"}) as response:
        events = Events(response)
        workspaces.open.set()
        assert events.next()[1]["error"]["message"] == "no more"
        assert events.next() == (None, None)


def test_the_gateway_ends_with_watchers_connected(workspaces: Workspaces) -> None:
    with running_gateway(workspaces) as gateway, gateway.client() as http, socket(gateway) as watcher, socket(gateway):
        watcher.send('{"name": "lab"}')  # the second one has said nothing yet
        receive(watcher)
        with http.stream("POST", "/watch/", json={"name": "lab"}) as response:
            events = Events(response)
            events.next()
            assert gateway.end() == 0
            assert events.next() == (None, None)  # ended, not broken off
        assert closing(watcher) == (1001, "The gateway is ending")


def test_a_request_under_way_is_told_that_the_gateway_ends(workspaces: Workspaces, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app.Gateway.close, "__defaults__", (0.1,))
    workspaces.answers["get_status"] = workspaces.wait_at_the_gate
    answers: list[httpx.Response] = []
    with running_gateway(workspaces) as gateway, gateway.client() as http:
        asking = threading.Thread(target=lambda: answers.append(http.post("/get_status/", json={"name": "lab"})))
        asking.start()
        assert workspaces.begun.acquire(timeout=20)
        assert gateway.end() == 0
        asking.join(20)
        assert answers[0].status_code == 503
        assert answers[0].json()["executed"] is None
