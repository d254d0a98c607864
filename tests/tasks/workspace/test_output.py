from __future__ import annotations

import hypothesis
import hypothesis.strategies as st

from bgpy.tasks.workspace.output import MARK_SIZE, SECRET_SIZE, Cutter, make_mark

SECRET = b"\0aab" * (SECRET_SIZE // 4)


def cut(pieces: list[bytes]) -> list[bytes | int]:
    """Feed a stream in pieces; join the outputs that follow one another."""
    cutter = Cutter(SECRET)
    found: list[bytes | int] = []
    for piece in pieces:
        found += cutter.feed(piece)
    found.append(cutter.finish())
    joined: list[bytes | int] = []
    for each in found:
        if isinstance(each, bytes) and joined and isinstance(joined[-1], bytes):
            joined[-1] += each
        elif each != b"":
            joined.append(each)
    return joined


def test_a_mark_is_small_enough_for_a_pipe_to_take_it_in_one_piece() -> None:
    assert len(make_mark(SECRET, 7)) == MARK_SIZE <= 512


def test_marks_are_cut_out_wherever_the_stream_is_split() -> None:
    stream = b"one" + make_mark(SECRET, 0) + make_mark(SECRET, 1) + b"two\0" + make_mark(SECRET, 2**40) + b"three\0a"
    expected = [b"one", 0, 1, b"two\0", 2**40, b"three\0a"]
    assert cut([stream]) == expected
    assert cut([stream[i : i + 1] for i in range(len(stream))]) == expected
    for split in range(len(stream)):
        assert cut([stream[:split], stream[split:]]) == expected


def test_output_is_told_at_once_and_only_what_may_be_a_mark_is_held_back() -> None:
    cutter = Cutter(SECRET)
    assert list(cutter.feed(b"hello")) == [b"hello"]
    assert list(cutter.feed(b"hello\0")) == [b"hello"]
    assert list(cutter.feed(b"aaX")) == [b"\0aaX"]
    assert list(cutter.feed(make_mark(SECRET, 5)[:-1])) == []
    assert list(cutter.feed(make_mark(SECRET, 5)[-1:])) == [5]


def test_what_is_held_back_at_the_end_is_output() -> None:
    cutter = Cutter(SECRET)
    assert list(cutter.feed(b"x" + SECRET)) == [b"x"]
    assert cutter.finish() == SECRET
    assert cutter.finish() == b""


@hypothesis.given(
    st.lists(st.one_of(st.sampled_from([SECRET[:5], b"\0", b"aab"]), st.binary(max_size=20), st.integers(0, 9)), max_size=10),
    st.lists(st.integers(1, 9), max_size=40),
)
def test_property_nothing_is_lost_under_any_chunking(stream: list[bytes | int], sizes: list[int]) -> None:
    data = b"".join(make_mark(SECRET, each) if isinstance(each, int) else each for each in stream)
    hypothesis.assume(data.count(SECRET) == sum(isinstance(each, int) for each in stream))
    pieces = []
    rest = data
    for size in sizes:
        pieces.append(rest[:size])
        rest = rest[size:]
    assert cut([*pieces, rest]) == cut([data])
    assert b"".join(make_mark(SECRET, each) if isinstance(each, int) else each for each in cut([data])) == data
