"""Replicas on a Ray cluster of two nodes, with real models. The tests share one server, in their order: the last one ends it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from support import models as making
from support.asking import Asking
from support.ray_cluster import RayCluster
from support.waiting import wait_until

from bgpy.client import Client
from bgpy.errors import JobFailedError, RefusedError
from bgpy.server import Server
from bgpy.system import kill_process, process_start_time, wait_for_end
from bgpy.tasks.tensorflow import Model, Workspaces, tensorflow_tasks

pytestmark = [
    pytest.mark.ray,
    pytest.mark.process,
    pytest.mark.timeout(300),
    pytest.mark.skipif(find_spec("tensorflow") is None or find_spec("ray") is None, reason="TensorFlow or Ray is not installed"),
]
TOKEN = "t" * 40
LONG = 200.0
X = [[1.0, 2.0, 3.0]]


class Lab:
    """A server whose workspaces are on a cluster, and another one in its place when it was killed."""

    def __init__(self, address: str, folder: Path) -> None:
        self.tasks = tensorflow_tasks(ray=address, store=str(folder / "jobs.db"))
        self.paths = {factor: making.two_signatures(folder / f"times{factor}", float(factor)) for factor in (2, 3)}
        self.start()

    def start(self) -> None:
        self.server = Server(tasks=self.tasks, token=TOKEN)
        self.server.run_background(timeout=90)
        assert self.server.pid is not None
        self._start_time = process_start_time(self.server.pid)

    def kill(self) -> None:
        assert self.server.pid is not None
        if self._start_time is not None:
            kill_process(self.server.pid, self._start_time)
            assert wait_for_end(self.server.pid, self._start_time, 10)
            self._start_time = None

    def connect(self) -> Client:
        return Client(self.server.host, self.server.port, TOKEN, timeout=LONG)


@pytest.fixture(scope="module")
def cluster(_session_home: object, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    before = dict(os.environ)
    cluster = RayCluster(tmp_path_factory.mktemp("ray"))
    os.environ.update(cluster.environment)
    yield cluster
    cluster.close()
    for name in cluster.environment:
        os.environ.pop(name)
        os.environ.update({name: before[name]} if name in before else {})


@pytest.fixture(scope="module")
def node(cluster: RayCluster) -> str:
    """Return the second node."""
    return cluster.add_node()


@pytest.fixture(scope="module")
def lab(cluster: RayCluster, node: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    lab = Lab(cluster.address, tmp_path_factory.mktemp("lab"))
    try:
        with lab.connect() as client:
            Workspaces(client).create("w", num_cpus=0).deploy(lab.paths[2], replicas=3)
        yield lab
    finally:
        lab.kill()


@pytest.fixture
def workspaces(lab: Lab) -> Iterator[Workspaces]:
    with lab.connect() as client:
        yield Workspaces(client)


def is_ready(model: Model, version: int) -> bool:
    return all((row["state"], row["version"]) == ("ready", version) for row in model.replicas)


def first(model: Model) -> float:
    return float(model.predict({"x": X}, "y")[0][0, 0])


def next_jobs(workspaces: Workspaces) -> dict[str, int]:
    return {name: workspaces[name].status()["next_job"] for name in ("w", "w.1", "w.2")}


def test_replicas_are_spread_over_the_nodes_and_rolled_under_load(lab: Lab, workspaces: Workspaces) -> None:
    model = workspaces["w"].model
    assert len({row["node"] for row in model.replicas}) == 2
    asking = Asking(lambda: first(model))
    try:
        model.update(lab.paths[3])
        assert is_ready(model, 2)
        assert {first(model) for _ in range(6)} == {3.0}
    finally:
        answers = asking.end()
    assert min(map(len, answers)) > 3
    assert {answer for each in answers for answer in each} == {2.0, 3.0}


def test_a_node_that_dies_leaves_the_others_answering(workspaces: Workspaces, cluster: RayCluster, node: str) -> None:
    model = workspaces["w"].model
    nodes = {row["workspace"]: row["node"] for row in model.replicas}
    (living,) = set(nodes.values()) - {node}

    def ask() -> float | str:
        try:
            return first(model)
        except JobFailedError as error:
            return error.state

    asking = Asking(ask, 4)
    try:
        cluster.remove_node(node)
        wait_until(lambda: all(row["state"] != "ready" for row in model.replicas if nodes[row["workspace"]] == node), LONG)
        assert {first(model) for _ in range(6)} == {3.0}
        wait_until(lambda: is_ready(model, 2), LONG)
    finally:
        answers = asking.end()
    found = [answer for each in answers for answer in each]
    assert set(found) <= {3.0, "crashed", "aborted"}
    assert found.count(3.0) > len(found) / 2
    assert {row["node"] for row in model.replicas} == {living}


def test_replicas_outlive_the_server_and_serve_the_next_one_without_a_load(lab: Lab) -> None:
    with lab.connect() as client:
        before = next_jobs(Workspaces(client))
    lab.kill()
    lab.start()
    try:
        with lab.connect() as client:
            check_survivors(Workspaces(client), before)
            Workspaces(client).destroy()
    finally:
        lab.kill()


def check_survivors(workspaces: Workspaces, before: dict[str, int]) -> None:
    model = Model(workspaces._server, "w", {})
    assert {first(model) for _ in range(6)} == {3.0}
    wait_until(lambda: is_ready(model, 2), LONG)
    for name, number in next_jobs(workspaces).items():
        kinds = set()
        for each in range(before[name], number):
            try:
                kinds.add(workspaces[name].job(each).record["type"])
            except RefusedError:
                continue  # a prediction that the server before had
        assert kinds <= {"recall", "predict"}
