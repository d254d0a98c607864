"""bgpy.encoding: whatever a value is, strict JSON comes out of it, or a description of what is too large."""

from __future__ import annotations

import array
import datetime
import decimal
import enum
import fractions
import json
import math
import subprocess
import sys
import types
import uuid
from collections import OrderedDict, deque, namedtuple
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgpy.encoding import MAX_DEPTH, other_nulls, to_json, to_json_limited


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


@dataclass
class Point:
    x: int
    where: Path
    count: ClassVar[int] = 0


Pair = namedtuple("Pair", "left right")


class Text(str):
    """A text with a mind of its own."""

    def __str__(self) -> str:
        raise RuntimeError("no")


class Digit(int):
    """A number with a mind of its own."""

    def __repr__(self) -> str:
        raise RuntimeError("no")


class Silent:
    """An object that cannot even show itself."""

    def __repr__(self) -> str:
        raise RuntimeError("no")


class Leaver:
    """An object that ends the process of whoever looks at it."""

    def __repr__(self) -> str:
        raise SystemExit(3)

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        raise SystemExit(3)


class Meta(type):
    """Classes whose own attributes fail."""

    def __getattribute__(cls, name: str) -> Any:
        raise RuntimeError(name)


class Odd(Silent, metaclass=Meta):
    pass


class Endless(list[int]):
    """A list that never ends."""

    def __iter__(self) -> Iterator[int]:
        while True:
            yield 1


class Table:
    """What a data frame is to this module."""

    columns = ("a", "b")
    shape = (2, 2)

    def to_csv(self, file: Any, lineterminator: str, chunksize: int) -> None:
        assert chunksize >= 1
        for row in (",a,b", "0,1,é", "1,2,"):
            file.write(row + lineterminator)


class OtherTable:
    """What a data frame of polars is to this module."""

    columns = ("a",)
    shape = (1, 1)

    def write_csv(self) -> str:
        return "a\n1\n"


class Broken(Table):
    """A table whose conversion fails when some of it is done."""

    def to_csv(self, file: Any, lineterminator: str, chunksize: int) -> None:
        file.write("a,b")
        raise RuntimeError("no")

    def __repr__(self) -> str:
        return "<a broken table>"


class Figure:
    """What a figure of matplotlib is to this module."""

    def savefig(self, file: Any, *, format: str) -> None:
        file.write(b"\x89PNG" if format == "png" else b"")


class Picture:
    """What IPython shows as a picture."""

    def __init__(self, png: Any) -> None:
        self.png = png

    def _repr_png_(self) -> Any:
        return self.png

    def __str__(self) -> str:
        return "a picture"


