"""
Processes of the benchmark of predictions, each with one part to play: a line of JSON in, a line of JSON out.

A client, the floor and the servers each have a process, so that none of them waits for another's interpreter.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
from types import TracebackType
from typing import Any

ROLES = {
    "maker": "predict_models:Maker",
    "floor": "predict_models:Floor",
    "http": "predict_http:HttpClient",
    "trivial": "predict_http:TrivialServer",
    "threads": "predict_clients:Threads",
    "asyncio": "predict_clients:Tasks",
}


class Role:
    """
    A process that plays a part.

    Parameters
    ----------
    kind
        A name of `ROLES`.
    settings
        What the class of that part is made with.
    """

    def __init__(self, kind: str, **settings: Any) -> None:
        words = [sys.executable, __file__, kind, json.dumps(settings)]
        # TensorFlow talks to standard error from C: only worth reading where something has failed.
        self._said = tempfile.TemporaryFile()
        # In a session of its own, as a worker is: the scheduler shares the machine among sessions.
        self._process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said, start_new_session=True
        )
        self.kind = kind
        self.ready = self._answer()

    def __enter__(self) -> Role:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()
        self._said.close()

    def measure(self, **fields: Any) -> dict[str, Any]:
        """Have it measure, and return what it found."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(fields).encode() + b"\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._said.seek(0)
            said = self._said.read()[-5000:].decode(errors="replace")
            raise SystemExit(f"The process for {self.kind!r} has ended:\n{said}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def play(kind: str, settings: dict[str, Any]) -> None:
    """Be the process of a part, until standard input ends."""
    # What a library prints must not come between the answers.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    module, _, name = ROLES[kind].partition(":")
    part = getattr(importlib.import_module(module), name)(**settings)
    answers.write(json.dumps(getattr(part, "ready", {})) + "\n")
    for line in sys.stdin:
        answers.write(json.dumps(part.measure(**json.loads(line))) + "\n")


if __name__ == "__main__":
    play(sys.argv[1], json.loads(sys.argv[2]))
