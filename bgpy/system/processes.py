"""Processes: a pid alone may mean another one tomorrow, so each is named by pid and start time."""

from __future__ import annotations

import errno
import os
import select
import signal
import sys
import time

from bgpy.system.sockets import wait_socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

WINDOWS = os.name == "nt"
LINUX = sys.platform == "linux"


def process_start_time(pid: int) -> str | None:
    """Tell when a process started, as a text to compare only; None when there is no such process (a zombie is none)."""
    if WINDOWS:
        from bgpy.system import windows

        return windows.process_start_time(pid)
    if LINUX:
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()  # the name before it may hold spaces and brackets
        except (FileNotFoundError, ProcessLookupError):
            return None
        # The first thread may have ended while others live on, with all files and locks: only a last thread makes a zombie.
        return None if fields[0] in (b"Z", b"X") and int(fields[17]) <= 1 else fields[19].decode("ascii")
    return _ps_start_time(pid)


def _ps_start_time(pid: int) -> str | None:
    import subprocess

    # One column each time: by POSIX, and on macOS, all that follows an equals sign is a heading, commas included.
    command = ["ps", "-o", "stat=", "-o", "lstart=", "-p", str(pid)]
    line = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C"}).stdout
    state, _, start = line.strip().partition(" ")
    return None if not start or state.startswith("Z") else start.strip()


def process_alive(pid: int, start_time: str) -> bool:
    """Tell whether the process that had this pid and start time still runs."""
    return process_start_time(pid) == start_time


def kill_process(pid: int, start_time: str) -> bool:
    """
    End a process at once, without a chance to clean up; False when it is gone or its pid belongs to another one now.

    Returns before the process has ended: see `wait_for_end`. Raises PermissionError for somebody else's process.
    """
    if WINDOWS:
        from bgpy.system import windows

        return windows.kill_process(pid, start_time)
    pidfd = _pidfd(pid)  # first, so that what is compared and what is killed are one process
    try:
        if not process_alive(pid, start_time):
            return False
        if pidfd is None:
            os.kill(pid, signal.SIGKILL)
        else:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except ProcessLookupError:
        return False
    finally:
        if pidfd is not None:
            os.close(pidfd)
    return True


def wait_for_end(pid: int, start_time: str, timeout: float | None) -> bool:
    """Wait until that process has ended. Blocks; False when `timeout` seconds pass first."""
    if WINDOWS:
        from bgpy.system import windows

        return windows.wait_for_end(pid, start_time, timeout)
    pidfd = _pidfd(pid)
    if pidfd is None:
        return _wait_without_pidfd(pid, start_time, timeout)
    try:
        return not process_alive(pid, start_time) or wait_socket(pidfd, timeout=timeout)
    finally:
        os.close(pidfd)


def _pidfd(pid: int) -> int | None:
    """Open a descriptor of a process; None where there is no such process or the kernel has none (before Linux 5.3, macOS)."""
    if not LINUX or not hasattr(os, "pidfd_open"):
        return None
    try:
        return os.pidfd_open(pid)
    except OSError as error:
        if error.errno in (errno.ESRCH, errno.ENOSYS, errno.EINVAL):
            return None
        raise


def _wait_without_pidfd(pid: int, start_time: str, timeout: float | None) -> bool:
    if hasattr(select, "kqueue"):
        bsd: Any = select  # the type checker knows Linux's names only
        queue = bsd.kqueue()
        try:
            event = bsd.kevent(pid, bsd.KQ_FILTER_PROC, bsd.KQ_EV_ADD | bsd.KQ_EV_ONESHOT, bsd.KQ_NOTE_EXIT)
            queue.control([event], 0, 0)
            return not process_alive(pid, start_time) or bool(
                queue.control(None, 1, None if timeout is None else max(timeout, 0))
            )
        except ProcessLookupError:
            return True
        finally:
            queue.close()
    # An old Linux kernel tells the end of a process to its parent only: to look again and again is all there is.
    import threading

    never = threading.Event()
    deadline = None if timeout is None else time.monotonic() + timeout
    while process_alive(pid, start_time):
        if deadline is not None and time.monotonic() >= deadline:
            return False
        never.wait(0.02)
    return True
