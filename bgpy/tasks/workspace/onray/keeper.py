"""
The keeper beside an actor's process: what it writes and says goes to the server that is connected, and is kept while none is.

It runs no code of the user, and is no child of the actor's process, so that neither what a job does nor how Ray ends the actor
keeps it from telling of the end, and from ending all that the actor has started.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Mapping
from typing import Any, Literal

from bgpy.errors import BgpyError
from bgpy.system import process_start_time, workers
from bgpy.system.streams import PipeStream
from bgpy.tasks.workspace.backends import Outcome
from bgpy.tasks.workspace.backends.driver import Driver
from bgpy.tasks.workspace.channel import Channel, Kind, Message, close_call, take_call
from bgpy.tasks.workspace.onray.kept import Kept
from bgpy.tasks.workspace.onray.link import SECRET_SIZE, prove
from bgpy.tasks.workspace.outcomes import close_outcome, close_outcomes, take_outcome

#: Seconds for a connection to prove itself, and to say what it is for.
OPENING_TIMEOUT = 10.0
#: Seconds that a server which connects waits here for an interpreter that is not ready yet.
READY_TIMEOUT = 20.0
#: Flags of OUTPUT.
STDOUT, STDERR, BETWEEN = 1, 2, 4
_STREAMS: dict[Literal["stdout", "stderr"], int] = {"stdout": STDOUT, "stderr": STDERR}


def main(arguments: list[str]) -> int:
    """Leave the process that started this one, and keep the actor until it has ended."""
    if os.fork():
        return 0
    os.setsid()
    mark, start_time, *numbers = arguments
    raylet, pid, max_size, jobs, passing, listener, stdout, stderr = map(int, numbers)
    channel = Channel(socket.socket(fileno=jobs), max_size)
    keeper = Keeper(pid, mark, (raylet, start_time), channel, socket.socket(fileno=passing), socket.socket(fileno=listener))
    keeper.run(stdout, stderr)
    workers.leave(0)


class Keeper:
    """
    See the module.

    Parameters
    ----------
    pid
        The actor's process.
    mark
        ``NAME=value``, in the environment of all that it starts.
    raylet
        Ray's process of this node, and its start time.
    jobs
        The channel of its jobs.
    passing
        A socket to it: it sends the secret first, and takes connections for what is asked beside the jobs.
    listener
        Where servers connect.
    """

    def __init__(
        self, pid: int, mark: str, raylet: tuple[int, str], jobs: Channel, passing: socket.socket, listener: socket.socket
    ) -> None:
        self._pid = pid
        self._mark = mark.encode()
        self._raylet = raylet
        self._process = workers.open_process(pid)
        self._jobs = jobs
        self._passing = passing
        self._listener = listener
        self._secret = passing.recv(SECRET_SIZE, socket.MSG_WAITALL)
        self._ready = threading.Event()
        self._lock = threading.Lock()
        self._kept = Kept()
        self._driver: Driver[Outcome] | None = None
        self._link: Channel | None = None
        self._live = False
        self._killed = False

    def run(self, stdout: int, stderr: int) -> None:
        """Do all of it; returns when the actor has ended and that is told."""
        threading.Thread(target=self._accept, name="bgpy-accept", daemon=True).start()
        message = self._jobs.receive()
        if message is not None:
            driver = self._driver = Driver(
                self, self._jobs, PipeStream(stdout), PipeStream(stderr), message.fields["secret"], take_outcome
            )
            self._ready.set()
            self._drive(driver, stdout, stderr)
        self._end(self._driver)

    # The thread that hears the interpreter

    def _drive(self, driver: Driver[Outcome], stdout: int, stderr: int) -> None:
        end = self._jobs.fileno() if self._process is None else self._process
        watch = workers.Watch([self._jobs.fileno(), stdout, stderr, end])
        while True:
            ready = watch.wait()
            for fd in (stdout, stderr):
                if fd in ready and not driver.read(fd):
                    watch.drop(fd)
            if self._process in ready:
                return
            if self._jobs.fileno() in ready and not driver.read_jobs():
                if driver.broken is not None:
                    workers.end_with_all(self._pid)
                elif self._process is None:
                    return
                watch.drop(self._jobs.fileno())

    def _end(self, driver: Driver[Outcome] | None) -> None:
        workers.end_group(self._pid)
        workers.end_marked(self._mark)
        if driver is not None:
            driver.finish()
        self._listener.close()
        broken = None if driver is None else driver.broken
        link = self._link
        # Ray itself takes its time to be sure that a node is gone.
        lost = process_start_time(self._raylet[0]) != self._raylet[1]
        self._send(link, Kind.DIED, 0, {"killed": self._killed, "broken": broken, "lost": lost})
        if link is not None:
            link.finish()

    def output(self, number: int | None, stream: Literal["stdout", "stderr"], data: bytes) -> None:
        """See `Hears`."""
        with self._lock:
            fields = {"data": data, "written": self._kept.write(number, stream, data)}
            link = self._link if self._live else None
        self._send(link, Kind.OUTPUT, number or 0, fields, _STREAMS[stream] | (BETWEEN if number is None else 0))

    def news(self, number: int, event: str, details: dict[str, Any]) -> None:
        """See `Hears`."""
        self._send(self._link if self._live else None, Kind.NEWS, number, {"event": event, "details": details})

    def ended(self, number: int, end: Outcome) -> None:
        """See `Hears`."""
        with self._lock:
            self._kept.end(number, end)
            link = self._link if self._live else None
        self._send(link, Kind.ENDED, number, _close(end))

    def _send(self, link: Channel | None, kind: Kind, number: int, fields: dict[str, Any], flags: int = 0) -> None:
        """Send to a server; not with the lock, for it may be slow to read."""
        if link is not None:
            try:
                link.send(kind, number, fields, flags)
            except OSError:
                self._drop(link)

    def _drop(self, link: Channel) -> None:
        link.shutdown()
        with self._lock:
            if self._link is link:
                self._link = None

    # The threads of the connections

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return  # it is over
            threading.Thread(target=self._open, args=(sock,), name="bgpy-connection", daemon=True).start()

    def _open(self, sock: socket.socket) -> None:
        channel = Channel(sock, self._jobs.max_size)
        try:
            prove(sock, self._secret, b"keeper", b"server", OPENING_TIMEOUT)
            message = channel.receive(OPENING_TIMEOUT)
            if message is not None and message.kind == Kind.ATTACH:
                self._attach(channel, sock, message)
        except (BgpyError, OSError) as error:
            logging.getLogger("bgpy.keeper").warning("A connection ended: %s", error)
        finally:
            channel.close()

    def _attach(self, channel: Channel, sock: socket.socket, message: Message) -> None:
        purpose = message.fields["purpose"]
        if purpose == "ask":
            channel.send(Kind.ANSWER, message.number, {"attached": self._link is not None, **self._kept.hello()})
        elif purpose == "jobs":
            self._serve(channel)
        else:
            # Answered by the actor itself: nothing comes before that answer, so that all that follows is for it.
            socket.send_fds(self._passing, [message.fields["session"] + purpose[:1].encode()], [sock.fileno()])

    def _serve(self, channel: Channel) -> None:
        """Be the keeper of one server, until it goes or another one comes."""
        ready = self._ready.wait(READY_TIMEOUT)
        before = self._link
        if before is not None:
            before.shutdown()  # should it read no more, it must not keep the next one waiting
        with self._lock:
            self._link, self._live = channel, False
            hello = {"ready": ready, **self._kept.hello()}
        channel.send(Kind.READY, 0, hello)
        try:
            while (message := channel.receive()) is not None and self._obey(channel, message):
                pass
        finally:
            self._drop(channel)

    def _obey(self, channel: Channel, message: Message) -> bool:
        kind = message.kind
        if kind == Kind.KILL:
            self._killed = True
            workers.end_with_all(self._pid)
        elif kind == Kind.LEAVE:
            self._jobs.finish()
        elif kind == Kind.RESUME:
            self._resume(channel, message.fields.get("seen", {}))
        elif kind in (Kind.RUN, Kind.CALL):
            return self._run(channel, message)
        return True

    def _run(self, channel: Channel, message: Message) -> bool:
        """Hand a job over, but of no server that another one has taken the place of."""
        if message.kind == Kind.RUN:
            calls: list[tuple[int, Any]] = []
            fields = {"text": message.fields.get("text", "")}
        else:
            calls = [take_call(closed) for closed in message.fields["calls"]]
            fields = {**message.fields, "calls": [close_call(*call) for call in calls]}
        assert self._driver is not None
        with self._lock:
            if self._link is not channel:
                return False
            self._kept.begin(message.number, tuple(number for number, _ in calls))
            self._driver.running = message.number
            self._live = True
            try:
                self._jobs.send(message.kind, message.number, fields, message.flags)
            except OSError:
                pass  # it has died, and the other thread tells so
        return True

    def _resume(self, link: Channel, seen: Mapping[str, int] | None) -> None:
        """Tell a server that was away of the job that it gave before, unless it knows how that ended (None), and go on."""
        # With the lock: what is written meanwhile comes behind.
        with self._lock:
            number, outcome = self._kept.number, self._kept.outcome
            if self._link is not link:
                return
            if seen is not None and number is not None:
                for stream, (data, written) in self._kept.output(seen).items():
                    link.send(Kind.OUTPUT, number, {"data": data, "written": written}, _STREAMS[stream])
                if outcome is not None:
                    link.send(Kind.ENDED, number, _close(outcome))
            self._live = True


def _close(outcome: Outcome) -> dict[str, Any]:
    return close_outcomes([outcome._replace(rest=()), *outcome.rest]) if outcome.rest else close_outcome(outcome)
