"""The page for Prometheus."""

from __future__ import annotations

import re

from bgpy.gateway.metrics import BUCKETS, Metrics, View, render

LINE = re.compile(r'(# (HELP|TYPE) [a-z_]+ .+|[a-z_]+(\{([a-z]+="([^"\\\n]|\\.)*",?)+\})? -?[0-9.e+-]+)')


def test_requests_are_counted_by_route_method_and_status() -> None:
    metrics = Metrics()
    for status in (200, 200, 503):
        metrics.count("/push_job", "POST", status, 0.02)
    text = render([View(metrics, 0, True, None, {})])
    assert 'bgpy_gateway_requests_total{route="/push_job",method="POST",status="200"} 2\n' in text
    assert 'bgpy_gateway_requests_total{route="/push_job",method="POST",status="503"} 1\n' in text


def test_a_bucket_holds_all_that_were_as_fast() -> None:
    metrics = Metrics()
    for seconds in (0.0005, BUCKETS[0], 0.3, 1000):
        metrics.count("/", "POST", 200, seconds)
    text = render([View(metrics, 0, True, None, {})])
    bucket = re.findall(r'_bucket\{route="/",le="([^"]+)"\} (\d+)', text)
    assert [bound for bound, _ in bucket] == [*(f"{bound:g}" for bound in BUCKETS), "+Inf"]
    assert dict(bucket) == {**{f"{b:g}": "2" if b < 0.3 else "3" for b in BUCKETS}, "+Inf": "4"}
    assert 'bgpy_gateway_request_seconds_sum{route="/"} 1000.3015\n' in text
    assert 'bgpy_gateway_request_seconds_count{route="/"} 4\n' in text


def test_the_server_says_how_many_jobs_and_workspaces_it_has() -> None:
    server = {"workspaces": 2, "jobs": {"done": 3, "running": 1}}
    text = render([View(Metrics(), 7, True, server, {})])
    assert "\nbgpy_workspaces 2\n" in text
    assert '\nbgpy_jobs{state="done"} 3\n' in text
    assert '\nbgpy_jobs{state="running"} 1\n' in text
    assert "\nbgpy_gateway_watchers 7\n" in text
    assert "\nbgpy_server_up 1\n" in text


def test_without_a_server_the_page_says_so() -> None:
    text = render([View(Metrics(), 0, False, None, {})])
    assert "\nbgpy_server_up 0\n" in text
    assert "bgpy_workspaces" not in text


def test_whatever_the_server_says_every_line_is_one_that_prometheus_reads() -> None:
    metrics = Metrics()
    metrics.count("/a", "GET", 200, 0.1)
    odd = {"workspaces": "many", "jobs": {'a"b\\c\nd': 1, "x": None, 5: 2}}
    lines = render([View(metrics, 1, True, odd, {})]).split("\n")
    assert lines.pop() == ""
    assert [line for line in lines if not LINE.fullmatch(line)] == []
    assert 'bgpy_jobs{state="a\\"b\\\\c\\nd"} 1' in lines
