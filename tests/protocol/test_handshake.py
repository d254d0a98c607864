"""The opening, both sides in memory: who lets whom in, on what terms, and what somebody in between can do about it."""

from __future__ import annotations

import hashlib
import hmac
import itertools
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest
from support.openings import (
    CLIENT,
    CLIENT_TERMS,
    HELLO,
    INSTANCE,
    MACHINE,
    OTHER_MACHINE,
    OTHER_NAMESPACE,
    SERVER,
    SERVER_TERMS,
    TOKEN,
    Side,
    admit_all,
    agreed,
    false_client,
    false_server,
    joined,
    pair,
    shake,
    subkey,
    terms,
)

from bgpy.errors import AuthenticationError, BgpyError, ConnectError, RemoteProtocolError, VersionMismatchError
from bgpy.protocol import handshake
from bgpy.protocol.handshake import (
    ZERO_ID,
    Admission,
    ClientHello,
    Opening,
    OpeningRefused,
    Refusal,
    client_opening,
    own_python,
    refusal_message,
    server_opening,
)

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


# A second implementation, from docs/protocol.rst alone: what an old or a false peer is made of.


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
    ours.send_key = None
    assert repr(ours) == f"Opening({INSTANCE.hex()}, bare)"
    assert repr(CLIENT_TERMS) == "Terms(127.0.0.1:6000)"


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
