"""A thousand timed requests at once, through one gateway: over a few WebSockets, and over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.gateways import BEARER, TOKEN, RunningGateway, wait_until
from support.servers import background_server
from websockets.sync.client import ClientConnection, connect

from bgpy.client import Client
from bgpy.gateway.ends import MAX_STARTING
from bgpy.tasks.requests import requests_tasks

SOCKETS = 4
EACH = 225
TWINS = 100
ALL = SOCKETS * EACH + TWINS
#: Seconds of those that are not killed.
TIME = 4.0
LONG = 1000.0


def connid(group: str, number: int) -> str:
    return f"{group}-{number}"


def read_answers(socket: ClientConnection) -> list[dict[str, Any]]:
    return [json.loads(socket.recv(timeout=40)) for _ in range(EACH)]


async def run_twins(url: str) -> list[dict[str, Any]]:
    """Start requests over HTTP and return their answers."""
    limits = httpx.Limits(max_connections=TWINS)
    async with httpx.AsyncClient(base_url=url, headers=BEARER, timeout=60, trust_env=False, limits=limits) as http:
        fields = [{"connid": connid("http", number), "time": LONG if number % 2 else TIME} for number in range(TWINS)]
        answers = await asyncio.gather(*(http.post("/requests/request", json=each) for each in fields))
        return [answer.json() for answer in answers]


@pytest.mark.process
@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="This system does not tell how many threads a process has")
def test_a_thousand_requests_at_once_take_no_thread_each_and_one_stream() -> None:
    with background_server(requests_tasks(), token=TOKEN) as server:
        gateway = RunningGateway(server)
        try:
            with contextlib.ExitStack() as stack:
                url = gateway.url.replace("http", "ws", 1) + "requests"
                sockets = [stack.enter_context(connect(url, additional_headers=BEARER, proxy=None)) for _ in range(SOCKETS)]
                client = stack.enter_context(Client(server.host, server.port, TOKEN, timeout=30))
                answers = _thousand_requests(client, server.pid, gateway, sockets)
            wait_until(lambda: gateway.server.app._upstream.watchers == 0)
        finally:
            gateway.end()
    for place in range(SOCKETS):
        assert sorted(answers[str(place)], key=lambda answer: answer["id"]) == [
            {"status": "Killed" if number % 2 else "Ok", "connid": connid(str(place), number), "id": number}
            for number in range(EACH)
        ]
    assert answers["http"] == [
        {"status": "Killed" if number % 2 else "Ok", "connid": connid("http", number)} for number in range(TWINS)
    ]


def _thousand_requests(
    client: Client, pid: int, gateway: RunningGateway, sockets: Sequence[ClientConnection]
) -> dict[str, list[dict[str, Any]]]:
    """Start all, look at the server while they run, kill every other; return the answers by socket, and those over HTTP."""
    answers: dict[str, list[dict[str, Any]]] = {}
    readers = [
        threading.Thread(target=lambda name=str(place), socket=socket: answers.__setitem__(name, read_answers(socket)))
        for place, socket in enumerate(sockets)
    ]
    readers.append(threading.Thread(target=lambda: answers.__setitem__("http", asyncio.run(run_twins(gateway.url)))))

    def ask(command: str, **fields: Any) -> Any:
        return client.execute({"command": command, **fields}, await_response=True)["result"]

    def threads() -> int:
        return len(list(Path(f"/proc/{pid}/task").iterdir()))

    ask("get_requests")
    alone, own = threads(), threading.active_count()
    begun = time.monotonic()
    for thread in readers:
        thread.start()
    for place, socket in enumerate(sockets):
        for number in range(EACH):
            seconds = LONG if number % 2 else TIME
            socket.send(json.dumps({"route": "request", "connid": connid(str(place), number), "time": seconds, "id": number}))
    killed = {connid(str(group), number) for group in range(SOCKETS) for number in range(1, EACH, 2)}
    killed |= {connid("http", number) for number in range(1, TWINS, 2)}

    def all_run() -> bool:
        # They start in no order; on a slow machine those with little time are over before the last one has started.
        running = ask("get_requests").keys()
        return len(running) == ALL or (killed <= running and time.monotonic() - begun >= TIME)

    wait_until(all_run, 30)
    assert threads() <= alone + MAX_STARTING + 2  # its connections: those that start, and the stream
    assert threading.active_count() <= own + len(readers) + 2
    assert gateway.server.app._upstream.watchers == 1
    for name in killed:
        assert ask("kill_request", connid=name)["status"] == "Ok"
    for thread in readers:
        thread.join(40)
        assert not thread.is_alive()
    return answers
