"""Figures of numbers in order, against those of NumPy."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgpy.inspection.measures import MAX_BINS, between, bin_edges, count_between, mean_and_deviation, quartiles

FINITE = st.floats(allow_nan=False, allow_infinity=False)
NUMBERS = st.lists(FINITE | st.integers(-(10**6), 10**6), min_size=1, max_size=60)
LARGEST = 1.7e308


@given(FINITE, FINITE, st.floats(0, 1))
def test_what_is_between_two_numbers_is_never_outside_of_them(one: float, other: float, part: float) -> None:
    low, high = sorted((one, other))
    assert low <= between(low, high, part) <= high
    assert between(low, high, 0.0) == low
    assert between(low, high, 1.0) == high


@given(st.lists(st.floats(-1e100, 1e100) | st.integers(-(10**6), 10**6), min_size=1, max_size=60))
def test_quartiles_are_those_of_numpy(values: list[float]) -> None:
    wanted = np.quantile(np.array(values, float), [0.25, 0.5, 0.75])
    assert quartiles(sorted(values)) == pytest.approx(wanted.tolist(), rel=1e-12, abs=1e-300)


def test_quartiles_of_numbers_whose_distance_is_no_number() -> None:
    assert quartiles([-LARGEST, LARGEST]) == pytest.approx([-LARGEST / 2, 0.0, LARGEST / 2])


def edges_of(values: list[float], whole: bool = False) -> list[float]:
    quarters = quartiles(values)
    return bin_edges(values, quarters[2] / 2 - quarters[0] / 2, whole)


@given(NUMBERS, st.booleans())
def test_bins_are_in_order_and_hold_all_numbers_where_numpy_puts_them(numbers: list[float], whole: bool) -> None:
    values = sorted(map(float, numbers))
    edges = edges_of(values, whole)
    counts = count_between(values, edges)
    assert 1 <= len(counts) <= MAX_BINS
    assert len(edges) == len(counts) + 1
    assert edges == sorted(edges)
    assert edges[0] <= values[0]
    assert values[-1] <= edges[-1]
    assert counts == np.histogram(values, edges)[0].tolist()
    assert count_between(np.array(values), edges) == counts  # type: ignore[arg-type]


def test_width_of_bins_is_that_of_freedman_and_diaconis() -> None:
    values = np.sort(np.random.default_rng(1).normal(size=2000)).tolist()
    assert len(edges_of(values)) == len(np.histogram_bin_edges(values, "fd"))
    assert edges_of(values) == pytest.approx(np.histogram_bin_edges(values, "fd").tolist())


def test_where_the_quartiles_are_the_same_the_number_of_bins_is_that_of_sturges() -> None:
    values = [0.0] * 1000 + [1.0] * 10 + [5.0] * 14
    assert len(edges_of(values)) == len(np.histogram_bin_edges(values, "sturges")) == 12


def test_there_are_no_more_bins_than_integers_and_never_more_than_fifty() -> None:
    assert edges_of(sorted([0, 1] * 100), whole=True) == [0, 0.5, 1]
    assert edges_of(sorted([0, 1, 2] * 100), whole=True) == pytest.approx([0, 2 / 3, 4 / 3, 2])
    assert len(edges_of([0.0, *np.linspace(0.4, 0.6, 500), 1000.0])) == MAX_BINS + 1


def test_one_number_alone_has_one_bin_around_it() -> None:
    assert edges_of([3, 3, 3]) == [2.5, 3.5]
    assert count_between([3, 3, 3], [2.5, 3.5]) == [3]


@given(st.lists(st.floats(-1e100, 1e100), min_size=2, max_size=60))
def test_mean_and_deviation_are_those_of_the_standard_library(values: list[float]) -> None:
    mean, deviation = mean_and_deviation(values)
    scale = max(map(abs, values))
    assert mean == pytest.approx(statistics.fmean(values), rel=1e-9, abs=scale * 1e-12)
    assert deviation == pytest.approx(statistics.stdev(values), rel=1e-6, abs=max(scale * 1e-9, 1e-150))


def test_what_no_number_can_tell_is_none() -> None:
    assert mean_and_deviation([1.0]) == (1.0, None)
    assert mean_and_deviation([LARGEST, LARGEST, LARGEST]) == (None, None)
    mean, deviation = mean_and_deviation([-LARGEST, LARGEST])
    assert mean == 0.0
    assert deviation is None
    assert math.isfinite(mean)
