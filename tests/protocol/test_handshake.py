"""The opening, both sides in memory: who lets whom in, on what terms, and what somebody in between can do about it."""

from __future__ import annotations

import hashlib
import hmac
import itertools
import pickle
import struct
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgpy.errors import AuthenticationError, BgpyError, ConnectError, RemoteProtocolError, VersionMismatchError
from bgpy.protocol import handshake
from bgpy.protocol.frames import FrameMac, FrameReader, encode_frame
from bgpy.protocol.handshake import (
    ZERO_ID,
    Admission,
    ClientHello,
    Opener,
    Opening,
    OpeningRefused,
    Refusal,
    Step,
    Terms,
    View,
    client_opening,
    make_view,
    own_python,
    refusal_message,
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


# A second implementation, from docs/protocol.rst alone: what an old or a false peer is made of.


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


def test_no_message_is_over_256_bytes_and_these_are_the_sizes() -> None:
    client, server = pair()
    agreed(client, server)
    assert (client.sizes, server.sizes) == ([152, 8, 0, 128, 40, 8, 0, 32], [0, 8, 0, 144, 136, 40, 40, 0])
    assert len(refusal_message(Refusal.ENDING)) == 8


def test_both_ends_learn_who_the_other_one_is() -> None:
    client = client_opening(CLIENT_TERMS._replace(max_message_size=7), HELLO._replace(resume=True, wanted_instance=INSTANCE))
    seen: list[ClientHello] = []
    server = server_opening(SERVER_TERMS._replace(max_message_size=9), INSTANCE, lambda hello: seen.append(hello) or Admission.OK)
    ours, theirs = agreed(*shake(client, server))
    assert seen == [ours.client] == [theirs.client] == [HELLO._replace(resume=True, wanted_instance=INSTANCE)]
    assert ours.instance == theirs.instance == INSTANCE
    assert ours.peer_python == theirs.peer_python == own_python()
    assert (ours.peer_max_size, theirs.peer_max_size) == (9, 7)


def test_the_outcome_hides_its_keys_and_the_terms_their_token() -> None:
    ours, _ = agreed(*pair(terms(machine=None)))
    assert repr(ours) == f"Opening({INSTANCE.hex()}, MAC)"
    assert repr(ours._replace(send_key=None)) == f"Opening({INSTANCE.hex()}, bare)"
    assert repr(CLIENT_TERMS) == "Terms(127.0.0.1:6000)"


# Who is let in, and when frames go bare.

VIEWS: dict[str, tuple[Any, Any, bool]] = {
    # name: what the server sees as its own and the client's address, and whether that mirrors what the client sees
    "loopback": (SERVER, CLIENT, True),
    "mapped": (("::ffff:127.0.0.1", 6000, 0, 0), ("::ffff:127.0.0.1", 50_000, 0, 0), True),
    "forwarded": (SERVER, ("127.0.0.1", 50_001), False),
    "other port": (("127.0.0.1", 6001), CLIENT, False),
    "other address": (("127.0.0.2", 6000), CLIENT, False),
    "unix": ("/tmp/socket", "", False),
}


def cases() -> Iterator[Any]:
    tokens = ("", TOKEN, "another token")
    machines = (MACHINE, OTHER_MACHINE, OTHER_NAMESPACE, None)
    yield from itertools.product(tokens, tokens, (False, True), (False, True), machines, machines, VIEWS)


def test_every_combination_of_tokens_tls_machines_and_addresses_is_let_in_or_refused_as_it_should() -> None:
    outcomes: dict[str, int] = {}
    for token_c, token_s, secure_c, secure_s, machine_c, machine_s, view in cases():
        local, remote, mirrors = VIEWS[view]
        client, server = pair(
            terms(token_c, machine=machine_c, secure=secure_c), terms(token_s, local, remote, machine=machine_s, secure=secure_s)
        )
        if token_c != token_s:
            wrong = "the token differs" if token_c else "asks for a token"
            reason = wrong if token_s else "needs no token, and this client has one"
            assert isinstance(client.outcome, AuthenticationError)
            assert reason in client.outcome.reason
            assert not isinstance(server.outcome, Opening)
            outcomes[reason] = outcomes.get(reason, 0) + 1
            continue
        ours, theirs = agreed(client, server)
        bare = (secure_c and secure_s) or (mirrors and machine_c == machine_s is not None)
        name = "bare" if bare else "MAC"
        outcomes[name] = outcomes.get(name, 0) + 1
        if bare:
            assert (ours.send_key, ours.receive_key, theirs.send_key, theirs.receive_key) == (None,) * 4
        else:
            assert ours.send_key == theirs.receive_key
            assert ours.receive_key == theirs.send_key
            assert len({ours.send_key, ours.receive_key, None}) == 3
    assert set(outcomes) == {"needs no token, and this client has one", "asks for a token", "the token differs", "bare", "MAC"}


@pytest.mark.parametrize(
    ("local", "remote", "mirrors"),
    [
        (("::1", 50_000, 0, 0), ("::1", 6000, 0, 0), True),
        (("127.0.0.1", 50_000), ("127.9.9.9", 6000), True),
        (("10.0.0.1", 50_000), ("10.0.0.1", 6000), False),
        (("127.0.0.1", 50_000), ("10.0.0.1", 6000), False),
        (("fe80::1%lo", 50_000, 0, 1), ("fe80::1%lo", 6000, 0, 1), False),
    ],
)
def test_only_loopback_on_both_ends_goes_bare(local: Any, remote: Any, mirrors: bool) -> None:
    ours, theirs = agreed(*pair(terms(local=local, remote=remote), terms(local=remote, remote=local)))
    assert (ours.send_key is None) == (theirs.send_key is None) == mirrors


@pytest.mark.parametrize("asking", [0, 1])
def test_each_end_can_ask_for_macs_and_the_other_cannot_refuse(asking: int) -> None:
    views = [CLIENT_TERMS, SERVER_TERMS]
    with mock.patch.object(handshake, "_flags", lambda terms: 0x03 if terms is views[asking] else 0x01):
        ours, theirs = agreed(*pair())
    assert ours.send_key is not None
    assert ours.send_key == theirs.receive_key


def test_each_opening_has_its_own_keys() -> None:
    keys: set[bytes | None] = set()
    for _ in range(5):
        ours, _ = agreed(*pair(terms(machine=None)))
        keys |= {ours.send_key, ours.receive_key}
    assert len(keys) == 10


def test_the_keys_and_proofs_are_what_a_second_implementation_computes() -> None:
    messages: list[bytes] = []
    ours, _ = agreed(*pair(terms(machine=None), tamper=lambda number, data: messages.append(data) or data))
    hello_c, hello_s, proof_c, proof_s = messages
    proof_key = subkey(TOKEN, "proof")
    assert proof_c[8:] == hmac.digest(proof_key, joined(b"client", hello_c, hello_s), "sha256")
    assert proof_s[8:] == hmac.digest(proof_key, joined(b"server", hello_c, hello_s, proof_c, b"\0"), "sha256")
    transcript = hashlib.sha256(joined(*messages)).digest()
    assert ours.send_key == hmac.digest(subkey(TOKEN, "client-to-server"), transcript, "sha256")
    assert ours.receive_key == hmac.digest(subkey(TOKEN, "server-to-client"), transcript, "sha256")


def test_a_lane_and_a_server_that_are_not_there_are_told_inside_the_proof() -> None:
    for admission in (Admission.OK, Admission.LANE_UNKNOWN):
        ours, theirs = agreed(
            *shake(client_opening(CLIENT_TERMS, HELLO), server_opening(SERVER_TERMS, INSTANCE, lambda _, said=admission: said))
        )
        assert ours.admission is theirs.admission is admission


@pytest.mark.parametrize(("wanted", "asked"), [(ZERO_ID, True), (INSTANCE, True), (b"other" + bytes(11), False)])
def test_a_client_that_wants_another_server_gets_no_lane_here(wanted: bytes, asked: bool) -> None:
    admitted: list[ClientHello] = []
    server = server_opening(SERVER_TERMS, INSTANCE, lambda hello: admitted.append(hello) or Admission.OK)
    ours, _ = agreed(*shake(client_opening(CLIENT_TERMS, HELLO._replace(wanted_instance=wanted)), server))
    assert bool(admitted) is asked
    assert ours.admission is (Admission.OK if asked else Admission.OTHER_INSTANCE)


def test_nobody_is_admitted_before_the_proof() -> None:
    def admit(_: ClientHello) -> Admission:
        raise AssertionError("a stranger was given a lane")

    for client in (client_opening(terms("wrong"), HELLO), false_client("wrong"), client_opening(terms(""), HELLO)):
        _, server = shake(client, server_opening(SERVER_TERMS, INSTANCE, admit))
        assert isinstance(server.outcome, OpeningRefused)


# Refusals.


@pytest.mark.parametrize(
    ("code", "kind", "text"),
    [
        (Refusal.NOT_BGPY, RemoteProtocolError, "it did not understand the opening"),
        (Refusal.VERSION, VersionMismatchError, "version 1, the other 1"),
        (Refusal.TOKEN_NEEDED, AuthenticationError, "it asks for a token"),
        (Refusal.WRONG_TOKEN, AuthenticationError, "the token differs"),
        (Refusal.OVERLOADED, ConnectError, "it has no room for another connection"),
        (Refusal.ENDING, ConnectError, "it is ending"),
        (99, RemoteProtocolError, "the unknown code 99"),
    ],
)
@pytest.mark.parametrize("after_proof", [False, True])
def test_a_refusal_is_a_code_that_becomes_its_error(code: int, kind: type[BgpyError], text: str, after_proof: bool) -> None:
    data = b"BGPY" + bytes([127, code, 1, 1])
    if code != 99:
        assert refusal_message(Refusal(code)) == data
    client = Side(client_opening(CLIENT_TERMS, HELLO))
    client.start()
    if after_proof:
        hello = false_server(TOKEN)
        next(hello)
        assert len(client.feed(hello.send(bytes(152)).data)) == 40
    assert client.feed(data) == b""
    assert type(client.outcome) is kind
    assert text in str(client.outcome)


def test_a_refusal_names_itself_for_the_log() -> None:
    assert str(OpeningRefused(Refusal.WRONG_TOKEN)) == "Refused an opening: the token differs."
    assert str(OpeningRefused(Refusal.TOKEN_NEEDED)) == "Refused an opening: this server asks for a token."
    assert all(str(OpeningRefused(refusal)) for refusal in Refusal)


@pytest.mark.parametrize(("versions", "text"), [((2, 2), "2"), ((2, 5), "2 to 5")])
def test_a_client_that_is_refused_for_its_version_names_both(versions: tuple[int, int], text: str) -> None:
    client = Side(client_opening(CLIENT_TERMS, HELLO))
    client.start()
    client.feed(b"BGPY" + bytes([127, 2, *versions]))
    assert isinstance(client.outcome, VersionMismatchError)
    assert (client.outcome.ours, client.outcome.theirs) == ("1", text)


def test_a_server_that_answers_with_another_version_is_refused_and_both_are_named() -> None:
    client, _ = shake(client_opening(CLIENT_TERMS, HELLO), false_server(TOKEN, version=2))
    assert isinstance(client.outcome, VersionMismatchError)
    assert (client.outcome.ours, client.outcome.theirs) == ("1", "2")


@pytest.mark.parametrize(("oldest", "newest", "understood"), [(0, 0, False), (2, 9, False), (0, 1, True), (1, 9, True)])
def test_a_server_takes_clients_whose_range_has_its_version(oldest: int, newest: int, understood: bool) -> None:
    client, server = shake(false_client(TOKEN, oldest=oldest, newest=newest), server_opening(SERVER_TERMS, INSTANCE, admit_all))
    if understood:
        agreed(client, server)
    else:
        assert isinstance(server.outcome, OpeningRefused)
        assert server.outcome.data == b"BGPY" + bytes([127, 2, 1, 1])


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",
        bytes(8),
        b"BGPY\x02\x01\x01\x01",
        b"BGPX\x01\x01\x01\x01",
    ],
)
def test_what_is_no_client_is_told_so_after_8_bytes(data: bytes) -> None:
    server = Side(server_opening(SERVER_TERMS, INSTANCE, admit_all))
    server.start()
    assert server.feed(data[:7]) == b""
    assert server.feed(data[7:8]) == refusal_message(Refusal.NOT_BGPY)