class Tensor:
    """What a tensor of TensorFlow is to this module: no `tolist`, but an array when asked for one."""

    dtype = "float32"
    shape = (2,)

    def __array__(self) -> Any:
        return np.array([1.0, 2.0])


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (True, True),
        ("é", "é"),
        (2**64, 2**64),
        (1.5, 1.5),
        (math.nan, None),
        (math.inf, None),
        (-math.inf, None),
        ({"a": {"b": (1, [2])}}, {"a": {"b": [1, [2]]}}),
        (OrderedDict(a=1), {"a": 1}),
        (types.MappingProxyType({"a": 1}), {"a": 1}),
        ({1: "one", None: 0, ("a", 1): 2}, {"1": "one", "None": 0, "('a', 1)": 2}),
        ({datetime.date(2024, 5, 6): 1, b"k": 2, Colour.RED: 3}, {"2024-05-06": 1, "aw==": 2, "red": 3}),
        ({3, 1, 2}, [1, 2, 3]),
        (frozenset("ba"), ["a", "b"]),
        (deque([1]), [1]),
        (range(3), [0, 1, 2]),
        (range(10**12), "range(0, 1000000000000)"),
        ({"a": 1}.keys(), ["a"]),
        (Pair(1, 2), {"left": 1, "right": 2}),
        (b"\x00\xff", "AP8="),
        (bytearray(b"\x00\xff"), "AP8="),
        (memoryview(bytearray(b"abcd"))[::2], "YWM="),
        (Colour.RED, "red"),
        (Level.HIGH, 3),
        (Point(1, Path("a") / "b"), {"x": 1, "where": str(Path("a") / "b")}),
        (PurePosixPath("/tmp"), "/tmp"),
        (datetime.datetime(2024, 5, 6, 7, 8, 9, tzinfo=datetime.timezone.utc), "2024-05-06T07:08:09+00:00"),
        (datetime.date(2024, 5, 6), "2024-05-06"),
        (datetime.time(7, 8), "07:08:00"),
        (datetime.timedelta(minutes=1, milliseconds=500), 60.5),
        (decimal.Decimal("1.10"), "1.10"),
        (decimal.Decimal("NaN"), None),
        (fractions.Fraction(1, 3), "1/3"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (1j, "1j"),
        (KeyError("command"), "'command'"),
        (Point, str(Point)),
        (math, str(math)),
        (array.array("i", [1, 2]), [1, 2]),
        (np.float32(0.5), 0.5),
        (np.float64("nan"), None),
        (np.int64(7), 7),
        (np.bool_(True), True),
        (np.longdouble(0.5), 0.5),
        (np.complex128(1j), "1j"),
        (np.array([[1, 2], [3, 4]], dtype="u1"), [[1, 2], [3, 4]]),
        (np.array([1.0, np.nan, np.inf, -np.inf]), [1.0, None, None, None]),
        (np.array([0.5], dtype=np.longdouble), [0.5]),
        (np.array(5), 5),
        (np.zeros((2, 0)), [[], []]),
        (np.zeros((0, 2)), []),
        (np.array([None, {"a": b"\x00\xff"}], dtype=object), [None, {"a": "AP8="}]),
        (np.ma.masked_array([1, 2], [False, True]), [1, None]),
        (np.array([(1, 2.5)], dtype=[("a", "i4"), ("b", "f4")]), [[1, 2.5]]),
        (np.array(["2024-05-06", "NaT"], dtype="datetime64[D]"), ["2024-05-06", None]),
        (np.array(["2024-05-06T01:02:03"], dtype="datetime64[ns]"), ["2024-05-06T01:02:03"]),
        (np.datetime64("2024-05-06T01:02:03", "ns"), "2024-05-06T01:02:03"),
        (np.array([1500], dtype="timedelta64[ms]"), [1.5]),
        (np.timedelta64(1500, "ns"), 1e-06),
        (Tensor(), [1.0, 2.0]),
        (Table(), ",a,b\n0,1,é\n1,2,\n"),
        (OtherTable(), "a\n1\n"),
        (Figure(), "iVBORw=="),
        (Picture(b"\x89PNG"), "iVBORw=="),
        (Picture(("iVBORw==", {})), "iVBORw=="),
        (Picture(None), "a picture"),
        (Text("t"), "t"),
        (Digit(7), 7),
        (Broken(), "<a broken table>"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_value_becomes_the_nearest_thing_that_json_knows(value: object, expected: object) -> None:
    converted = to_json(value)
    assert converted == expected
    assert type(converted) is type(expected)
    text = json.dumps(converted, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()
    assert json.loads(text) == expected
    assert to_json_limited(value, len(text)) == expected
    assert to_json_limited(value, len(text) - 1)["truncated"] is True


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([1, None, True], []),
        ([1.5, math.nan], ["NaN"]),
        (-math.inf, ["-inf"]),
        ({"a": [math.inf], "b": (None,)}, ["None", "inf"]),
        (np.array([[1.0, np.nan], [np.inf, 2.0]]), ["NaN", "inf"]),
        (np.arange(3.0), []),
        ([decimal.Decimal("NaN"), decimal.Decimal("-Infinity")], ["-inf", "NaN"]),
    ],
    ids=str,
)
def test_it_is_told_what_nulls_stand_for_that_are_no_none(value: object, words: list[str]) -> None:
    nulls: set[str] = set()
    to_json_limited(value, 1000, nulls)
    assert other_nulls(nulls) == words


def test_value_whose_own_methods_fail_or_never_end_is_shown_somehow() -> None:
    converted = to_json([Silent(), Leaver(), Odd(), Endless([1, 2]), {Leaver(): 1}])
    assert converted == ["<Silent>", "<Leaver>", "<Odd>", [1, 1], {"<Leaver>": 1}]


@pytest.mark.parametrize("method", ["__repr__", "__len__", "isoformat"])
def test_keyboard_interrupt_passes(method: str) -> None:
    def interrupted(self: object) -> None:
        raise KeyboardInterrupt

    value = type("Impatient", (), {method: interrupted})()
    with pytest.raises(KeyboardInterrupt):
        to_json_limited(value, 0 if method == "__len__" else None)


def test_keys_that_read_the_same_all_stay() -> None:
    assert to_json({"1": "text", 1: "number"}) == {"1": "text", "1 (int)": "number"}

    class Same:
        def __str__(self) -> str:
            return "same"

    assert list(to_json({Same(): 1, Same(): 2, Same(): 3, "same (Same) 2": 4})) == [
        "same",
        "same (Same)",
        "same (Same) 2",
        "same (Same) 2 (str)",
    ]
    assert len(to_json({Same(): 1 for _ in range(20_000)})) == 20_000


def test_set_without_an_order_is_listed_all_the_same() -> None:
    assert sorted(map(str, to_json({1, "a"}))) == ["1", "a"]


def test_container_within_itself_ends() -> None:
    loop: dict[str, Any] = {"a": 1}
    loop["self"] = [loop]
    assert to_json(loop) == {"a": 1, "self": ["{...}"]}
    ring = np.empty(1, dtype=object)
    ring[0] = [ring]
    assert to_json(ring) == [["<ndarray ...>"]]


def test_value_that_is_there_twice_is_no_circle() -> None:
    shared = [1]
    assert to_json([shared, shared]) == [[1], [1]]


def test_depth_is_limited() -> None:
    deep: list[Any] = []
    for _ in range(10_000):
        deep = [deep]
    text = json.dumps(to_json(deep))
    assert text.count("[") == MAX_DEPTH + 1
    assert '"[...]"' in text


def test_half_of_a_surrogate_pair_does_not_spoil_the_output() -> None:
    assert json.dumps(to_json({"\udcff": "\udcff"}), ensure_ascii=False).encode() == b'{"\\\\udcff": "\\\\udcff"}'


def test_integer_is_a_number_as_long_as_a_double_could_hold_it() -> None:
    assert to_json([2**1023 - 1, -(2**1023) + 1]) == [2**1023 - 1, -(2**1023) + 1]
    assert to_json([2**1023, -(2**1023)]) == [str(2**1023), str(-(2**1023))]
    # Python writes no decimals that long.
    assert to_json(10**10_000) == hex(10**10_000)


def test_numpy_is_not_loaded() -> None:
    code = "import sys, bgpy.encoding as e; e.to_json({'a': [object()]}); print('numpy' in sys.modules)"
    root = Path(__file__).parent.parent
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root).stdout == "False\n"


