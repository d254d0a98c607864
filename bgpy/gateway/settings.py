"""
What `serve_gateway` is told, and what of it is refused before anything listens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from bgpy.addresses import address_bytes, all_loopback, resolve_addresses
from bgpy.errors import ConnectError, ServerStartError, TlsError, TokenError
from bgpy.gateway.gate import split_host
from bgpy.gateway.limits import Limits
from bgpy.records import check_name
from bgpy.tls import Tls
from bgpy.token import check_token_strength, find_token


class ServerPlace(NamedTuple):
    """
    Where one of several servers is.

    Attributes
    ----------
    host, port
        As for `Client`.
    token
        Its own; None for the one that clients of the gateway show.
    """

    host: str = "127.0.0.1"
    port: int = 0
    token: str | None = None


class Settings(NamedTuple):
    """
    A gateway in front of a server, or of several. Plain data, so that it can travel to another process.

    Attributes
    ----------
    host, port, token, tls
        Of the server, as for `Client`; clients of the gateway show the same token.
    bind_host, bind_port
        Where the gateway listens; port 0 picks a free one.
    no_token
        Let in everybody who reaches it; on loopback only, and not behind a reverse proxy.
    insecure
        Allow to listen off loopback without TLS: who is on the way reads the token.
    certfile, keyfile
        TLS of the gateway itself.
    allow_hosts
        Names, beside ``localhost``, that a request may ask for.
    proxy
        Addresses of reverse proxies whose word is taken for the client's address and for https.
    limits
        What it takes from its clients.
    servers
        Those behind it by name, in place of the one at `host` and `port`: see `create_servers_app`.
    """

    host: str = "127.0.0.1"
    port: int = 0
    token: str | None = None
    tls: Tls = None
    bind_host: str = "127.0.0.1"
    bind_port: int = 8000
    no_token: bool = False
    insecure: bool = False
    certfile: str | None = None
    keyfile: str | None = None
    allow_hosts: tuple[str, ...] = ()
    proxy: tuple[str, ...] = ()
    limits: Limits = Limits()
    servers: Mapping[str, ServerPlace] | None = None


def check_servers(servers: Mapping[str, ServerPlace]) -> None:
    """Raise ServerStartError where there is no server, or a name that is none."""
    if not servers:
        raise ServerStartError("a gateway in front of several servers needs at least one")
    for name in servers:
        try:
            check_name(name)
        except ValueError as error:
            raise ServerStartError(str(error)) from None


def check_settings(settings: Settings) -> Settings:
    """
    Return the settings with the token found.

    Raises
    ------
    TokenError
        There is no token off loopback or behind a proxy, it is too short for where it is asked for, or cannot be found.
    TlsError
        The gateway would listen off loopback without TLS.
    ServerStartError
        The host to listen on is unknown, or what is given as the name of a host or of a server or the address of a proxy is none.
    """
    try:
        loopback = all_loopback(resolve_addresses(settings.bind_host, settings.bind_port))
    except ConnectError as error:
        raise ServerStartError(f"the gateway cannot listen on {error.address}: {error.reason}") from error
    token = find_token(settings.token)
    if settings.no_token or not token:
        if not loopback:
            raise TokenError(
                f"Without a token the gateway listens on loopback only, and {settings.bind_host!r} is more than that",
                "Give a token, or listen on 127.0.0.1",
            )
        if settings.proxy:
            raise TokenError("Without a token a reverse proxy would open this machine to others", "Give a token")
    else:
        check_token_strength(token, loopback=loopback)
    if not loopback and settings.certfile is None and not settings.insecure:
        raise TlsError(
            f"Off loopback the gateway needs TLS, and {settings.bind_host!r} is off loopback",
            "Give certfile and keyfile, listen on 127.0.0.1 behind a reverse proxy, or say insecure=True (--insecure)",
        )
    _check_names(settings)
    return settings._replace(token=token)


def _check_names(settings: Settings) -> None:
    for name in settings.allow_hosts:
        place = split_host(name)
        if place is None or place[1] is not None:
            raise ServerStartError(f"{name!r} is no name of a host: give it without scheme and port")
    for address in settings.proxy:
        if address_bytes(address) is None:  # a name or "*" would be a hole: whoever gets that name is believed
            raise ServerStartError(f"{address!r} is no address of a reverse proxy: give an IP address")
    if settings.servers is not None:
        check_servers(settings.servers)
