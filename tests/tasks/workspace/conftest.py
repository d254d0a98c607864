"""Backends of all kinds; one small Ray cluster for all tests of a session, and one agent that is connected to it."""

from __future__ import annotations

import importlib.util
import os
import secrets
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.backends import PATIENCE, Recorder, Session
from support.ray_cluster import RayCluster

import bgpy
from bgpy.client import Client
from bgpy.records import Registry
from bgpy.system import wait_for_end
from bgpy.tasks.workspace import workspace_tasks
from bgpy.tasks.workspace.backends import Backend
from bgpy.tasks.workspace.backends.process import ProcessBackend
from bgpy.tasks.workspace.backends.ray import RayBackend
from bgpy.tasks.workspace.backends.spawner import Spawner
from bgpy.tasks.workspace.backends.thread import ThreadBackend
from bgpy.tasks.workspace.face import Workspaces
from bgpy.tasks.workspace.onray.cluster import Cluster


@pytest.fixture(scope="session")
def ray_cluster(_session_home: object, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    """Return a cluster of one node; its workspaces take no whole CPU each."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("could not import 'ray'")
    with socket.create_server(("127.0.0.1", 0)) as free:
        client_port = free.getsockname()[1]
    cluster = RayCluster(tmp_path_factory.mktemp("ray"), client_port)
    os.environ.update(cluster.environment)  # which `_session_home` puts back
    yield cluster
    cluster.close()


@pytest.fixture(scope="session")
def ray_agent(ray_cluster: RayCluster) -> Iterator[Cluster]:
    """Return what is connected to that cluster."""
    spawner = Spawner()
    agent = Cluster(ray_cluster.address, spawner)
    agent.connect()
    yield agent
    agent.close()
    spawner.close()


@pytest.fixture
def start(ray_cluster: RayCluster) -> Iterator[Callable[..., Client]]:
    """Return what starts a server on the cluster, or another one in the place of one that was killed."""
    clients: list[Client] = []

    def start(**options: Any) -> Client:
        client = bgpy.start("lab", workspace_tasks(ray=ray_cluster.address, **options), timeout=90)
        clients.append(client)
        return client

    yield start
    for client in clients:
        client.close()
    if (record := Registry().find("lab")) is not None:
        with bgpy.connect("lab") as client:
            Workspaces(client).destroy()
            client.terminate(timeout=30)
        assert wait_for_end(record.pid, record.start_time, PATIENCE)


@pytest.fixture(params=["process", "thread", pytest.param("ray", marks=pytest.mark.ray)], scope="session")
def kind(request: pytest.FixtureRequest) -> str:
    """Return each type of workspace in turn."""
    if request.param == "ray":
        request.getfixturevalue("ray_agent")  # now, and not within a test: that must not seem to leave it behind
    return str(request.param)


@pytest.fixture
def make_backend(kind: str, request: pytest.FixtureRequest) -> Iterator[Callable[[Recorder], Backend]]:
    """Return what makes a backend of that type, without starting it; all are closed in the end."""
    spawner = Spawner()
    backends: list[Backend] = []

    def make(recorder: Recorder) -> Backend:
        if kind == "process":
            backends.append(ProcessBackend(recorder, spawner=spawner))
        elif kind == "thread":
            backends.append(ThreadBackend(recorder))
        else:
            agent, home = request.getfixturevalue("ray_agent"), secrets.token_hex(8)
            backends.append(RayBackend(recorder, cluster=agent, home=home, placement={"num_cpus": 0}))
        return backends[-1]

    yield make
    for backend in backends:
        backend.close()
    spawner.close()


@pytest.fixture
def spawner() -> Iterator[Spawner]:
    spawner = Spawner()
    yield spawner
    spawner.close()


@pytest.fixture
def make(spawner: Spawner) -> Iterator[Callable[..., Session]]:
    """Return what starts backends with a process of their own; all are closed in the end."""
    backends: list[ProcessBackend] = []

    def start(**options: Any) -> Session:
        recorder = Recorder()
        backend = ProcessBackend(recorder, spawner=spawner, **options)
        backends.append(backend)
        backend.start()
        return Session(backend, recorder)

    yield start
    for backend in backends:
        backend.close()


@pytest.fixture
def session(make: Callable[..., Session]) -> Session:
    return make()
