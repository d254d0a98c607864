"""A gateway in front of a server whose runs are scripted by the test."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import bgpy
from bgpy.errors import RefusedError
from bgpy.sockets import ClientSocket
from bgpy.tasks.runtime.commands import COMMANDS
from bgpy.tasks.schema import check
from support.gateways import TOKEN, RunningGateway
from support.servers import running_server, tasks

BY_NAME = {command.name: command for command in COMMANDS}
Message = dict[str, Any]


class Runs:
    """
    The tasks: runs that tell what a test says with `tell`, until `finish`.

    Attributes
    ----------
    asked
        The commands that have come, in order.
    answers
        What a command is answered with instead of what is here.
    watchers, streamed
        How many streams are open, and how many characters of text were put into all of them.
    """

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answers: dict[str, Callable[[Message], Message]] = {}
        self.open = threading.Event()
        self.begun = threading.Semaphore(0)
        self.watchers = 0
        self.streamed = 0
        self._told: dict[str, list[Message]] = {}
        self._change = threading.Condition()
        self._ended = False

    def tell(self, session: str, kind: str, **more: Any) -> None:
        """Let a run tell something."""
        with self._change:
            told = self._told[session]
            told.append({"type": kind, "sessionId": session, "number": len(told) + 1, **more})
            self._change.notify_all()

    def finish(self, session: str) -> None:
        """End a run."""
        self.tell(session, "[state]:EXECUTION_FINISHED", message="Finished")

    def end(self) -> None:
        """End whatever waits."""
        self.open.set()
        with self._change:
            self._ended = True
            self._change.notify_all()

    def wait_at_the_gate(self, args: Message) -> Message:
        """Answer only when the test opens the gate."""
        self.begun.release()
        assert self.open.wait(20)
        return {"request_result": True, "result": {"type": "[placeholder]:STATS", "sessionId": "s", "name": "late", "value": {}}}

    @bgpy.concurrent
    def serve(self, client_socket: ClientSocket, state: dict[str, Any], args: Message) -> None:
        """Answer one request."""
        name = args["command"]
        self.asked.append(name)
        try:
            if name in self.answers:
                client_socket.respond(self.answers[name](args))
                return
            fields = check(BY_NAME[name], args)
            if name == "watch_run":
                self._watch(client_socket, fields)
            else:
                client_socket.respond({"request_result": True, "result": self._answer(name, fields)})
        except RefusedError as refused:
            client_socket.respond({"request_result": False, "result": str(refused), "field": refused.field})

    def _answer(self, name: str, fields: Message) -> Message:
        if name == "run":
            with self._change:
                session = f"s{len(self._told)}"
                started = {"type": "[status]:EXECUTION_STARTED", "sessionId": session, "message": "Started", "number": 1}
                self._told[session] = [started]
            return started
        if name == "run_status":
            session = fields["sessionId"]
            status = "Alive" if session in self._told else "Session not found"
            return {"type": "[status]:STATUS", "sessionId": session, "status": status}
        if name == "list_runs":
            return {"type": "[status]:LIST", "sessions": sorted(self._told)}
        return {"type": f"[{name}]", "fields": fields}

    def _watch(self, client_socket: ClientSocket, fields: Message) -> None:
        session, seen = fields["sessionId"], int(fields["since"])
        if session not in self._told:
            raise RefusedError("Session not found", "sessionId")
        with self._change:
            self.watchers += 1
        try:
            for told in self._news(session, seen):
                last = told["type"].startswith("[state]:")
                client_socket.respond({"request_result": True, "result": told}, more=not last)
                self.streamed += len(told.get("text", ""))
                if last or not client_socket.connected:
                    return
            client_socket.respond({"request_result": False, "result": "The test has ended"})
        finally:
            with self._change:
                self.watchers -= 1

    def _news(self, session: str, seen: int) -> Iterator[Message]:
        for index in itertools.count(seen):
            told = self._wait_for(session, index)
            if told is None:
                return
            yield told

    def _wait_for(self, session: str, index: int) -> Message | None:
        told = self._told[session]
        with self._change:
            assert self._change.wait_for(lambda: len(told) > index or self._ended, timeout=60)
        return told[index] if len(told) > index else None


@contextlib.contextmanager
def gateway_of_runs(runs: Runs, **settings: Any) -> Iterator[RunningGateway]:
    """Run a server with scripted runs and a gateway in front of it."""
    with running_server(tasks(runs.serve), token=TOKEN) as served:
        gateway = RunningGateway(served, **settings)
        try:
            yield gateway
        finally:
            gateway.end()
            runs.end()
