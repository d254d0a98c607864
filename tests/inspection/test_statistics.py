"""Which columns a value has, and the statistics of all of them."""

from __future__ import annotations

import json
import math
import tracemalloc
from collections import deque, namedtuple
from typing import Any

import numpy as np
import pytest

from bgpy.errors import RefusedError
from bgpy.inspection import statistics
from bgpy.inspection.statistics import MAX_COLUMNS, describe

pd: Any = pytest.importorskip("pandas")

Point = namedtuple("Point", "x y")


def columns_of(value: Any) -> list[tuple[Any, Any]]:
    """Return name and largest value of each column."""
    found = describe(value)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert (found["left_out"], found["sample"]) == (0, None)
    return [(column["name"], column["max"]) for column in found["columns"]]


def test_a_table_has_the_columns_of_its_own_types() -> None:
    frame = pd.DataFrame({"n": [1.5, None], "t": ["a", "b"], "d": pd.to_datetime(["2024-01-01", "2024-01-02"]), "b": [True] * 2})
    found = describe(frame)
    assert [found[name] for name in ("type", "shape", "rows")] == ["DataFrame", [2, 4], 2]
    assert [(column["name"], column["kind"]) for column in found["columns"]] == [
        ("n", "number"),
        ("t", "text"),
        ("d", "moment"),
        ("b", "boolean"),
    ]


def test_figures_of_a_table_are_those_that_pandas_describes() -> None:
    random = np.random.default_rng(3)
    frame = pd.DataFrame({"a": random.normal(size=500), "b": random.integers(0, 9, 500), "c": random.exponential(size=500)})
    frame.loc[::7, "a"] = math.nan
    wanted = frame.describe()
    for column in describe(frame)["columns"]:
        figures = [column["count"], column["mean"], column["std"], column["min"], *column["quartiles"], column["max"]]
        assert figures == pytest.approx(wanted[column["name"]].tolist())
        assert column["distinct"] == frame[column["name"]].nunique()
        top = frame[column["name"]].value_counts().iloc[0]
        assert column["frequent"][0]["count"] == top


def test_names_of_columns_may_be_double_numbers_or_tuples() -> None:
    frame = pd.DataFrame([[1, 2, 3, 4]], columns=["a", "a", 7, ("x", 1)])
    assert columns_of(frame) == [("a", 1), ("a", 2), (7, 3), ("x, 1", 4)]


def test_a_series_an_index_and_a_flat_array_are_one_column() -> None:
    assert columns_of(pd.Series([1, 2], name="s")) == [("s", 2)]
    assert columns_of(pd.Series([1, 2])) == [(None, 2)]
    assert columns_of(pd.Index([1, 2])) == [(None, 2)]
    assert columns_of(np.array([1, 2])) == [(None, 2)]


def test_an_array_has_columns_or_fields_and_one_of_more_dimensions_is_one_column() -> None:
    assert columns_of(np.array([[1, 5], [2, 3]])) == [(0, 2), (1, 5)]
    assert columns_of(np.array([(1, 2.5)], [("a", int), ("b", float)])) == [("a", 1), ("b", 2.5)]
    found = describe(np.arange(24).reshape(2, 3, 4))
    assert (found["shape"], found["rows"], found["columns"][0]["max"]) == ([2, 3, 4], 24, 23)
    assert columns_of(np.zeros((0, 2))) == [(0, None), (1, None)]
    masked = describe(np.ma.masked_equal([[1, 9], [2, 3]], 9))
    assert [column["missing"] for column in masked["columns"]] == [0, 1]


def test_what_is_like_an_array_is_one() -> None:
    class Tensor:
        shape = (2,)
        dtype = "float32"

        def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
            return np.array([1.0, 2.0])

    assert columns_of(Tensor()) == [(None, 2.0)]


def test_lists_of_numbers_rows_and_dicts() -> None:
    assert columns_of([1, 2]) == columns_of((1, 2)) == columns_of(deque([1, 2])) == columns_of({1, 2}) == [(None, 2)]
    assert columns_of(range(3)) == [(None, 2)]
    assert columns_of([]) == [(None, None)]
    assert columns_of([[1, 5], (2, 3)]) == [(0, 2), (1, 5)]
    assert columns_of([Point(1, 5), Point(2, 3)]) == [("x", 2), ("y", 5)]
    assert columns_of([{"a": 1}, {"b": 5, "a": 2}]) == [("a", 2), ("b", 5)]
    assert [column["missing"] for column in describe([{"a": 1}, {"b": 5, "a": 2}])["columns"]] == [0, 1]
    (ragged,) = describe([[1], [1, 2]])["columns"]
    assert (ragged["kind"], ragged["count"]) == ("object", 2)


def test_a_dict_of_columns_may_have_some_of_other_lengths() -> None:
    history = {"loss": [0.5, 0.25], "accuracy": np.array([0.5, 0.75, 1.0]), 3: pd.Series([1])}
    assert columns_of(history) == [("loss", 0.5), ("accuracy", 1.0), (3, 1)]
    assert describe(history)["rows"] == 3


@pytest.mark.parametrize("value", [5, "text", None, {}, {"a": 1}, {"a": [[1, 2]]}, object(), list, np.int64(5), np.array(5)])
def test_what_has_no_columns_is_refused(value: Any) -> None:
    with pytest.raises(RefusedError, match=f"no statistics of a value of the type {type(value).__name__}"):
        describe(value)


def test_columns_beyond_the_limit_are_counted() -> None:
    found = describe(np.zeros((2, MAX_COLUMNS + 3)))
    assert (len(found["columns"]), found["left_out"]) == (MAX_COLUMNS, 3)


def test_a_sample_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "MAX_CELLS", 100)
    assert describe(np.arange(100))["sample"] is None
    found = describe(np.arange(1001))
    assert found["sample"] == {"every": 11, "rows": 91}
    assert (found["rows"], found["columns"][0]["count"], found["columns"][0]["max"]) == (1001, 91, 990)
    # An object of Python counts for eight values of an array.
    frame = pd.DataFrame({"a": range(100), "t": ["x"] * 100})
    assert describe(frame)["sample"] == {"every": 9, "rows": 12}
    for value in (list(range(100)), [{"a": 1}] * 100, {"a": [1] * 100}, frame["t"], [[1]] * 100):
        found = describe(value)
        assert found["sample"] == {"every": 8, "rows": 13}
        assert found["columns"][0]["count"] == 13


@pytest.mark.parametrize("value", [range(10**9), deque([7]) * 3_000_000], ids=["range", "deque"])
def test_of_very_many_items_only_those_that_are_looked_at_are_in_a_list(value: Any) -> None:
    tracemalloc.start()
    try:
        described = describe(value)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    every = described["sample"]["every"]
    assert described["rows"] == len(value)
    assert described["columns"][0]["count"] == described["sample"]["rows"] == -(-len(value) // every) <= 2_500_000
    assert peak < 1 << 30
