"""
The doors of the gateway, as a table: routing, the gate's list of what is open, the API guide and OpenAPI are made from it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Literal, NamedTuple, Protocol
from urllib.parse import unquote

from starlette.routing import BaseRoute, Match
from starlette.types import Receive, Scope, Send

from bgpy.gateway.answers import Answer, Fault, error_answer, refusal
from bgpy.gateway.gate import Facts, Ground
from bgpy.tasks.schema import Command

Method = Literal["GET", "POST", "WEBSOCKET"]

#: Where the gate leaves what it has read of a request and on what ground it let that in, the app its path, and the table which
#: door it was, in the scope.
FACTS = "bgpy.facts"
GROUND = "bgpy.ground"
PATH = "bgpy.path"
ROUTE = "bgpy.route"
#: Among the extensions of a WebSocket, where its server is ours: "set" sets the bytes that a message may have from then on.
MESSAGE_SIZE = "bgpy.message_size"


class Call(NamedTuple):
    """
    One request, as an endpoint gets it.

    Attributes
    ----------
    arguments
        What the path says, in the door's order, None for what it leaves out.
    """

    scope: Scope
    receive: Receive
    send: Send
    arguments: tuple[str | None, ...] = ()

    @property
    def facts(self) -> Facts:
        """What the gate has read of the request."""
        facts: Facts = self.scope[FACTS]
        return facts

    @property
    def ground(self) -> Ground:
        """On what ground the gate has let it in."""
        ground: Ground = self.scope[GROUND]
        return ground

    @property
    def announced(self) -> int | None:
        """The length that the request says its body has, None where it says none."""
        length = self.facts.one("content-length")
        return int(length) if length is not None and length.isascii() and length.isdigit() else None


#: Returns the answer; None where it has sent one itself.
Endpoint = Callable[[Call], Awaitable[Answer | None]]


class Door(NamedTuple):
    """
    One method of one path.

    Attributes
    ----------
    path
        Without the slash at its end, which a request may have or not; in a dialect with its arguments as ``{name}``.
    access
        Who gets in: "login", "open" for everybody, "page" for everybody who asks for a page. "first-message": as "login", and who
        has nothing to show may say the token first, which is for the endpoint to see to (`conversation.py`); WebSockets only.
    summary
        One line.
    command
        What it passes on, where it does that.
    request, result
        What its guide says of both, where no command does; `request` None for no body. In a dialect, which has no guide, the JSON
        Schema of the body; None for what only the worker knows.
    answers
        What its answers are: JSON in the envelope, JSON without ("json"; "status" where errors are without as well), or another
        media type. In a dialect: what its protocol says ("model"), or nothing at all ("model nothing").
    """

    path: str
    method: Method
    endpoint: Endpoint
    summary: str
    access: Literal["login", "open", "page", "first-message"] = "login"
    command: Command | None = None
    request: Any = None
    result: Any = None
    answers: str = "envelope"


class Table(BaseRoute):
    """
    A route of Starlette's that finds its doors by one look-up, however many there are.

    Parameters
    ----------
    doors
        No two of the same path and method.
    """

    def __init__(self, doors: Iterable[Door]) -> None:
        self.doors = tuple(doors)
        self._by_path: dict[str, dict[str, Door]] = {}
        for door in self.doors:
            methods = self._by_path.setdefault(door.path, {})
            if door.method in methods:
                raise ValueError(f"{door.method} {door.path} is there twice.")
            methods[door.method] = door

    def open_paths(self) -> frozenset[tuple[str, str]]:
        """Return method and path of each door that is open to everybody."""
        return frozenset((door.method, door.path) for door in self.doors if door.access == "open")

    def open_pages(self) -> frozenset[str]:
        """Return the paths of the pages that are."""
        return frozenset(door.path for door in self.doors if door.access == "page")

    def talking_paths(self) -> frozenset[str]:
        """Return the paths of the WebSockets on which the token may be the first message."""
        return frozenset(door.path for door in self.doors if door.access == "first-message" and door.method == "WEBSOCKET")

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Say whether the path is one of the table's, whatever the method."""
        path = scope[PATH]
        methods = self._by_path.get(path) if scope["type"] in ("http", "websocket") else None
        return (Match.NONE, {}) if methods is None else (Match.FULL, {ROUTE: path, "endpoint": methods})

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the endpoint of the method, or say which methods there are."""
        methods: dict[str, Door] = scope["endpoint"]
        method = "WEBSOCKET" if scope["type"] == "websocket" else "GET" if scope["method"] == "HEAD" else scope["method"]
        door = methods.get(method)
        if door is None:
            answer: Answer | None = _wrong_method(scope, methods)
        else:
            answer = await door.endpoint(Call(scope, receive, send))
        if answer is not None:
            await answer(scope, receive, send)


class Dialect(Protocol):
    """
    A protocol of other servers, below a prefix of its own: its paths have arguments, and its errors are ``{"error": …}``.

    Attributes
    ----------
    prefix
        The first segment of its paths, in lower case, with the slash before it.
    doors
        All of its doors.
    """

    prefix: str
    doors: tuple[Door, ...]

    def find(self, method: str, path: str) -> tuple[Door, tuple[str | None, ...]]:
        """
        Return a request's door and its arguments; raises Fault where there is none.

        Parameters
        ----------
        method
            GET for HEAD as well.
        path
            As it was sent: what has a percent sign is still to be decoded.
        """


class Dialects(BaseRoute):
    """
    The route to the dialects. All that is below one of their prefixes is theirs.

    Parameters
    ----------
    dialects
        No two of the same prefix.
    """

    def __init__(self, dialects: Iterable[Dialect]) -> None:
        self._by_prefix = {dialect.prefix: dialect for dialect in dialects}
        self.doors = tuple(door for dialect in self._by_prefix.values() for door in dialect.doors)

    def find(self, path: str) -> Dialect | None:
        """Return the dialect that a path is below the prefix of."""
        return self._by_prefix.get(path[: path.find("/", 1)].lower() if "/" in path[1:] else path.lower())

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Say whether the path is below one of the prefixes."""
        dialect = self.find(scope[PATH]) if scope["type"] in ("http", "websocket") else None
        return (Match.NONE, {}) if dialect is None else (Match.FULL, {"endpoint": dialect})

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the endpoint of the door that the dialect finds."""
        dialect: Dialect = scope["endpoint"]
        try:
            if scope["type"] == "websocket":
                raise Fault(404, "There is no WebSocket here")
            method = scope["method"]
            door, arguments = dialect.find("GET" if method == "HEAD" else method, sent_path(scope))
            scope[ROUTE] = door.path
            answer = await door.endpoint(Call(scope, receive, send, arguments))
        except Fault as fault:
            answer = error_answer(fault.status, fault.reason, fault.headers)
        if answer is not None:
            await answer(scope, receive, send)


def route_path(scope: Scope) -> str:
    """Return the path of a request within the app, wherever that is mounted, without a slash at its end."""
    path: str = scope["path"]
    return _without_slash(path[len(mount(scope)) :])


def sent_path(scope: Scope) -> str:
    """Return what `route_path` does before it was decoded, so that an argument may have a slash in it."""
    raw: bytes = scope.get("raw_path") or b""
    if b"%" not in raw:
        path: str = scope[PATH]
        return path
    segments = raw.decode("latin-1").split("/", mount(scope).count("/") + 1)
    return _without_slash(f"/{segments[-1]}")


def decode(argument: str | None) -> str:
    """Return an argument of a path as it was meant, "" for one that is not there."""
    return "" if argument is None else unquote(argument) if "%" in argument else argument


def mount(scope: Scope) -> str:
    """Return what of a request's path says where the app is mounted."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    return root if path.startswith(root) and path[len(root) :][:1] in ("", "/") else ""


def _without_slash(path: str) -> str:
    return path[:-1] if path.endswith("/") and len(path) > 1 else path or "/"


def _wrong_method(scope: Scope, methods: dict[str, Door]) -> Answer:
    allowed = sorted({*methods} - {"WEBSOCKET"} | ({"HEAD"} if "GET" in methods else set()))
    if scope["type"] == "websocket":
        return refusal(404, "There is no WebSocket here")
    if not allowed:
        return refusal(426, "This is a WebSocket", {"upgrade": "websocket"})
    return refusal(405, f"The method here is {' or '.join(allowed)}, not {scope['method']:.20}", {"allow": ", ".join(allowed)})
