"""Requests that wait at the server: they take the room of nobody, and not even their own connection's."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import pytest
from support.gateways import RunningGateway, wait_until
from support.scripted_runs import Runs, gateway_of_runs
from support.talking import ask, receive, talk
from websockets.sync.client import ClientConnection

from bgpy.gateway import Limits
from bgpy.gateway.runtime import MAX_WAITING, MAX_WAITS

WAIT = {"action": "status", "sessionId": "s", "timeout": 1e6}
MODEL = {"action": "run_model", "model": {"sessionId": "s", "name": "m", "data": [1]}}
STOPPED = {"request_result": True, "result": {"type": "[status]:STATUS", "sessionId": "s", "status": "Stopped"}}
SOCKETS = 8


@pytest.fixture
def runs() -> Runs:
    runs = Runs()
    runs.answers["run_status"] = runs.answers["run_model"] = runs.wait_at_the_gate
    runs.answers["stop_run"] = lambda args: STOPPED
    return runs


@pytest.fixture
def gateway(runs: Runs) -> Iterator[RunningGateway]:
    with gateway_of_runs(runs) as running:
        yield running


def begin_waiting(runs: Runs, socket: ClientConnection, request: dict[str, Any] = WAIT) -> None:
    """Send as many requests that wait as one connection may have, until those wait that do so at once."""
    for number in range(MAX_WAITING):
        socket.send(json.dumps({**request, "id": number}))
    for _ in range(MAX_WAITS):
        assert runs.begun.acquire(timeout=20)


@pytest.mark.parametrize("request_", [WAIT, MODEL], ids=["status", "run_model"])
def test_many_that_wait_hold_up_neither_others_nor_a_stop(runs: Runs, gateway: RunningGateway, request_: dict[str, Any]) -> None:
    """A prediction waits as well, where it does not say for how long."""
    with contextlib.ExitStack() as opened:
        waiting = [opened.enter_context(talk(gateway)) for _ in range(SOCKETS)]
        for socket in waiting:
            begin_waiting(runs, socket, request_)
        with gateway.client() as http:
            assert http.post("/list_runs", json={}).json()["request_result"] is True
        with talk(gateway) as fresh:
            assert ask(fresh, action="list")["type"] == "[status]:LIST"
            fresh.send(json.dumps(WAIT))  # there is room for others that wait, too
            assert runs.begun.acquire(timeout=20)
        for socket in waiting:
            assert ask(socket, action="stop", sessionId="s", id="stop")["status"] == "Stopped"
        runs.open.set()
        for socket in waiting:
            assert {receive(socket)["id"] for _ in range(MAX_WAITING)} == set(range(MAX_WAITING))


def test_one_more_that_waits_is_refused_and_a_stop_is_still_read(runs: Runs, gateway: RunningGateway) -> None:
    with talk(gateway) as socket:
        begin_waiting(runs, socket)
        for number in range(50):
            error = ask(socket, **WAIT, id=f"more {number}")
            assert (error["type"], error["id"], error["executed"]) == ("[error]", f"more {number}", False)
            assert "32 requests of this connection wait already" in error["message"]
        assert ask(socket, action="stop", sessionId="s")["status"] == "Stopped"
        runs.open.set()
        for _ in range(MAX_WAITING):
            assert receive(socket)["name"] == "late"
        assert ask(socket, **WAIT)["name"] == "late"  # there is room again


def test_what_is_answered_at_once_never_stands_behind_what_waits(runs: Runs) -> None:
    limits = Limits(max_requests=1, max_waits=1)
    with gateway_of_runs(runs, limits=limits) as gateway, talk(gateway) as first, talk(gateway) as second:
        first.send(json.dumps(WAIT))
        assert runs.begun.acquire(timeout=20)
        second.send(json.dumps({**WAIT, "id": "second"}))
        assert ask(second, action="list")["type"] == "[status]:LIST"
        assert not runs.begun.acquire(timeout=0.1)
        runs.open.set()
        assert receive(second)["id"] == "second"


def test_who_leaves_takes_its_waits_along(runs: Runs, gateway: RunningGateway) -> None:
    with talk(gateway) as socket:
        begin_waiting(runs, socket)
    waits = gateway.server.app._upstream._made.waits
    wait_until(lambda: not waits._connections)
    assert runs.asked.count("run_status") == MAX_WAITS


def test_a_server_that_goes_is_told_to_those_who_wait(runs: Runs) -> None:
    runs.answers["run_status"] = lambda args: {"request_result": False, "result": "No", "field": "timeout"}
    with gateway_of_runs(runs) as gateway, talk(gateway) as socket:
        assert ask(socket, **WAIT, id=1)["message"] == "No"
        gateway.served.end()
        error = ask(socket, **WAIT, id=2)
        assert (error["type"], error["action"], error["executed"], error["id"]) == ("[error]", "status", False, 2)
