"""
The Windows sides of this package's functions.

No Windows machine has run them yet: the tests replace the platform's modules, so each call stands here plainly, with its
documented values.
"""

from __future__ import annotations

import errno
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from subprocess import Popen
    from typing import Any

_LOCKED_BYTE = 0x7FFF0000  # a lock forbids reading what it covers, so it covers a byte far past the end of any lock file
_WAIT_TIMEOUT = 0x102
_INFINITE = 0xFFFFFFFF
_ERROR_ACCESS_DENIED = 5
_ERROR_INVALID_PARAMETER = 87
_SYNCHRONIZE_QUERY_TERMINATE = 0x00100000 | 0x1000 | 0x0001
_CREATE_NEW_PROCESS_GROUP = 0x00000200  # no Ctrl-C from the parent's console
_CREATE_BREAKAWAY_FROM_JOB = 0x01000000
# Not DETACHED_PROCESS: without any console, each console program that the server starts would open a window.
CREATE_NO_WINDOW = 0x08000000


def module(name: str) -> Any:
    """Import a module of this platform; untyped, because the type checker runs elsewhere."""
    return __import__(name)


def resident_memory() -> int:
    """Tell the working set in bytes."""
    return _memory_counter(1)


def committed_memory() -> int:
    """Tell how many bytes of memory this process has for itself, in pages or swapped out."""
    return _memory_counter(6)


def _memory_counter(index: int) -> int:
    ctypes = module("ctypes")
    # PROCESS_MEMORY_COUNTERS: two 32-bit fields (size, page faults), then eight sizes, of which the working set is the second and
    # what is committed ("pagefile usage") the seventh.
    width = ctypes.sizeof(ctypes.c_size_t)
    size = 8 + 8 * width
    counters = ctypes.create_string_buffer(size)
    ctypes.c_uint32.from_buffer(counters).value = size
    kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)
    if not kernel32.K32GetProcessMemoryInfo(ctypes.c_void_p(-1), counters, size):  # -1: this process
        raise ctypes.WinError(ctypes.get_last_error())
    return int(ctypes.c_size_t.from_buffer(counters, 8 + index * width).value)


def open_process(pid: int, start_time: str | None = None) -> Any:
    """Open a running process, if a start time is given only the one that has it; None when there is none."""
    winapi = module("_winapi")
    try:
        handle = winapi.OpenProcess(_SYNCHRONIZE_QUERY_TERMINATE, False, pid)
    except OSError as error:
        if getattr(error, "winerror", None) == _ERROR_INVALID_PARAMETER:  # no such process
            return None
        raise
    # A process that has ended can be opened for as long as anybody holds a handle of it.
    running = winapi.WaitForSingleObject(handle, 0) == _WAIT_TIMEOUT
    if running and (start_time is None or start_time_of(handle) == start_time):
        return handle
    winapi.CloseHandle(handle)
    return None


def start_time_of(handle: Any) -> str:
    """Tell when the process of a handle started, in 100 ns."""
    ctypes = module("ctypes")
    times = [ctypes.c_uint64() for _ in range(4)]  # creation, exit, kernel, user
    kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)
    if not kernel32.GetProcessTimes(ctypes.c_void_p(handle), *(ctypes.byref(each) for each in times)):
        raise ctypes.WinError(ctypes.get_last_error())
    return str(times[0].value)


def process_start_time(pid: int) -> str | None:
    """Tell the start time of a running process in 100 ns, or None."""
    handle = open_process(pid)
    if handle is None:
        return None
    try:
        return start_time_of(handle)
    finally:
        module("_winapi").CloseHandle(handle)


def kill_process(pid: int, start_time: str) -> bool:
    """End that process; False when it is gone."""
    handle = open_process(pid, start_time)
    if handle is None:
        return False
    try:
        module("_winapi").TerminateProcess(handle, 1)
    finally:
        module("_winapi").CloseHandle(handle)
    return True


def wait_for_end(pid: int, start_time: str, timeout: float | None) -> bool:
    """Wait until that process has ended; False when the time is up first."""
    handle = open_process(pid, start_time)
    if handle is None:
        return True
    try:
        milliseconds = _INFINITE if timeout is None else int(max(timeout, 0) * 1000)
        return bool(module("_winapi").WaitForSingleObject(handle, milliseconds) != _WAIT_TIMEOUT)
    finally:
        module("_winapi").CloseHandle(handle)


def lock(fd: int, *, wait: bool) -> bool:
    """Lock a file; False when another process holds the lock and this one shall not wait."""
    msvcrt = module("msvcrt")
    os.lseek(fd, _LOCKED_BYTE, os.SEEK_SET)
    while True:
        try:
            msvcrt.locking(fd, msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
            return True
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EDEADLK):
                raise
            if not wait:
                return False  # LK_LOCK however gives up after ten seconds, and is asked again


def unlock(fd: int) -> None:
    """Unlock a file."""
    msvcrt = module("msvcrt")
    os.lseek(fd, _LOCKED_BYTE, os.SEEK_SET)
    msvcrt.locking(fd, msvcrt.LK_UNLCK, 1)


def spawn(argv: list[str], ready: int, log_fd: int, cwd: str | None, env: dict[str, str]) -> Popen[bytes]:
    """Start a detached process that also gets the pipe `ready`; the number of its handle is the last argument."""
    subprocess, msvcrt = module("subprocess"), module("msvcrt")
    handle = msvcrt.get_osfhandle(ready)
    module("os").set_handle_inheritable(handle, True)
    flags = CREATE_NO_WINDOW | _CREATE_NEW_PROCESS_GROUP

    def start(creationflags: int) -> Popen[bytes]:
        # All three standard handles and a list: the child gets these handles and none of the caller's pipes.
        process: Popen[bytes] = subprocess.Popen(
            [*argv, str(int(handle))],
            stdin=subprocess.PIPE,
            stdout=log_fd,
            stderr=log_fd,
            bufsize=0,
            close_fds=True,
            cwd=cwd,
            env=env,
            creationflags=creationflags,
            startupinfo=subprocess.STARTUPINFO(lpAttributeList={"handle_list": [handle]}),
        )
        return process

    try:
        return start(flags | _CREATE_BREAKAWAY_FROM_JOB)
    except OSError as error:
        if getattr(error, "winerror", None) != _ERROR_ACCESS_DENIED:
            raise
    # The job that this process is in forbids to leave it: the server will end with that job.
    os.write(log_fd, b"bgpy: this server ends with the job object (service, CI step, terminal) that it was started in.\n")
    return start(flags)


def open_inherited(number: str) -> int:
    """Make a descriptor from the handle number that `spawn` passed."""
    msvcrt = module("msvcrt")
    module("os").set_handle_inheritable(int(number), False)
    return int(msvcrt.open_osfhandle(int(number), os.O_WRONLY))
