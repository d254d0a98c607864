"""bgpy.encoding: whatever a task responds, strict JSON comes out of it."""

from __future__ import annotations

import datetime
import decimal
import enum
import json
import math
import subprocess
import sys
from collections import OrderedDict, deque, namedtuple
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgpy.encoding import MAX_DEPTH, to_json


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


@dataclass
class Point:
    x: int
    where: Path


Pair = namedtuple("Pair", "left right")


class Text(str):
    """A text with a mind of its own."""

    def __str__(self) -> str:
        raise RuntimeError("no")


class Silent:
    """An object that cannot even show itself."""

    def __repr__(self) -> str:
        raise RuntimeError("no")


class Table:
    """What a data frame is to this module."""

    columns = ("a",)

    def to_dict(self, orient: str) -> dict[str, Any]:
        assert orient == "split"
        return {"index": [0], "columns": ["a"], "data": [[math.nan]]}


class Broken(Table):
    """A table whose conversion fails."""

    def to_dict(self, orient: str) -> dict[str, Any]:
        raise RuntimeError("no")

    def __repr__(self) -> str:
        return "<a broken table>"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (True, True),
        ("é", "é"),
        (2**64, 2**64),
        (1.5, 1.5),
        (math.nan, "NaN"),
        (math.inf, "Infinity"),
        (-math.inf, "-Infinity"),
        ({"a": {"b": (1, [2])}}, {"a": {"b": [1, [2]]}}),
        (OrderedDict(a=1), {"a": 1}),
        ({1: "one", None: 0, ("a", 1): 2}, {"1": "one", "None": 0, "('a', 1)": 2}),
        ({3, 1, 2}, [1, 2, 3]),
        (deque([1]), [1]),
        (range(3), [0, 1, 2]),
        (Pair(1, 2), {"left": 1, "right": 2}),
        (b"\x00\xff", {"$bytes": "AP8="}),
        (memoryview(bytearray(b"abcd"))[::2], {"$bytes": "YWM="}),
        (Colour.RED, "red"),
        (Level.HIGH, 3),
        (Point(1, Path("a") / "b"), {"x": 1, "where": str(Path("a") / "b")}),
        (PurePosixPath("/tmp"), "/tmp"),
        (datetime.datetime(2024, 5, 6, 7, 8, 9, tzinfo=datetime.timezone.utc), "2024-05-06T07:08:09+00:00"),
        (datetime.date(2024, 5, 6), "2024-05-06"),
        (datetime.timedelta(minutes=1), 60.0),
        (KeyError("command"), {"type": "KeyError", "message": "'command'"}),
        (np.float32(0.5), 0.5),
        (np.bool_(True), True),
        (np.array([[1, 2], [3, 4]], dtype="u1"), [[1, 2], [3, 4]]),
        (np.array([1.0, np.nan]), [1.0, "NaN"]),
        (np.array(["2024-05-06"], dtype="datetime64[D]"), ["2024-05-06"]),
        (Table(), {"index": [0], "columns": ["a"], "data": [["NaN"]]}),
        (decimal.Decimal("1.10"), {"$repr": "Decimal('1.10')"}),
        (1j, {"$repr": "1j"}),
        (Point, {"$repr": repr(Point)}),
        (Text("t"), "t"),
        (Broken(), {"$repr": "<a broken table>"}),
        (Silent(), {"$repr": "<Silent>"}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_value_becomes_the_nearest_thing_that_json_knows(value: object, expected: object) -> None:
    converted = to_json(value)
    assert converted == expected
    assert type(converted) is type(expected)
    assert json.loads(json.dumps(converted, allow_nan=False)) == expected


def test_two_keys_that_read_the_same_both_stay() -> None:
    assert to_json({"1": "text", 1: "number"}) == {"1": "text", "1 (int)": "number"}


def test_set_without_an_order_is_listed_all_the_same() -> None:
    assert sorted(map(str, to_json({1, "a"}))) == ["1", "a"]


def test_container_within_itself_ends() -> None:
    loop: dict[str, Any] = {"a": 1}
    loop["self"] = [loop]
    assert to_json(loop) == {"a": 1, "self": [{"$repr": "<dict, within itself>"}]}


def test_value_that_is_there_twice_is_no_circle() -> None:
    shared = [1]
    assert to_json([shared, shared]) == [[1], [1]]


def test_depth_is_limited() -> None:
    deep: list[Any] = []
    for _ in range(10_000):
        deep = [deep]
    text = json.dumps(to_json(deep))
    assert text.count("[") == MAX_DEPTH
    assert "too deep" in text


def test_half_of_a_surrogate_pair_does_not_spoil_the_output() -> None:
    assert json.dumps(to_json({"\udcff": "\udcff"}), ensure_ascii=False).encode() == b'{"\\\\udcff": "\\\\udcff"}'


def test_integer_of_absurd_length_and_long_repr_are_cut() -> None:
    assert len(json.dumps(to_json([10**10_000, complex]))) < 1200
    assert len(to_json(decimal.Decimal("1" * 5000))["$repr"]) == 1003


def test_numpy_is_not_loaded() -> None:
    code = "import sys, bgpy.encoding as e; e.to_json({'a': [object()]}); print('numpy' in sys.modules)"
    root = Path(__file__).parent.parent
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root).stdout == "False\n"


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters())
    | st.binary()
    | st.complex_numbers()
    | st.datetimes()
    | st.decimals(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.integers() | st.text() | st.floats(), inner)
        | st.tuples(inner)
        | st.frozensets(st.integers())
    ),
    max_leaves=20,
)


@given(anything)
def test_property_everything_becomes_strict_json_in_utf8(value: object) -> None:
    text = json.dumps(to_json(value), allow_nan=False, ensure_ascii=False).encode()
    assert json.loads(text) == to_json(value)
