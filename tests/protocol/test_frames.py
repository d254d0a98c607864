"""Frames, byte by byte: what goes out is literal, and what comes in gives frames or a documented error, however it is cut."""

from __future__ import annotations

import hmac
import tracemalloc
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgpy.errors import MessageTooLargeError, RemoteProtocolError
from bgpy.protocol import frames
from bgpy.protocol.frames import HEADER, MAC_SIZE, MAX_BUFFERS, SMALL_SIZE, Frame, FrameMac, FrameReader, encode_frame, frame_size
from bgpy.system import resident_memory

KEY = bytes(range(32))
LIMIT = 1 << 20
#: Where a length changes the way a frame takes, without and with a MAC.
EDGES = [SMALL_SIZE - HEADER.size - MAC_SIZE, SMALL_SIZE - HEADER.size, SMALL_SIZE]

Plain = tuple[int, int, int, int, bytes, list[bytes]]

#: (bytes, what they say): kind, flags, number of buffers, part, number, length, [lengths], pickle, buffers.
LITERALS: list[tuple[str, Plain]] = [
    ("02 01 0000 00000000 0000000000000001 0000000000000003 616263", (2, 1, 0, 1, b"abc", [])),
    ("10 18 0000 00000007 0102030405060708 0000000000000000", (16, 0x18, 7, 0x0102030405060708, b"", [])),
    (
        "11 00 0002 00000000 00000000000000ff 0000000000000001 0000000000000002 0000000000000003 70 6131 623132",
        (17, 0, 0, 255, b"p", [b"a1", b"b12"]),
    ),
    (
        "02 07 0003 ffffffff ffffffffffffffff 0000000000000000 0000000000000000 0000000000000001 0000000000000000 78",
        (2, 7, 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF, b"", [b"", b"x", b""]),
    ),
]


def encode(frame: Plain, mac: FrameMac | None = None) -> bytes:
    kind, flags, part, number, pickle, buffers = frame
    return b"".join(encode_frame(kind, flags, part, number, pickle, [memoryview(buffer) for buffer in buffers], mac))


def plain(frame: Frame) -> Plain:
    return (*frame[:4], bytes(frame.pickle), [bytes(buffer) for buffer in frame.buffers])


def frames_of(reader: FrameReader, data: bytes, sizes: Sequence[int], *, short: bool = True) -> Iterator[Frame]:
    """Drive a reader over `data`, which arrives in pieces of these sizes, over and over; `short`: by the short way."""
    position = turn = 0
    while True:
        frame = reader.next_frame()
        if frame is not None:
            yield frame
            continue
        if reader.announced is not None:
            reader.allocate()
            continue
        memory = reader.memory()
        assert memory.nbytes, "no room for the next byte"
        if position == len(data):
            return
        count = min(memory.nbytes, sizes[turn % len(sizes)], len(data) - position)
        memory[:count] = data[position : position + count]
        position += count
        turn += 1
        if not (short and reader.idle):
            reader.advance(count)
        elif (frame := reader.advance_first(count)) is not None:
            yield frame


def read(reader: FrameReader, data: bytes, sizes: Sequence[int] = (1 << 30,)) -> list[Frame]:
    return list(frames_of(reader, data, sizes))


def outcome(data: bytes, sizes: Sequence[int], mac: bytes | None, *, short: bool = True) -> tuple[list[Plain], str | None, bool]:
    """Return the frames that came out, the error that ended it, and whether the reader stands between two frames."""
    reader = FrameReader(20_000, None if mac is None else FrameMac(mac))
    found: list[Plain] = []
    try:
        for frame in frames_of(reader, data, sizes, short=short):
            found.append(plain(frame))
    except (RemoteProtocolError, MessageTooLargeError) as error:
        return found, str(error), False
    return found, None, reader.idle


@pytest.mark.parametrize(("text", "frame"), LITERALS)
def test_a_frame_is_these_bytes(text: str, frame: Plain) -> None:
    assert encode(frame).hex() == text.replace(" ", "")


@pytest.mark.parametrize(("text", "frame"), LITERALS)
@pytest.mark.parametrize("sizes", [[1 << 30], [1], [HEADER.size], [HEADER.size - 1, 2]])
def test_these_bytes_are_a_frame_however_they_arrive(text: str, frame: Plain, sizes: list[int]) -> None:
    data = bytes.fromhex(text)
    reader = FrameReader(LIMIT)
    found = []
    for each in frames_of(reader, data, sizes):
        # At once: within a frame the next wait would end after 30 s.
        assert reader.idle
        found.append(plain(each))
    assert found == [frame]


