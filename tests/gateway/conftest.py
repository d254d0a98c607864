"""A server with a small task set, one with scripted runs, and one with models; and gateways in front of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
from support import models as making
from support.gateways import TOKEN, RunningGateway, Workspaces, running_gateway
from support.scripted_runs import Runs
from support.servers import background_server

from bgpy.client import Client
from bgpy.server import Server


@pytest.fixture
def workspaces() -> Workspaces:
    return Workspaces()


@pytest.fixture
def gateway(workspaces: Workspaces) -> Iterator[RunningGateway]:
    with running_gateway(workspaces) as running:
        yield running


@pytest.fixture
def http(gateway: RunningGateway) -> Iterator[httpx.Client]:
    with gateway.client() as client:
        yield client


@pytest.fixture
def runs() -> Runs:
    return Runs()


class Models(NamedTuple):
    """A server with the task set of models, and folders of models that it can load into its workspace ``half``."""

    server: Server
    double: Path
    triple: Path
    weights: Path
    strings: Path
    classifier: Path


@pytest.fixture(scope="session")
def _models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Models]:
    folder = tmp_path_factory.mktemp("models")
    double = making.two_signatures(folder / "double", 2.0)
    triple = making.two_signatures(folder / "triple", 3.0)
    weights = making.two_signatures_weights(double, folder / "weights" / "w", 3.0)
    with background_server("bgpy.tasks.tensorflow", token=TOKEN) as server:
        with Client(server.host, server.port, TOKEN) as client:
            client.execute({"command": "create_workspace", "name": "half"}, await_response=True)
        yield Models(
            server, double, triple, weights, making.strings(folder / "strings"), making.classifier(folder / "classifier")
        )


@pytest.fixture
def models(_models: Models) -> Models:
    """Return the server with the model that doubles deployed: TensorFlow is imported once for all tests."""
    with Client(_models.server.host, _models.server.port, TOKEN, timeout=100) as client:
        deploy = {"command": "deploy", "name": "half", "path": str(_models.double), "timeout": 90}
        answer = client.execute(deploy, await_response=True)
    assert answer["result"]["result"] is True, answer
    return _models


@pytest.fixture
def model_gateway(models: Models) -> Iterator[RunningGateway]:
    """Run a gateway in front of the models."""
    running = RunningGateway(models.server)
    try:
        yield running
    finally:
        running.end()


@pytest.fixture
def model_http(model_gateway: RunningGateway) -> Iterator[httpx.Client]:
    with model_gateway.client() as client:
        yield client
