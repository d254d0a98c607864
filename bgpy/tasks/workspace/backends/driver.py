"""
Hear an interpreter of a process of its own: its word of its jobs, and what it writes, put into one order.

For whoever holds the other ends of a `bgpy.tasks.workspace.runner.Runner`: the server itself, or a keeper beside the process.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeVar

from bgpy.errors import BgpyError
from bgpy.tasks.workspace.channel import MARK_STDERR, MARK_STDOUT, Channel, Kind, Message
from bgpy.tasks.workspace.output import Cutter
from bgpy.tasks.workspace.progress import NEWS

if TYPE_CHECKING:
    from bgpy.system.streams import Stream

#: Bytes that are read of a pipe at once.
CHUNK = 65536
#: As plain numbers: members are slow to look up.
_NEWS, _ENDED = int(Kind.NEWS), int(Kind.ENDED)
_Stream = Literal["stdout", "stderr"]
T = TypeVar("T", contravariant=True)
U = TypeVar("U")


class Hears(Protocol[T]):
    """Whom a driver tells; as `bgpy.tasks.workspace.backends.Listener`, but that it has the ends of jobs read as it likes."""

    def output(self, number: int | None, stream: _Stream, data: bytes) -> None:
        """Take what was written."""

    def news(self, number: int, event: str, details: dict[str, Any]) -> None:
        """Take what a job tells of itself."""

    def ended(self, number: int, end: T) -> None:
        """Take the end of a job."""


class Pipe:
    """One of the interpreter's two streams, as the reader has it."""

    def __init__(self, source: Stream, stream: _Stream, flag: int, secret: bytes) -> None:
        self.source = source
        self.stream: _Stream = stream
        #: Of an ENDED whose mark is in this stream.
        self.flag = flag
        self.cutter = Cutter(secret)
        #: The number of the last job whose mark has come.
        self.marked: int | None = None


class Driver(Generic[U]):
    """
    Read what an interpreter sends and writes. For one thread, but for `running`, which whoever runs a job sets before.

    Parameters
    ----------
    jobs
        The channel of its jobs.
    stdout, stderr
        Its two streams.
    secret
        Of its marks, as it told with READY.
    read_end
        Makes of the fields of an ENDED what `Hears.ended` takes; what it raises is a breach of the rules.
    """

    def __init__(
        self,
        hears: Hears[U],
        jobs: Channel,
        stdout: Stream,
        stderr: Stream,
        secret: bytes,
        read_end: Callable[[dict[str, Any]], U],
    ) -> None:
        #: The job that runs, of calls that run as one the first.
        self.running: int | None = None
        #: How a job has broken the channel, where one has.
        self.broken: str | None = None
        self.pipes: dict[int, Pipe] = {}
        self.pipes[stdout.fileno()] = Pipe(stdout, "stdout", MARK_STDOUT, secret)
        self.pipes[stderr.fileno()] = Pipe(stderr, "stderr", MARK_STDERR, secret)
        self._hears = hears
        self._jobs = jobs
        self._read_end = read_end
        self._pending: tuple[int, U, list[Pipe]] | None = None

    def read(self, fd: int) -> bool:
        """Take what a descriptor of one of the streams or of the jobs' channel holds; False at its end."""
        pipe = self.pipes.get(fd)
        return self.read_jobs() if pipe is None else self._read_pipe(pipe)

    def read_jobs(self) -> bool:
        """Take what the jobs' channel holds; False at its end, or where it broke the rules: then the interpreter must end."""
        alive = self._jobs.fill()
        try:
            while alive and (message := self._jobs.next_message()) is not None:
                self._handle(message)
        except (BgpyError, KeyError, TypeError, ValueError) as error:
            self.broken = f"a job broke the worker's channel: {error}"
            return False
        return alive

    def finish(self) -> None:
        """Take all that the dead have left."""
        for pipe in self.pipes.values():
            for data in pipe.source.rest(CHUNK):
                self._take(pipe, data)
            if pipe.cutter.held:
                self._tell_output(pipe, pipe.cutter.finish())
        while self.read_jobs():
            pass
        self.running = None

    def _read_pipe(self, pipe: Pipe) -> bool:
        try:
            data = pipe.source.read(CHUNK)
        except BlockingIOError:
            return True
        self._take(pipe, data)
        return bool(data)

    def _take(self, pipe: Pipe, data: bytes) -> None:
        for piece in pipe.cutter.feed(data):
            if isinstance(piece, int):
                self._take_mark(pipe, piece)
            else:
                self._tell_output(pipe, piece)

    def _tell_output(self, pipe: Pipe, data: bytes) -> None:
        running = self.running
        self._hears.output(None if running == pipe.marked else running, pipe.stream, data)

    def _take_mark(self, pipe: Pipe, number: int) -> None:
        pipe.marked = number
        if self._pending is not None:
            self._try_end(*self._pending)

    def _handle(self, message: Message) -> None:
        kind, number, flags, fields = message
        if number != self.running:
            return
        if kind == _NEWS:
            event, details = fields["event"], fields["details"]
            self._hears.news(number, event, {name: details[name] for name in NEWS[event]})
        elif kind == _ENDED:
            waited = []
            for pipe in self.pipes.values():
                if flags & pipe.flag:
                    waited.append(pipe)
                elif pipe.cutter.held:
                    self._tell_output(pipe, pipe.cutter.finish())  # it looked like the beginning of a mark, and none was sent
            self._try_end(number, self._read_end(fields), waited)

    def _try_end(self, number: int, end: U, waited: list[Pipe]) -> None:
        """Tell the end of a job as soon as all marks that were sent have come."""
        if waited and any(pipe.marked != number for pipe in waited):
            self._pending = (number, end, waited)
            return
        self._pending = None
        self.running = None
        self._hears.ended(number, end)