@pytest.mark.parametrize(("text", "frame"), LITERALS)
def test_a_frame_with_the_next_one_behind_it_takes_no_byte_of_that(text: str, frame: Plain) -> None:
    data = bytes.fromhex(text)
    for behind in range(1, len(data) + 1):
        reader = FrameReader(LIMIT)
        found = read(reader, data + data[:behind])
        assert [plain(each) for each in found] == [frame] * (2 if behind == len(data) else 1)
        assert reader.idle == (behind == len(data))
        assert [plain(each) for each in read(reader, data[behind:])] == ([] if behind == len(data) else [frame])


@pytest.mark.parametrize("mac", [None, KEY])
def test_the_stream_may_end_at_every_byte(mac: bytes | None) -> None:
    sent = [frame for _, frame in LITERALS]
    tags = None if mac is None else FrameMac(mac)
    pieces = [encode(frame, tags) for frame in sent]
    ends = [sum(map(len, pieces[: count + 1])) for count in range(len(pieces))]
    data = b"".join(pieces)
    for cut in range(len(data) + 1):
        found, error, idle = outcome(data[:cut], [1 << 30], mac)
        whole = sum(end <= cut for end in ends)
        assert (found, error, idle) == (sent[:whole], None, cut in (0, *ends))


def test_a_new_reader_is_idle_and_one_byte_changes_that() -> None:
    reader = FrameReader(LIMIT)
    assert reader.idle
    assert read(reader, b"\x02") == []
    assert not reader.idle


@pytest.mark.parametrize("mac", [None, KEY])
@pytest.mark.parametrize("size", sorted({edge + off for edge in EDGES for off in (-1, 0, 1)}))
def test_a_pickle_of_a_size_at_which_the_way_changes_arrives(size: int, mac: bytes | None) -> None:
    frame = (2, 1, 0, 1, bytes(index % 251 for index in range(size)), [])
    data = encode(frame, None if mac is None else FrameMac(mac)) + encode(frame, None)[:1]
    for sizes in ([1 << 30], [997], [SMALL_SIZE - 1]):
        reader = FrameReader(LIMIT, None if mac is None else FrameMac(mac))
        assert [plain(found) for found in read(reader, data, sizes)] == [frame]


@pytest.mark.parametrize(
    ("head", "behind"),
    [
        (HEADER.pack(2, 0x20, 0, 0, 1, 3), b"abc"),
        (HEADER.pack(2, 0, 1, 0, 1, 3), b"abc"),
        (HEADER.pack(2, 0, 0, 0, 1, 4), b"abc"),
        (HEADER.pack(2, 0, 0, 0, 1, 2), b"abc"),
        (HEADER.pack(2, 0, 0, 0, 1, 101), bytes(101)),
        (HEADER.pack(2, 0, 0, 0, 1, 0)[:-1], b""),
    ],
)
def test_the_short_way_is_for_one_small_whole_frame_alone(head: bytes, behind: bytes) -> None:
    for limit, mac in ((100, None), (100, KEY)):
        reader = FrameReader(limit, None if mac is None else FrameMac(mac))
        data = head + behind
        reader.memory()[: len(data)] = data
        assert reader.advance_first(len(data)) is None
        assert not reader.idle


def test_a_frame_that_came_the_short_way_keeps_its_bytes() -> None:
    reader = FrameReader(LIMIT)
    first, second = (2, 1, 0, 1, b"first", []), (2, 1, 0, 2, b"other", [])
    found = []
    for frame in (first, second):
        data = encode(frame)
        reader.memory()[: len(data)] = data
        found.append(reader.advance_first(len(data)))
        assert reader.idle
    assert [plain(frame) for frame in found if frame is not None] == [first, second]


def test_large_parts_are_not_copied_on_their_way_out() -> None:
    pickle, buffer = bytes(SMALL_SIZE + 1), memoryview(bytearray(10))
    parts = encode_frame(2, 0, 0, 1, pickle, [buffer])
    assert parts[1] is pickle
    assert parts[2] is buffer


def test_what_was_large_is_writable_and_belongs_to_its_frame() -> None:
    frame = (2, 0, 0, 1, bytes(SMALL_SIZE + 1), [b"small", bytes(1 << 20)])
    reader = FrameReader(4 << 20)
    first, second = read(reader, encode(frame) * 2)
    for part in (first.pickle, *first.buffers):
        assert isinstance(part, memoryview)
        assert not part.readonly
        part[0] = 255
    assert plain(second) == frame


def test_the_limit_counts_pickle_and_buffers() -> None:
    assert frame_size(b"abc", [memoryview(b"de"), memoryview(b"")]) == 5
    assert frame_size(b"", [memoryview(bytearray(24)).cast("Q")]) == 24


