"""
TensorFlow itself: imported when the first model comes, without its log noise, and told what to run on.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import re
import signal
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from typing import Any

from bgpy.errors import MissingExtraError, ModelLoadError

#: What TensorFlow and its parts log to descriptor 2 while they start, in the forms of this and earlier releases.
_NOISE = re.compile(
    rb"[IWE]\d{4} [\d:.]+ +\d+ [\w.]+:\d+\]|\d{4}-\d\d-\d\d [\d:.]+: [IWE] |WARNING: All log messages before absl::InitializeLog"
    rb"|To enable the following instructions:"
)
_DEVICE = re.compile(r"(?:/?job:localhost/)?(?:/?replica:0/)?(?:/?task:0/)?/?(?:device:)?([a-z_]+)(?::(\d+|\*))?", re.IGNORECASE)


def import_tensorflow() -> Any:
    """
    Import TensorFlow, the first time in some seconds, and return it.

    Raises
    ------
    MissingExtraError
        It is not installed.
    """
    if importlib.util.find_spec("tensorflow") is None:
        raise MissingExtraError("Deploying a model", "tensorflow")
    # Read once, when the library is loaded. Whoever set it wants to see what it logs.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with _whole(), contextlib.nullcontext() if "tensorflow" in sys.modules else _starting(), quiet():
        import tensorflow

        _prepare_devices(tensorflow)
    return tensorflow


def _prepare_devices(tensorflow: Any) -> None:
    """Let several processes share a GPU, and let what it cannot do be done elsewhere."""
    tensorflow.config.set_soft_device_placement(True)
    for device in tensorflow.config.list_physical_devices("GPU"):
        # Not any more once something has run there, such as a job of the user: then it is as that has made it.
        with contextlib.suppress(RuntimeError, ValueError):
            tensorflow.config.experimental.set_memory_growth(device, True)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep warnings of TensorFlow, Keras and absl back, and leave their settings as they were."""
    loggers = [logging.getLogger(name) for name in ("tensorflow", "absl")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextlib.contextmanager
def _starting() -> Iterator[None]:
    """
    Let through to descriptor 2 only what is no noise of the start.

    No setting silences what is logged before the library has read its settings. It all comes when the start is over; after an
    error, the noise too.
    """
    with tempfile.TemporaryFile() as kept:
        whole = True
        before = os.dup(2)
        os.dup2(kept.fileno(), 2)
        try:
            yield
            whole = False
        finally:
            os.dup2(before, 2)
            os.close(before)
            kept.seek(0)
            for line in kept:
                if whole or not _NOISE.match(line):
                    os.write(2, line)


@contextlib.contextmanager
def _whole() -> Iterator[None]:
    """
    Let an interrupt wait until this is over.

    An import that was broken off is begun anew by the next one, and that TensorFlow does not bear: its classes are registered.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[tuple[Any, Any]] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: came.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came and callable(before):
        before(*came[0])


def check_device(tensorflow: Any, device: str) -> str:
    """
    Return the name of a device as TensorFlow takes it.

    Raises
    ------
    ModelLoadError
        It names no kind of device. One of a kind that this machine has not, or not so many of, is taken: what cannot run there
        runs on the CPU.
    """
    found = _DEVICE.fullmatch(device.strip())
    here = [each.name.replace("/physical_device:", "/").lower() for each in tensorflow.config.list_physical_devices()]
    kinds = {"cpu", "gpu", *(name[1:].partition(":")[0] for name in here)}
    if found is None or found[1].lower() not in kinds:
        raise ModelLoadError(
            f"There is no device {device!r}: a device is named like /cpu:0 or /gpu:0. This machine has {', '.join(here)}."
        )
    number = found[2] if found[2] and found[2] != "*" else "0"
    return f"/device:{found[1].upper()}:{number}"


def new_session(tensorflow: Any, graph: Any, device: str) -> Any:
    """Return a session of TensorFlow 1 for a graph that is to run on a device of `check_device`."""
    v1 = tensorflow.compat.v1
    config = v1.ConfigProto(allow_soft_placement=True)
    if ":CPU:" in device:
        # Else what has no device of its own, such as the insides of functions, would go to the GPU.
        config.device_count["GPU"] = 0
    else:
        config.gpu_options.allow_growth = True
    return v1.Session(graph=graph, config=config)
