"""
An app behind the gate: every request is judged, routed, counted, and ended with the app.
"""

from __future__ import annotations

import abc
import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from starlette.routing import BaseRoute, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bgpy.gateway.answers import Answer, error_answer, failure_answer, failure_error, refusal
from bgpy.gateway.doors import FACTS, GROUND, PATH, ROUTE, Dialects, Door, Table, route_path
from bgpy.gateway.gate import Refusal, Rules, judge, read_facts
from bgpy.gateway.limits import BodyTooLarge, BodyTooSlow, ClientGone
from bgpy.gateway.metrics import Metrics
from bgpy.gateway.watching import Ending

#: Seconds for requests under way when the app ends, and for those that were then cancelled.
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


class Gated(abc.ABC):
    """
    What a gateway is to an ASGI server.

    Everything but a lifespan goes through the gate here, whatever is behind it: a middleware of Starlette's lets WebSockets by.

    Parameters
    ----------
    rules
        What the gate goes by; what is open is read from the table.
    table, dialects
        The doors. More routes may be added.
    not_found
        Answers where there is none.
    ending
        Begun with the end of the app.
    """

    def __init__(
        self, rules: Rules, table: Table, dialects: Dialects, not_found: ASGIApp, ending: Ending, metrics: Metrics
    ) -> None:
        self._ending = ending
        self._metrics = metrics
        self._tasks: set[asyncio.Task[Any]] = set()
        self._dialects = dialects
        self._table = table
        self._rules = rules._replace(
            open_paths=table.open_paths(), open_pages=table.open_pages(), talking_paths=table.talking_paths()
        )
        self._router = Router([table, dialects], redirect_slashes=False, default=not_found, lifespan=self._lifespan)

    @property
    def routes(self) -> list[BaseRoute]:
        """The routes behind the gate; more may be added."""
        return self._router.routes

    @property
    def table(self) -> Table:
        """The route that knows the app's own doors."""
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
                await self._serve(scope, receive, _Counted(send))
            finally:
                self._tasks.discard(task)
        else:
            raise ValueError(f"The gateway takes no ASGI scope of type {scope['type']!r}.")

    async def close(self, grace: float = GRACE) -> None:
        """
        End the streams at once, let requests under way end in `grace` seconds, and close the connections to servers.

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
        await self._disconnect()

    @abc.abstractmethod
    async def _disconnect(self) -> None:
        """Close the connections to servers."""

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
        # The whole path, for below a mount it says which of several servers was meant.
        _log.info("Refused %s %.100a of %s: %s", facts.method, scope["path"], client, verdict.reason)
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

    __slots__ = ("_headers", "_send", "status")

    def __init__(self, send: Send) -> None:
        self._send = send
        self._headers = [] if isinstance(send, _Counted) else _HEADERS  # of a gated app within another one they are there
        self.status = 0

    async def __call__(self, message: Message) -> None:
        kind = message["type"]
        if kind.endswith("response.start"):
            self.status = message["status"]
            message["headers"] = [*message.get("headers", ()), *self._headers]
        elif kind == "websocket.accept":
            self.status = 101
        elif kind == "websocket.close" and not self.status:
            self.status = 403
        await self._send(message)
