"""Nodes of a cluster on the page, and where each workspace and replica runs: by answers that are played, and for real."""

from __future__ import annotations

import json
import re
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.browsing import TOKEN, Served, Visit, expect, serving, visiting
from support.commands import ROOT
from support.ray_cluster import RayCluster

from bgpy.client import Client
from bgpy.tasks.tensorflow import Workspaces

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Route

HEAD, OTHER = "a1" * 28, "b2" * 28
NODES = [
    {
        "node": HEAD,
        "address": "10.0.0.1",
        "name": "head",
        "alive": True,
        "resources": {"CPU": 8.0, "memory": 16 * 2**30, "object_store_memory": 2**30, "blue": 2.0},
        "workspaces": 2,
    },
    {"node": OTHER, "address": "10.0.0.2", "name": "", "alive": False, "resources": {}, "workspaces": 1},
]
REPLICAS = [
    {"workspace": "digits", "state": "ready", "version": 3, "waiting": 2, "node": HEAD, "address": "10.0.0.1"},
    {"workspace": "digits.1", "state": "loading", "version": None, "waiting": 0, "node": OTHER, "address": "10.0.0.2"},
]
TENSOR = {"dtype": "float32", "shape": [None, 3]}
MODEL = {
    "path": "/models/digits",
    "weights": None,
    "version": 3,
    "versions": {"1": {}, "2": {}, "3": {}},
    "predictions": 5,
    "failed_predictions": 0,
    "last_prediction": None,
    "device": "/cpu:0",
    "load_time": 1.5,
    "format": "saved_model",
    "platform": "tensorflow_savedmodel",
    "signatures": {"serving_default": {"inputs": {"x": TENSOR}, "outputs": {"y": TENSOR}}},
    "default_signature": "serving_default",
    "replicas": REPLICAS,
    "min_replicas": 2,
    "max_replicas": 4,
}
#: What a server with a cluster tells of its workspaces besides what one without tells.
PLACES: dict[str, dict[str, Any]] = {
    "digits": {"type": "ray", "node": HEAD, "address": "10.0.0.1"},
    "digits.1": {"type": "ray", "node": OTHER, "address": "10.0.0.2", "replica_of": "digits"},
}


@pytest.fixture
def page(visit: Visit, served: Served) -> Page:
    """Return the page of a server with a cluster of two nodes, one of them dead, and a model on both."""
    there = served.ask("get_workspace")
    for name in ("digits.1", "here", "digits"):
        if name not in there:
            served.ask("create_workspace", name=name, type="thread")

    def overview(route: Route) -> None:
        answer = route.fetch()
        told = answer.json()
        for one in told["result"]["workspaces"]:
            one.update(PLACES.get(one["name"], {}))
        route.fulfill(response=answer, json=told)

    def describe(route: Route) -> None:
        name = json.loads(route.request.post_data or "{}")["name"]
        route.fulfill(json={"request_result": True, "result": MODEL if name.startswith("digits") else None})

    visit.page.route(re.compile("/get_overview$"), overview)
    visit.page.route(re.compile("/describe$"), describe)
    visit.page.route(re.compile("/get_nodes$"), lambda route: route.fulfill(json={"request_result": True, "result": NODES}))
    return visit.page


def rows(page: Page, name: str) -> list[list[str]]:
    region = page.get_by_role("region", name=name, exact=True)
    region.get_by_role("row").nth(1).wait_for()
    return [row.locator("th, td").all_inner_texts() for row in region.locator("tbody tr").all()]


def test_the_server_shows_its_nodes_and_where_each_workspace_runs(page: Page, visit: Visit) -> None:
    visit.go("#server")
    assert rows(page, "Nodes") == [
        ["head a1a1a1a1", "alive", "10.0.0.1", "2", "8 CPU · 16 GB memory · 1 GB for objects · 2 blue"],
        ["10.0.0.2 b2b2b2b2", "dead", "10.0.0.2", "1", ""],
    ]
    table = page.get_by_role("table").filter(has=page.get_by_role("columnheader", name="Restarts"))
    expect(table.locator("tbody th")).to_have_text(["here", "digits", "digits.1"])
    expect(table.locator("tbody tr").nth(2)).to_contain_text("10.0.0.2 · b2b2b2b2")
    page.set_viewport_size({"width": 1280, "height": 1000})
    visit.shoot("nodes")


