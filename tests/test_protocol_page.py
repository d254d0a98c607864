"""docs/protocol.rst is the protocol: its example is made by the code, byte for byte, and its tables are the code's."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from bgpy.protocol import frames, handshake, lanes
from bgpy.protocol.calls import STATUS_LANE, execute_call, execute_flags, read_answer
from bgpy.protocol.frames import FrameMac, FrameReader, encode_frame
from bgpy.protocol.handshake import (
    Admission,
    ClientHello,
    Opener,
    Opening,
    Refusal,
    Terms,
    client_opening,
    make_view,
    server_opening,
)
from bgpy.protocol.messages import MessageType, dump, load
from bgpy.protocol.states import ANSWERS, REQUESTS, State
from bgpy.token import PURPOSES

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "protocol.rst").read_text(encoding="utf-8")
TOKEN = "correct horse battery staple"
CLIENT, SERVER = ("10.0.0.2", 50_000), ("10.0.0.1", 6000)
CLIENT_NONCE, SERVER_NONCE = bytes(range(0x40, 0x60)), bytes(range(0x60, 0x80))
CLIENT_ID, INSTANCE = bytes(range(0x10, 0x20)), bytes(range(0x30, 0x40))


def example(name: str) -> bytes:
    """Return the bytes of one block of the page: what stands before two blanks on each line."""
    block = re.search(rf"^   :name: example-{name}\n\n((?:   .+\n)+)", PAGE, re.MULTILINE)
    assert block is not None, f"no block of the name example-{name}"
    return bytes.fromhex("".join(line.strip().split("  ")[0] for line in block[1].splitlines()))


def table(*columns: str) -> Iterator[list[str]]:
    """Return the rows of every simple table of the page that has these columns; without an empty row."""
    border = None
    rows: list[list[str]] | None = None
    for line in PAGE.splitlines():
        if re.fullmatch(r" *=+( +=+)+", line):
            edges = [match.span() for match in re.finditer("=+", line)]
            border = edges if border is None or rows is None else border
            rows = [] if rows is None else rows
            continue
        if rows is None or border is None:
            continue
        if not line.strip():
            border = rows = None
            continue
        ends = [begin for begin, _ in border[1:]] + [None]
        cells = [line[begin:end].strip() for (begin, _), end in zip(border, ends, strict=True)]
        rows.append(cells)
        if rows[0] == list(columns) and len(rows) > 1:
            yield cells


@pytest.fixture
def fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take all that differs between two openings away."""
    nonces = iter([CLIENT_NONCE, SERVER_NONCE])
    monkeypatch.setattr(os, "urandom", lambda size: next(nonces))
    monkeypatch.setattr(handshake, "_python_version", lambda: bytes([3, 11]))


def openings() -> tuple[list[bytes], Opening, Opening]:
    """Open the connection of the example; returns its messages, and what both ends agreed on."""
    client = client_opening(
        Terms(TOKEN, 1 << 30, make_view(CLIENT, SERVER, None), False, ""), ClientHello(CLIENT_ID, 0, False, bytes(16))
    )
    server = server_opening(Terms(TOKEN, 1 << 30, make_view(SERVER, CLIENT, None), False, ""), INSTANCE, lambda _: Admission.OK)
    hello_c = next(client).data
    next(server)
    hello_s = feed(server, hello_c)
    proof_c = feed(client, hello_s)
    proof_s = feed(server, proof_c)
    return [hello_c, hello_s, proof_c, proof_s], end(client, proof_s[:8], proof_s[8:]), end(server, b"")


def feed(opener: Opener, data: bytes) -> bytes:
    """Give a message to one side, in the two pieces in which it asks for hellos and server's proofs, and return its answer."""
    if data[4] == 3:
        return opener.send(data).data
    opener.send(data[:8])
    return opener.send(data[8:]).data


def end(opener: Opener, *pieces: bytes) -> Opening:
    """Give one side its last message and return what it has agreed on."""
    *before, last = pieces
    for piece in before:
        opener.send(piece)
    with pytest.raises(StopIteration) as done:
        opener.send(last)
    opening: Opening = done.value.value
    return opening


@pytest.mark.usefixtures("fixed")
def test_the_opening_on_the_page_is_what_the_code_says() -> None:
    messages, ours, theirs = openings()
    assert messages == [example(name) for name in ("hello-c", "hello-s", "proof-c", "proof-s")]
    assert ours.send_key == theirs.receive_key == example("key-client-to-server")
    assert ours.receive_key == theirs.send_key == example("key-server-to-client")


