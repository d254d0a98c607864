"""Openings with somebody in between, and with false peers."""

from __future__ import annotations

import itertools
import pickle
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.openings import (
    CLIENT,
    CLIENT_TERMS,
    HELLO,
    INSTANCE,
    MACHINE,
    SERVER,
    SERVER_TERMS,
    TOKEN,
    Side,
    admit_all,
    agreed,
    false_client,
    false_server,
    pair,
    shake,
    subkey,
    terms,
)

from bgpy.errors import AuthenticationError, BgpyError, RemoteProtocolError
from bgpy.protocol.frames import FrameMac, FrameReader, encode_frame
from bgpy.protocol.handshake import (
    ZERO_ID,
    Opening,
    OpeningRefused,
    Refusal,
    View,
    client_opening,
    make_view,
    refusal_message,
    server_opening,
)


def pieces(sizes: list[int]) -> st.SearchStrategy[bytes]:
    """Make any bytes, or messages that begin like ours."""
    kinds = st.sampled_from([1, 2, 3, 4, 127, 9])
    preamble = st.builds(lambda kind, rest: b"BGPY" + bytes([kind, *rest]), kinds, st.binary(min_size=3, max_size=3))
    heads = ["0101 0101", "0201 0001", "0300 0000", "0400 0000", "7f04 0101"]
    known = st.sampled_from([b"BGPY" + bytes.fromhex(head) for head in heads])
    body = st.sampled_from(sizes).flatmap(lambda size: st.binary(min_size=size, max_size=size))
    return st.lists(st.one_of(st.binary(max_size=300), preamble, known, body), max_size=6).map(b"".join)


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
