"""
Figures of numbers that are in order, without the packages that made them: for lists and for NumPy arrays alike.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

#: Bins of a histogram.
MAX_BINS = 50


def between(low: float, high: float, part: float) -> float:
    """Return the number at that part of the way from one to another, which is never outside of them."""
    way = high - low
    if not math.isfinite(way):  # two very large numbers of opposite signs
        return low * (1 - part) + high * part
    found = low + way * part if part < 0.5 else high - way * (1 - part)  # each end is met exactly
    return min(max(found, low), high)


def quartiles(ordered: Sequence[Any]) -> list[float]:
    """
    Return the three quartiles of numbers in order, at least one.

    Quartile k is at place (n - 1) k / 4, counted from 0; between two places it is interpolated linearly: method 7 of Hyndman and
    Fan (1996), the default of NumPy's ``quantile`` and of pandas.
    """
    found = []
    for k in (1, 2, 3):
        place = (len(ordered) - 1) * k / 4
        index = int(place)
        following = min(index + 1, len(ordered) - 1)
        found.append(between(float(ordered[index]), float(ordered[following]), place - index))
    return found


def bin_edges(ordered: Sequence[Any], spread: float, whole: bool) -> list[float]:
    """
    Return the edges of bins of equal width over numbers in order, at least one: one more than there are bins.

    The width is that of Freedman and Diaconis (1981), two interquartile ranges by the cube root of n; where that range is
    nothing, the number of bins is that of Sturges (1926). There are at most `MAX_BINS`, and no more than there are integers.

    Parameters
    ----------
    spread
        Half of the distance between the first quartile and the third: half, as the whole may be more than a number can be.
    whole
        Whether the numbers are integers.
    """
    count, low, high = len(ordered), float(ordered[0]), float(ordered[-1])
    if low == high:
        return [low - 0.5, high + 0.5]
    half = high / 2 - low / 2
    if spread > 0:
        wanted = half / spread * count ** (1 / 3) / 2
    else:
        wanted = math.log2(count) + 1
    bins = math.ceil(max(1, min(wanted, MAX_BINS)))
    if whole:
        bins = int(min(bins, high - low + 1))
    return [low, *sorted(between(low, high, place / bins) for place in range(1, bins)), high]


def count_between(ordered: Sequence[Any], edges: Sequence[float]) -> list[int]:
    """Return how many of the numbers in order are in each bin: from its lower edge on, below the upper one; the last has both."""
    places = [0, *(bisect_left(ordered, edge) for edge in edges[1:-1]), len(ordered)]
    return [after - before for before, after in pairwise(places)]


def mean_and_deviation(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Return the mean of numbers, and their standard deviation with n - 1; None for what cannot be told in a finite number."""
    count = len(values)
    mean = deviation = None
    try:
        mean = math.fsum(values) / count
        if count > 1:
            deviation = math.sqrt(math.fsum((value - mean) * (value - mean) for value in values) / (count - 1))
    except OverflowError:
        pass
    return tuple(number if number is not None and math.isfinite(number) else None for number in (mean, deviation))  # type: ignore[return-value]
