"""
Messages between the server and a worker.

A message is a frame (`bgpy.protocol.frames`): its kind, the number of the job or question, a few flags (in the frame's `part`),
and a dict of plain data, pickled, or nothing for an empty one. The text of a job travels as it is, without a pickle.
Values of the user are pickles within that data, with their buffers behind it; nobody opens them here. The reader of the plain
data refuses every class and function, so that no message of a worker can make the server run anything.

`encode` and `decode` do no I/O; `Channel` drives them over a socket.
"""

from __future__ import annotations

import enum
import io
import pickle
import socket
import threading
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from bgpy.errors import MessageTooLargeError, RemoteProtocolError
from bgpy.protocol.frames import HEADER, MAX_BUFFERS, SMALL_SIZE, Buffer, Frame, FrameReader, encode_frame, frame_size
from bgpy.system import wait_socket
from bgpy.tasks.workspace.values import Packed

#: Most bytes of one message, for both directions.
MAX_SIZE = 1 << 30
#: Below this a buffer is cheaper inside the pickle than as one more piece to send.
_SMALL_BUFFER = 32 * 1024
_PROTOCOL = 5


class Kind(enum.IntEnum):
    """Name the messages; those from 16 on come from the worker."""

    #: A job: its text, and by flags what kind it is and whether to clear.
    RUN = 1
    INTERRUPT = 2
    READ = 3
    WRITE = 4
    #: Calls that are run as one: their host and method, number and argument of each.
    CALL = 5
    #: A question to a host of calls: its method, and a plain argument.
    ASK = 6
    #: To the keeper of an interpreter elsewhere: what the connection is for; what has become of a job that it was given; an end.
    ATTACH = 7
    RESUME = 8
    KILL = 9
    LEAVE = 10
    #: The worker can run jobs: its process, the secret of its marks.
    READY = 16
    #: What a job tells, see `bgpy.tasks.workspace.progress`.
    NEWS = 17
    #: The end of a job: how (nothing for one that ran through without a value; of calls a list), and by flags the streams that
    #: got a mark.
    ENDED = 18
    ANSWER = 19
    #: From a keeper: what a job wrote, the end of its interpreter.
    OUTPUT = 20
    DIED = 21


#: The kinds as plain numbers.
KINDS = frozenset(map(int, Kind))
#: Flags of RUN.
FILE, SCRIPT, CLEAR_ONLY, CLEAR_FIRST = 1, 2, 4, 8
#: Flags of ENDED.
MARK_STDOUT, MARK_STDERR = 1, 2
_RUN = int(Kind.RUN)
_pack_header = HEADER.pack
_new_tuple = tuple.__new__


class Message(NamedTuple):
    """One message; `number` is that of the job, or of the question that is asked or answered."""

    kind: int
    number: int
    flags: int
    fields: dict[str, Any]


