"""
Worker processes on Windows: a Job Object keeps hold of each with all that it starts.

No Windows machine has run this yet: the tests replace the platform's calls, each declared here with its documented types, and run
all the rest for real. Needs Windows 8, where Job Objects may lie in one another.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import subprocess
import sys
import threading

from bgpy.system import windows

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

_LIMIT_PROCESS_MEMORY = 0x100
_LIMIT_DIE_ON_UNHANDLED_EXCEPTION = 0x400  # a crash ends the process, where a dialogue might keep it
_LIMIT_KILL_ON_JOB_CLOSE = 0x2000
_BASIC_PROCESS_ID_LIST = 3
_EXTENDED_LIMIT_INFORMATION = 9
_ERROR_MORE_DATA = 234
_THIS_PROCESS = -1
#: The exit code of what is killed here: an error (the highest two bits) of no system's but a program's own (the third).
_KILLED = 0xE0000009
_EXCEPTIONS = {
    0xC0000005: "access violation",
    0xC0000017: "no memory",
    0xC000001D: "illegal instruction",
    0xC00000FD: "stack overflow",
    0xC000012D: "commitment limit",
    0xC000013A: "Ctrl-C",
    0xC0000374: "heap corruption",
    0xC0000409: "abort",
}
#: How often `end_younger_than` looks for more: processes that start others faster than that win.
_ROUNDS = 100
#: Processes of one worker that there is room for at first, and the most that are looked for.
_ROOM, _MAX_ROOM = 256, 1 << 16
_SIZE = struct.Struct("<I")

_HANDLE, _BOOL, _DWORD, _POINTER = ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32, ctypes.c_void_p
#: What each call returns and takes.
_CALLS: dict[str, tuple[Any, ...]] = {
    "CreateJobObjectW": (_HANDLE, _POINTER, _POINTER),
    "AssignProcessToJobObject": (_BOOL, _HANDLE, _HANDLE),
    "SetInformationJobObject": (_BOOL, _HANDLE, ctypes.c_int, _POINTER, _DWORD),
    "QueryInformationJobObject": (_BOOL, _HANDLE, ctypes.c_int, _POINTER, _DWORD, _POINTER),
    "TerminateJobObject": (_BOOL, _HANDLE, ctypes.c_uint),
    "CloseHandle": (_BOOL, _HANDLE),
    "GetSystemTimeAsFileTime": (None, _POINTER),
}


class Limits(ctypes.Structure):
    """JOBOBJECT_EXTENDED_LIMIT_INFORMATION, with the structures within it laid flat."""

    _fields_ = (
        ("per_process_user_time", ctypes.c_int64),
        ("per_job_user_time", ctypes.c_int64),
        ("limit_flags", ctypes.c_uint32),
        ("minimum_working_set", ctypes.c_size_t),
        ("maximum_working_set", ctypes.c_size_t),
        ("active_processes", ctypes.c_uint32),
        ("affinity", ctypes.c_size_t),
        ("priority_class", ctypes.c_uint32),
        ("scheduling_class", ctypes.c_uint32),
        ("io_counters", ctypes.c_uint64 * 6),
        ("process_memory", ctypes.c_size_t),
        ("job_memory", ctypes.c_size_t),
        ("peak_process_memory", ctypes.c_size_t),
        ("peak_job_memory", ctypes.c_size_t),
    )


def _function(name: str) -> Any:
    """Return a function of the kernel, declared."""
    function = getattr(windows.module("ctypes").WinDLL("kernel32", use_last_error=True), name)
    function.restype, *function.argtypes = _CALLS[name]
    return function


def _call(name: str, *arguments: Any) -> Any:
    """Call such a function; raises OSError where it fails, and so returns nothing."""
    result = _function(name)(*arguments)
    if not result:
        platform = windows.module("ctypes")
        raise platform.WinError(platform.get_last_error())
    return result


class JobObject:
    """
    A Job Object: processes that were put into it, and all that they start. Any thread.

    Parameters
    ----------
    flags
        Its limits; of `_LIMIT_PROCESS_MEMORY` each process may commit `process_memory` bytes.
    """

    def __init__(self, flags: int, process_memory: int = 0) -> None:
        self._guard = threading.Lock()
        self._handle: int | None = _call("CreateJobObjectW", None, None)
        limits = Limits(limit_flags=flags, process_memory=process_memory)
        try:
            _call(
                "SetInformationJobObject",
                self._handle,
                _EXTENDED_LIMIT_INFORMATION,
                ctypes.byref(limits),
                ctypes.sizeof(limits),
            )
        except BaseException:
            self.close()
            raise

    def assign(self, process: int) -> None:
        """Put the process of a handle into it."""
        _call("AssignProcessToJobObject", self._handle, process)

    def terminate(self) -> None:
        """Kill all that is in it; nothing happens when it is closed."""
        with self._guard:
            if self._handle is not None:
                _call("TerminateJobObject", self._handle, _KILLED)

    def peak_memory(self) -> int:
        """Tell the most bytes that one of its processes has committed."""
        limits = Limits()
        _call(
            "QueryInformationJobObject",
            self._handle,
            _EXTENDED_LIMIT_INFORMATION,
            ctypes.byref(limits),
            ctypes.sizeof(limits),
            None,
        )
        return int(limits.peak_process_memory)

    def close(self) -> None:
        """Let go of it; again is fine."""
        with self._guard:
            handle, self._handle = self._handle, None
            if handle is not None:
                _call("CloseHandle", handle)


class JobProcess:
    """See `spawning.Spawned`: the process that was started, and the Job Object that it is in."""

    def __init__(self, process: subprocess.Popen[bytes], job: JobObject) -> None:
        self.pid = process.pid
        self._process = process
        self._job = job

    def wait(self, timeout: float | None = None) -> int:
        """See `Spawned`."""
        return self._process.wait(timeout)

    def wake(self) -> None:
        """See `Spawned`: here nothing is stopped."""

    def end_all(self) -> None:
        """See `Spawned`."""
        self._job.terminate()

    def end_rest(self, patience: float) -> None:
        """See `Spawned`: it gets a moment to have ended, lest its exit code be that of the rest."""
        try:
            self._process.wait(patience)
        except subprocess.TimeoutExpired:
            pass
        self._job.terminate()

    def peak_memory(self) -> int:
        """See `Spawned`."""
        return self._job.peak_memory()

    def close(self) -> None:
        """See `Spawned`: what should still run ends."""
        self._job.close()


def spawn(argv: list[str], inherited: list[socket.socket], stdout: int, stderr: int) -> JobProcess:
    """Start a worker, see `spawning.spawn_worker`. It does nothing before it has its sockets, and by then it is held."""
    job = JobObject(_LIMIT_KILL_ON_JOB_CLOSE | _LIMIT_DIE_ON_UNHANDLED_EXCEPTION)
    try:
        process = _start(argv, stdout, stderr)
    except BaseException:
        job.close()
        raise
    try:
        job.assign(int(process._handle))  # type: ignore[attr-defined]
    except OSError as error:
        process.kill()
        process.wait()
        job.close()
        raise RuntimeError(f"no Job Object can hold a worker process here ({error}); use a thread") from error
    finally:
        _share(process, inherited)
    return JobProcess(process, job)


def _start(argv: list[str], stdout: int, stderr: int) -> subprocess.Popen[bytes]:
    environment = None
    base = getattr(sys, "_base_executable", None) or sys.executable
    if argv[0] == sys.executable and os.path.normcase(base) != os.path.normcase(sys.executable):
        # In a virtual environment that is a program that starts Python as its child, and the child is whom the sockets are shared
        # with. This is how multiprocessing goes around it.
        argv = [base, *argv[1:]]
        environment = {**os.environ, "__PYVENV_LAUNCHER__": sys.executable}
    process: subprocess.Popen[bytes] = windows.module("subprocess").Popen(
        argv,
        stdin=subprocess.PIPE,
        stdout=stdout,
        stderr=stderr,
        bufsize=0,
        close_fds=True,
        env=environment,
        creationflags=windows.CREATE_NO_WINDOW,  # a console of its own, too: no Ctrl-C of ours comes there
    )
    return process


def _share(process: subprocess.Popen[bytes], inherited: list[socket.socket]) -> None:
    """Give the process sockets of ours by its input, which ends then."""
    assert process.stdin is not None
    try:
        with process.stdin:
            for sock in inherited:
                shared: bytes = sock.share(process.pid)  # type: ignore[attr-defined]
                process.stdin.write(_SIZE.pack(len(shared)) + shared)
    except OSError:
        pass  # it has died, or does so at the early end of its input: whoever waits for its first word hears of that


def take_shared(count: int) -> list[socket.socket]:
    """Take, in the process that was started, the sockets from its input."""
    return [socket.fromshare(_read_whole(*_SIZE.unpack(_read_whole(_SIZE.size)))) for _ in range(count)]  # type: ignore[attr-defined]


def _read_whole(size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = os.read(0, size - len(data))
        if not piece:
            raise EOFError("the server gave up while it started this process")
        data += piece
    return data


def limit_own_memory(size: int) -> None:
    """Let this process, and each that it starts from now on, commit no more than `size` bytes; for good."""
    job = JobObject(_LIMIT_PROCESS_MEMORY, size)
    try:
        job.assign(_THIS_PROCESS)
    finally:
        job.close()  # it lives on with what is in it


def start_clock() -> Callable[[], int]:
    """Return the clock of processes' start times, in 100 ns: not `time`'s, which may be finer and so ahead of it."""
    read, now = _function("GetSystemTimeAsFileTime"), ctypes.c_uint64()

    def clock() -> int:
        read(ctypes.byref(now))
        return int(now.value)

    return clock


def end_younger_than(begun: int) -> None:
    """Kill, as far as that is allowed, what is in the Job Object of this process and was started at `begun` or later."""
    told: set[tuple[int, str]] = set()
    for _ in range(_ROUNDS):
        before = len(told)
        try:
            for pid in _own_job():
                _end_if_young(pid, begun, told)
        except OSError:
            return  # this process is in no Job Object
        if len(told) == before:
            return


def _end_if_young(pid: int, begun: int, told: set[tuple[int, str]]) -> None:
    winapi = windows.module("_winapi")
    try:
        handle = windows.open_process(pid) if pid != os.getpid() else None
    except PermissionError:
        return  # another user's
    if handle is None:
        return
    try:
        name = pid, windows.start_time_of(handle)
        if int(name[1]) >= begun and name not in told:
            told.add(name)
            winapi.TerminateProcess(handle, _KILLED)
    except PermissionError:
        pass  # it ends already
    finally:
        winapi.CloseHandle(handle)


def _own_job() -> Iterator[int]:
    """Tell the processes of the innermost Job Object of this process, of those within it too."""
    room = _ROOM
    while True:
        # JOBOBJECT_BASIC_PROCESS_ID_LIST: how many there are, how many fit, and their ids.
        counts, width = ctypes.sizeof(_DWORD) * 2, ctypes.sizeof(ctypes.c_size_t)
        memory = ctypes.create_string_buffer(counts + room * width)
        try:
            _call("QueryInformationJobObject", None, _BASIC_PROCESS_ID_LIST, memory, len(memory), None)
            break
        except OSError as error:
            if getattr(error, "winerror", None) != _ERROR_MORE_DATA or room >= _MAX_ROOM:
                raise
        room *= 4
    listed = ctypes.c_uint32.from_buffer(memory, 4).value
    return iter((ctypes.c_size_t * listed).from_buffer(memory, counts))


def describe_exit(code: int) -> str:
    """See `workers.describe_exit`."""
    if code == _KILLED:
        return "killed"
    if code >> 30 == 3:  # an error: the system ends a process with the code of the exception that nobody took
        return f"exception 0x{code:08X}" + (f" ({_EXCEPTIONS[code]})" if code in _EXCEPTIONS else "")
    return f"exit code {code}"
