"""
Several servers behind one address: a whole gateway for each, below ``/servers/NAME``, and one log-in for all.

A model is also found without its server's name: what is asked below ``/v1/models/`` and ``/v2/models/`` goes to the one server
that has a workspace of the model's name.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from starlette.types import Receive, Scope, Send

from bgpy.addresses import format_address
from bgpy.errors import BgpyError
from bgpy.gateway.answers import RETRY_AFTER, Answer, Fault, refusal, success
from bgpy.gateway.app import Gateway, make_upstream
from bgpy.gateway.doors import PATH, Call, Dialects, Door, Table, decode, mount
from bgpy.gateway.endpoints import metrics_answer, while_connected
from bgpy.gateway.entry import Entry
from bgpy.gateway.gate import make_rules
from bgpy.gateway.gated import GRACE, Gated
from bgpy.gateway.limits import Limits, read_body
from bgpy.gateway.metrics import Metrics, render
from bgpy.gateway.pages import Page
from bgpy.gateway.settings import ServerPlace, check_servers
from bgpy.gateway.watching import Ending
from bgpy.tasks.schema import Command
from bgpy.tls import Tls
from bgpy.token import find_token

#: Seconds for a server to say whether it has a workspace; one that has not said so by then is passed over.
FIND_TIMEOUT = 1.0
#: Seconds that this is believed, and how many names are.
FOUND_LIFETIME = 5.0
MAX_FOUND = 1000
_BELOW = re.compile(r"/servers/([^/]+)(?=/|\Z)")
#: A colon ends a model's name in the one protocol, and may be in it in the other.
_MODELS = {
    "/v1": re.compile(r"/v1/models/([^/:]+).*", re.DOTALL),
    "/v2": re.compile(r"/v2/models/(?!stats\Z)([^/]+).*", re.DOTALL),
}
_HINT = "This is bgpy, several servers. GET /servers lists them; each one is below /servers/NAME/.\n"


def create_servers_app(
    servers: Mapping[str, ServerPlace],
    token: str | None = None,
    *,
    tls: Tls = None,
    ssl_context: ssl.SSLContext | None = None,
    no_token: bool = False,
    allow_hosts: Iterable[str] = (),
    limits: Limits | None = None,
    commands: Sequence[Command] | None = None,
) -> Servers:
    """
    Make an ASGI app in front of several servers, which need not run yet. It can be mounted as one of `create_app` can.

    Parameters
    ----------
    servers
        Where each is, by the name that it has here: 1 to 64 of A-Z, a-z, 0-9, ".", "_" and "-", without a "." in front.
    token
        What clients of the gateway show, and the token of each server that has none of its own.
    tls, ssl_context
        Of all of them, as for `Client`.
    no_token, allow_hosts, commands
        As for `create_app`.
    limits
        What each server takes from its clients; none of them takes the room of another one.

    Raises
    ------
    ServerStartError
        A name is none, or there is not even one.
    TokenError, TlsError
        As `Client`.
    """
    check_servers(servers)
    limits = limits or Limits()
    found = find_token(token)
    shown = "" if no_token else found
    gateways = {}
    addresses = {}
    for name, (host, port, own) in servers.items():
        place = ServerPlace(host, port, found if own is None else own)
        gateways[name] = Gateway(make_upstream(place, tls, ssl_context, limits), shown, allow_hosts, limits, commands)
        addresses[name] = format_address(host, port)
    return Servers(gateways, addresses, shown, allow_hosts, limits)


class Servers(Gated):
    """The app that `create_servers_app` makes: what is below ``/servers/NAME`` is the gateway of that server."""

    def __init__(
        self,
        gateways: Mapping[str, Gateway],
        addresses: Mapping[str, str],
        token: str,
        allow_hosts: Iterable[str],
        limits: Limits,
    ) -> None:
        self._gateways = gateways
        self._addresses = addresses
        self._limits = limits
        rules = make_rules(token, allow_hosts)
        page = Page(_HINT, "page", "servers_page")
        doors = (
            Door("/", "GET", page.root, "The page, or a hint for programs.", "page", answers="text/html text/plain"),
            Door("/servers", "GET", self._list, "List the servers and how they are."),
            Door("/servers", "POST", self._list, "List the servers and how they are."),
            Door("/metrics", "GET", self._show_metrics, "Counters, as Prometheus reads them.", answers="text/plain"),
            *Entry(rules, limits).doors,
            *page.assets(),
        )
        finder = Finder(gateways)
        dialects = Dialects(ModelsAnywhere(prefix, pattern, finder) for prefix, pattern in _MODELS.items())
        super().__init__(rules, Table(doors), dialects, _not_found, Ending(), Metrics())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, WebSocket or lifespan."""
        if scope["type"] in ("http", "websocket"):
            below = _BELOW.match(scope["path"], len(mount(scope)))
            gateway = self._gateways.get(below[1]) if below is not None else None
            if gateway is not None and below is not None:
                # It has a gate of its own, by the same rules.
                await gateway({**scope, "root_path": scope["path"][: below.end()]}, receive, send)
                return
        await super().__call__(scope, receive, send)

    async def close(self, grace: float = GRACE) -> None:
        """As `Gateway.close`, of all of them at once."""
        await asyncio.gather(super().close(grace), *(gateway.close(grace) for gateway in self._gateways.values()))

    async def _disconnect(self) -> None:
        """Do nothing: each gateway has connections of its own."""

    async def _list(self, call: Call) -> Answer:
        await read_body(call.receive, call.announced, self._limits)
        asked = asyncio.gather(*(self._describe(name, gateway) for name, gateway in self._gateways.items()))
        return success(await while_connected(call.receive, asked))

    async def _describe(self, name: str, gateway: Gateway) -> dict[str, Any]:
        told: dict[str, Any] = {"name": name, "address": self._addresses[name], "path": f"/servers/{name}/"}
        try:
            status = await gateway.status()
        except BgpyError as error:
            return {**told, "alive": False, "reason": str(error)}
        told |= {"alive": True, **{key: status.get(key) for key in ("version", "python", "uptime")}}
        counted = (await gateway.view({})).server or {}
        return {**told, "workspaces": counted.get("workspaces"), "jobs": counted.get("jobs")}

    async def _show_metrics(self, call: Call) -> Answer:
        views = await asyncio.gather(*(gateway.view({"server": name}) for name, gateway in self._gateways.items()))
        return metrics_answer(render(views, self._metrics))