@pytest.mark.parametrize("data", [b"HTTP/1.1 400 Bad Request", b"\x15\x03\x03\x00\x02\x02\x32\x00", b"SSH-2.0-x"])
def test_what_is_no_server_is_an_error_that_says_so(data: bytes) -> None:
    client = Side(client_opening(CLIENT_TERMS, HELLO))
    client.start()
    client.feed(data)
    assert isinstance(client.outcome, RemoteProtocolError)
    assert "127.0.0.1:6000 is not a bgpy server" in str(client.outcome)


@pytest.mark.parametrize("kind", [1, 3, 4, 9])
def test_a_message_out_of_turn_is_an_error_that_names_both(kind: int) -> None:
    client = Side(client_opening(CLIENT_TERMS, HELLO))
    client.start()
    client.feed(b"BGPY" + bytes([kind, 1, 0, 1]))
    assert isinstance(client.outcome, RemoteProtocolError)
    assert f"opening message {kind} in place of 2" in str(client.outcome)


# Somebody in between.


def test_a_relay_of_both_proofs_cannot_inject() -> None:
    """One secret serves all servers of a user: another user on a stale port passed both proofs on, and then put in a pickle."""
    relay = ("127.0.0.1", 6001), ("127.0.0.1", 40_000)
    client, server = pair(terms(remote=relay[0]), terms(local=SERVER, remote=relay[1]))
    ours, theirs = agreed(client, server)
    for key in (ours.receive_key, theirs.receive_key):
        assert key is not None, "frames go bare although somebody sits in between"
        for injected in (None, FrameMac(subkey("", "client-to-server")), FrameMac(bytes(32))):
            data = b"".join(encode_frame(2, 1, 0, 1, pickle.dumps({"evil": True}), [], injected)) + bytes(32)
            reader = FrameReader(1000, FrameMac(key))
            reader.memory()[: len(data)] = data
            reader.advance(len(data))
            with pytest.raises(RemoteProtocolError, match="wrong MAC"):
                reader.next_frame()


