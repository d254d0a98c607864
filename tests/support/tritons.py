"""What tests of ``tritonclient`` need: the packages, and rows for the model that doubles."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest

MISSING = find_spec("tritonclient") is None or find_spec("tensorflow") is None
MARKS = [
    pytest.mark.process,
    pytest.mark.timeout(120),
    pytest.mark.skipif(MISSING, reason="tritonclient or TensorFlow is not installed"),
]
ROWS = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
