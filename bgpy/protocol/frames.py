"""
Frames: a fixed header, the lengths of the buffers, one pickle, the buffers, and, where asked for, a MAC.

Sans-I/O. Layout and limits: docs/protocol.rst, "Frame". A reader hands out the memory to fill next, so that a large buffer is
read straight to the place where it stays; a small frame is cut out of one receive.
"""

from __future__ import annotations

import hmac
import struct
from typing import NamedTuple

from bgpy.errors import MessageTooLargeError, RemoteProtocolError
from bgpy.system import anonymous_memory

#: kind, flags, number of buffers, part, request number, length of the pickle.
HEADER = struct.Struct("!BBHIQQ")
HEADER_SIZE = HEADER.size
_unpack_header = HEADER.unpack_from
#: The same with all up to the part as one number: what is usual is packed, and known again, in one step.
_BRIEF = struct.Struct("!QQQ")
pack_brief = _BRIEF.pack
unpack_brief = _BRIEF.unpack_from
_LENGTH = struct.Struct("!Q")
_COUNT = struct.Struct("!Q")

#: Request: the client waits for a response.
FLAG_AWAIT = 0x01
#: Request: the client wants a confirmation as soon as the request is claimed.
FLAG_CONFIRM = 0x02
#: Request: the client takes responses that are not the last one.
FLAG_STREAM = 0x04
#: Answer: more frames follow for this request.
FLAG_MORE = 0x08
#: The pickle holds bytecode: both ends need the same minor version of Python.
FLAG_BY_VALUE = 0x10
#: Reserved: buffers of kind BUFFER_SHARED lie in shared memory.
FLAG_SHARED = 0x80
_UNKNOWN_FLAGS = ~(FLAG_AWAIT | FLAG_CONFIRM | FLAG_STREAM | FLAG_MORE | FLAG_BY_VALUE)

#: The kind of a buffer is the top byte of its length field.
BUFFER_INLINE = 0
#: Reserved for buffers in shared memory.
BUFFER_SHARED = 1
_KIND_SHIFT = 56
_LENGTH_MASK = (1 << _KIND_SHIFT) - 1

MAC_SIZE = 32
MAX_BUFFERS = 1000
#: A frame that fits here is read with one receive. Header and lengths of a full frame fit too. One for each connection.
SMALL_SIZE = 8192
#: From here on memory is taken by page when it is filled, not when it is announced (a bytearray is cleared at once).
_PAGED_SIZE = 1 << 20

Buffer = bytes | bytearray | memoryview
#: Makes a named tuple without the detour over its own constructor in Python, once for every frame.
_new_tuple = tuple.__new__


def brief(kind: int, flags: int) -> int:
    """Return the first number of a header in brief, of a first part without buffers."""
    return kind << 56 | flags << 48


class Header(NamedTuple):
    """The header of a frame; `size` counts all bytes of pickle and buffers."""

    kind: int
    flags: int
    part: int
    number: int
    size: int


class Frame(NamedTuple):
    """One frame as it was read: `pickle` and `buffers` are its own memory, writable where they were large."""

    kind: int
    flags: int
    part: int
    number: int
    pickle: bytes | bytearray | memoryview
    buffers: list[memoryview]


#: A frame as a bare tuple: half the price of a `Frame`, where every request passes.
FrameFields = tuple[int, int, int, int, bytes | bytearray | memoryview, list[memoryview]]


class FrameMac:
    """
    Authenticate the frames of one direction of one connection.

    HMAC-SHA256 over a 64-bit count (not sent), the header, the lengths, the pickle, the buffers: docs/protocol.rst, "MAC".
    Not thread-safe: one writer, or one reader.
    """

    __slots__ = ("_count", "_key")

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._count = 0

    def tag(self, parts: list[Buffer]) -> bytes:
        """Return the 32-byte tag of the next frame, given as its parts in order."""
        mac = hmac.new(self._key, _COUNT.pack(self._count), "sha256")
        self._count += 1
        for part in parts:
            mac.update(part)
        return mac.digest()