@pytest.mark.parametrize(
    ("value", "shape"),
    [
        (np.zeros((3, 500)), [3, 500]),
        ([0] * 1000, [1000]),
        ("x" * 1000, [1000]),
        (b"x" * 1000, [1000]),
        ({str(number): number for number in range(200)}, [200]),
        (Picture(b"x" * 1000), None),
        (10**2000, None),
        ({"inside": ["x" * 1000]}, [1]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_value_that_is_too_large_is_described(value: Any, shape: list[int] | None) -> None:
    described = {"type": type(value).__name__, "shape": shape, "truncated": True}
    assert to_json_limited(value, 900) == described
    assert json.loads(json.dumps(described)) == described
    assert to_json_limited(value, None) == to_json(value)


def test_value_that_lies_about_its_shape_is_described_all_the_same() -> None:
    class Liar:
        shape = property(lambda self: 1 / 0)

        def __str__(self) -> str:
            return "x" * 1000

    assert to_json_limited(Liar(), 900) == {"type": "Liar", "shape": None, "truncated": True}


def test_large_values_are_not_converted_to_learn_that_they_are_too_large() -> None:
    class Counted(np.ndarray[Any, Any]):
        def tolist(self) -> Any:
            raise AssertionError("converted")

    class Big(Table):
        shape = (10**6, 10**3)

        def to_csv(self, file: Any, lineterminator: str, chunksize: int) -> None:
            raise AssertionError("converted")

    class Endless(Table):
        def to_csv(self, file: Any, lineterminator: str, chunksize: int) -> None:
            while True:
                file.write("1,2" + lineterminator)

    huge = np.broadcast_to(np.float64(1), (10**6, 10**6))
    laughs: list[Any] = []
    for _ in range(90):
        laughs = [laughs, laughs]
    for value in (np.zeros(10**6).view(Counted), Big(), Endless(), huge, [huge], laughs, np.zeros(10**6).data):
        assert to_json_limited(value, 10**5)["truncated"] is True


@pytest.mark.parametrize("shape", [(9000,), (3, 9000), (9000, 1), (2, 2, 9000), (100, 100, 2)], ids=str)
@pytest.mark.parametrize("dtype", ["f4", "f8", "i8", "?"])
def test_large_arrays_are_converted_as_small_ones(shape: tuple[int, ...], dtype: str) -> None:
    values = np.arange(math.prod(shape)).reshape(shape).astype(dtype)
    text = json.dumps(values.tolist(), separators=(",", ":"))
    assert to_json(values) == to_json_limited(values, len(text)) == values.tolist()
    assert to_json_limited(values, len(text) - 1) == {"type": "ndarray", "shape": list(shape), "truncated": True}
    if dtype.startswith("f"):
        values[-1] = np.nan
        assert json.loads(json.dumps(to_json(values), allow_nan=False))[:-1] == values.tolist()[:-1]


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.text(st.sampled_from("a\x00\udcff\ud800"), min_size=1)
    | st.binary()
    | st.complex_numbers()
    | st.datetimes()
    | st.decimals(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.integers() | st.text() | st.floats(), inner)
        | st.tuples(inner)
        | st.frozensets(st.integers())
        | st.lists(st.floats()).map(np.array)
    ),
    max_leaves=20,
)


@given(anything)
def test_property_everything_becomes_strict_json_in_utf8(value: object) -> None:
    text = json.dumps(to_json(value), allow_nan=False, ensure_ascii=False).encode()
    assert json.loads(text) == to_json(value)


@given(anything, st.integers(0, 200))
def test_property_the_limit_is_that_of_the_shortest_text(value: object, limit: int) -> None:
    text = json.dumps(to_json(value), allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()
    fits = len(text) <= limit
    assert to_json_limited(value, limit) == (to_json(value) if fits else to_json_limited(value, 0))
