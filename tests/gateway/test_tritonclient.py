"""``tritonclient`` with its default settings, in front of real models."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from support.gateways import BEARER, RunningGateway
from support.tritons import MARKS, ROWS

pytestmark = MARKS


@pytest.fixture
def client(model_gateway: RunningGateway) -> Iterator[Any]:
    """Return a client, to whose end belongs that of the event loop that it has brought along."""
    import tritonclient.http as triton

    client = triton.InferenceServerClient(f"127.0.0.1:{model_gateway.port}", concurrency=4)
    try:
        yield client
    finally:
        client.close()
        importlib.import_module("gevent").get_hub().destroy(destroy_loop=True)


def login() -> dict[str, str]:
    """Return headers, new ones each time: the client adds its own to them."""
    return {"Authorization": BEARER["authorization"]}


def tensor(name: str, array: Any, datatype: str = "FP32", binary: bool = True) -> Any:
    import tritonclient.http as triton

    given = triton.InferInput(name, list(array.shape), datatype)
    given.set_data_from_numpy(array, binary_data=binary)
    return given


def wanted(name: str, binary: bool = True) -> Any:
    import tritonclient.http as triton

    return triton.InferRequestedOutput(name, binary_data=binary)


def error_of(call: Any, *args: Any, **options: Any) -> tuple[str | None, str]:
    """Return status and message of the client's own exception."""
    from tritonclient.utils import InferenceServerException

    with pytest.raises(InferenceServerException) as caught:
        call(*args, **{"headers": login(), **options})
    return caught.value.status(), caught.value.message()


