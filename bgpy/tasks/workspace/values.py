"""
Values of the user, on their way between a worker and a Python client: closed for everybody in between.
"""

from __future__ import annotations

import pickle
from typing import Any, NamedTuple

from bgpy.protocol.messages import Payload, dump, load


class Packed:
    """
    A pickled value that nobody opens by accident: a message with it can be unpickled where the value's class is unknown.

    Parameters
    ----------
    pickle, buffers
        As in a `Payload`. Buffers travel out of band.
    """

    __slots__ = ("buffers", "pickle")
    #: It pickles by name, whatever is in it: `bgpy.protocol.messages.is_data`.
    __bgpy_data__ = True

    def __init__(self, pickle: Any, buffers: tuple[Any, ...] = ()) -> None:
        self.pickle = pickle
        self.buffers = buffers

    @classmethod
    def of(cls, value: object) -> Packed:
        """Pack a value; raises SerializationError."""
        payload: Payload = dump(value)
        return cls(payload.pickle, tuple(payload.buffers))

    @property
    def size(self) -> int:
        """How many bytes it has."""
        size = len(self.pickle)  # bytes, or a view of bytes
        if self.buffers:
            size += sum(memoryview(buffer).nbytes for buffer in self.buffers)
        return size

    def open(self) -> Any:
        """Unpickle the value; raises SerializationError. Runs whatever code it asks for."""
        return load(self.pickle, self.buffers)

    def __reduce__(self) -> tuple[Any, ...]:
        return Packed, (pickle.PickleBuffer(self.pickle), tuple(map(pickle.PickleBuffer, self.buffers)))


class Value(NamedTuple):
    """
    The value of a job's last expression, both ways.

    Attributes
    ----------
    json
        Plain JSON data, described where it would be too large.
    packed
        The value itself, None where it cannot be pickled or is too large to be kept.
    type
        The name of its type, so that a text which is a table or a picture is known for one; None where nobody has said.
    nulls
        What nulls in the JSON stand for, where that is not only None: see `bgpy.encoding.other_nulls`.
    runs
        Of a call, how many runs are to be counted with it, for who hears of its end; no store has it. Where several values come
        of one run, one of them has it.
    """

    json: Any
    packed: Packed | None
    type: str | None = None
    nulls: tuple[str, ...] = ()
    runs: int = 0

    def size(self, enough: int) -> int:
        """Return about how many bytes it has; where they are more than `enough`, no more than that is looked at."""
        size = 0 if self.packed is None else self.packed.size
        return size if self.json is None else enough - _weigh(self.json, enough - size)


#: What an item of plain data counts for.
_ITEM = 16


def _weigh(data: Any, left: int) -> int:
    """Return what is left of so many bytes behind plain data; negative where it has more, and then not all was looked at."""
    kind = type(data)
    if kind is dict or kind is list or kind is tuple:
        left -= _ITEM
        for item in data.values() if kind is dict else data:
            if left < 0:
                break
            left = _weigh(item, left)
        return left
    return left - _ITEM - (len(data) if kind is str or kind is bytes else 0)
