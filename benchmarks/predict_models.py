"""
The models of the benchmark of predictions, and the floor: their signatures called in the process that has them.

TensorFlow is imported when it is first needed, so that processes without a model stay light.
"""

from __future__ import annotations

import importlib
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from measuring import summary

FEATURES = 784
CLASSES = 10
BATCHES = (1, 32)
#: Different inputs for each size of batch, so that an answer to somebody else's request is seen.
VARIANTS = 8
MODELS = {"dense": "784-128-10", "convolutional": "conv 32, pool, conv 64, pool, 64, 10"}


def inputs(batch: int) -> Any:
    """Return all variants of a batch, as ``(VARIANTS, batch, FEATURES)`` of float64 with four decimals: 6 kB of JSON a row."""
    return np.random.default_rng(batch).random((VARIANTS, batch, FEATURES)).round(4)


def expected(folder: str, model: str, batch: int) -> Any:
    """Return what a model answers to `inputs`, as it was found in process."""
    return np.load(Path(folder) / f"{model}-{batch}.npy")


def is_expected(answer: Any, wanted: Any) -> bool:
    """Tell whether an answer is right, up to what another size of batch changes."""
    return np.shape(answer) == wanted.shape and bool(np.allclose(answer, wanted, rtol=1e-4, atol=1e-5))


def _tensorflow() -> Any:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    return importlib.import_module("tensorflow")


def _keras_model(keras: Any, model: str) -> Any:
    layers = keras.layers
    middle = [layers.Dense(128, activation="relu")]
    if model == "convolutional":
        middle = [
            layers.Reshape((28, 28, 1)),
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(64, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(64, activation="relu"),
        ]
    return keras.Sequential([keras.Input((FEATURES,), name="x"), *middle, layers.Dense(CLASSES, activation="softmax", name="y")])


class Maker:
    """Makes the models as SavedModels, each twice with other weights, and keeps what they answer; `ready` tells the version."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self.ready = {"version": _tensorflow().__version__}

    def measure(self, model: str) -> dict[str, Any]:
        """Make one model; return its paths and the name of its input."""
        keras = _tensorflow().keras
        paths = []
        for seed in (1, 2):
            keras.utils.set_random_seed(seed)
            paths.append(str(self.folder / f"{model}-{seed}"))
            _keras_model(keras, model).export(paths[-1], verbose=False)
        floor = Floor(paths[0])
        for batch in BATCHES:
            answers = np.stack([floor.numpy(rows.astype(np.float32)) for rows in inputs(batch)])
            np.save(self.folder / f"{model}-{batch}.npy", answers)
        return {"paths": paths, "input": floor.input}


class Floor:
    """Calls the signature in process."""

    def __init__(self, path: str) -> None:
        self.tensorflow = _tensorflow()
        self.loaded = self.tensorflow.saved_model.load(path)  # its variables live as long as this does
        self.signature = self.loaded.signatures["serving_default"]
        (self.input,) = self.signature.structured_input_signature[1]
        (self.output,) = self.signature.structured_outputs

    def tensor(self, rows: Any) -> Any:
        """Take a tensor and return one."""
        return self.signature(**{self.input: rows})[self.output]

    def numpy(self, rows: Any) -> Any:
        """Take an array and return one, as a user in the same process would have it."""
        return self.tensor(self.tensorflow.constant(rows)).numpy()

    def measure(self, kind: str, batch: int, seconds: float) -> dict[str, Any]:
        """Call one after the other; `kind` is numpy or tensor."""
        rows = inputs(batch).astype(np.float32)
        feeds = [self.tensorflow.constant(row) for row in rows] if kind == "tensor" else list(rows)
        call = self.tensor if kind == "tensor" else self.numpy
        for feed in feeds:
            call(feed)
        times: list[float] = []
        end = time.perf_counter() + seconds
        while (begun := time.perf_counter()) < end:
            call(feeds[len(times) % VARIANTS])
            times.append(time.perf_counter() - begun)
        return summary(times, sum(times))
