"""What is taken of a request: the size of a body, and what its JSON may hold."""

from __future__ import annotations

import asyncio
import json
import time
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgpy.errors import RefusedError
from bgpy.gateway.limits import (
    MAX_DEPTH,
    MAX_DIGITS,
    BodyTooLarge,
    BodyTooSlow,
    ClientGone,
    Limits,
    parse_json,
    parse_object,
    read_body,
)

LIMITS = Limits(max_body_size=10)


def read(pieces: list[Any], announced: int | None = None, limits: Limits = LIMITS) -> tuple[bytes, int]:
    """Read a body of these pieces (None: the client leaves; "...": it sends no more); return it and how many were read."""
    taken: list[Any] = []

    async def receive() -> dict[str, Any]:
        piece = pieces[len(taken)]
        taken.append(piece)
        if piece == "...":
            await asyncio.get_running_loop().create_future()
        if piece is None:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": piece, "more_body": len(taken) < len(pieces)}

    try:
        return asyncio.run(read_body(receive, announced, limits)), len(taken)
    finally:
        del receive


def test_a_body_is_read_whole() -> None:
    assert read([b"01234", b"", b"56789"]) == (b"0123456789", 3)
    assert read([b""]) == (b"", 1)
    assert read([], announced=0) == (b"", 0)


def test_a_body_is_counted_as_it_comes_whatever_was_announced() -> None:
    pieces = [b"01234", b"56789", b"0", *[b"more"] * 100]
    with pytest.raises(BodyTooLarge):
        read(pieces)
    with pytest.raises(BodyTooLarge):
        read(pieces, announced=5)


def test_a_body_that_is_announced_as_too_large_is_not_read() -> None:
    with pytest.raises(BodyTooLarge):
        read([], announced=11)
    assert read([b"0123456789"], announced=10) == (b"0123456789", 1)


def test_a_body_that_breaks_off_is_no_body() -> None:
    with pytest.raises(ClientGone):
        read([b"01234", None, b"5"])


def test_a_body_that_does_not_come_is_waited_for_a_bounded_time() -> None:
    with pytest.raises(BodyTooSlow):
        read([b"0", "...", b"1"], limits=LIMITS._replace(body_timeout=0.05))


@pytest.mark.parametrize(
    "text", ["1", "-1.5e10", '"text"', "null", "[]", '{"a": [1, {"b": null}]}', '"\\ud800"', '"NaN 1e999 [[["']
)
def test_json_is_read_as_python_reads_it(text: str) -> None:
    assert parse_json(text.encode()) == json.loads(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("NaN", "NaN is no number"),
        ('{"a": Infinity}', "Infinity is no number"),
        ("[-Infinity]", "-Infinity is no number"),
        ("1e999", "beyond what a float can hold"),
        ("[-1E+400]", "beyond what a float can hold"),
        ("", "not JSON"),
        ("{", "not JSON"),
        ("{'a': 1}", "not JSON"),
        ("1 2", "not JSON"),
        ("01", "not JSON"),
        ("a=1", "not JSON"),
        ("\ufeff{}", "not JSON"),
        ('"\n"', "not JSON"),
    ],
)
def test_what_is_no_strict_json_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(RefusedError, match=reason):
        parse_json(text.encode())


@pytest.mark.parametrize("data", [b"\xff", '{"a": "ä"}'.encode("latin-1"), "{}".encode("utf-16")])
def test_only_utf_8_is_read(data: bytes) -> None:
    with pytest.raises(RefusedError, match="not UTF-8"):
        parse_json(data)


def test_a_large_exponent_that_a_float_holds_is_fine() -> None:
    assert parse_json(b"[1e300, 1e-999]") == [1e300, 0.0]


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}"), ('[{"a":', "}]")])
def test_depth_is_limited(opening: str, closing: str) -> None:
    levels = MAX_DEPTH // opening.replace('"a":', "").__len__()
    inner = "0" if opening != "[" else ""
    parse_json(opening * levels + inner + closing * levels)
    for too_many in (levels + 1, 100_000):
        with pytest.raises(RefusedError, match="levels deep"):
            parse_json(opening * too_many + inner + closing * too_many)
    with pytest.raises(RefusedError, match="levels deep"):
        parse_json("[" * 100_000)


def test_many_brackets_side_by_side_or_in_texts_are_not_deep() -> None:
    assert len(parse_json("[" + ",".join(["[]"] * 1000) + "]")) == 1000
    assert parse_json(json.dumps("[" * 1000)) == "[" * 1000
    assert parse_json(json.dumps('\\"' * 500 + "[" * 1000)) == '\\"' * 500 + "[" * 1000


def test_integers_are_limited_and_texts_of_digits_are_not() -> None:
    assert parse_json("9" * MAX_DIGITS) == int("9" * MAX_DIGITS)
    assert parse_json(json.dumps("9" * 5000)) == "9" * 5000
    for digits in (MAX_DIGITS + 1, 5000, 100_000):
        with pytest.raises(RefusedError, match="digits"):
            parse_json("9" * digits)
    assert float(parse_json("9" * MAX_DIGITS)) > 0


@pytest.mark.parametrize(
    "text",
    [
        '"' + '\\"' * 1_000_000,  # a text without end, with as many false ends
        '"' + "\\\\" * 1_000_000,
        '"' + "a" * 2_000_000,
        json.dumps(['"\\' * 500_000]),
        "[" + ",".join(["1" * MAX_DIGITS] * 6_000) + "]",
        "[" * MAX_DEPTH + "[]     ," * 250_000,
    ],
    ids=["quotes", "backslashes", "letters", "escapes", "digits", "brackets"],
)
def test_a_body_takes_time_and_memory_in_proportion_to_its_size(text: str) -> None:
    """Also who is not logged in may send one, to the log-in."""
    tracemalloc.start()
    began = time.process_time()
    try:
        parse_json(text)
    except RefusedError:
        pass
    finally:
        taken, (_, peak) = time.process_time() - began, tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert taken < 2.0
    assert peak < 20 * len(text)


@pytest.mark.parametrize("data", [b"", b"  \r\n", b"{}"])
def test_no_body_is_an_empty_object(data: bytes) -> None:
    assert parse_object(data) == {}


@pytest.mark.parametrize(
    ("text", "word"), [("[]", "an array"), ('"a"', "a text"), ("null", "null"), ("true", "true or false"), ("1", "a number")]
)
def test_fields_are_an_object(text: str, word: str) -> None:
    with pytest.raises(RefusedError, match=f"not {word}"):
        parse_object(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(JSON)
def test_property_what_json_writes_is_read_again(value: Any) -> None:
    assert parse_json(json.dumps(value)) == value
    assert (
        parse_json(json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")) == value if _is_utf8(value) else True
    )


def _is_utf8(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


@given(st.binary(max_size=60) | st.text(alphabet='[]{}",:\\0123456789eE+-.NaInfity ', max_size=60))
def test_property_any_bytes_are_json_or_refused(data: bytes | str) -> None:
    try:
        value = parse_json(data)
    except RefusedError:
        return
    json.dumps(value, allow_nan=False)