def encode_frame(
    kind: int, flags: int, part: int, number: int, pickle: Buffer, buffers: list[memoryview], mac: FrameMac | None = None
) -> list[Buffer]:
    """
    Return the parts of a frame in the order in which they go out; large ones are not copied.

    Parameters
    ----------
    pickle
        The in-band bytes.
    buffers
        Contiguous byte views, at most `MAX_BUFFERS`.
    mac
        Adds the tag of this frame; frames must go out in the order in which they were encoded.
    """
    head = HEADER.pack(kind, flags, len(buffers), part, number, len(pickle))
    parts: list[Buffer]
    if not buffers and len(pickle) <= SMALL_SIZE:
        parts = [head + pickle]
    else:
        lengths = b"".join([_LENGTH.pack(buffer.nbytes) for buffer in buffers])
        parts = [head + lengths, pickle, *buffers]
    if mac is not None:
        parts.append(mac.tag(parts))
    return parts


def frame_size(pickle: Buffer, buffers: list[memoryview]) -> int:
    """Return the size in bytes that a limit is compared with: pickle and buffers."""
    return len(pickle) + sum([buffer.nbytes for buffer in buffers]) if buffers else len(pickle)


class FrameReader:
    """
    Cut frames out of a stream of bytes that somebody else reads.

    Ask `next_frame`; while it has none, fill some of `memory()` and say how much with `advance`. When a large frame's header has
    been read, `announced` is that header: the caller may refuse it, or calls `allocate` and asks again. It is set also where the
    reader itself refuses the size. Not thread-safe.

    Parameters
    ----------
    max_size
        Most bytes of pickle and buffers together.
    mac
        Checks the tag of each frame before anybody sees it.
    """

    def __init__(self, max_size: int, mac: FrameMac | None = None) -> None:
        self.max_size = max_size
        self.announced: Header | None = None
        self._mac = mac
        self._tail_size = 0 if mac is None else MAC_SIZE
        #: What `first_memory` and `memory` show, for who looks at the header of a frame that has just arrived.
        self.small = bytearray(SMALL_SIZE)
        self._view = memoryview(self.small)
        #: What `memory` returns while the reader is idle.
        self.first_memory = self._view
        #: Whether no byte of an unfinished frame has arrived. Kept, not asked for: every request looks here.
        self.idle = True
        self._start = 0
        self._end = 0
        self._head = b""  # header and lengths of the large frame under way
        self._lengths: list[int] = []
        self._parts: list[memoryview] = []
        self._part = 0
        self._filled = 0

    def memory(self) -> memoryview:
        """Return the memory to fill next, never empty."""
        if not self._end:
            if self._parts:
                return self._parts[self._part][self._filled :]
            return self._view
        if self._start:
            # Only the beginning of a frame is ever moved: at most SMALL_SIZE bytes, usually none.
            rest = self._view[self._start : self._end].tobytes()
            self._view[: len(rest)] = rest
            self._start, self._end = 0, len(rest)
        return self._view[self._end :]

    def advance_first(self, count: int) -> Frame | None:
        """
        Do as `advance` and `next_frame` do, for a reader that was idle: the usual frame, small and whole, in one step.

        None means that `next_frame` is to be asked.
        """
        if count >= HEADER_SIZE and self._mac is None:
            kind, flags, buffers, part, number, length = _unpack_header(self.small)
            if length + HEADER_SIZE == count and not buffers and not flags & _UNKNOWN_FLAGS and length <= self.max_size:
                return _new_tuple(Frame, (kind, flags, part, number, self.small[HEADER_SIZE:count], []))
        self._end = count
        self.idle = False
        return None

    def advance(self, count: int) -> None:
        """Take note that `count` bytes of `memory()` were filled."""
        self.idle = False
        if self._parts:
            self._filled += count
            self._next_part()
        else:
            self._end += count

    def allocate(self) -> None:
        """Take the memory for the announced frame and fill in what has arrived of it."""
        self.announced = None
        sizes = [*self._lengths, self._tail_size] if self._tail_size else self._lengths
        self._parts = [memoryview(anonymous_memory(n) if n >= _PAGED_SIZE else bytearray(n)) for n in sizes]
        self._part = self._filled = 0
        self._next_part()
        while self._start < self._end and self._part < len(self._parts):
            target = self._parts[self._part]
            count = min(target.nbytes - self._filled, self._end - self._start)
            target[self._filled : self._filled + count] = self._view[self._start : self._start + count]
            self._start += count
            self._filled += count
            self._next_part()
        if self._start == self._end:
            self._start = self._end = 0

    def next_frame(self) -> Frame | None:
        """
        Return the next whole frame, or None while bytes are missing.

        Raises
        ------
        RemoteProtocolError
            Unknown flags, too many buffers, a reserved kind of buffer, or a wrong MAC.
        MessageTooLargeError
            The header announces more than `max_size`; nothing was allocated.
        """
        if self._head:
            return self._finish_large()
        available = self._end - self._start
        if available < HEADER_SIZE:
            return None
        kind, flags, buffers, part, number, length = HEADER.unpack_from(self.small, self._start)
        if flags & _UNKNOWN_FLAGS or buffers > MAX_BUFFERS:
            raise RemoteProtocolError(f"A frame has unknown flags ({flags:#04x}) or too many buffers ({buffers})")
        if not buffers and length <= SMALL_SIZE - HEADER.size - self._tail_size:
            return self._cut_small(kind, flags, part, number, length)
        table = HEADER.size + _LENGTH.size * buffers
        if length <= self.max_size and available < table:
            return None
        self._announce(kind, flags, part, number, length, table)
        return None

    def _cut_small(self, kind: int, flags: int, part: int, number: int, length: int) -> Frame | None:
        if length > self.max_size:
            self.announced = Header(kind, flags, part, number, length)
            raise MessageTooLargeError(length, self.max_size)
        begin = self._start + HEADER_SIZE
        end = begin + length
        if end + self._tail_size > self._end:
            return None
        pickle = bytes(self._view[begin:end])
        if self._mac is not None:
            self._check(self._view[end : end + MAC_SIZE].tobytes(), [self._view[self._start : begin], pickle])
            end += MAC_SIZE
        self._start = end
        if end == self._end:
            self._start = self._end = 0
            self.idle = True
        return _new_tuple(Frame, (kind, flags, part, number, pickle, []))

    def _announce(self, kind: int, flags: int, part: int, number: int, length: int, table: int) -> None:
        lengths = [length]
        size = length
        if size <= self.max_size:
            for offset in range(self._start + HEADER.size, self._start + table, _LENGTH.size):
                (field,) = _LENGTH.unpack_from(self.small, offset)
                if field >> _KIND_SHIFT != BUFFER_INLINE:
                    raise RemoteProtocolError(f"A frame has a buffer of the reserved kind {field >> _KIND_SHIFT}")
                lengths.append(field & _LENGTH_MASK)
            size = sum(lengths)
        self.announced = Header(kind, flags, part, number, size)
        if size > self.max_size:
            raise MessageTooLargeError(size, self.max_size)
        self._head = self._view[self._start : self._start + table].tobytes()
        self._start += table
        self._lengths = lengths

    def _next_part(self) -> None:
        while self._part < len(self._parts) and self._filled == self._parts[self._part].nbytes:
            self._part += 1
            self._filled = 0

    def _finish_large(self) -> Frame | None:
        if not self._parts or self._part < len(self._parts):
            return None
        kind, flags, buffers, part, number, _ = HEADER.unpack_from(self._head)
        parts = self._parts
        if self._mac is not None:
            self._check(parts.pop().tobytes(), [self._head, *parts])
        self._head = b""
        self._parts = []
        self.idle = not self._end
        return Frame(kind, flags, part, number, parts[0], parts[1 : 1 + buffers])

    def _check(self, tag: bytes, parts: list[Buffer]) -> None:
        assert self._mac is not None
        if not hmac.compare_digest(tag, self._mac.tag(parts)):
            raise RemoteProtocolError("A frame has a wrong MAC")
