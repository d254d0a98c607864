"""Statistics of one column, against those of pandas and NumPy."""

from __future__ import annotations

import json
import math
from collections import Counter
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgpy.inspection.columns import MAX_FREQUENT, MAX_TEXT, summarize

pd: Any = pytest.importorskip("pandas")

FIELDS = {
    *("name", "type", "kind", "count", "missing", "distinct", "min", "max", "mean", "std", "quartiles", "frequent", "histogram"),
    *("infinite", "lengths"),
}
FLOATS = st.lists(st.floats(-1e12, 1e12) | st.sampled_from([math.nan, math.inf, -math.inf, 0.0, 1.0]), max_size=50)
INTEGERS = st.lists(st.integers(-(2**62), 2**62) | st.integers(-2, 2), min_size=1, max_size=50)


def figures(values: Any) -> dict[str, Any]:
    """Summarize, and check what holds for all columns."""
    found = summarize("x", values)
    assert set(found) == FIELDS
    assert found["name"] == "x"
    assert found["count"] + found["missing"] == len(values)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    histogram = found["histogram"]
    if histogram is not None:
        assert sum(histogram["counts"]) + found["infinite"] == found["count"]
        assert len(histogram["edges"]) == len(histogram["counts"]) + 1
    return found


def frequent(found: dict[str, Any]) -> list[tuple[Any, int]]:
    return [(each["value"], each["count"]) for each in found["frequent"]]


def close(found: float | None, wanted: float, scale: float = 1.0) -> bool:
    """Compare with a figure that pandas gives as NaN where there is none."""
    if found is None:
        return not math.isfinite(wanted)
    return found == pytest.approx(wanted, rel=1e-9, abs=1e-9 * scale)


@given(FLOATS)
def test_floats_have_the_figures_of_pandas_in_a_series_an_array_and_a_list(values: list[float]) -> None:
    series = pd.Series(values, dtype=float)
    finite = series[np.isfinite(series)]
    scale = float(finite.abs().max()) if len(finite) else 1.0
    for form in (series, np.array(values, float), values):
        found = figures(form)
        if form is values and not series.count():
            assert found["kind"] == "empty"
            continue
        assert found["kind"] == "number"
        assert found["type"] == ("float" if form is values else "float64")
        assert (found["count"], found["missing"]) == (series.count(), series.isna().sum())
        assert found["distinct"] == series.nunique()
        assert found["infinite"] == np.isinf(series).sum()
        assert frequent(found) == most_frequent(series.dropna().tolist())
        if not len(finite):
            assert found["min"] is found["mean"] is found["quartiles"] is found["histogram"] is None
            continue
        assert (found["min"], found["max"]) == (finite.min(), finite.max())
        assert close(found["mean"], finite.mean(), scale)
        assert close(found["std"], finite.std() if len(finite) > 1 else math.nan, scale)
        assert found["quartiles"] == pytest.approx(np.quantile(finite, [0.25, 0.5, 0.75]).tolist(), abs=1e-9 * scale)
        edges = found["histogram"]["edges"]
        assert found["histogram"]["counts"] == np.histogram(finite, edges)[0].tolist()


def most_frequent(values: list[float]) -> list[tuple[Any, int]]:
    items = sorted(Counter(values).items(), key=lambda item: (-item[1], item[0]))[:MAX_FREQUENT]
    return [(value if math.isfinite(value) else str(value), count) for value, count in items]


@given(INTEGERS)
def test_integers_stay_whole_and_are_the_same_in_each_form(values: list[int]) -> None:
    series = pd.Series(values, dtype="int64")
    plain = figures(values)
    assert plain["type"] == "int"
    assert [type(plain[name]) for name in ("min", "max")] == [int, int]
    assert (plain["min"], plain["max"], plain["distinct"]) == (min(values), max(values), len(set(values)))
    assert frequent(plain) == most_frequent(values)
    for form in (series, series.to_numpy(), series.astype("Int64"), pd.Series(values, dtype=object)):
        found = figures(form)
        for name in ("kind", "count", "missing", "distinct", "min", "max", "frequent", "quartiles", "infinite"):
            assert found[name] == plain[name], name
        assert close(found["mean"], plain["mean"], 2.0**62)
        assert found["histogram"]["edges"] == plain["histogram"]["edges"]


@given(st.lists(st.none() | st.booleans(), max_size=30))
def test_booleans_are_counted_and_their_mean_is_the_share_of_the_true(values: list[bool | None]) -> None:
    present = [value for value in values if value is not None]
    for form in (values, pd.Series(values, dtype="boolean"), pd.Series(values, dtype=object)):
        found = figures(form)
        assert (found["count"], found["distinct"]) == (len(present), len(set(present)))
        assert dict(frequent(found)) == Counter(present)
        if present:
            assert found["kind"] == "boolean"
            assert (found["min"], found["max"]) == (min(present), max(present))
            assert found["mean"] == pytest.approx(sum(present) / len(present))
    assert frequent(figures(np.array([True, False, True]))) == [(True, 2), (False, 1)]