class _PlainUnpickler(pickle.Unpickler):
    """Read plain data only."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"plain data names {module}.{name}")


def encode(kind: int, number: int, flags: int, fields: Mapping[str, Any], max_size: int = MAX_SIZE) -> list[Buffer]:
    """
    Return the parts of a message in the order in which they go out; large buffers are not copied.

    Parameters
    ----------
    fields
        Plain data, with the users' values closed by `close_value`; of `Kind.RUN` the "text" alone.

    Raises
    ------
    MessageTooLargeError
        Nothing is to be sent.
    """
    buffers: list[memoryview] = []
    if kind == _RUN:
        data = fields["text"].encode("utf-8", "surrogatepass")
    elif not fields:
        data = b""
    else:
        data = _dump(fields, buffers)
    size = frame_size(data, buffers) if buffers else len(data)
    if size > max_size:
        raise MessageTooLargeError(size, max_size)
    if size <= SMALL_SIZE and not buffers:
        return [_pack_header(kind, 0, 0, flags, number, size) + data]  # as `encode_frame` does, in one step
    return encode_frame(kind, 0, flags, number, data, buffers)


def _dump(fields: Mapping[str, Any], buffers: list[memoryview]) -> bytes:
    def keep(buffer: pickle.PickleBuffer) -> bool:
        view = buffer.raw()
        if view.nbytes < _SMALL_BUFFER or len(buffers) >= MAX_BUFFERS:
            return True
        buffers.append(view)
        return False

    return pickle.dumps(fields, _PROTOCOL, buffer_callback=keep)


def decode(frame: Frame) -> Message:
    """Read a message; raises RemoteProtocolError for all that `encode` does not make, and runs nothing."""
    kind, _, flags, number, data, buffers = frame
    if kind not in KINDS:
        raise RemoteProtocolError(f"A worker's channel has a message of the unknown kind {kind}")
    if not data and not buffers:
        return _new_tuple(Message, (kind, number, flags, {}))
    try:
        if kind == _RUN:
            return _new_tuple(Message, (kind, number, flags, {"text": str(data, "utf-8", "surrogatepass")}))
        fields = _PlainUnpickler(io.BytesIO(data), buffers=buffers).load()
    except Exception as error:  # bytes that are no pickle can make it raise nearly anything
        raise RemoteProtocolError(f"A worker's channel has a message that is no plain data ({type(error).__name__})") from error
    if type(fields) is not dict:
        raise RemoteProtocolError("A worker's channel has a message that is no dict")
    return Message(kind, number, flags, fields)


def close_value(packed: Packed) -> tuple[Any, list[Any]]:
    """Return a packed value as the plain data that stands for it in a message."""
    return pickle.PickleBuffer(packed.pickle), [pickle.PickleBuffer(buffer) for buffer in packed.buffers]


def take_value(closed: Any) -> Packed:
    """Undo `close_value`; raises RemoteProtocolError for anything else."""
    try:
        data, buffers = closed
        if isinstance(data, (bytes, bytearray, memoryview)) and isinstance(buffers, list):
            return Packed(data, tuple(map(memoryview, buffers)))
    except (TypeError, ValueError):
        pass  # no pair, or what is no memory among the buffers
    raise RemoteProtocolError("A worker's channel has a value in a shape that this version does not know")


def close_call(number: int, argument: Any) -> list[Any]:
    """Return the number and the argument of a call, plain data or a `Packed`, as plain data."""
    return [number, close_value(argument), True] if isinstance(argument, Packed) else [number, argument, False]


def take_call(closed: Any) -> tuple[int, Any]:
    """Undo `close_call`; raises RemoteProtocolError for anything else."""
    try:
        number, argument, packed = closed
    except (TypeError, ValueError):
        raise RemoteProtocolError("A worker's channel has a call in a shape that this version does not know") from None
    return number, take_value(argument) if packed else argument


class Channel:
    """
    Send and receive messages over a connected socket.

    Sending is safe from several threads, one of which may be interrupted by a signal only where its handler does not raise.
    Receiving is for one thread at a time. All errors of the socket mean the same: the other end is gone.
    """

    def __init__(self, sock: socket.socket, max_size: int = MAX_SIZE) -> None:
        self._sock = sock
        self._send = sock.sendall
        self._receive_into = sock.recv_into
        self.max_size = max_size
        self._reader = FrameReader(max_size)
        self._frame: Frame | None = None  # the next one, where it has come whole and alone
        self._sending = threading.Lock()

    def fileno(self) -> int:
        """Return the descriptor to wait for."""
        return self._sock.fileno()

    def send(self, kind: int, number: int, fields: Mapping[str, Any], flags: int = 0) -> None:
        """Send a message; blocks while the other end does not read. Raises OSError, and MessageTooLargeError before all bytes."""
        parts = encode(kind, number, flags, fields, self.max_size)
        with self._sending:
            for part in parts:
                self._send(part)

    def receive(self, timeout: float | None = None) -> Message | None:
        """
        Return the next message, None at the end of the channel. Blocks.

        Raises
        ------
        TimeoutError
            None came in time. What has come of the next one is kept.
        RemoteProtocolError, MessageTooLargeError
            The other end broke the rules; the channel is of no more use.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while (message := self.next_message()) is None:
            if deadline is not None and not wait_socket(self._sock, timeout=deadline - time.monotonic()):
                raise TimeoutError
            if not self.fill():
                return None
        return message

    def fill(self) -> bool:
        """Receive once, and block if there is nothing; False at the end of the channel."""
        reader = self._reader
        alone = self._frame is None and reader.idle
        try:
            count = self._receive_into(reader.first_memory if alone else reader.memory())
        except OSError:  # the other end was killed before it had read all
            return False
        if alone:
            self._frame = reader.advance_first(count)
        else:
            reader.advance(count)
        return count > 0

    def next_message(self) -> Message | None:
        """Return the next message of what has been received, None while it is not whole. Raises as `receive`."""
        frame, self._frame = self._frame, None
        if frame is not None:
            return decode(frame)
        reader = self._reader
        if reader.idle:
            return None
        frame = reader.next_frame()
        if frame is None and reader.announced is not None:
            reader.allocate()
            frame = reader.next_frame()
        return None if frame is None else decode(frame)

    def shutdown(self) -> None:
        """Wake whoever waits in `receive`, and the other end: no more comes. Any thread; again is fine."""
        try:
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the other end was faster

    def finish(self) -> None:
        """Tell the other end that nothing more will be sent."""
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the other end is gone

    def close(self) -> None:
        """Close the socket; again is fine. Not while another thread uses the channel."""
        self._sock.close()
