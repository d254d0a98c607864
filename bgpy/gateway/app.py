"""
The ASGI app in front of a server: the gate, then the doors.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Sequence
from typing import Any

from bgpy.aio import AsyncClient
from bgpy.gateway.conversation import Conversations
from bgpy.gateway.doors import Dialects, Table
from bgpy.gateway.endpoints import Endpoints, command_message, not_found
from bgpy.gateway.gate import make_rules
from bgpy.gateway.gated import Gated
from bgpy.gateway.limits import Limits
from bgpy.gateway.metrics import Labels, Metrics, View
from bgpy.gateway.models import Models
from bgpy.gateway.open_inference import OpenInference
from bgpy.gateway.requests import Requests
from bgpy.gateway.runtime import Runtime
from bgpy.gateway.settings import ServerPlace
from bgpy.gateway.tensorflow_serving import TensorFlowServing
from bgpy.gateway.upstream import Upstream
from bgpy.gateway.watching import Ending, Watching
from bgpy.tasks.requests.commands import COMMANDS as OF_REQUESTS
from bgpy.tasks.runtime.commands import ACTIONS
from bgpy.tasks.runtime.commands import COMMANDS as OF_RUNS
from bgpy.tasks.schema import Command
from bgpy.tasks.tensorflow.commands import COMMANDS as OF_MODELS
from bgpy.tls import Tls
from bgpy.token import find_token


def create_app(
    host: str = "127.0.0.1",
    port: int = 0,
    token: str | None = None,
    *,
    tls: Tls = None,
    ssl_context: ssl.SSLContext | None = None,
    no_token: bool = False,
    allow_hosts: Iterable[str] = (),
    limits: Limits | None = None,
    commands: Sequence[Command] | None = None,
) -> Gateway:
    """
    Make an ASGI app in front of a running server. It can be mounted in any ASGI program, also in one that tells it no lifespan.

    Parameters
    ----------
    host, port, token, tls, ssl_context
        Of the server, as for `Client`. Clients of the gateway show the same token.
    no_token
        Let in everybody who reaches the gateway: only for loopback, which is for the caller to see to.
    allow_hosts
        Names, beside ``localhost``, that a request may ask for.
    limits
        What it takes from its clients.
    commands
        The commands (`bgpy.tasks.schema`) that get an endpoint each; by default those of workspaces, models, runs and requests.

    Raises
    ------
    TokenError, TlsError
        As `Client`.
    """
    limits = limits or Limits()
    found = find_token(token)
    upstream = make_upstream(ServerPlace(host, port, found), tls, ssl_context, limits)
    return Gateway(upstream, "" if no_token else found, allow_hosts, limits, commands)


def make_upstream(place: ServerPlace, tls: Tls, ssl_context: ssl.SSLContext | None, limits: Limits) -> Upstream:
    """Return the way to a server whose token is known; raises as `Client`."""
    host, port, token = place

    def make_client(connections: int) -> AsyncClient:
        return AsyncClient(host, port, token, tls=tls, ssl_context=ssl_context, max_connections=connections)

    make_client(1)  # what is wrong with the settings is known here, not at the first request
    return Upstream(make_client, limits)


class Gateway(Gated):
    """The app that `create_app` makes."""

    def __init__(
        self, upstream: Upstream, token: str, allow_hosts: Iterable[str], limits: Limits, commands: Sequence[Command] | None
    ) -> None:
        commands = (*OF_MODELS, *OF_RUNS, *OF_REQUESTS) if commands is None else commands
        self._upstream = upstream
        ending, metrics = Ending(), Metrics()
        rules = make_rules(token, allow_hosts)
        watching = Watching(upstream, limits, ending, command_message)
        models = Models(upstream, limits)
        dialects = Dialects((TensorFlowServing(models), OpenInference(models)))
        self._conversations = conversations = Conversations(limits, ending, token)
        runtime = Runtime(upstream, conversations, limits, ACTIONS)
        requests = Requests(upstream, conversations, limits, ending)
        talks = (*runtime.doors, *requests.doors)
        endpoints = Endpoints(upstream, watching, metrics, limits, commands, rules, (*talks, *dialects.doors))
        super().__init__(rules, Table((*endpoints.doors, *talks)), dialects, not_found, ending, metrics)

    async def ask(self, message: dict[str, Any], timeout: float) -> dict[str, Any]:
        """Send its server one dict and return the response; raises as `AsyncClient.execute`."""
        return await self._upstream.execute(message, timeout)

    async def status(self) -> dict[str, Any]:
        """Ask its server how it is; raises as `AsyncClient.status`."""
        return await self._upstream.status()

    async def view(self, labels: Labels) -> View:
        """Return what there is to count, with these labels."""
        return await self._upstream.view(self._metrics, labels)

    async def _disconnect(self) -> None:
        await self._upstream.close()
