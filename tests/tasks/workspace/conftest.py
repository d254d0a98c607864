"""One small Ray cluster for all tests of a session, and one agent that is connected to it."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator

import pytest
from support.ray_cluster import RayCluster

from bgpy.tasks.workspace.backends.spawner import Spawner
from bgpy.tasks.workspace.onray.cluster import Cluster


@pytest.fixture(scope="session")
def ray_cluster(_session_home: object, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    """Return a cluster of one node; its workspaces take no whole CPU each."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("could not import 'ray'")
    cluster = RayCluster(tmp_path_factory.mktemp("ray"))
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
