"""
The ASGI app: the gate, then the doors.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Any

from starlette.routing import BaseRoute, Router
from starlette.types import Message, Receive, Scope, Send

from bgpy.aio import AsyncClient
from bgpy.gateway.answers import Answer, error_answer, failure_answer, failure_error, refusal
from bgpy.gateway.conversation import Conversations
from bgpy.gateway.doors import FACTS, GROUND, PATH, ROUTE, Dialects, Door, Table, route_path
from bgpy.gateway.endpoints import Endpoints, command_message, not_found
from bgpy.gateway.gate import Refusal, Rules, judge, read_facts
from bgpy.gateway.limits import BodyTooLarge, BodyTooSlow, ClientGone, Limits
from bgpy.gateway.metrics import Metrics
from bgpy.gateway.models import Models
from bgpy.gateway.open_inference import OpenInference
from bgpy.gateway.requests import Requests
from bgpy.gateway.runtime import Runtime
from bgpy.gateway.tensorflow_serving import TensorFlowServing
from bgpy.gateway.upstream import Upstream
from bgpy.gateway.watching import Ending, Watching
from bgpy.tasks.requests.commands import COMMANDS as OF_REQUESTS
from bgpy.tasks.runtime.commands import ACTIONS
from bgpy.tasks.runtime.commands import COMMANDS as OF_RUNS
from bgpy.tasks.schema import Command
from bgpy.tasks.tensorflow.commands import COMMANDS as OF_MODELS
from bgpy.tls import Tls
from bgpy.token import derive_key, find_token

#: Seconds for requests under way when the gateway ends, and for those that were then cancelled.
GRACE = 3.0
_CANCEL_GRACE = 1.0
#: On every response. A script of somebody else's on a page of ours would run code on the machine.
_HEADERS = [
    (b"content-security-policy", b"default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
]
_METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"})

_log = logging.getLogger("bgpy.gateway")


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
    found = find_token(token)

    def make_client(connections: int) -> AsyncClient:
        return AsyncClient(host, port, found, tls=tls, ssl_context=ssl_context, max_connections=connections)

    make_client(1)  # what is wrong with the settings is known here, not at the first request
    limits = limits or Limits()
    commands = (*OF_MODELS, *OF_RUNS, *OF_REQUESTS) if commands is None else commands
    return Gateway(Upstream(make_client, limits), "" if no_token else found, allow_hosts, limits, commands)


class Gateway:
    """
    The app that `create_app` makes.

    Everything but a lifespan goes through the gate here, whatever is behind it: a middleware of Starlette's lets WebSockets by.
    """

    def __init__(
        self, upstream: Upstream, token: str, allow_hosts: Iterable[str], limits: Limits, commands: Sequence[Command]
    ) -> None:
        self._upstream = upstream
        self._ending = Ending()
        self._metrics = Metrics()
        self._tasks: set[asyncio.Task[Any]] = set()
        key = derive_key(token, "http-cookie") if token else b""
        rules = Rules(token, key, frozenset(host.lower() for host in allow_hosts), frozenset(), frozenset())
        watching = Watching(upstream, limits, self._ending, command_message)
        models = Models(upstream, limits)
        self._dialects = Dialects((TensorFlowServing(models), OpenInference(models)))
        self._conversations = Conversations(limits, self._ending, token)
        runtime = Runtime(upstream, self._conversations, limits, ACTIONS)
        requests = Requests(upstream, self._conversations, limits, self._ending)
        talks = (*runtime.doors, *requests.doors)
        endpoints = Endpoints(upstream, watching, self._metrics, limits, commands, rules, (*talks, *self._dialects.doors))
        self._table = Table((*endpoints.doors, *talks))
        self._rules = rules._replace(
            open_paths=self._table.open_paths(),
            open_pages=self._table.open_pages(),
            talking_paths=self._table.talking_paths(),
        )
        self._router = Router([self._table, self._dialects], redirect_slashes=False, default=not_found, lifespan=self._lifespan)

    @property
    def routes(self) -> list[BaseRoute]:
        """The routes behind the gate; more may be added."""
        return self._router.routes

    @property
    def table(self) -> Table:
        """The route that knows the gateway's own doors."""
        return self._table

    @property
    def doors(self) -> tuple[Door, ...]:
        """All doors, those of the model servers' protocols too."""
        return (*self._table.doors, *self._dialects.doors)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, WebSocket or lifespan."""
        if scope["type"] == "lifespan":
            await self._router(scope, receive, send)
        elif scope["type"] in ("http", "websocket"):
            task = asyncio.current_task()
            assert task is not None
            self._tasks.add(task)
            try:
                await self._serve(scope, receive, _Counted(scope, send))
            finally:
                self._tasks.discard(task)
        else:
            raise ValueError(f"The gateway takes no ASGI scope of type {scope['type']!r}.")

    async def close(self, grace: float = GRACE) -> None:
        """
        End the streams at once, let requests under way end in `grace` seconds, and close the connections to the server.

        The end of the lifespan does this; where none is told, the program may.
        """
        self._ending.begin()
        others = self._tasks - {asyncio.current_task()}
        if others:
            _, late = await asyncio.wait(others, timeout=grace)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late, timeout=_CANCEL_GRACE)
        await self._upstream.close()

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: object) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await self.close()

    async def _serve(self, scope: Scope, receive: Receive, send: _Counted) -> None:
        scope[PATH] = route_path(scope)
        began = time.perf_counter()
        try:
            refused = self._judge(scope)
            if refused is None:
                await self._route(scope, receive, send)
            else:
                await refused(scope, receive, send)
        finally:
            method = scope.get("method", "WEBSOCKET")
            route = scope.get(ROUTE, "other")
            self._metrics.count(route, method if method in _METHODS else "WEBSOCKET", send.status, time.perf_counter() - began)

    def _judge(self, scope: Scope) -> Answer | None:
        facts = scope[FACTS] = read_facts(
            scope["type"], scope.get("method", "GET"), scope.get("scheme", "http"), scope[PATH], scope["headers"]
        )
        verdict = judge(facts, self._rules, time.time())
        if not isinstance(verdict, Refusal):
            scope[GROUND] = verdict.by
            return None
        client = (scope.get("client") or ("?",))[0]
        # The path as a literal: it is anybody's, and the log may be on a terminal, which takes orders.
        _log.info("Refused %s %.100a of %s: %s", facts.method, facts.path, client, verdict.reason)
        return self._refuse(scope)(verdict.status, verdict.reason)

    def _refuse(self, scope: Scope) -> Callable[..., Answer]:
        """Return what makes the answer to a request that does not get through, in the form that its path has."""
        return refusal if self._dialects.find(scope[PATH]) is None else error_answer

    async def _route(self, scope: Scope, receive: Receive, send: _Counted) -> None:
        try:
            await self._router(scope, receive, send)
        except ClientGone:
            return
        except asyncio.CancelledError:
            if not self._ending.begun:
                raise
            if not send.status:
                answer = self._refuse(scope)(503, "The gateway is ending; the request may still run", executed=None)
                await answer(scope, receive, send)
        except BodyTooLarge:
            await self._refuse(scope)(413, "The body is too large", executed=False)(scope, receive, send)
        except BodyTooSlow:
            await self._refuse(scope)(408, "The body was not there in time", executed=False)(scope, receive, send)
        except Exception as failure:
            if send.status:
                raise
            answer_of = failure_answer if self._dialects.find(scope[PATH]) is None else failure_error
            await answer_of(failure)(scope, receive, send)


class _Counted:
    """Send, with the headers that every response has, and remember the status."""

    __slots__ = ("_send", "status")

    def __init__(self, scope: Scope, send: Send) -> None:
        self._send = send
        self.status = 0

    async def __call__(self, message: Message) -> None:
        kind = message["type"]
        if kind.endswith("response.start"):
            self.status = message["status"]
            message["headers"] = [*message.get("headers", ()), *_HEADERS]
        elif kind == "websocket.accept":
            self.status = 101
        elif kind == "websocket.close" and not self.status:
            self.status = 403
        await self._send(message)