def test_what_is_reflected_proves_nothing() -> None:
    client = Side(client_opening(CLIENT_TERMS, HELLO))
    client.feed(client.start())
    assert isinstance(client.outcome, RemoteProtocolError)

    # The proof of the client as that of the server: the only byte that tells them apart outside the proof is changed.
    def as_server(number: int, data: bytes) -> bytes:
        if number == 2:
            proofs.append(data)
        return b"BGPY\x04\0\0\0" + proofs[0][8:] if number == 3 else data

    proofs: list[bytes] = []
    client, _ = pair(tamper=as_server)
    assert isinstance(client.outcome, AuthenticationError)


def test_an_old_proof_opens_nothing() -> None:
    recorded: list[bytes] = []
    agreed(*pair(tamper=lambda number, data: recorded.append(data) or data))
    server = Side(server_opening(SERVER_TERMS, INSTANCE, admit_all))
    server.start()
    assert len(server.feed(recorded[0])) == 136
    assert server.feed(recorded[2]) == refusal_message(Refusal.WRONG_TOKEN)
    client = Side(client_opening(CLIENT_TERMS, HELLO))
    client.start()
    client.feed(recorded[1])
    client.feed(recorded[3])
    assert isinstance(client.outcome, AuthenticationError)


@pytest.mark.parametrize("token", [TOKEN, ""])
@pytest.mark.parametrize("machine", [MACHINE, None])
@pytest.mark.parametrize(("number", "size"), [(0, 152), (1, 136), (2, 40), (3, 40)])
def test_no_opening_ends_well_with_a_byte_changed_on_the_way(token: str, machine: bytes | None, number: int, size: int) -> None:
    """Nobody talks an opening into less: one side refuses, and the client never goes on."""
    for offset, bit in itertools.product(range(size), (0x01, 0x02, 0x04, 0x80)):

        def change(turn: int, data: bytes, offset: int = offset, bit: int = bit) -> bytes:
            if turn != number:
                return data
            assert len(data) == size
            return data[:offset] + bytes([data[offset] ^ bit]) + data[offset + 1 :]

        client, server = pair(terms(token, machine=machine), terms(token, SERVER, CLIENT, machine=machine), change)
        assert not isinstance(client.outcome, Opening), f"byte {offset} of message {number}"
        assert number == 3 or not isinstance(server.outcome, Opening), f"byte {offset} of message {number}"