class Finder:
    """Find the one server that has a workspace of a name, and remember it for some seconds."""

    def __init__(self, gateways: Mapping[str, Gateway]) -> None:
        self._gateways = gateways
        self._found: dict[str, tuple[str, float]] = {}
        self._several: dict[str, list[str]] = {}  # which servers had a workspace when more than one had it

    async def find(self, workspace: str) -> Gateway:
        """Return its gateway; raises Fault where there is none, or more than one."""
        server, until = self._found.get(workspace, ("", 0.0))
        if time.monotonic() >= until:
            server = await self._ask_all(workspace)
            self._found.pop(workspace, None)
            if len(self._found) >= MAX_FOUND:
                del self._found[next(iter(self._found))]
            self._found[workspace] = (server, time.monotonic() + FOUND_LIFETIME)
        return self._gateways[server]

    async def _ask_all(self, workspace: str) -> str:
        answers = await asyncio.gather(*(self._ask(gateway, workspace) for gateway in self._gateways.values()))
        said = dict(zip(self._gateways, answers, strict=True))
        # While one of several that had it does not answer, what was meant is no clearer.
        before = self._several.pop(workspace, [])
        having = [name for name, has in said.items() if has or (has is None and name in before)]
        if len(having) > 1:
            if len(self._several) >= MAX_FOUND:
                del self._several[next(iter(self._several))]
            self._several[workspace] = having
            which = " and ".join(f"/servers/{name}" for name in having)
            raise Fault(409, f"Several servers have a workspace {workspace!r:.200}: name one of them, {which}")
        if having and said[having[0]]:
            return having[0]
        silent = [name for name, has in said.items() if has is None]
        if silent:
            reason = f"No server that answers has a workspace {workspace!r:.200}; {', '.join(silent)} did not answer"
            raise Fault(503, reason, {"retry-after": str(RETRY_AFTER)})
        raise Fault(404, f"No server has a workspace {workspace!r:.200}")

    async def _ask(self, gateway: Gateway, workspace: str) -> bool | None:
        """Return whether a server has it, None where it does not say."""
        try:
            response = await gateway.ask({"command": "get_status", "name": workspace}, FIND_TIMEOUT)
        except BgpyError as error:
            return False if error.executed is True else None
        return response.get("request_result") is True


class ModelsAnywhere:
    """The models of one protocol, wherever they are: see `bgpy.gateway.doors.Dialect`."""

    def __init__(self, prefix: str, pattern: re.Pattern[str], finder: Finder) -> None:
        self.prefix = prefix
        self._pattern = pattern
        self._finder = finder
        path, summary = f"{prefix}/models/{{name}}", "Pass it on to the server that has the model."
        self._door = Door(path, "GET", self._pass_on, summary, answers="model")
        self.doors: tuple[Door, ...] = (self._door,)

    def find(self, method: str, path: str) -> tuple[Door, tuple[str | None, ...]]:
        """Return the one door, whatever the method, with the name of the model."""
        match = self._pattern.match(path)
        if match is None:
            raise Fault(404, f"There is no {path:.200} of all servers, only of each: /servers/NAME{self.prefix}")
        return self._door, (match[1],)

    async def _pass_on(self, call: Call) -> None:
        # Nobody looks meanwhile whether the client is still there: the body is yet to be read.
        gateway = await self._finder.find(decode(call.arguments[0]))
        await gateway({**call.scope}, call.receive, call.send)


async def _not_found(scope: Any, receive: Any, send: Any) -> None:
    await refusal(404, f"There is no {scope[PATH]:.100}; GET /servers tells which servers there are")(scope, receive, send)
