"""Runs for tests: code that waits, and what a run has told."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bgpy.tasks.runtime.face import Run

#: Seconds for anything that is waited for.
PATIENCE = 20.0
#: Tells that it runs, and does so for ever.
ENDLESS = "print('up', flush=True)\nwhile True:\n    pass\n"
#: The same, and an interrupt does not end it.
DEAF = f"import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n{ENDLESS}"


class Gate:
    """Where code of a run waits until the test opens it."""

    def __init__(self, folder: Path, name: str = "gate") -> None:
        self._path = folder / name
        os.mkfifo(self._path)

    @property
    def code(self) -> str:
        """What the code says to wait."""
        return f"open({str(self._path)!r}).read()\n"

    def open(self) -> None:
        """Let the code go on; blocks until it has come here."""
        self._path.write_text("")


def kinds(messages: Iterable[dict[str, Any]]) -> list[str]:
    """Return the types of messages."""
    return [message["type"] for message in messages]


def text_of(messages: Iterable[dict[str, Any]], stream: str = "STDOUT") -> str:
    """Return what was written."""
    return "".join(message["text"] for message in messages if message["type"] == f"[output]:{stream}")


def wait_for_text(run: Run, text: str) -> None:
    """Wait until a run has written something."""
    seen = ""
    for message in run.events():
        seen += message.get("text", "")
        if text in seen:
            return
    raise AssertionError(f"{run} has ended and written {seen!r}")