@given(st.lists(st.none() | st.text(max_size=5), max_size=30))
def test_texts_have_lengths_and_the_most_frequent(values: list[str | None]) -> None:
    present = [value for value in values if value is not None]
    for form in (values, pd.Series(values, dtype=object)):
        found = figures(form)
        assert found["missing"] == values.count(None)
        assert found["distinct"] == len(set(present))
        if present:
            assert found["kind"] == "text"
            lengths = list(map(len, present))
            assert found["lengths"] == {"min": min(lengths), "max": max(lengths), "mean": pytest.approx(np.mean(lengths))}
            wanted = sorted(Counter(present).items(), key=lambda item: (-item[1], item[0]))[:MAX_FREQUENT]
            assert frequent(found) == wanted


def test_long_texts_are_cut_off_and_large_objects_described() -> None:
    assert frequent(figures(["a" * 500])) == [("a" * MAX_TEXT + "...", 1)]
    assert frequent(figures([tuple(range(1000)), (1,)])) == [
        ({"type": "tuple", "shape": [1000], "truncated": True}, 1),
        ([1], 1),
    ]


@pytest.mark.parametrize("dtype", ["string", "category", "U4", "S4"])
def test_texts_of_pandas_and_numpy_are_texts(dtype: str) -> None:
    values = ["one", "two", "one"]
    found = figures(np.array(values, dtype) if dtype[0] in "US" else pd.Series(values, dtype=dtype))
    assert found["distinct"] == 2
    assert [count for _, count in frequent(found)] == [2, 1]
    assert found["kind"] == ("object" if dtype == "S4" else "text")


MOMENTS = st.lists(st.none() | st.datetimes(datetime(1700, 1, 1), datetime(2200, 1, 1)), min_size=1, max_size=30)


@given(MOMENTS)
def test_moments_have_the_figures_of_pandas_in_each_form(values: list[datetime | None]) -> None:
    series = pd.Series(pd.to_datetime(values), dtype="datetime64[us]")
    seconds = (series.dropna() - pd.Timestamp(1970, 1, 1)).dt.total_seconds()
    forms = [values, series, series.to_numpy(), series.tolist(), list(series.to_numpy())]
    for form in forms:
        found = figures(form)
        assert (found["missing"], found["distinct"]) == (series.isna().sum(), series.nunique())
        if not series.count():
            continue
        assert found["kind"] == "moment"
        assert (found["min"], found["max"]) == (series.min().isoformat(), series.max().isoformat())
        assert abs(datetime.fromisoformat(found["mean"]) - series.mean()) < timedelta(milliseconds=1)
        assert close(found["std"], seconds.std(), 1e9)
        for wanted, quartile in zip(series.dropna().quantile([0.25, 0.5, 0.75]), found["quartiles"], strict=True):
            assert abs(datetime.fromisoformat(quartile) - wanted) < timedelta(milliseconds=1)
        edges = [datetime.fromisoformat(edge) for edge in found["histogram"]["edges"]]
        present = [value for value in values if value is not None]
        inside = [sum(low <= each < high for each in present) for low, high in pairwise(edges)]
        inside[-1] += present.count(max(present))
        assert found["histogram"]["counts"] == inside or edges[0] == edges[-1]


def test_moments_with_a_time_zone_are_told_in_utc() -> None:
    zone = timezone(timedelta(hours=2))
    values = [datetime(2024, 1, 1, 2, tzinfo=zone), datetime(2024, 1, 3, 2, tzinfo=zone), None]
    for form in (values, pd.Series(pd.to_datetime(values))):
        found = figures(form)
        assert (found["kind"], found["missing"]) == ("moment", 1)
        assert (found["min"], found["mean"]) == ("2024-01-01T00:00:00+00:00", "2024-01-02T00:00:00+00:00")
    assert figures([datetime(2024, 1, 1), values[0]])["kind"] == "object"


def test_dates_are_told_to_the_day() -> None:
    found = figures([date(2024, 1, 1), date(2024, 1, 3), None, date(2024, 1, 3)])
    assert (found["kind"], found["type"], found["missing"]) == ("moment", "date", 1)
    assert (found["min"], found["max"], found["quartiles"]) == ("2024-01-01", "2024-01-03", ["2024-01-02", *["2024-01-03"] * 2])
    assert frequent(found) == [("2024-01-03", 2), ("2024-01-01", 1)]
    assert figures(np.array(["2024-01", "2024-03", "NaT"], "M8[M]"))["mean"] == "2024-01-31"


