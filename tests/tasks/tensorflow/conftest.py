"""A server's state with scripted models, real models in a folder, and both readers of JSON."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support import models
from support.hosts import Desk

from bgpy.tasks.tensorflow import bodies


@pytest.fixture
def desk() -> Iterator[Desk]:
    desk = Desk()
    desk.ask("create_workspace")
    yield desk
    desk.close()


@pytest.fixture
def three(desk: Desk) -> Desk:
    """Return the state with a model on three workspaces."""
    desk.run("deploy", path="m", replicas=3)
    return desk


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder for the models of a test module."""
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def two(folder: Path) -> Path:
    """Make a model with two signatures."""
    return models.two_signatures(folder / "two")


@pytest.fixture(params=["orjson", "json"], scope="module")
def reader(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run everything with either reader."""
    if request.param == "orjson":
        pytest.importorskip("orjson")
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bodies, "orjson", None)
        yield
