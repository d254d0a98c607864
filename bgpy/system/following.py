"""Follow a file that a process writes to, for as long as the process lives."""

from __future__ import annotations

import os
import select
import sys

from bgpy.system.processes import _pidfd, process_alive, wait_for_end

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

LINUX = sys.platform == "linux"
_IN_MODIFY = 0x2  # <sys/inotify.h>
_LOOK_EVERY = 0.5


def follow_file(path: str, pid: int, start_time: str) -> Iterator[None]:
    """
    Yield at once, whenever the file has changed, and once more when that process has ended. Blocks in between.

    On Linux the kernel tells of each change. Elsewhere the file is to be looked at twice a second: Python has no common way to
    wait for a file there, and the wait is at least for the end of the process. Raises OSError where there is no such file.
    """
    pidfd = _pidfd(pid)
    watch = None
    try:
        watch = _watch(path) if pidfd is not None else None
        if pidfd is None or watch is None:
            while not wait_for_end(pid, start_time, _LOOK_EVERY):
                yield
        elif process_alive(pid, start_time):
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            poll.register(watch, select.POLLIN)
            yield
            while pidfd not in (ready for ready, _ in poll.poll()):
                os.read(watch, 65536)
                yield
        yield  # what was written just before the end
    finally:
        for fd in (pidfd, watch):
            if fd is not None:
                os.close(fd)


def _watch(path: str) -> int | None:
    """Open a descriptor that is readable when the file changes; None where the system has none."""
    if not LINUX:
        return None
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "inotify_init1"):
        return None
    fd: int = libc.inotify_init1(os.O_CLOEXEC)
    if fd < 0:
        return None  # the user's limit of watches is reached, or the kernel has none: look now and then
    if libc.inotify_add_watch(fd, os.fsencode(path), _IN_MODIFY) < 0:
        error = ctypes.get_errno()
        os.close(fd)
        raise OSError(error, os.strerror(error), path)
    return fd
