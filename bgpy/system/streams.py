"""
Read what another process writes, and wait for it together with sockets.

On POSIX a pipe is waited for like a socket. Windows waits for sockets alone: there a thread copies the pipe into one.
"""

from __future__ import annotations

import os
import threading
import time
from functools import partial

from bgpy.system.sockets import socket_pair, wait_socket
from bgpy.system.workers import unread_probe

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator
    from typing import TypeAlias

    Stream: TypeAlias = "PipeStream | PumpedStream"

WINDOWS = os.name == "nt"
#: Seconds for what the dead have left to come through the thread that copies it.
REST_TIMEOUT = 2.0
#: Bytes that are copied at once.
_CHUNK = 65536


def open_stream() -> tuple[Stream, int]:
    """Return a stream, and the descriptor that a child gets to write to it."""
    read, write = os.pipe()
    return PumpedStream(read) if WINDOWS else PipeStream(read), write


class PipeStream:
    """The end of a pipe that can be waited for. It owns the descriptor and makes it non-blocking."""

    def __init__(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self._fd = fd
        #: Read up to so many bytes; b"" at the end, BlockingIOError where there are none yet.
        self.read: Callable[[int], bytes] = partial(os.read, fd)

    def fileno(self) -> int:
        """Return the descriptor to wait for."""
        return self._fd

    def rest(self, size: int) -> Iterator[bytes]:
        """
        Yield what is left, `size` bytes at most at once, when all writers are dead.

        Should one have got away, it keeps nobody here: what is there now is what is told.
        """
        left = unread_probe(self._fd)() or 1
        try:
            while left > 0 and (data := self.read(size)):
                yield data
                left -= size
        except BlockingIOError:
            pass

    def close(self) -> None:
        """Close the descriptor; once."""
        os.close(self._fd)


class PumpedStream:
    """
    The same where a pipe cannot be waited for, with a thread that copies it into a socket.

    The thread ends with the last writer, or when it has something for a stream that is closed. What is under way is bounded by
    the kernel's buffers: a writer waits where nobody reads.
    """

    def __init__(self, fd: int) -> None:
        self._socket, far = socket_pair()
        self._socket.setblocking(False)
        self.read: Callable[[int], bytes] = self._socket.recv
        self._thread = threading.Thread(target=_pump, args=(fd, far), name="bgpy-pump", daemon=True)
        self._thread.start()

    def fileno(self) -> int:
        """See `PipeStream`."""
        return self._socket.fileno()

    def rest(self, size: int) -> Iterator[bytes]:
        """See `PipeStream`; of a writer that got away what comes within `REST_TIMEOUT` seconds."""
        deadline = time.monotonic() + REST_TIMEOUT
        while (left := deadline - time.monotonic()) > 0 and wait_socket(self._socket, timeout=left):
            data = self.read(size)
            if not data:
                return
            yield data

    def close(self) -> None:
        """Close the socket, and wait a bounded time for the thread."""
        self._socket.close()
        self._thread.join(REST_TIMEOUT)


def _pump(fd: int, far: socket.socket) -> None:
    try:
        with far:
            while data := os.read(fd, _CHUNK):
                far.sendall(data)
    except OSError:
        pass  # nobody reads it any more
    finally:
        os.close(fd)
