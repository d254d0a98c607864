"""Threads that ask all the time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any


class Asking:
    """Have threads call a function again and again until `end`, which returns what each has got, or raises what it raised."""

    def __init__(self, ask: Callable[[], Any], threads: int = 8) -> None:
        self._over = threading.Event()
        self._pool = ThreadPoolExecutor(threads)
        self._found = [self._pool.submit(self._run, ask) for _ in range(threads)]

    def _run(self, ask: Callable[[], Any]) -> list[Any]:
        found = []
        while not self._over.is_set():
            found.append(ask())
        return found

    def end(self) -> list[list[Any]]:
        self._over.set()
        self._pool.shutdown()
        return [each.result() for each in self._found]