@given(st.lists(st.integers(0, 40), min_size=1, max_size=40))
def test_days_are_counted_between_the_edges_that_are_told(days: list[int]) -> None:
    found = figures(np.array(days, "M8[D]"))
    plain = figures([date(1970, 1, 1) + timedelta(days=day) for day in days])
    assert found == {**plain, "type": "datetime64[D]", "std": pytest.approx(plain["std"])}
    edges = [(date.fromisoformat(edge) - date(1970, 1, 1)).days for edge in found["histogram"]["edges"]]
    inside = [sum(low <= day < high for day in days) for low, high in pairwise(edges)]
    inside[-1] += days.count(max(days))
    assert found["histogram"]["counts"] == inside
    mean = (date.fromisoformat(found["mean"]) - date(1970, 1, 1)).days
    assert abs(mean - sum(days) / len(days)) <= 0.5


@pytest.mark.parametrize("unit", ["ns", "us", "s", "D"])
def test_spans_are_seconds_whatever_their_unit(unit: str) -> None:
    spans = np.array([1, 2, 3, "NaT"], f"m8[{unit}]")
    second = {"ns": 1e-9, "us": 1e-6, "s": 1.0, "D": 86_400.0}[unit]
    found = figures(spans)
    assert (found["kind"], found["missing"], found["std"]) == ("span", 1, pytest.approx(second))
    if unit != "ns":  # of which nothing below the microsecond is told
        assert [found["min"], found["mean"], found["max"]] == pytest.approx([second, 2 * second, 3 * second])
    seconds = figures([timedelta(seconds=1), timedelta(seconds=3)])
    assert (seconds["mean"], seconds["std"], seconds["histogram"]["edges"][0]) == (2.0, pytest.approx(math.sqrt(2)), 1.0)


def test_nothing_but_missing_values_is_empty() -> None:
    for form in ([], [None, math.nan, pd.NaT, pd.NA, Decimal("NaN")], pd.Series([None, None], dtype=object)):
        found = figures(form)
        assert (found["kind"], found["count"], found["distinct"], found["frequent"]) == ("empty", 0, 0, [])
    for values in (np.array([]), np.array([math.nan]), np.array([], int), np.array(["NaT"], "M8[s]"), np.array([], bool)):
        found = figures(values)
        assert (found["count"], found["distinct"], found["histogram"], found["min"]) == (0, 0, None, None)


def test_values_of_several_kinds_are_objects_and_the_most_frequent_are_told() -> None:
    found = figures([1, "a", None, "a", (1, 2)])
    assert (found["kind"], found["type"], found["distinct"], found["missing"]) == ("object", "int, str, tuple", 3, 1)
    assert frequent(found) == [("a", 2), (1, 1), ([1, 2], 1)]
    assert figures([1, "a", b"", (), 1.5])["type"] == "bytes, float, int, ..."


def test_of_what_has_no_hash_nothing_but_the_count_is_told() -> None:
    class Hostile:
        def __hash__(self) -> int:
            raise SystemError

    for value in ([1], {}, np.zeros(3), Hostile()):
        found = figures([value, value, None])
        assert (found["kind"], found["count"], found["distinct"], found["frequent"]) == ("object", 2, None, [])


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ([True, 2, 2.5], 2.5),
        ([Decimal("1.5"), Decimal("2.5")], 2.5),
        ([Fraction(1, 2), Fraction(5, 2)], 2.5),
        ([np.float32(0.5), np.int8(2)], 2),
        (np.array([1, 2.5], np.float16), 2.5),
        (np.array([1, 2.5], np.longdouble), 2.5),
        (np.array([1, 2**64 - 1], np.uint64), 2**64 - 1),
        (pd.Series([1, 2.5], dtype="Sparse[float]"), 2.5),
        (pd.Series([1, None, 2.5], dtype="Float64"), 2.5),
        (pd.Series([1, 2], dtype="category"), 2),
    ],
    ids=lambda value: None,
)
def test_numbers_of_all_kinds_are_numbers(values: Any, wanted: float) -> None:
    found = figures(values)
    assert (found["kind"], found["max"]) == ("number", wanted)


def test_integers_that_no_float_can_be_are_objects() -> None:
    assert figures([10**400, 1])["kind"] == "object"
    assert figures([10**400, math.inf])["kind"] == "object"
    assert figures([10**300, 1])["max"] == 10**300


def test_masked_values_are_missing() -> None:
    found = figures(np.ma.masked_equal([1, 2, 2, 9], 9))
    assert (found["count"], found["missing"], found["max"], found["distinct"]) == (3, 1, 2, 2)


def test_figures_beyond_the_largest_number_are_none() -> None:
    for form in ([-1.7e308, 1.7e308, 1.7e308], np.array([-1.7e308, 1.7e308, 1.7e308])):
        found = figures(form)
        assert (found["std"], found["max"], sum(found["histogram"]["counts"])) == (None, 1.7e308, 3)


def test_a_million_rows_are_looked_at_whole() -> None:
    values = np.random.default_rng(0).integers(0, 1000, 1_000_000)
    found = figures(values)
    assert (found["count"], found["distinct"], found["mean"]) == (1_000_000, 1000, pytest.approx(values.mean()))
    assert found["frequent"][0]["count"] == np.bincount(values).max()
