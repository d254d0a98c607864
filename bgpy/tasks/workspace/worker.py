"""
The process of a ``process`` workspace, started by `bgpy.tasks.workspace.backends.process` as a script.

On Linux it is two: the one that was started adopts whatever the jobs start and lose, runs no code of the user, and ends it all
when it is told to, or when nobody is left to tell it. Its child is the interpreter. Elsewhere it is one process, the interpreter.

A script and no ``-m``, so that what lies in the working directory cannot pass for a module of the standard library.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":
    sys.path[:1] = []  # the folder of this script
    _root = os.path.abspath(__file__).rsplit(os.sep, 4)[0]
    for _index, _entry in enumerate(sys.path):
        if os.path.isdir(os.path.join(_entry, "bgpy")):
            if not os.path.samefile(_entry, _root):
                sys.path.insert(_index, _root)  # before another bgpy
            break
    else:
        sys.path.append(_root)

import select
import signal
import socket
import struct
import threading

from bgpy.system import spawning, workers

#: What the reaper says last: the wait status of the interpreter, its peak memory in bytes.
REPORT = struct.Struct("!iq")


def main(arguments: list[str]) -> int:
    """Set the process up, and run jobs until there are no more to come."""
    *numbers, limit, max_size = map(int, arguments)
    *channels, lifeline = spawning.take_inherited(numbers)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if workers.adopt_orphans():
        # SIGCHLD may come at once, so all is prepared before the fork.
        reaper = Reaper(lifeline.fileno())
        pid = os.fork()
        if pid:
            for channel in channels:
                channel.close()
            workers.leave(reaper.run(pid))
        reaper.undo()
        lifeline.close()
        workers.die_with_parent(signal.SIGKILL)
        workers.lead_own_group()
    else:
        threading.Thread(target=end_with, args=(lifeline,), name="bgpy-lifeline", daemon=True).start()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=lifeline.close)  # lest the server wait for the children of the dead
    # Not before: the reaper needs nothing of it.
    from bgpy.tasks.workspace.channel import Channel
    from bgpy.tasks.workspace.runner import Runner

    jobs, control, variables = (Channel(sock, max_size) for sock in channels)
    runner = Runner(jobs)
    runner.answer(control, variables)
    runner.serve(limit)
    return 0


def end_with(lifeline: socket.socket) -> None:
    """Wait for the server to end or to say so, and kill this process and its group. Where there is no reaper."""
    try:
        lifeline.recv(1)
    except OSError:
        pass  # a broken lifeline is an end too
    workers.end_own_group()


class Reaper:
    """Wait for the interpreter to end, or for the word that it shall; then end all that is left, and report."""

    def __init__(self, lifeline: int) -> None:
        self._lifeline = lifeline
        self._signals, wake = os.pipe()
        self._wake = wake
        for fd in (self._signals, wake):
            os.set_blocking(fd, False)
        self._before = {number: signal.signal(number, _note) for number in (signal.SIGCHLD, signal.SIGTERM)}
        self._before[signal.SIGHUP] = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        self._interpreter = 0
        self._report: bytes | None = None

    def undo(self) -> None:
        """Give up, in the interpreter's process, what it got from the reaper by the fork."""
        signal.set_wakeup_fd(-1)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        os.close(self._signals)
        os.close(self._wake)

    def run(self, interpreter: int) -> int:
        """Do all of it, and return the exit code."""
        self._interpreter = interpreter
        # The thread of the server that started us ends only with the server.
        workers.die_with_parent(signal.SIGTERM)
        poll = select.poll()
        poll.register(self._lifeline, select.POLLIN)
        poll.register(self._signals, select.POLLIN)
        while True:
            while workers.reap_child(self._note_end):
                pass
            if self._report is not None:
                break
            ready = [fd for fd, _ in poll.poll()]
            if self._lifeline in ready or (self._signals in ready and signal.SIGTERM in os.read(self._signals, 4096)):
                break
        workers.end_children(self._note_end)
        try:
            os.write(self._lifeline, self._report or b"")
        except OSError:
            pass  # nobody is left to hear it
        return 0

    def _note_end(self, pid: int, status: int, memory: int) -> None:
        if pid == self._interpreter:
            self._report = REPORT.pack(status, memory)


def _note(number: int, frame: object) -> None:
    """Handle a signal by nothing but its byte in the wake-up pipe."""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
