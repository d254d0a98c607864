"""What tritonclient sends is understood, and it understands the replies."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from bgpy.tasks.tensorflow import inference_protocol
from bgpy.tasks.tensorflow.datatypes import DATATYPES
from bgpy.tasks.tensorflow.signatures import Signature, TensorInfo

triton = pytest.importorskip("tritonclient.http")
SIGNATURES = {
    "serving_default": Signature(
        "serving_default", {"x": TensorInfo("x", "float32", None)}, {"y": TensorInfo("y", "float32", None)}
    )
}


def sent(given: Any, outputs: list[Any] | None = None, request_id: str = "") -> inference_protocol.Request:
    """Read what tritonclient makes of a request."""
    body, length = triton.InferenceServerClient.generate_request_body([given], outputs=outputs, request_id=request_id)
    return inference_protocol.parse(body, length, SIGNATURES, "serving_default", "model", 3)


def received(request: inference_protocol.Request, output: Any) -> Any:
    """Let tritonclient read a reply."""
    encoded = request.encode({"y": output})
    return triton.InferenceServerClient.parse_response_body(b"".join(encoded.parts), header_length=encoded.header_length)


def tensors(dtype: str) -> st.SearchStrategy[Any]:
    shapes = arrays.array_shapes(min_dims=1, max_dims=3, max_side=4)
    if dtype == "string":
        texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=5)
        return arrays.arrays(object, shapes, elements=texts.map(str.encode))
    return arrays.arrays(dtype, shapes)


@given(st.data(), st.sampled_from(sorted(set(DATATYPES) - {"bfloat16"})), st.booleans(), st.booleans())
def test_property_tritonclient_understands_us_and_we_it(
    data: st.DataObject, dtype: str, binary_in: bool, binary_out: bool
) -> None:
    tensor = data.draw(tensors(dtype))
    binary_in = binary_in or dtype == "float16"  # which tritonclient sends as binary data only
    given = triton.InferInput("x", list(tensor.shape), DATATYPES[dtype])
    given.set_data_from_numpy(tensor, binary_data=binary_in)
    outputs = [triton.InferRequestedOutput("y", binary_data=binary_out)]
    request = sent(given, outputs, "id-1")
    assert request.feeds["x"].dtype == tensor.dtype
    np.testing.assert_array_equal(request.feeds["x"], tensor)
    result = received(request, request.feeds["x"])
    assert result.get_response()["id"] == "id-1"
    again = result.as_numpy("y")
    if dtype == "string" and not binary_out:
        again = np.array([text.encode() for text in again.ravel()], object).reshape(again.shape)
    np.testing.assert_array_equal(again, tensor)


def test_tritonclient_sends_and_reads_bfloat16() -> None:
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    if pytest.importorskip("tritonclient.utils").triton_to_np_dtype("BF16") is not bfloat16:
        pytest.skip("this tritonclient takes float32 for BF16")
    tensor = np.array([[1, -0.5]], bfloat16)
    given = triton.InferInput("x", [1, 2], "BF16")
    given.set_data_from_numpy(tensor)
    request = sent(given)
    assert request.feeds["x"].tolist() == [[1.0, -0.5]]
    np.testing.assert_array_equal(received(request, tensor).as_numpy("y"), tensor)
