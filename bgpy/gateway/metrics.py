"""
What the gateway counts, as Prometheus reads it (text format 0.0.4). Counters of one event loop; no I/O.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from typing import Any

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
#: Upper bounds of the histogram's buckets, in seconds.
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


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

    def render(self, watchers: int, server: dict[str, Any] | None, *, up: bool) -> str:
        """
        Return the page.

        Parameters
        ----------
        server
            What the server's own ``get_metrics`` says, None where it has none.
        up
            Whether the server could be reached.
        """
        return "\n".join([*self._render_requests(), *_render_server(watchers, server, up), ""])

    def _render_requests(self) -> Iterator[str]:
        yield from _head("bgpy_gateway_requests_total", "counter", "Requests by route, method and status.")
        for (route, method, status), number in sorted(self._requests.items()):
            labels = _labels(route=route, method=method, status=str(status))
            yield f"bgpy_gateway_requests_total{labels} {number}"
        name = "bgpy_gateway_request_seconds"
        yield from _head(name, "histogram", "Seconds from a request to the end of its answer.")
        for route, buckets in sorted(self._buckets.items()):
            total = 0
            for bound, number in zip((*BUCKETS, float("inf")), buckets, strict=True):
                total += number
                yield f"{name}_bucket{_labels(route=route, le='+Inf' if bound == float('inf') else f'{bound:g}')} {total}"
            yield f"{name}_sum{_labels(route=route)} {self._sums[route]:.9g}"
            yield f"{name}_count{_labels(route=route)} {total}"


def _render_server(watchers: int, server: dict[str, Any] | None, up: bool) -> Iterator[str]:
    yield from _head("bgpy_gateway_watchers", "gauge", "Streams of events that are open.")
    yield f"bgpy_gateway_watchers {watchers}"
    yield from _head("bgpy_server_up", "gauge", "Whether the server answers.")
    yield f"bgpy_server_up {int(up)}"
    if server is None:
        return
    workspaces, jobs = server.get("workspaces"), server.get("jobs")
    if isinstance(workspaces, int):
        yield from _head("bgpy_workspaces", "gauge", "Workspaces of the server.")
        yield f"bgpy_workspaces {workspaces}"
    if isinstance(jobs, dict):
        yield from _head("bgpy_jobs", "gauge", "Jobs that the server remembers, by state.")
        for state, number in sorted(jobs.items(), key=str):
            if isinstance(number, int):
                yield f"bgpy_jobs{_labels(state=str(state))} {number}"


def _head(name: str, kind: str, text: str) -> Iterator[str]:
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} {kind}"


def _labels(**labels: str) -> str:
    return "{" + ",".join(f'{name}="{_escape(value)}"' for name, value in labels.items()) + "}"


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
