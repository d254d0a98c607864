"""
The gateway: an ASGI app that passes JSON over HTTP and WebSocket on to a running server. Needs the extra ``gateway``.

It holds no state of its own: kill it, start it again, and every workspace is still there. Its packages are loaded when one of its
names is first used; without them that is a `MissingExtraError`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bgpy.errors import MissingExtraError
from bgpy.lazy import lazy_names

if TYPE_CHECKING:
    from bgpy.gateway.app import Gateway, create_app
    from bgpy.gateway.limits import Limits
    from bgpy.gateway.servers import Servers, create_servers_app
    from bgpy.gateway.serving import GatewayServer, serve_gateway
    from bgpy.gateway.settings import ServerPlace, Settings

_HOMES = {
    "Gateway": "bgpy.gateway.app",
    "GatewayServer": "bgpy.gateway.serving",
    "Limits": "bgpy.gateway.limits",
    "ServerPlace": "bgpy.gateway.settings",
    "Servers": "bgpy.gateway.servers",
    "Settings": "bgpy.gateway.settings",
    "create_app": "bgpy.gateway.app",
    "create_servers_app": "bgpy.gateway.servers",
    "serve_gateway": "bgpy.gateway.serving",
}
_EXTRA = frozenset({"anyio", "httptools", "starlette", "uvicorn", "websockets"})

__all__ = [
    "Gateway",
    "GatewayServer",
    "Limits",
    "ServerPlace",
    "Servers",
    "Settings",
    "create_app",
    "create_servers_app",
    "serve_gateway",
]


_load = lazy_names(__name__, _HOMES)


def __getattr__(name: str) -> object:
    try:
        return _load(name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA:
            raise
        raise MissingExtraError("The gateway", "gateway") from error


def __dir__() -> list[str]:
    return sorted(__all__)