@pytest.mark.parametrize("number", range(4))
def test_an_opening_that_is_cut_goes_nowhere(number: int) -> None:
    for offset in range(40):
        client, server = pair(tamper=lambda turn, data, cut=offset: data[:cut] if turn == number else data)
        assert client.outcome is None
        assert isinstance(server.outcome, Opening) == (number == 3)


# False peers.


@pytest.mark.parametrize("flags", [0, 1, 2, 4, 7])
def test_a_client_with_a_token_never_accepts_a_server_that_needs_none(flags: int) -> None:
    client, _ = shake(client_opening(CLIENT_TERMS, HELLO), false_server("", flags=flags))
    assert isinstance(client.outcome, AuthenticationError)
    assert "needs no token" in client.outcome.reason or "could not prove" in client.outcome.reason


@pytest.mark.parametrize("flags", [0, 1, 2, 4, 7])
def test_a_server_with_a_token_lets_nobody_in_without(flags: int) -> None:
    _, server = shake(false_client("", flags=flags), server_opening(SERVER_TERMS, INSTANCE, admit_all))
    assert isinstance(server.outcome, OpeningRefused)
    assert server.outcome.refusal is (Refusal.WRONG_TOKEN if flags & 1 else Refusal.TOKEN_NEEDED)


def test_a_server_that_knows_the_token_but_says_it_needs_none_is_not_accepted() -> None:
    client, _ = shake(client_opening(CLIENT_TERMS, HELLO), false_server(TOKEN, flags=0))
    assert isinstance(client.outcome, AuthenticationError)


