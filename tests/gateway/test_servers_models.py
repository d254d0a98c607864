"""Clients of model servers that are told a base path, and that are told none: ``tritonclient`` and plain TensorFlow Serving."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from support.gateways import BEARER, TOKEN, RunningGateway
from support.servers import running_server
from support.tritons import MARKS, ROWS

from bgpy.gateway import ServerPlace
from bgpy.tasks.requests import requests_tasks

pytestmark = MARKS


@pytest.fixture
def gateway(models: Any) -> Iterator[RunningGateway]:
    """Run a gateway in front of the models, and of a server that has none."""
    with running_server(requests_tasks(), token=TOKEN) as other:
        servers = {"gpu": ServerPlace(port=models.server.port), "timed": ServerPlace(port=other.port)}
        running = RunningGateway(models.server, servers=servers)
        try:
            yield running
        finally:
            running.end()


@pytest.mark.parametrize("base", ["/servers/gpu", ""])
def test_tritonclient_asks_below_a_path_and_for_a_model_at_the_root(gateway: RunningGateway, base: str) -> None:
    import tritonclient.http as triton

    client = triton.InferenceServerClient(f"127.0.0.1:{gateway.port}{base}")
    try:
        assert client.is_model_ready("half", headers=dict(BEARER))
        assert client.is_server_ready(headers=dict(BEARER)) is (base != "")  # no server is meant at the root
        given = triton.InferInput("x", list(ROWS.shape), "FP32")
        given.set_data_from_numpy(ROWS)
        result = client.infer("half", [given], headers=dict(BEARER))
        np.testing.assert_array_equal(result.as_numpy("y"), ROWS * 2)
    finally:
        client.close()
        importlib.import_module("gevent").get_hub().destroy(destroy_loop=True)


@pytest.mark.parametrize("base", ["servers/gpu/", ""])
def test_tensorflow_serving_is_asked_below_a_path_and_for_a_model_at_the_root(gateway: RunningGateway, base: str) -> None:
    with httpx.Client(base_url=f"{gateway.url}{base}v1/models/", headers=BEARER, timeout=60, trust_env=False) as http:
        assert http.get("/half").json()["model_version_status"][0]["state"] == "AVAILABLE"
        predicted = http.post("/half:predict", json={"instances": ROWS.tolist()})
        assert predicted.json() == {"predictions": (ROWS * 2).tolist()}
        large = np.ones((20_000, 3), np.float32)  # a body in many pieces goes through whole
        predicted = http.post("/half:predict", json={"inputs": large.tolist()})
        assert predicted.json() == {"outputs": (large * 2).tolist()}
        assert http.get("/nope").status_code == 404