@pytest.mark.parametrize("mac", [None, KEY])
@pytest.mark.parametrize(
    "frame", [(2, 0, 3, 9, bytes(100), []), (2, 0, 3, 9, bytes(10_000), []), (2, 0, 3, 9, bytes(50), [bytes(30), bytes(20)])]
)
def test_a_message_of_the_limit_passes_and_one_byte_more_is_refused(frame: Plain, mac: bytes | None) -> None:
    size = len(frame[4]) + sum(map(len, frame[5]))
    for limit in (size, size + 1):
        reader = FrameReader(limit, None if mac is None else FrameMac(mac))
        assert [plain(found) for found in read(reader, encode(frame, None if mac is None else FrameMac(mac)))] == [frame]
    for sizes in ([1 << 30], [1]):
        reader = FrameReader(size - 1, None if mac is None else FrameMac(mac))
        with pytest.raises(MessageTooLargeError) as caught:
            read(reader, encode(frame, None if mac is None else FrameMac(mac)), sizes)
        assert (caught.value.size, caught.value.limit) == (size, size - 1)
        assert reader.announced == frames.Header(2, 0, 3, 9, size)


@pytest.mark.parametrize(
    "head",
    [
        HEADER.pack(2, 0, 0, 0, 1, LIMIT + 1),
        HEADER.pack(2, 0, 0, 0, 1, (1 << 64) - 1),
        HEADER.pack(2, 0, 1000, 0, 1, LIMIT + 1),
        HEADER.pack(2, 0, 2, 0, 1, 0) + (LIMIT).to_bytes(8, "big") + (1).to_bytes(8, "big"),
        HEADER.pack(2, 0, 1, 0, 1, 0) + ((1 << 56) - 1).to_bytes(8, "big"),
    ],
)
def test_an_oversize_header_alone_is_refused_before_memory_is_taken(head: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    monkeypatch.setattr(frames, "anonymous_memory", taken.append)
    reader = FrameReader(LIMIT)
    tracemalloc.start()
    try:
        with pytest.raises(MessageTooLargeError):
            read(reader, head)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 64 << 10
    assert taken == []


def test_memory_is_taken_when_it_is_filled_not_when_it_is_announced() -> None:
    """A bytearray takes its pages at once: whoever proved the token could fill the memory with headers alone."""
    size = 256 << 20
    reader = FrameReader(size)
    assert read_header(reader, HEADER.pack(2, 0, 1, 0, 1, 0) + size.to_bytes(8, "big")) == size
    before = resident_memory()
    reader.allocate()
    assert reader.memory().nbytes == size
    assert resident_memory() - before < size // 8


def read_header(reader: FrameReader, head: bytes) -> int:
    """Fill in a header and return the size that it announces."""
    reader.memory()[: len(head)] = head
    reader.advance(len(head))
    assert reader.next_frame() is None
    assert reader.announced is not None
    return reader.announced.size


def test_no_memory_is_taken_until_the_caller_says_so() -> None:
    reader = FrameReader(LIMIT)
    read_header(reader, HEADER.pack(2, 0, 1, 0, 1, 0) + (LIMIT).to_bytes(8, "big"))
    for _ in range(2):
        assert reader.next_frame() is None
        assert reader.announced is not None
    reader.allocate()
    assert reader.announced is None
    assert reader.memory().nbytes == LIMIT


@pytest.mark.parametrize("mac", [None, KEY])
@pytest.mark.parametrize("count", [1, MAX_BUFFERS])
def test_up_to_1000_buffers_come_in_one_frame(count: int, mac: bytes | None) -> None:
    assert MAX_BUFFERS == 1000
    frame = (2, 0, 0, 1, b"p", [bytes([index % 256]) * (index % 3) for index in range(count)])
    data = encode(frame, None if mac is None else FrameMac(mac))
    for sizes in ([1 << 30], [1]):
        reader = FrameReader(LIMIT, None if mac is None else FrameMac(mac))
        assert [plain(found) for found in read(reader, data, sizes)] == [frame]


@pytest.mark.parametrize(
    "head",
    [
        HEADER.pack(2, 0, MAX_BUFFERS + 1, 0, 1, 0),
        HEADER.pack(2, 0, 0xFFFF, 0, 1, 0),
        HEADER.pack(2, 0x20, 0, 0, 1, 0),
        HEADER.pack(2, 0x40, 0, 0, 1, 0),
        HEADER.pack(2, 0x80, 0, 0, 1, 0),
        HEADER.pack(2, 0, 1, 0, 1, 0) + (1 << 56).to_bytes(8, "big"),
        HEADER.pack(2, 0, 1, 0, 1, 0) + (255 << 56).to_bytes(8, "big"),
    ],
)
def test_reserved_flags_and_kinds_of_buffers_and_too_many_buffers_are_refused(head: bytes) -> None:
    for sizes in ([1 << 30], [1]):
        with pytest.raises(RemoteProtocolError):
            read(FrameReader(LIMIT), head, sizes)


def test_the_mac_counts_and_covers_all_parts() -> None:
    mac = FrameMac(KEY)
    sent = [(2, 0, 0, 1, b"abc", []), (2, 0, 0, 1, b"abc", [b"de", b"f"]), (2, 0, 0, 1, bytes(SMALL_SIZE + 1), [])]
    for count, frame in enumerate(sent * 2):
        bare = encode(frame)
        assert encode(frame, mac) == bare + hmac.digest(KEY, count.to_bytes(8, "big") + bare, "sha256")


@pytest.mark.parametrize("frame", [(2, 1, 0, 1, b"abc", []), (16, 8, 1, 2, b"p", [b"de", b""])])
def test_a_frame_with_any_bit_flipped_is_never_seen(frame: Plain) -> None:
    data = encode(frame, FrameMac(KEY))
    assert outcome(data, [1 << 30], KEY)[0] == [frame]
    for bit in range(8 * len(data)):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        # Bytes behind it, for a length that was made greater.
        assert outcome(bytes(changed) + bytes(4096), [1 << 30], KEY)[0] == []


def test_frames_out_of_order_again_or_of_the_other_direction_are_refused() -> None:
    mac = FrameMac(KEY)
    first, second = (encode((2, 1, 0, number, b"abc", []), mac) for number in (1, 2))
    assert len(outcome(first + second, [1 << 30], KEY)[0]) == 2
    for data, before in ((second + first, 0), (first + first, 1), (second, 0)):
        found, error, _ = outcome(data, [1 << 30], KEY)
        assert (len(found), error) == (before, "A frame has a wrong MAC.")
    assert outcome(first, [1 << 30], bytes(32))[:2] == ([], "A frame has a wrong MAC.")


def test_a_bare_frame_is_refused_where_macs_are_agreed() -> None:
    data = encode((2, 1, 0, 1, b"abc", []))
    assert outcome(data + bytes(MAC_SIZE), [1 << 30], KEY)[:2] == ([], "A frame has a wrong MAC.")


KNOWN_FLAGS = st.sampled_from([0, 1, 3, 5, 8, 0x18, 0x1F])
SIZES = st.one_of(st.integers(0, 40), st.sampled_from([*EDGES, EDGES[0] + 1, EDGES[1] + 1, SMALL_SIZE + 1]))


@st.composite
def made_frames(draw: st.DrawFn) -> Plain:
    fill = draw(st.integers(0, 255))
    buffers = draw(st.lists(st.integers(0, 600), max_size=4))
    size = draw(SIZES)
    return (
        draw(st.integers(0, 255)),
        draw(KNOWN_FLAGS),
        draw(st.integers(0, (1 << 32) - 1)),
        draw(st.integers(0, (1 << 64) - 1)),
        bytes([fill]) * size,
        [bytes([fill ^ 255]) * count for count in buffers],
    )


CHUNKS = st.lists(st.integers(1, 9000), min_size=1, max_size=5)
MACS = st.sampled_from([None, KEY])


@given(st.lists(made_frames(), max_size=5), CHUNKS, MACS)
def test_property_what_was_encoded_is_decoded_however_it_is_cut(sent: list[Plain], sizes: list[int], mac: bytes | None) -> None:
    tags = None if mac is None else FrameMac(mac)
    data = b"".join([encode(frame, tags) for frame in sent])
    for short in (False, True):
        assert outcome(data, sizes, mac, short=short) == (sent, None, True)


@st.composite
def broken_streams(draw: st.DrawFn) -> bytes:
    """Some bytes: any, a header with fields that mean something, or good frames with a few bytes changed."""
    header = st.builds(
        HEADER.pack,
        st.integers(0, 255),
        KNOWN_FLAGS,
        st.integers(0, 3),
        st.just(0),
        st.just(1),
        st.sampled_from([0, 1, 30, 19_990, 20_001]),
    )
    length = st.sampled_from([0, 1, 500, 19_999, 1 << 56, (1 << 56) - 1]).map(lambda value: value.to_bytes(8, "big"))
    pieces = draw(st.lists(st.one_of(st.binary(max_size=60), header, length, made_frames().map(encode)), max_size=6))
    data = bytearray(b"".join(pieces))
    for _ in range(draw(st.integers(0, 2))):
        if data:
            data[draw(st.integers(0, min(len(data), 60) - 1))] = draw(st.integers(0, 255))
    return bytes(data)


@given(broken_streams(), CHUNKS, MACS)
def test_property_any_bytes_give_frames_or_a_documented_error_the_same_however_they_are_cut(
    data: bytes, sizes: list[int], mac: bytes | None
) -> None:
    whole = outcome(data, [1 << 30], mac)
    assert outcome(data, sizes, mac) == outcome(data, sizes, mac, short=False) == whole
    assert outcome(data[:3000], [1], mac) == outcome(data[:3000], [1 << 30], mac)
