"""A gateway in a thread, in front of a server whose task set is small: it checks the workspace commands and says what it got."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import httpx

import bgpy
from bgpy.errors import RefusedError
from bgpy.gateway import Gateway, GatewayServer, Settings
from bgpy.server import Server
from bgpy.sockets import ClientSocket
from bgpy.tasks.schema import check
from bgpy.tasks.tensorflow.commands import COMMANDS
from support.servers import Served, running_server, tasks
from support.waiting import wait_until as wait_until

TOKEN = "a token of more than 22 characters"
HOST = "localhost:8000"
BEARER = {"authorization": f"Bearer {TOKEN}"}
BY_NAME = {command.name: command for command in COMMANDS}


class Alien:
    """An instance that only the side which has this class can unpickle."""


class Unloadable:
    """Pickles, and cannot be unpickled anywhere."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _fail, ()


def _fail() -> None:
    raise RuntimeError("this cannot be unpickled")


class Workspaces:
    """
    The tasks: what a command was sent comes back as its result, but for what `answers` says.

    Attributes
    ----------
    events
        What `watch` streams; None ends the stream.
    watched
        Set when a watcher has come.
    """

    def __init__(self) -> None:
        self.answers: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {}
        self.events: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self.watched = threading.Event()
        self.open = threading.Event()
        self.begun = threading.Semaphore(0)

    @bgpy.concurrent
    def run(self, client_socket: ClientSocket, state: dict[str, Any], args: dict[str, Any]) -> None:
        name = args.get("command", "")
        answer = self.answers.get(name)
        if answer is not None:
            client_socket.respond(answer(args))
            return
        if name not in BY_NAME:
            client_socket.respond({"echo": args})
            return
        try:
            fields = check(BY_NAME[name], args)
        except RefusedError as refused:
            client_socket.respond({"request_result": False, "result": str(refused), "field": refused.field})
            return
        if name == "watch":
            self._watch(client_socket, fields)
        else:
            client_socket.respond({"request_result": True, "result": fields})

    def _watch(self, client_socket: ClientSocket, fields: dict[str, Any]) -> None:
        self.watched.set()
        client_socket.respond({"request_result": True, "result": {"event": "begun", "fields": fields}}, more=True)
        while (event := self.events.get(timeout=30)) is not None:
            client_socket.respond({"request_result": True, "result": event}, more=True)
        client_socket.respond({"request_result": True, "result": {"event": "end"}})

    def wait_at_the_gate(self, args: dict[str, Any]) -> dict[str, Any]:
        """Answer only when the test opens the gate."""
        self.begun.release()
        assert self.open.wait(20)
        return {"request_result": True, "result": "late"}


class RunningGateway:
    """A gateway in a thread, and the server behind it."""

    def __init__(self, served: Served | Server, **settings: Any) -> None:
        self.served: Any = served
        self.server = GatewayServer(Settings(**{"port": served.port, "token": TOKEN, "bind_port": 0, **settings}))
        self.url = self.server.url
        self.port = self.server.address[1]
        self._ready = threading.Event()
        self._exit_codes: list[int] = []
        self._thread = threading.Thread(target=self._run, name="test-gateway")
        self._thread.start()
        assert self._ready.wait(20)

    def _run(self) -> None:
        try:
            self._exit_codes.append(self.server.run(lambda url: self._ready.set()))
        finally:
            self._ready.set()

    def client(self, token: str | None = TOKEN, **options: Any) -> httpx.Client:
        """Return an HTTP client, to be closed."""
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=20, trust_env=False, **options)

    def end(self) -> int:
        """End the gateway and return its exit code."""
        self.server.stop()
        self._thread.join(20)
        assert not self._thread.is_alive()
        return self._exit_codes[0]


@contextlib.contextmanager
def running_gateway(workspaces: Workspaces | None = None, **settings: Any) -> Iterator[RunningGateway]:
    """Run a server and a gateway in front of it."""
    workspaces = workspaces or Workspaces()
    with running_server(tasks(workspaces.run), token=TOKEN) as served:
        gateway = RunningGateway(served, **settings)
        try:
            yield gateway
        finally:
            workspaces.open.set()
            gateway.end()
            for _ in range(8):  # for the watchers, who have not noticed that their clients are gone
                workspaces.events.put(None)


class InMemory:
    """Ask an ASGI app without a network, as a server of any kind may."""

    def __init__(self, app: Gateway | Any, root_path: str = "") -> None:
        self.app = app
        self.root_path = root_path

    async def http(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str] | Sequence[tuple[str, str]] = (),
        body: bytes = b"",
        scheme: str = "http",
    ) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body."""
        scope = self._scope("http", path, headers, scheme) | {"method": method}
        sent: list[Any] = []
        asked = iter([{"type": "http.request", "body": body}])

        async def receive() -> Any:
            return next(asked, {"type": "http.disconnect"})

        async def send(message: Any) -> None:
            sent.append(message)

        await self.app(scope, receive, send)
        given = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        return sent[0]["status"], given, b"".join(message.get("body", b"") for message in sent[1:])

    async def upgrade(
        self,
        path: str,
        headers: Mapping[str, str] | Sequence[tuple[str, str]] = (),
        extensions: bool = True,
        messages: Sequence[str | bytes] = (),
    ) -> list[Any]:
        """Ask for a WebSocket, send the messages and leave at once; return what was sent back."""
        scope = self._scope("websocket", path, headers, "ws")
        scope["extensions"] = {"websocket.http.response": {}} if extensions else {}
        sent: list[Any] = []
        said = [{"type": "websocket.receive", "text" if isinstance(data, str) else "bytes": data} for data in messages]
        asked = iter([{"type": "websocket.connect"}, *said])

        async def receive() -> Any:
            return next(asked, {"type": "websocket.disconnect", "code": 1005})

        async def send(message: Any) -> None:
            sent.append(message)

        await self.app(scope, receive, send)
        return sent

    def _scope(self, kind: str, path: str, headers: Any, scheme: str) -> dict[str, Any]:
        pairs = headers.items() if isinstance(headers, Mapping) else headers
        given = [(name.lower().encode(), value.encode()) for name, value in pairs]
        if not any(name == b"host" for name, _ in given):
            given.insert(0, (b"host", HOST.encode()))
        return {
            "type": kind,
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "scheme": scheme,
            "path": self.root_path + path,
            "raw_path": (self.root_path + path).encode(),
            "query_string": b"",
            "root_path": self.root_path,
            "headers": given,
            "client": ("127.0.0.1", 40000),
            "server": ("127.0.0.1", 8000),
        }