def test_the_request_and_the_answer_on_the_page_are_what_the_code_sends() -> None:
    call = execute_call({"increment": 5}, execute_flags(True))
    sent = encode_frame(call.kind, call.flags, 0, 1, call.payload.pickle, [], FrameMac(example("key-client-to-server")))
    assert b"".join(sent) == example("request")
    answer = encode_frame(MessageType.OK, 0, 0, 1, dump({"value": 5}).pickle, [], FrameMac(example("key-server-to-client")))
    assert b"".join(answer) == example("answer")


def test_the_request_and_the_answer_on_the_page_are_understood() -> None:
    found = []
    for name, direction in (("request", "client-to-server"), ("answer", "server-to-client")):
        reader = FrameReader(1000, FrameMac(example(f"key-{direction}")))
        data = example(name)
        reader.memory()[: len(data)] = data
        reader.advance(len(data))
        frame = reader.next_frame()
        assert frame is not None
        assert reader.idle
        found.append(frame)
    assert (found[0].kind, load(found[0].pickle)) == (MessageType.EXEC, {"increment": 5})
    assert read_answer({}, found[1]) == {"value": 5}


def test_the_states_on_the_page_are_those_of_the_code() -> None:
    page: dict[tuple[str, str], dict[str, str]] = {}
    states = set()
    for state, sender, messages, following in table("state", "sender", "message", "then"):
        states.add(state)
        page.setdefault((state, sender), {}).update(dict.fromkeys(messages.split(), following))
    code = {
        (state.value, sender): {MessageType(kind).name: following.value for kind, following in rows.items()}
        for sender, table_of_code in (("client", REQUESTS), ("server", ANSWERS))
        for state, rows in table_of_code.items()
    }
    assert states == {state.value for state in State}
    assert {key: rows for key, rows in page.items() if rows} == {key: rows for key, rows in code.items() if rows}


def test_the_codes_on_the_page_are_those_of_the_code() -> None:
    messages = {kind.strip("`"): int(code) for kind, code, _ in table("kind", "code", "pickle")}
    assert messages == {kind.name: kind.value for kind in MessageType}
    refusals = {int(code): (name, text) for code, name, text in table("code", "name", "text")}
    assert refusals == {refusal.value: (refusal.name, handshake._REFUSAL_TEXTS[refusal]) for refusal in Refusal}
    admissions = {int(code): name for code, name, _ in table("code", "name", "what")}
    assert admissions == {admission.value: admission.name for admission in Admission}


def test_the_flags_on_the_page_are_those_of_the_code() -> None:
    in_openings = {name: int(bit, 16) for bit, name, _, _ in table("bit", "name", "by", "what")}
    assert in_openings == {name[6:]: value for name, value in vars(handshake).items() if name.startswith("_FLAG_")}
    in_frames = {name: int(bit, 16) for bit, name, _, _ in table("bit", "name", "in", "what")}
    reserved = {"SHARED"}
    assert in_frames == {
        name[5:]: value for name, value in vars(frames).items() if name.startswith("FLAG_") and name[5:] not in reserved
    }


def test_the_sizes_and_offsets_on_the_page_add_up() -> None:
    """Each row begins where the one before it ends; the messages of the opening end at their size."""
    rows = [(offset, size) for offset, size, _ in table("offset", "size", "what")]
    ends = []
    position = 0
    for offset, size in rows:
        if not (offset.isdigit() and size.isdigit()):
            continue
        if int(offset) in (0, 5) and int(offset) != position:
            ends.append(position)
            position = int(offset)
        assert int(offset) == position
        position += int(size)
    sizes = {handshake._PREAMBLE.size, handshake._VIEW.size, frames.HEADER.size, *map(len, openings()[0][:2])}
    assert sizes <= {*ends, position}
    for size in map(len, openings()[0]):
        assert f"{size} bytes)" in PAGE


def test_what_else_the_page_counts() -> None:
    assert all(f"``{purpose}``" in PAGE for purpose in PURPOSES)
    assert f"Lane {STATUS_LANE}" in PAGE
    assert f"at most {frames.MAX_BUFFERS:,}" in PAGE
    assert f"version {handshake.VERSION}:" in PAGE
    large, total = lanes._LARGE_ANSWER >> 10, lanes.MAX_KEPT_TOTAL >> 20
    assert f"Kept answers of more than {large} KiB may take {total} MiB together" in PAGE
    assert PAGE.count(f"up to {lanes.MAX_KEPT_BUFFERS >> 20} MiB") == 2  # the parts of a stream, and the buffers
    assert f"where more than {lanes.MAX_DEPARTED_CLIENTS:,} have left" in PAGE
