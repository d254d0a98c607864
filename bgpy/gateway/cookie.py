"""
The cookie of the page: who has logged in gets it, and it is never the token.

``1.EXPIRY.NONCE.MAC``: the second at which it ends, 16 random bytes, and an HMAC of both and of the cookie's name under the
http-cookie subkey of the token. So it outlives a restart of the gateway, ends with the token, and is worth nothing on the socket.
"""

from __future__ import annotations

import hmac
import os

#: Seconds: twelve hours.
LIFETIME = 12 * 3600
_VERSION = "1"
_NONCE_SIZE = 16


def cookie_name(scheme: str, port: int) -> str:
    """Name the cookie of a gateway: by its port, as a browser sends cookies to all ports of a host."""
    # Browsers take the prefix under https only; there it keeps other hosts of the domain from setting the cookie.
    return f"__Host-bgpy-{port}" if scheme == "https" else f"bgpy-{port}"


def make_cookie(key: bytes, name: str, now: float) -> str:
    """Return the value of a new cookie."""
    content = f"{_VERSION}.{int(now) + LIFETIME}.{os.urandom(_NONCE_SIZE).hex()}"
    return f"{content}.{_mac(key, name, content)}"


def is_valid_cookie(key: bytes, name: str, value: str, now: float) -> bool:
    """Tell whether a cookie is one of ours and has not ended."""
    content, _, mac = value.rpartition(".")
    if not hmac.compare_digest(_mac(key, name, content).encode("ascii"), mac.encode("utf-8", "surrogateescape")):
        return False
    version, expiry, _ = content.split(".")  # as we made it: the MAC says so
    return version == _VERSION and now < int(expiry) <= now + LIFETIME


def set_cookie(name: str, value: str, *, secure: bool) -> str:
    """Return the Set-Cookie header that gives a cookie; an empty value takes it away."""
    age = LIFETIME if value else 0
    return f"{name}={value}; Max-Age={age}; Path=/; HttpOnly; SameSite=Strict{'; Secure' if secure else ''}"


def read_cookie(header: str, name: str) -> str | None:
    """Return the value of a cookie in a Cookie header; None where it is not there, or more than once."""
    found = []
    for pair in header.split(";"):
        key, equals, value = pair.strip().partition("=")
        if equals and key == name:
            found.append(value)
    return found[0] if len(found) == 1 else None


def _mac(key: bytes, name: str, content: str) -> str:
    return hmac.digest(key, f"{name}|{content}".encode("utf-8", "surrogateescape"), "sha256").hex()