def test_a_workspace_says_on_which_node_it_is_and_whose_replica(page: Page, visit: Visit) -> None:
    visit.go("#workspaces/digits.1")
    page.get_by_text("on node 10.0.0.2 · b2b2b2b2 · a replica of the model of digits").wait_for()
    listed = page.get_by_role("complementary").locator(".choices").first
    expect(listed.get_by_role("listitem")).to_have_text([re.compile(f"^{name}") for name in ("here", "digits", r"digits\.1")])
    expect(listed.locator(".replica")).to_contain_text("10.0.0.2")


def test_a_model_shows_its_replicas_and_is_one_model(page: Page, visit: Visit) -> None:
    visit.go("#models")
    expect(page.get_by_role("link", name=re.compile("^digits"))).to_have_count(3)  # in the list, and each replica's workspace
    expect(page.get_by_role("complementary").get_by_role("listitem")).to_contain_text(["2 replicas"])
    page.get_by_text("2 to 4, as load decides").wait_for()
    assert rows(page, "Replicas") == [
        ["digits", "ready", "3", "2", "10.0.0.1 · a1a1a1a1"],
        ["digits.1", "loading", "\N{EN DASH}", "0", "10.0.0.2 · b2b2b2b2"],
    ]
    visit.shoot("replicas")


def test_without_a_cluster_there_is_no_word_of_nodes(visit: Visit, served: Served) -> None:
    page = visit.go("#server")
    page.get_by_text("Latency", exact=True).wait_for()
    page.wait_for_load_state("networkidle")
    expect(page.get_by_role("region", name="Nodes", exact=True)).to_have_count(0)
    expect(page.get_by_role("columnheader", name="Node")).to_have_count(0)


MAKE = """
import pathlib, sys
sys.path.insert(0, {tests!r})
from support.models import two_signatures
str(two_signatures(pathlib.Path({folder!r})))
"""


@pytest.mark.ray
@pytest.mark.timeout(300)
@pytest.mark.skipif(find_spec("tensorflow") is None or find_spec("ray") is None, reason="TensorFlow or Ray is not installed")
def test_a_real_cluster_is_shown_with_what_runs_on_each_node(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = RayCluster(tmp_path)
    try:
        for name, value in cluster.environment.items():
            monkeypatch.setenv(name, value)
        second = cluster.add_node(resources={"blue": 2})
        with serving(tmp_path / "home", "--ray", cluster.address) as served:
            with Client("127.0.0.1", served.port, TOKEN, timeout=200.0) as client:
                workspaces = Workspaces(client)
                first = fill(workspaces, tmp_path / "model", second)
                address = workspaces.nodes()[0]["address"]
            with visiting(browser, served) as visit:
                look_at(visit, {node: f"{address} · {node[:8]}" for node in (first, second)}, first, second)
    finally:
        cluster.close()


def fill(workspaces: Workspaces, model: Path, second: str) -> str:
    """Have workspaces on both nodes, a model on two of them; returns the id of the first node."""
    (first,) = {node["node"] for node in workspaces.nodes()} - {second}
    workspaces.create("here", "process")
    workspaces.create("blue", num_cpus=0, resources={"blue": 1}).run("1")
    digits = workspaces.create("digits", num_cpus=0)
    digits.run(MAKE.format(tests=str(ROOT / "tests"), folder=str(model)))
    digits.deploy(model, replicas=2)
    return first


def look_at(visit: Visit, nodes: dict[str, str], first: str, second: str) -> None:
    """See that the page tells of each node, and of all that `fill` has made where it runs."""
    page = visit.go("#server")
    shown = {cells[0].split()[-1]: cells[1:] for cells in rows(page, "Nodes")}
    assert shown.keys() == {first[:8], second[:8]}
    assert all(cells[:2] == ["alive", nodes[node].split()[0]] for node in nodes for cells in [shown[node[:8]]])
    assert [shown[node[:8]][2] for node in (first, second)] == ["1", "2"]
    assert ["2 blue" in shown[node[:8]][3] for node in (first, second)] == [False, True]
    table = page.get_by_role("table").filter(has=page.get_by_role("columnheader", name="Restarts"))
    cells = [row.locator("th, td").all_inner_texts() for row in table.locator("tbody tr").all()]
    where = {name: node for name, *_, node in cells}
    assert (where["here"], where["blue"]) == ("", nodes[second])
    assert {where["digits"], where["digits.1"]} == set(nodes.values())
    visit.go("#models")
    page.get_by_role("region", name="Replicas", exact=True).get_by_text("ready").nth(1).wait_for()
    assert rows(page, "Replicas") == [[name, "ready", "1", "0", where[name]] for name in ("digits", "digits.1")]
    visit.go("#workspaces/digits.1")
    page.get_by_text(f"on node {where['digits.1']} · a replica of the model of digits").wait_for()
