"""A server with a small task set, and a gateway in front of it."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from support.gateways import RunningGateway, Workspaces, running_gateway


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
