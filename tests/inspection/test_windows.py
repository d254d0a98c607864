"""Values as a page shows them: whole where they are small, else windows of them."""

from __future__ import annotations

import base64
import json
import math
from collections import deque
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgpy.errors import RefusedError
from bgpy.inspection import windows
from bgpy.inspection.windows import DEFAULT_ROWS, DEFAULT_SIZE, MAX_SIZE, show

pd: Any = pytest.importorskip("pandas")


def shown(value: Any, window: list[int] | None = None) -> dict[str, Any]:
    """Show a value, and check what holds for all."""
    found = show(value, window)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert {"value", "type", "shape", "window", "truncated"} <= set(found)
    if window is not None and found["window"] is not None:
        start, stop = found["window"]
        assert start <= stop <= max(window[1], start)
        assert stop - start <= window[1] - window[0]
    return found


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (5, 5),
        (math.nan, None),
        (None, None),
        ({"a": [1, math.inf]}, {"a": [1, None]}),
        ({3, 1}, [1, 3]),
        (np.float32(0.5), 0.5),
        (np.array(7), 7),
        (ValueError("no"), "no"),
        (dict, "<class 'dict'>"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_small_value_passes_as_the_encoder_writes_it(value: Any, wanted: Any) -> None:
    found = shown(value)
    assert (found["value"], found["type"], found["window"], found["truncated"]) == (wanted, type(value).__name__, None, False)


@pytest.mark.parametrize(
    "value", [math.nan, [1.5, math.nan], {"a": math.nan}, np.array([math.nan]), pd.DataFrame({"a": [math.nan]})]
)
def test_what_nulls_stand_for_is_told_where_they_are_no_none(value: Any) -> None:
    assert shown(value)["nulls"] == ["NaN"]
    assert "nulls" not in shown([None, 1])


def test_a_named_tuple_is_an_object_and_not_rows() -> None:
    from collections import namedtuple

    found = shown(namedtuple("Point", "x y")(1, 2))
    assert (found["value"], found["type"], found["window"]) == ({"x": 1, "y": 2}, "Point", None)


@pytest.mark.parametrize("make", [list, tuple, deque, np.array, pd.Series, pd.Index], ids=lambda make: make.__name__)
def test_of_many_rows_the_first_come_or_those_that_are_asked_for(make: Any) -> None:
    value = make(range(5000)) if make is not np.array else np.arange(5000)
    first = shown(value)
    assert first["value"] == list(range(DEFAULT_ROWS))
    assert (first["window"], first["truncated"], first["shape"]) == ([0, DEFAULT_ROWS], True, [5000])
    asked = shown(value, [10, 13])
    assert (asked["value"], asked["window"], asked["truncated"]) == ([10, 11, 12], [10, 13], False)
    end = shown(value, [4999, 9000])
    assert (end["value"], end["window"], end["truncated"]) == ([4999], [4999, 5000], False)
    behind = shown(value, [6000, 9000])
    assert (behind["value"], behind["window"], behind["truncated"]) == ([], [5000, 5000], False)
    assert len(shown(value, [0, 5000])["value"]) == 5000


def test_a_range_has_rows() -> None:
    assert shown(range(10**12), [10**11, 10**11 + 2])["value"] == [10**11, 10**11 + 1]


@given(st.integers(0, 30), st.integers(0, 40), st.integers(0, 40))
def test_a_window_is_what_python_would_slice(count: int, start: int, length: int) -> None:
    rows = [[row, row * 2] for row in range(count)]
    for value in (rows, np.array(rows).reshape(count, 2), pd.DataFrame(rows, columns=["a", "b"])):
        found = shown(value, [start, start + length])
        assert found["value"] == rows[start : start + length]
        assert found["window"] == [min(start, count), min(start + length, count)]
        assert not found["truncated"]


def test_a_table_has_columns_dtypes_and_an_index() -> None:
    frame = pd.DataFrame(
        {"n": [1, 2, 3], "f": [0.5, math.nan, math.inf], "t": ["x", None, "z"], "d": pd.to_datetime(["2024-05-06", None, None])},
        index=["p", "q", "r"],
    )
    frame[("two", 1)] = [[1], [2], [3]]
    found = shown(frame, [1, 3])
    assert found["columns"] == ["n", "f", "t", "d", "two, 1"]
    assert found["dtypes"] == [str(dtype) for dtype in frame.dtypes]
    assert found["index"] == ["q", "r"]
    assert found["value"] == [[2, None, None, None, [2]], [3, None, "z", None, [3]]]
    assert (found["type"], found["shape"]) == ("DataFrame", [3, 5])
    assert shown(frame)["value"][0] == [1, 0.5, "x", "2024-05-06T00:00:00", [1]]


def test_a_table_without_columns_or_rows() -> None:
    assert shown(pd.DataFrame(index=[1, 2]))["value"] == [[], []]
    empty = shown(pd.DataFrame({"a": []}))
    assert (empty["value"], empty["index"], empty["columns"], empty["window"]) == ([], [], ["a"], [0, 0])


def test_a_series_has_its_index_and_an_array_its_dtype() -> None:
    found = shown(pd.Series([1.5, None], index=["x", "y"]))
    assert (found["value"], found["index"], found["dtype"]) == ([1.5, None], ["x", "y"], "float64")
    assert shown(np.zeros((2, 3, 4), "f4"), [0, 1])["value"] == np.zeros((1, 3, 4)).tolist()
    assert shown(np.zeros(1, "f4"))["dtype"] == "float32"
    assert shown(np.array([], "f4"))["value"] == []


@pytest.mark.parametrize("window", [[0], [2, 1], [-1, 5], ["0", 1], [0, 1, 2], [0.5, 1], 5, [True, 2]])
def test_what_is_no_window_is_refused(window: Any) -> None:
    with pytest.raises(RefusedError, match="A window is two integers"):
        show([1], window)


def size(found: dict[str, Any]) -> int:
    return len(json.dumps(found, separators=(",", ":"), ensure_ascii=False).encode())


@pytest.mark.parametrize(
    "value",
    [
        ["x" * 5000] * 999,
        np.random.default_rng(0).random((900, 500)),
        pd.DataFrame(np.random.default_rng(0).random((900, 500))),
        pd.Series(["é" * 5000] * 999),
    ],
    ids=["list", "array", "table", "series"],
)
def test_rows_come_as_far_as_they_fit(value: Any) -> None:
    found = shown(value)
    count = len(found["value"])
    assert 0 < count < len(value)
    assert (found["window"], found["truncated"]) == ([0, count], True)
    assert DEFAULT_SIZE - 20_000 < size(found) < DEFAULT_SIZE + 200
    following = shown(value, [count, count + 2])
    assert (following["window"], len(following["value"])) == ([count, count + 2], 2)
    if "index" in found:
        assert len(found["index"]) == count


def test_not_even_what_is_asked_for_passes_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "MAX_SIZE", 10_000)
    found = shown([1.5] * 100_000, [50, 90_000])
    assert found["window"][0] == 50
    assert 9_000 < size(found) < 10_200
    assert found["truncated"]


