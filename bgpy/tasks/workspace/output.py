"""
Cut the output of a worker where its jobs end. Sans-I/O.

A worker writes a mark into the stream itself, so that no order between two pipes has to be guessed: what lies before the mark
was written before the end of that job. The mark starts with bytes that the worker drew by lot, which no output holds by chance.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

#: Bytes of the secret of a worker.
SECRET_SIZE = 16
#: What it begins with: no text in UTF-8 has that byte, so that none is held back as the beginning of a mark.
SECRET_START = b"\xff"
_NUMBER = struct.Struct("!Q")
#: Bytes of a mark; few enough that a pipe takes it in one piece.
MARK_SIZE = SECRET_SIZE + _NUMBER.size


def make_mark(secret: bytes, number: int) -> bytes:
    """Return the mark that says: here ended job `number`."""
    return secret + _NUMBER.pack(number)


class Cutter:
    """
    Take marks out of one stream, which may come in pieces of any size.

    Nothing is held back but what may be the beginning of a mark. Not thread-safe.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        #: What may be the beginning of a mark.
        self.held = b""

    def feed(self, data: bytes) -> Iterator[bytes | int]:
        """Yield, in order, the output (bytes, never empty) and the numbers of the jobs that ended."""
        if self.held:
            data = self.held + data
            self.held = b""
        start = 0
        while (found := data.find(self._secret, start)) >= 0 and found + MARK_SIZE <= len(data):
            if found > start:
                yield data[start:found]
            (number,) = _NUMBER.unpack_from(data, found + SECRET_SIZE)
            yield number
            start = found + MARK_SIZE
        end = found if found >= 0 else self._possible_mark(data, start)
        self.held = data[end:]
        if end > start:
            yield data[start:end] if start or end < len(data) else data

    def finish(self) -> bytes:
        """Return what was held back: at the end of the stream it is no mark."""
        held, self.held = self.held, b""
        return held

    def _possible_mark(self, data: bytes, start: int) -> int:
        """Return where the end of `data` begins to look like a mark; its length where it does not."""
        position = data.find(self._secret[:1], max(start, len(data) - SECRET_SIZE + 1))
        while position >= 0 and not self._secret.startswith(data[position:]):
            position = data.find(self._secret[:1], position + 1)
        return position if position >= 0 else len(data)