@pytest.mark.parametrize("token", [TOKEN, ""])
def test_an_admission_that_nobody_knows_is_a_protocol_error(token: str) -> None:
    """It came out as a bare ValueError."""
    client, _ = shake(client_opening(terms(token), HELLO), false_server(token, flags=bool(token), admission=3))
    assert isinstance(client.outcome, RemoteProtocolError)


def test_the_second_implementation_is_accepted_so_its_refusals_mean_something() -> None:
    agreed(*shake(false_client(TOKEN), server_opening(SERVER_TERMS, INSTANCE, admit_all)))
    agreed(*shake(client_opening(CLIENT_TERMS, HELLO), false_server(TOKEN)))


def pieces(sizes: list[int]) -> st.SearchStrategy[bytes]:
    """Make any bytes, or messages that begin like ours."""
    kinds = st.sampled_from([1, 2, 3, 4, 127, 9])
    preamble = st.builds(lambda kind, rest: b"BGPY" + bytes([kind, *rest]), kinds, st.binary(min_size=3, max_size=3))
    heads = ["0101 0101", "0201 0001", "0300 0000", "0400 0000", "7f04 0101"]
    known = st.sampled_from([b"BGPY" + bytes.fromhex(head) for head in heads])
    body = st.sampled_from(sizes).flatmap(lambda size: st.binary(min_size=size, max_size=size))
    return st.lists(st.one_of(st.binary(max_size=300), preamble, known, body), max_size=6).map(b"".join)


@given(pieces([144, 32]), st.sampled_from([TOKEN, ""]), st.sampled_from([MACHINE, None]))
def test_property_any_bytes_of_a_stranger_are_refused_not_unpickled(data: bytes, token: str, machine: bytes | None) -> None:
    with mock.patch.object(pickle, "loads", side_effect=AssertionError("unpickled a stranger's bytes")):
        server = Side(server_opening(terms(token, SERVER, CLIENT, machine=machine), INSTANCE, admit_all))
        server.start()
        server.feed(data)
    assert server.outcome is None or isinstance(server.outcome, OpeningRefused)
    assert len(data) < 192 or server.outcome is not None


@given(pieces([128, 32]), st.sampled_from([TOKEN, ""]), st.sampled_from([MACHINE, None]))
def test_property_any_bytes_of_a_false_server_are_an_error_not_unpickled(data: bytes, token: str, machine: bytes | None) -> None:
    with mock.patch.object(pickle, "loads", side_effect=AssertionError("unpickled a stranger's bytes")):
        client = Side(client_opening(terms(token, machine=machine), HELLO))
        client.start()
        client.feed(data)
    assert client.outcome is None or isinstance(client.outcome, BgpyError)
    assert len(data) < 176 or client.outcome is not None


def test_two_machines_that_cannot_name_themselves_are_not_one() -> None:
    view, mirror = make_view(CLIENT, SERVER, MACHINE), make_view(SERVER, CLIENT, MACHINE)
    assert view.mirrors(mirror)
    assert mirror.mirrors(view)
    assert not view._replace(machine=bytes(32)).mirrors(mirror._replace(machine=bytes(32)))


def test_a_view_holds_packed_addresses_and_nothing_of_other_families() -> None:
    view = make_view(CLIENT, SERVER, MACHINE)
    assert view == View(bytes(10) + b"\xff\xff\x7f\0\0\x01", 50_000, bytes(10) + b"\xff\xff\x7f\0\0\x01", 6000, MACHINE)
    assert make_view("", "", None) == View(ZERO_ID, 0, ZERO_ID, 0, bytes(32))
    assert make_view(("no address", 1), SERVER, None)[:2] == (ZERO_ID, 0)
