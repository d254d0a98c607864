"""Messages on their way."""

from __future__ import annotations

from typing import Any

from bgpy.protocol.messages import dump, load


def travel(message: Any) -> Any:
    """Pickle a message and unpickle it, with the buffers in memory of their own as a receiver has them."""
    payload = dump(message)
    return load(payload.pickle, [bytearray(buffer) for buffer in payload.buffers])
