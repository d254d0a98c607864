"""
What the gateway counts, as Prometheus reads it (text format 0.0.4). Counters of one event loop; no I/O.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
#: Upper bounds of the histogram's buckets, in seconds.
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)

_REQUESTS = "bgpy_gateway_requests_total"
_SECONDS = "bgpy_gateway_request_seconds"

Labels = Mapping[str, str]


class Metrics:
    """Count requests and how long they took."""

    def __init__(self) -> None:
        self._requests: Counter[tuple[str, str, int]] = Counter()
        self._buckets: dict[str, list[int]] = {}
        self._sums: Counter[str] = Counter()

    def count(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count one request. `route` is one of those that there are, never what a client has sent."""
        self._requests[route, method, status] += 1
        buckets = self._buckets.get(route)
        if buckets is None:
            buckets = self._buckets[route] = [0] * (len(BUCKETS) + 1)
        buckets[bisect_left(BUCKETS, seconds)] += 1
        self._sums[route] += seconds  # type: ignore[assignment]

    def count_lines(self, labels: Labels) -> Iterator[str]:
        """Yield the samples of how many there were."""
        for (route, method, status), number in sorted(self._requests.items()):
            yield f"{_REQUESTS}{_labels({**labels, 'route': route, 'method': method, 'status': str(status)})} {number}"

    def time_lines(self, labels: Labels) -> Iterator[str]:
        """Yield the samples of how long they took."""
        for route, buckets in sorted(self._buckets.items()):
            total = 0
            own = {**labels, "route": route}
            for bound, number in zip((*BUCKETS, float("inf")), buckets, strict=True):
                total += number
                yield f"{_SECONDS}_bucket{_labels({**own, 'le': '+Inf' if bound == float('inf') else f'{bound:g}'})} {total}"
            yield f"{_SECONDS}_sum{_labels(own)} {self._sums[route]:.9g}"
            yield f"{_SECONDS}_count{_labels(own)} {total}"


class View(NamedTuple):
    """
    What there is to tell of a gateway's way to one server.

    Attributes
    ----------
    watchers
        Streams of events that are open.
    up
        Whether the server could be reached.
    server
        What the server's own ``get_metrics`` says, None where it has none.
    labels
        Those of each of its samples.
    """

    metrics: Metrics
    watchers: int
    up: bool
    server: dict[str, Any] | None
    labels: Labels


def render(views: Sequence[View], own: Metrics | None = None) -> str:
    """
    Return the page.

    Parameters
    ----------
    own
        What was counted of no server's.
    """
    counted = [*([(own, {})] if own is not None else []), *((view.metrics, view.labels) for view in views)]
    lines = [
        *_family(_REQUESTS, "counter", "Requests by route, method and status.",
                 chain.from_iterable(metrics.count_lines(labels) for metrics, labels in counted)),
        *_family(_SECONDS, "histogram", "Seconds from a request to the end of its answer.",
                 chain.from_iterable(metrics.time_lines(labels) for metrics, labels in counted)),
        *_family("bgpy_gateway_watchers", "gauge", "Streams of events that are open.",
                 (f"bgpy_gateway_watchers{_labels(view.labels)} {view.watchers}" for view in views)),
        *_family("bgpy_server_up", "gauge", "Whether the server answers.",
                 (f"bgpy_server_up{_labels(view.labels)} {int(view.up)}" for view in views)),
        *_family("bgpy_workspaces", "gauge", "Workspaces of the server.", chain.from_iterable(map(_workspace_lines, views))),
        *_family("bgpy_jobs", "gauge", "Jobs that the server remembers, by state.", chain.from_iterable(map(_job_lines, views))),
    ]  # fmt: skip
    return "\n".join([*lines, ""])


def _workspace_lines(view: View) -> Iterator[str]:
    workspaces = (view.server or {}).get("workspaces")
    if isinstance(workspaces, int):
        yield f"bgpy_workspaces{_labels(view.labels)} {workspaces}"


def _job_lines(view: View) -> Iterator[str]:
    jobs = (view.server or {}).get("jobs")
    if isinstance(jobs, dict):
        for state, number in sorted(jobs.items(), key=str):
            if isinstance(number, int):
                yield f"bgpy_jobs{_labels({**view.labels, 'state': str(state)})} {number}"


def _family(name: str, kind: str, text: str, samples: Iterable[str]) -> Iterator[str]:
    """Yield a metric, what it is before its samples: a reader wants them all in one place."""
    for index, sample in enumerate(samples):
        if not index:
            yield f"# HELP {name} {text}"
            yield f"# TYPE {name} {kind}"
        yield sample


def _labels(labels: Labels) -> str:
    return "{" + ",".join(f'{name}="{_escape(value)}"' for name, value in labels.items()) + "}" if labels else ""


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
