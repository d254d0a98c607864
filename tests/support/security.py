"""Servers with a token, and who wants to get in."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

from bgpy.protocol.frames import FLAG_AWAIT, encode_frame

TOKEN = "t" * 32
WRONG = "w" * 32
Args = dict[str, Any]


class Trap:
    """Unpickling it makes a folder, once."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def trap_frame(kind: int, trap: Trap) -> bytes:
    return b"".join(bytes(part) for part in encode_frame(kind, FLAG_AWAIT, 0, 1, pickle.dumps({"trap": trap}), []))
