"""Waiting for what nobody tells."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


def wait_until(predicate: Callable[[], bool], timeout: float = 10) -> None:
    """Wait for what nobody tells, in steps of a few milliseconds; not as long as what the tasks of gateways wait for."""
    pause = threading.Event()
    deadline = time.monotonic() + timeout
    while not predicate():
        assert time.monotonic() < deadline, "It did not come true."
        pause.wait(0.005)
