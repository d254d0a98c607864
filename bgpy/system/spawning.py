"""
Start a process that runs other people's code, hand sockets over to it, and keep hold of it from outside.

On Windows a Job Object does what process groups do elsewhere, see `job_objects`.
"""

from __future__ import annotations

import os
import signal
import socket

from bgpy.system import workers

TYPE_CHECKING = False
if TYPE_CHECKING:
    import subprocess
    from typing import TypeAlias

    from bgpy.system.job_objects import JobProcess

    Held: TypeAlias = "Spawned | JobProcess"

WINDOWS = os.name == "nt"


def spawn_worker(argv: list[str], inherited: list[socket.socket], stdout: int, stderr: int) -> Held:
    """
    Start a worker: a session of its own, no input, and of this process's descriptors and sockets only those that are named.

    It takes the sockets over with `take_inherited`, for which `argv` tells it their numbers.

    Raises OSError where the program cannot be started, RuntimeError where there is nothing to keep hold of it with.
    """
    if WINDOWS:
        from bgpy.system import job_objects

        return job_objects.spawn(argv, inherited, stdout, stderr)
    import subprocess

    numbers = [sock.fileno() for sock in inherited]
    return Spawned(
        subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, pass_fds=numbers, start_new_session=True)
    )


def take_inherited(numbers: list[int]) -> list[socket.socket]:
    """Take over, in a worker, the sockets that it was started with, by their numbers there; its own children do not get them."""
    if WINDOWS:
        from bgpy.system import job_objects

        return job_objects.take_shared(len(numbers))  # the numbers are those of the other process
    for fd in numbers:
        os.set_inheritable(fd, False)
    return [socket.socket(fileno=fd) for fd in numbers]


class Spawned:
    """A worker that was started here, on POSIX. It leads a session, and so a process group, of its own."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.pid = process.pid
        self._process = process

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end and return its exit code, see `workers.describe_exit`; raises subprocess.TimeoutExpired."""
        return self._process.wait(timeout)

    def wake(self) -> None:
        """Let it go on if it has been stopped (SIGSTOP); nothing happens to one that runs or has ended."""
        self._process.send_signal(signal.SIGCONT)

    def end_all(self) -> None:
        """Kill it with its group. Nothing happens once it has been waited for: then the number may be another one's."""
        if self._process.returncode is None:
            workers.end_group(self.pid)
            self._process.kill()

    def end_rest(self, patience: float) -> None:
        """End what it has left, now that it ends by itself; before it is waited for. Its exit code stays what it is."""
        self.end_all()

    def peak_memory(self) -> int:
        """Tell the most bytes that it has had, 0 where that is not known: who has waited for it knows."""
        return 0

    def close(self) -> None:
        """Let go of it; when it has been waited for."""