def test_server_and_model_are_ready_and_tell_what_they_are(client: Any) -> None:
    assert client.is_server_live(headers=login())
    assert client.is_server_ready(headers=login())
    assert client.is_model_ready("half", headers=login())
    assert not client.is_model_ready("nope", headers=login())
    assert client.get_server_metadata(headers=login())["name"] == "bgpy"
    told = client.get_model_metadata("half", headers=login())
    assert told["platform"] == "tensorflow_savedmodel"
    assert told["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 3]}]
    assert told["outputs"] == [{"name": "y", "datatype": "FP32", "shape": [-1, 3]}]
    (version,) = told["versions"]
    assert client.is_model_ready("half", version, headers=login())
    assert not client.is_model_ready("half", str(int(version) + 1), headers=login())


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("outputs", ["none", "binary", "json"])
def test_numpy_goes_in_and_comes_back(client: Any, binary_in: bool, outputs: str) -> None:
    chosen = None if outputs == "none" else [wanted("y", outputs == "binary")]
    result = client.infer("half", [tensor("x", ROWS, binary=binary_in)], outputs=chosen, request_id="request 7", headers=login())
    np.testing.assert_array_equal(result.as_numpy("y"), ROWS * 2)
    response = result.get_response()
    assert (response["model_name"], response["id"]) == ("half", "request 7")
    assert ("data" in response["outputs"][0]) == (outputs == "json")


def test_another_signature_by_its_name(client: Any) -> None:
    numbers = np.array([1, 2**40], np.int64)
    inputs = [tensor("a", numbers, "INT64"), tensor("b", numbers, "INT64")]
    result = client.infer("half", inputs, parameters={"signature_name": "sums"}, headers=login())
    np.testing.assert_array_equal(result.as_numpy("sum"), numbers * 2)
    np.testing.assert_array_equal(result.as_numpy("difference"), [0, 0])


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_a_compressed_request(client: Any, algorithm: str) -> None:
    rows = np.zeros((500, 3), np.float32)
    result = client.infer("half", [tensor("x", rows)], request_compression_algorithm=algorithm, headers=login())
    np.testing.assert_array_equal(result.as_numpy("y"), rows)


def test_a_large_tensor(client: Any) -> None:
    rows = np.arange(3_000_000, dtype=np.float32).reshape(-1, 3)
    result = client.infer("half", [tensor("x", rows)], headers=login())
    np.testing.assert_array_equal(result.as_numpy("y"), rows * 2)


def test_several_at_once_each_get_their_own(client: Any) -> None:
    waiting = [
        client.async_infer("half", [tensor("x", np.full((1 + number % 3, 3), number, np.float32))], headers=login())
        for number in range(24)
    ]
    for number, request in enumerate(waiting):
        expected = np.full((1 + number % 3, 3), number * 2, np.float32)
        np.testing.assert_array_equal(request.get_result(timeout=60).as_numpy("y"), expected)


def test_what_is_wrong_is_the_clients_own_exception(client: Any) -> None:
    rows = tensor("x", ROWS)
    assert error_of(client.infer, "nope", [rows])[0] == "404"
    assert error_of(client.infer, "half", [rows], model_version="999")[0] == "404"
    status, message = error_of(client.infer, "half", [tensor("x", ROWS[:, :2])])
    assert status == "400"
    assert "[?, 3]" in message
    status, message = error_of(client.infer, "half", [tensor("z", ROWS)])
    assert status == "400"
    assert "x: float32 [?, 3]" in message
    assert error_of(client.infer, "half", [rows], outputs=[wanted("nothing")])[0] == "400"
    status, message = error_of(client.infer, "half", [rows], parameters={"signature_name": "nothing"})
    assert (status, message) == ("400", "The model has no signature 'nothing'. It has 'serving_default', 'sums'.")
    assert error_of(client.infer, "half", [tensor("x", np.array([b"a"], np.object_), "BYTES")])[0] == "400"
    assert error_of(client.get_model_metadata, "nope")[0] == "404"
    assert error_of(client.unload_model, "nope")[0] == "404"
    assert error_of(client.get_trace_settings)[0] == "404"


def test_without_the_token_it_hears_why(client: Any) -> None:
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        assert not client.is_server_live(headers=headers)
        status, message = error_of(client.infer, "half", [tensor("x", ROWS)], headers=dict(headers))
        assert status == "401"
        assert message


def test_models_are_loaded_updated_and_unloaded(client: Any, models: Any) -> None:
    def load(**config: Any) -> int:
        client.load_model("half", headers=login(), config=json.dumps(config) if config else None)
        (model,) = client.get_model_repository_index(headers=login())
        assert (model["name"], model["state"]) == ("half", "READY")
        return int(model["version"])

    def first() -> float:
        return float(client.infer("half", [tensor("x", ROWS)], headers=login()).as_numpy("y")[0, 0])

    version = load(path=str(models.triple))
    assert first() == 3.0
    assert load(path=str(models.weights), update=True) == version + 1
    assert first() == 5.0
    assert load() == version + 2
    assert first() == 3.0
    status, message = error_of(client.load_model, "half", config=json.dumps({"path": "/there/is/none"}))
    assert status == "400"
    assert "/there/is/none" in message
    assert first() == 3.0  # the old one goes on
    assert error_of(client.load_model, "half", config="{}", files={"file:1/model.pb": b"x"})[0] == "400"
    (stats,) = client.get_inference_statistics(headers=login())["model_stats"]
    assert (stats["name"], stats["version"]) == ("half", str(version + 2))
    assert (stats["inference_count"], stats["execution_count"]) == (2, 2)
    client.unload_model("half", headers=login())
    assert not client.is_model_ready("half", headers=login())
    assert error_of(client.infer, "half", [tensor("x", ROWS)])[0] == "404"
    (model,) = client.get_model_repository_index(headers=login())
    assert model == {"name": "half", "state": "UNAVAILABLE", "reason": "nothing is deployed"}


def test_texts_are_bytes(client: Any, models: Any) -> None:
    client.load_model("half", headers=login(), config=json.dumps({"path": str(models.strings)}))
    texts = np.array(["größe".encode(), b"", b"abc"], np.object_)
    for binary in (True, False):
        result = client.infer("half", [tensor("text", texts, "BYTES", binary)], headers=login())
        assert result.as_numpy("upper").tolist()[2] == b"ABC"
        assert result.as_numpy("length").tolist() == [len(text) for text in texts]
