"""
The gate: who may pass, judged from what a request says before anything of it is read further. No I/O.

The order of the rules; the first that refuses has the word:

1. Host: exactly one, an IP literal, ``localhost``, or a name that was allowed. A page of another site that gets its name pointed
   at this machine (DNS rebinding) comes with that name.
2. Origin, where there is one, is the scheme and host that were asked for. ``null`` is none.
3. Without a token: no header that a reverse proxy adds, as that would publish this machine.
4. What is open to everybody passes.
5. A Bearer token that is right passes; a wrong one does not, whatever else the request has.
6. A valid cookie, or no token being needed, passes if it is sure that no other site's page has sent the request: WebSockets and
   all but GET have an Origin, a GET has no Sec-Fetch-Site that says otherwise, and a body is ``application/json``, which no
   form can send.
7. A WebSocket of a door where the token may be the first message passes, to say that and nothing else, if it has shown neither a
   Bearer token nor a valid cookie. The endpoint gives it nothing before.
8. All else does not.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable
from typing import Literal, NamedTuple

from bgpy.addresses import address_bytes
from bgpy.gateway.cookie import cookie_name, is_valid_cookie, read_cookie
from bgpy.token import derive_key

_PORTS = {"http": 80, "https": 443}
_NAME = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?")
_WANTED = {
    name: name.decode("ascii")
    for name in (
        *(b"host", b"origin", b"authorization", b"cookie", b"content-type", b"content-length", b"transfer-encoding"),
        *(b"sec-fetch-site", b"accept"),
        *(b"content-encoding", b"inference-header-content-length"),  # no rule's, but found in the same pass
        *(b"forwarded", b"via", b"x-real-ip", b"x-forwarded"),
    )
}
_FORWARDED = ("forwarded", "via", "x-real-ip", "x-forwarded")


class Facts(NamedTuple):
    """
    What a request says of itself.

    Attributes
    ----------
    scheme
        http or https, also of a WebSocket.
    path
        Within the app, wherever that is mounted.
    headers
        The values of each header that the rules and the endpoints look at, by its name in lower case.
    """

    kind: Literal["http", "websocket"]
    method: str
    scheme: str
    path: str
    headers: dict[str, list[str]]

    def one(self, name: str) -> str | None:
        """Return the value of a header that is there exactly once."""
        values = self.headers.get(name, ())
        return values[0] if len(values) == 1 else None

    @property
    def has_body(self) -> bool:
        """Whether a body follows."""
        return "transfer-encoding" in self.headers or any(value != "0" for value in self.headers.get("content-length", ()))

    @property
    def wants_page(self) -> bool:
        """Whether a browser asks for a page."""
        return "text/html" in ",".join(self.headers.get("accept", ()))

    @property
    def cookie_name(self) -> str:
        """The name of the cookie that a browser has for the address it asked for."""
        place = split_host(self.one("host") or "")
        return cookie_name(self.scheme, (place[1] if place else None) or _PORTS[self.scheme])


class Rules(NamedTuple):
    """
    What the gate was told.

    Attributes
    ----------
    token
        What a Bearer must show; "" for none needed.
    cookie_key
        The http-cookie subkey of the token.
    allow_hosts
        Names that a Host may be, in lower case.
    open_paths
        Method and path of what everybody may have.
    open_pages
        Paths of what everybody may have who asks for a page.
    talking_paths
        Paths of the WebSockets on which the token may be the first message.
    """

    token: str
    cookie_key: bytes
    allow_hosts: frozenset[str]
    open_paths: frozenset[tuple[str, str]]
    open_pages: frozenset[str]
    talking_paths: frozenset[str] = frozenset()


def make_rules(token: str, allow_hosts: Iterable[str]) -> Rules:
    """Return the rules of a gateway with that token, "" for none needed; nothing is open in these."""
    key = derive_key(token, "http-cookie") if token else b""
    return Rules(token, key, frozenset(host.lower() for host in allow_hosts), frozenset(), frozenset())


#: On what ground a request passes.
Ground = Literal["open", "bearer", "cookie", "no-token", "first-message"]


class Allow(NamedTuple):
    """Let the request pass; `by` says on what ground."""

    by: Ground


class Refusal(NamedTuple):
    """Do not let it pass; `reason` is for people."""

    status: int
    reason: str


def read_facts(
    kind: Literal["http", "websocket"], method: str, scheme: str, path: str, headers: Iterable[tuple[bytes, bytes]]
) -> Facts:
    """Pick out of a request what the rules look at."""
    found: dict[str, list[str]] = {}
    for name, value in headers:
        key = _WANTED.get(name)
        if key is None:
            name = name.lower()  # servers give it so, but not all of them
            key = "x-forwarded" if name.startswith(b"x-forwarded-") else _WANTED.get(name)
            if key is None:
                continue
        found.setdefault(key, []).append(value.decode("utf-8", "surrogateescape").strip())
    return Facts(kind, method, {"ws": "http", "wss": "https"}.get(scheme, scheme), path, found)


def judge(facts: Facts, rules: Rules, now: float) -> Allow | Refusal:
    """Judge one request by the rules of this module, in their order."""
    refusal = _judge_host(facts, rules) or _judge_origin(facts)
    if refusal is not None:
        return refusal
    if not rules.token and any(name in facts.headers for name in _FORWARDED):
        return Refusal(403, "Without a token no request through a proxy is taken: it would open this machine to others")
    if facts.kind == "http" and _is_open(facts, rules):
        return Allow("open")
    if rules.token:
        by = _judge_login(facts, rules, now)
        if isinstance(by, Refusal) or by.by in ("bearer", "first-message"):
            return by
    else:
        by = Allow("no-token")
    return _judge_sender(facts) or by


def _judge_host(facts: Facts, rules: Rules) -> Refusal | None:
    value = facts.one("host")
    place = None if value is None else split_host(value)
    if place is None:
        return Refusal(400, "A request needs exactly one Host, HOST or HOST:PORT")
    name = place[0]
    if name == "localhost" or name in rules.allow_hosts or address_bytes(name) is not None:
        return None
    return Refusal(403, f"The host {name:.100} is not one of this gateway's; --allow-host {name:.100} adds it")


def _judge_origin(facts: Facts) -> Refusal | None:
    values = facts.headers.get("origin")
    if not values:
        return None
    ours = split_origin(f"{facts.scheme}://{facts.one('host')}")
    if len(values) == 1 and ours is not None and split_origin(values[0]) == ours:
        return None
    return Refusal(403, "A page of another site has sent this request")


def _is_open(facts: Facts, rules: Rules) -> bool:
    method = "GET" if facts.method == "HEAD" else facts.method
    if (method, facts.path) in rules.open_paths:
        return True
    return method == "GET" and facts.path in rules.open_pages and facts.wants_page


def _judge_login(facts: Facts, rules: Rules, now: float) -> Allow | Refusal:
    for value in facts.headers.get("authorization", ()):
        scheme, _, shown = value.partition(" ")
        if scheme.lower() != "bearer":
            continue  # another gate's, such as the password of a reverse proxy
        if len(facts.headers["authorization"]) == 1 and is_token(shown.strip(), rules.token):
            return Allow("bearer")
        return Refusal(401, "The token is wrong")
    name = facts.cookie_name
    for header in facts.headers.get("cookie", ()):
        cookie = read_cookie(header, name)
        if cookie is not None and is_valid_cookie(rules.cookie_key, name, cookie, now):
            return Allow("cookie")
    if facts.kind == "websocket" and facts.path in rules.talking_paths:
        return Allow("first-message")
    return Refusal(401, "Not logged in: send the header Authorization: Bearer TOKEN, or log in on the page")


def _judge_sender(facts: Facts) -> Refusal | None:
    """Refuse what a page of another site could have made a browser send with the cookie, or without any token."""
    if facts.kind == "websocket" or facts.method != "GET":
        if "origin" not in facts.headers:
            return Refusal(403, "Without a Bearer token this request needs an Origin")
    elif any(value not in ("same-origin", "none") for value in facts.headers.get("sec-fetch-site", ())):
        return Refusal(403, "A page of another site has sent this request")
    if facts.has_body and not is_json(facts.one("content-type")):
        return Refusal(415, "Without a Bearer token a body needs the header Content-Type: application/json")
    return None


def is_token(shown: str, token: str) -> bool:
    """Compare a token in constant time."""
    try:
        said = shown.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half a surrogate pair, which JSON has an escape for
        return False
    return hmac.compare_digest(said, token.encode("utf-8", "surrogateescape"))


def is_json(content_type: str | None) -> bool:
    """Tell whether a Content-Type is that of JSON."""
    return content_type is not None and content_type.partition(";")[0].strip().lower() == "application/json"


def split_host(value: str) -> tuple[str, int | None] | None:
    """Split a Host into its name, in lower case and without brackets, and its port; None where it is malformed."""
    value = value.lower()
    if value.startswith("["):
        name, bracket, rest = value[1:].partition("]")
        packed = address_bytes(name)
        if not bracket or "%" in name or packed is None or ":" not in name:
            return None
    else:
        name, colon, port = value.partition(":")
        rest = colon + port
        if not _NAME.fullmatch(name):
            return None
    if not rest:
        return name, None
    port = rest[1:]
    if rest[0] != ":" or not (port.isascii() and port.isdigit()) or len(port) > 5 or int(port) > 0xFFFF:
        return None
    return name, int(port)


def split_origin(value: str) -> tuple[str, str, int] | None:
    """Split an origin into scheme, host and port; None for ``null`` and all that is none."""
    scheme, separator, host = value.partition("://")
    place = split_host(host)
    if not separator or scheme not in _PORTS or place is None:
        return None
    return scheme, place[0], place[1] or _PORTS[scheme]