def test_a_row_that_is_too_large_is_not_sent_and_not_made() -> None:
    images = np.broadcast_to(np.float64(0), (5, 1000, 1000, 1000))  # no memory could hold its rows
    found = shown(images)
    assert (found["value"], found["window"], found["truncated"]) == ([], [0, 0], True)
    found = shown(["x" * 2_000_000])
    assert (found["value"], found["window"], found["truncated"]) == ([], [0, 0], True)
    wide = pd.DataFrame(np.zeros((1, 10_000)), columns=[f"{number:0100}" for number in range(10_000)])
    found = shown(wide)
    assert (found["value"], found["window"], found["truncated"], found["shape"]) == ([], [0, 0], True, [1, 10_000])
    assert "columns" not in found


def test_a_long_text_has_windows_of_characters() -> None:
    text = "ab\x00é" * 500_000
    first = shown(text)
    assert first["truncated"]
    assert first["value"] == text[: first["window"][1]]
    assert size(first) <= DEFAULT_SIZE + 200
    asked = shown(text, [2, 6])
    assert (asked["value"], asked["window"], asked["truncated"]) == ("\x00éab", [2, 6], False)
    assert shown("short")["window"] == [0, 5]
    most = shown(text, [0, 2_000_000])
    assert most["truncated"]
    assert size(most) <= MAX_SIZE


def test_a_large_dict_is_described_and_has_windows_of_items() -> None:
    value = {str(number): "x" * 100 for number in range(20_000)}
    found = shown(value)
    assert (found["value"], found["type"], found["shape"], found["truncated"]) == (None, "dict", [20_000], True)
    asked = shown(value, [1, 3])
    assert (list(asked["value"]), asked["window"], asked["truncated"]) == (["1", "2"], [1, 3], False)
    huge = shown({"a": "x" * (MAX_SIZE + 1)}, [0, 1])
    assert (huge["value"], huge["window"], huge["truncated"]) == (None, [0, 0], True)


def test_bytes_are_base64_and_say_so() -> None:
    found = shown(b"abc")
    assert (base64.b64decode(found["value"]), found["encoding"]) == (b"abc", "base64")


def test_a_figure_is_a_png_and_axes_are_their_figure(figure: Any) -> None:
    for value, name in ((figure, "Figure"), (figure.axes[0], "Axes")):
        found = shown(value)
        assert (found["type"], found["encoding"], found["window"]) == (name, "png-base64", None)
        assert base64.b64decode(found["value"], validate=True).startswith(b"\x89PNG\r\n\x1a\n")


def test_what_draws_itself_may_have_no_picture_after_all() -> None:
    class Plain:
        def _repr_png_(self) -> None:
            return None

        def __str__(self) -> str:
            return "plain"

    found = shown(Plain())
    assert found["value"] == "plain"
    assert "encoding" not in found


def test_a_model_or_any_object_is_its_type_and_text() -> None:
    class Model:
        shape = "wide"

        def predict(self, rows: Any) -> Any: ...

        def __str__(self) -> str:
            return "Model(depth=3)"

    found = shown(Model())
    assert (found["type"], found["shape"], found["value"], found["window"]) == ("Model", None, "Model(depth=3)", None)


def test_a_value_whose_own_methods_fail_is_shown_all_the_same() -> None:
    class Broken:
        def __str__(self) -> str:
            raise SystemExit

        def __repr__(self) -> str:
            raise ValueError

        def __len__(self) -> int:
            raise TypeError

    assert shown(Broken()) == {"value": "<Broken>", "type": "Broken", "shape": None, "window": None, "truncated": False}


def test_a_list_that_becomes_shorter_meanwhile_ends_the_window() -> None:
    class Shrinking(list[int]):
        def __len__(self) -> int:
            return 100

    found = show(Shrinking([1, 2, 3]))
    assert (found["value"], found["window"], found["truncated"]) == ([1, 2, 3], [0, 3], True)
