"""
How the benchmarks of this folder compare: in turns, within one run.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any


def interleave(calls: dict[str, Callable[[], Any]], rounds: int, repeat: int = 1) -> dict[str, list[float]]:
    """Return for each call the median seconds of each round; the calls take turns within a round."""
    figures: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            times = []
            for _ in range(repeat):
                start = time.perf_counter()
                call()
                times.append(time.perf_counter() - start)
            figures[name].append(statistics.median(times))
    return figures


def ratio(figures: dict[str, list[float]], name: str, base: str) -> float:
    """Return the median over the rounds of one figure divided by another of the same round."""
    return statistics.median(a / b for a, b in zip(figures[name], figures[base], strict=True))


def summary(times: Sequence[float], seconds: float) -> dict[str, Any]:
    """Return calls a second, and the median and the 99th percentile in ms, of calls that took `times` in `seconds` in all."""
    ordered = sorted(times)
    p99 = ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]
    return {"rate": len(times) / seconds, "p50": statistics.median(ordered) * 1e3, "p99": p99 * 1e3}
