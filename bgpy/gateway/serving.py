"""
Run the gateway in this process, with uvicorn.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from types import FrameType

import uvicorn

from bgpy.addresses import format_address
from bgpy.errors import ServerStartError, TlsError
from bgpy.gateway.app import create_app
from bgpy.gateway.gated import Gated
from bgpy.gateway.reading import HttpProtocol, SocketProtocol
from bgpy.gateway.servers import create_servers_app
from bgpy.gateway.settings import Settings, check_settings
from bgpy.sockets import ServerSocket

#: Seconds after which uvicorn gives up what the gateway's own end has left.
_LAST_GRACE = 1
#: Connections at once; more are told to come again, so that files do not run out.
MAX_CONNECTIONS = 1024

_log = logging.getLogger("bgpy.gateway")


def serve_gateway(settings: Settings, ready: Callable[[str], object] | None = None) -> int:
    """
    Serve a gateway in this process until SIGTERM or SIGINT; blocks. See `GatewayServer` for one that another thread ends.

    Parameters
    ----------
    ready
        Called once with the gateway's address, ``http://HOST:PORT/``, when it accepts connections.

    Returns
    -------
    exit_code
        0.

    Raises
    ------
    ServerStartError
        The port is in use, or the host is not ours.
    TokenError, TlsError
        As `check_settings`.
    """
    return GatewayServer(settings).run(ready)


class GatewayServer:
    """
    A gateway that this process serves, in whatever thread calls `run`.

    It listens from when it is made, and raises then what `serve_gateway` raises; connections wait until it runs.
    """

    def __init__(self, settings: Settings) -> None:
        settings = check_settings(settings)
        #: Host and port, the one that was picked.
        self.address: tuple[str, int]
        #: The app itself.
        self.app = _make_app(settings)
        self._server = _Server(_config(settings, self.app), self.app)
        self._listener = _bind(settings.bind_host, settings.bind_port)
        self.address = self._listener.getsockname()[:2]
        scheme = "http" if settings.certfile is None else "https"
        #: Where the gateway is.
        self.url = f"{scheme}://{format_address(*self.address)}/"
        if settings.insecure and settings.certfile is None:
            _log.warning("The gateway at %s has no TLS: who is on the way reads the token", self.url)

    def run(self, ready: Callable[[str], object] | None = None) -> int:
        """Serve until `stop`, or, in the main thread, SIGTERM or SIGINT; see `serve_gateway`."""
        try:
            if ready is not None:
                self._server.ready = lambda: ready(self.url)
            self._server.run([self._listener])
        finally:
            self._listener.close()
        return 0

    def stop(self) -> None:
        """End it within 5 seconds, streams at once. Any thread; returns at once; again is fine."""
        self._server.should_exit = True

    def close(self) -> None:
        """Give the port back, of a gateway that is not to run after all."""
        self._listener.close()


class _Server(uvicorn.Server):
    """uvicorn's server, which ends the gateway's streams before it waits for connections, and leaves no signal behind."""

    def __init__(self, config: uvicorn.Config, gateway: Gated) -> None:
        super().__init__(config)
        self._gateway = gateway
        self.ready: Callable[[], object] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.ready is not None:
            self.ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()  # no new connections while the old ones end
        await self._gateway.close()
        await super().shutdown(sockets)
        for connection in list(self.server_state.connections):
            connection.transport.abort()  # its client takes no bytes: what is still to be sent goes nowhere

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        # uvicorn's own raises the signal again at the end, which would make an orderly end look like a death.
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._end) for number in _signals()}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _end(self, number: int, frame: FrameType | None) -> None:
        if self.should_exit:
            sys.exit(128 + number)  # the second one: now
        self.should_exit = True


def _signals() -> list[int]:
    names = ("SIGINT", "SIGTERM", "SIGBREAK")
    return [getattr(signal, name) for name in names if hasattr(signal, name)]


def _make_app(settings: Settings) -> Gated:
    make: Callable[..., Gated] = partial(create_app, settings.host, settings.port)
    if settings.servers is not None:
        make = partial(create_servers_app, settings.servers)
    return make(
        settings.token,
        tls=settings.tls,
        no_token=settings.no_token,
        allow_hosts=settings.allow_hosts,
        limits=settings.limits,
    )


def _bind(host: str, port: int) -> socket.socket:
    listener = None
    try:
        listener = ServerSocket(host, port)
        listener.listen()
    except OSError as error:
        if listener is not None:
            listener.close()
        raise ServerStartError(f"the gateway cannot listen on {format_address(host, port)}: {error.strerror or error}") from error
    bound = listener.sock
    # asyncio switches Nagle's algorithm off only for connections of a listener that says that it is TCP; with it on, an answer in
    # two pieces waits 40 ms for the client's acknowledgement.
    return socket.socket(bound.family, bound.type, socket.IPPROTO_TCP, fileno=bound.detach())


def _config(settings: Settings, app: Gated) -> uvicorn.Config:
    config = uvicorn.Config(
        app,
        # Not what happens to be installed: one parser, one behaviour.
        http=partial(HttpProtocol, settings.limits.head_timeout),  # type: ignore[arg-type]
        loop="auto",  # uvloop, but on Windows, which has none, asyncio's own
        ws=SocketProtocol,
        ws_max_size=settings.limits.max_message_size,
        ws_max_queue=1,
        ws_per_message_deflate=False,
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(settings.proxy),
        forwarded_allow_ips=list(settings.proxy),
        limit_concurrency=MAX_CONNECTIONS,
        timeout_graceful_shutdown=_LAST_GRACE,
        ssl_certfile=settings.certfile,
        ssl_keyfile=settings.keyfile,
    )
    try:
        config.load()
    except OSError as error:  # ssl.SSLError is one
        raise TlsError(f"The certificates cannot be used: {error}", "Check certfile and keyfile") from error
    return config
