"""
Judge addresses by their bytes.

The standard library's judgement of IPv4-mapped addresses differs between Python versions, and whether an address is loopback
decides here whether a token is needed; so the bytes are looked at, with one rule everywhere.
"""

from __future__ import annotations

import operator
import socket

from bgpy.errors import ConnectError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_MAPPED = bytes(10) + b"\xff\xff"  # ::ffff:0:0/96, RFC 4291, 2.5.5.2


def address_bytes(address: str) -> bytes | None:
    """Give the 4 or 16 bytes of a numeric address, IPv4-mapped ones as 4 and without a scope ("%eth0"); None for a name."""
    try:
        return socket.inet_pton(socket.AF_INET, address)
    except (OSError, ValueError):  # ValueError: a character that no address has
        pass  # not IPv4: see whether it is IPv6
    try:
        packed = socket.inet_pton(socket.AF_INET6, address.partition("%")[0])
    except (OSError, ValueError):
        return None
    return packed[12:] if packed.startswith(_MAPPED) else packed


def is_loopback(address: str) -> bool:
    """Tell whether a numeric address is 127.0.0.0/8 or ::1, IPv4-mapped ones folded. A name is not: see `resolve_addresses`."""
    packed = address_bytes(address)
    if packed is None:
        return False
    return packed[0] == 127 if len(packed) == 4 else packed == bytes(15) + b"\x01"


def is_wildcard(address: str) -> bool:
    """Tell whether a numeric address stands for all addresses of the machine (0.0.0.0, ::)."""
    packed = address_bytes(address)
    return packed is not None and not any(packed)


def resolve_addresses(host: str, port: int) -> list[tuple[socket.AddressFamily, tuple[Any, ...]]]:
    """
    Find every TCP address of a host as (family, socket address), in the resolver's order; "" means all of this machine's.

    May block on the network for a name. Raises ConnectError where the host is unknown, or the port is none.
    """
    if not 0 <= port <= 0xFFFF:  # the resolver would take it modulo 65,536
        raise ConnectError(f"{host}:{port}", "a port is a number from 0 to 65535")
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=0 if host else socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:  # UnicodeError: a label that is empty or too long for IDNA
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ConnectError(f"{host}:{port}", reason) from error
    unique = dict.fromkeys((family, address) for family, _, _, _, address in found)
    return list(unique)


def check_host(host: str) -> str:
    """Return a host as it is; raises TypeError for what is no text, such as None for "all addresses"."""
    if not isinstance(host, str):
        raise TypeError(f'A host is a text: a name or an address, "" for all addresses of this machine, not {host!r:.100}.')
    return host


def check_port(port: int) -> int:
    """Return a port as an int; raises TypeError for what is no whole number, such as a text from the environment."""
    try:
        return operator.index(port)
    except TypeError:
        raise TypeError(f"A port is a whole number from 0 to 65535, not {port!r:.100}.") from None


def all_loopback(addresses: list[tuple[socket.AddressFamily, tuple[Any, ...]]]) -> bool:
    """Tell whether there are addresses and every one is loopback: one that is not makes the server reachable from outside."""
    return bool(addresses) and all(is_loopback(str(address[0])) for _, address in addresses)


def format_address(host: str, port: int) -> str:
    """Write an address for people: ``host:port``, with brackets around IPv6."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
