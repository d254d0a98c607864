"""Both sides of an opening, and a second implementation of it."""

from __future__ import annotations

import hmac
import struct
from collections.abc import Callable
from typing import Any

from bgpy.errors import BgpyError
from bgpy.protocol.handshake import (
    ZERO_ID,
    Admission,
    ClientHello,
    Opener,
    Opening,
    OpeningRefused,
    Step,
    Terms,
    client_opening,
    make_view,
    server_opening,
)

TOKEN = "a token of more than 22 characters"
INSTANCE = b"instance" * 2
HELLO = ClientHello(b"client" + bytes(10), 3, False, ZERO_ID)


MACHINE, OTHER_MACHINE, OTHER_NAMESPACE = b"m" * 32, b"x" * 32, b"m" * 31 + b"n"


CLIENT, SERVER = ("127.0.0.1", 50_000), ("127.0.0.1", 6000)


#: What somebody on the way does to message number n (0: hello_c, 1: hello_s, 2: proof_c, 3: proof_s).
Tamper = Callable[[int, bytes], bytes]


class Side:
    """One end of an opening: bytes in, bytes out, and what became of it (None: it waits for more)."""

    def __init__(self, opener: Opener) -> None:
        self._opener = opener
        self._inbox = b""
        self._step = Step(b"", 0)
        self.outcome: Opening | Exception | None = None
        self.sizes: list[int] = []

    def start(self) -> bytes:
        return self._follow(lambda: next(self._opener)) + self.feed(b"")

    def feed(self, data: bytes) -> bytes:
        """Take bytes and return those that go out for them."""
        self._inbox += data
        out = b""
        while self.outcome is None and len(self._inbox) >= self._step.need:
            taken, self._inbox = self._inbox[: self._step.need], self._inbox[self._step.need :]
            out += self._follow(lambda taken=taken: self._opener.send(taken))  # type: ignore[misc]
        return out

    def _follow(self, go_on: Callable[[], Step]) -> bytes:
        try:
            self._step = go_on()
        except StopIteration as done:
            self.outcome = done.value
            return b""
        except OpeningRefused as refused:
            self.outcome = refused
            return refused.data
        except BgpyError as error:
            self.outcome = error
            return b""
        self.sizes += [len(self._step.data), self._step.need]
        return self._step.data


def terms(
    token: str = TOKEN,
    local: Any = CLIENT,
    remote: Any = SERVER,
    *,
    machine: bytes | None = MACHINE,
    secure: bool = False,
    limit: int = 1 << 30,
) -> Terms:
    return Terms(token, limit, make_view(local, remote, machine), secure, "127.0.0.1:6000")


CLIENT_TERMS, SERVER_TERMS = terms(), terms(local=SERVER, remote=CLIENT)


def admit_all(_: ClientHello) -> Admission:
    return Admission.OK


def shake(client: Opener, server: Opener, tamper: Tamper | None = None) -> tuple[Side, Side]:
    """Let both sides talk until nothing more is said; returns client and server."""
    sides = Side(client), Side(server)
    data = sides[0].start()
    assert sides[1].start() == b""
    number = 0
    while data:
        data = sides[(number + 1) % 2].feed(tamper(number, data) if tamper else data)
        number += 1
    return sides


def pair(client: Terms = CLIENT_TERMS, server: Terms = SERVER_TERMS, tamper: Tamper | None = None) -> tuple[Side, Side]:
    return shake(client_opening(client, HELLO), server_opening(server, INSTANCE, admit_all), tamper)


def agreed(client: Side, server: Side) -> tuple[Opening, Opening]:
    assert isinstance(client.outcome, Opening), client.outcome
    assert isinstance(server.outcome, Opening), server.outcome
    return client.outcome, server.outcome


def subkey(token: str, purpose: str) -> bytes:
    return hmac.digest(hmac.digest(token.encode(), b"bgpy1 root", "sha256"), purpose.encode(), "sha256")


def joined(*parts: bytes) -> bytes:
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def false_server(token: str, *, version: int = 1, flags: int = 1, admission: int = 0) -> Opener:
    """Run a server that says what it is told to say, and proves the token."""
    hello_c = yield Step(b"", 152)
    hello_s = b"BGPY" + bytes([2, version, 0, flags, 3, 11, 0, 0]) + b"n" * 32 + INSTANCE + struct.pack("!Q", 1 << 30) + bytes(68)
    proof_c = yield Step(hello_s, 40)
    key = subkey(token, "proof")
    proof = hmac.digest(key, joined(b"server", hello_c, hello_s, proof_c, bytes([admission])), "sha256")
    yield Step(b"BGPY" + bytes([4, admission, 0, 0]) + proof, 0)
    return Opening(HELLO, INSTANCE, Admission.OK, "3.11", 0, None, None)


def false_client(token: str, *, oldest: int = 1, newest: int = 1, flags: int = 1) -> Opener:
    """Run a client that says what it is told to say, and proves the token."""
    hello_c = b"BGPY" + bytes([1, oldest, newest, flags, 3, 11, 0, 3]) + b"n" * 32 + HELLO.client_id + ZERO_ID
    hello_c += struct.pack("!Q", 1 << 30) + bytes(68)
    hello_s = yield Step(hello_c, 136)
    yield Step(b"BGPY\x03\0\0\0" + hmac.digest(subkey(token, "proof"), joined(b"client", hello_c, hello_s), "sha256"), 40)
    return Opening(HELLO, INSTANCE, Admission.OK, "3.11", 0, None, None)
