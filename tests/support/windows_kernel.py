"""
The calls of Windows that workers need, made of Linux's: a session stands for a Job Object.

Each function has its documented types, so that a declaration that does not fit shows. Handles are wider than 32 bits, as they
may be.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

HANDLE, BOOL, DWORD, POINTER = ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32, ctypes.c_void_p
TICK = 10**7 // os.sysconf("SC_CLK_TCK")  # start times of processes are in 100 ns, as fine as the kernel here has them
ACCESS_DENIED, INVALID_PARAMETER, MORE_DATA, INVALID_HANDLE = 5, 87, 234, 6
KILLED, ACCESS_VIOLATION = 0xE0000009, 0xC0000005
WAIT_TIMEOUT = 0x102


class WindowsError(PermissionError):
    def __init__(self, winerror: int) -> None:
        super().__init__(13, f"WinError {winerror}")
        self.winerror = winerror


class Job:
    def __init__(self) -> None:
        self.flags = self.memory = 0
        self.sessions: list[int] = []
        self.closed = False
        self.peak = 0


def fields_of(pid: int) -> list[str] | None:
    """Return what the kernel tells of a process from its state on, None where it has ended."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else fields


def session_of(leader: int) -> list[int]:
    """Return the processes of a session."""
    living = {int(name): fields_of(int(name)) for name in filter(str.isdecimal, os.listdir("/proc"))}
    return [pid for pid, fields in living.items() if fields is not None and int(fields[3]) == leader]


class Kernel:
    """kernel32, _winapi, and what of subprocess and socket is another there."""

    def __init__(self) -> None:
        self.jobs: dict[int, Job] = {}
        self.error = 0
        self.refuse_assign = False
        self.kernel32 = SimpleNamespace(
            **{
                name: ctypes.CFUNCTYPE(result, *arguments)(self.guarded(getattr(self, name)))
                for name, (result, *arguments) in PROTOTYPES.items()
            }
        )
        self.ctypes = SimpleNamespace(
            **{name: getattr(ctypes, name) for name in ("c_uint32", "c_uint64", "c_size_t", "c_void_p", "sizeof", "byref")},
            create_string_buffer=ctypes.create_string_buffer,
            WinDLL=lambda name, use_last_error: self.kernel32,
            get_last_error=lambda: self.error,
            WinError=WindowsError,
        )

    def guarded(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            try:
                result = call(*arguments)
            except WindowsError as error:
                self.error = error.winerror
                return 0
            return 1 if result is None else result

        return run

    def module(self, name: str) -> Any:
        """Stand for `bgpy.system.windows.module`."""
        return {"ctypes": self.ctypes, "_winapi": self, "subprocess": SimpleNamespace(Popen=Popen)}[name]

    # Job Objects

    def job(self, handle: int) -> Job:
        if handle not in self.jobs or self.jobs[handle].closed:
            raise WindowsError(INVALID_HANDLE)
        return self.jobs[handle]

    def CreateJobObjectW(self, attributes: int, name: int) -> int:
        assert attributes is None
        assert name is None
        handle = (1 << 40) + len(self.jobs)
        self.jobs[handle] = Job()
        return handle

    def SetInformationJobObject(self, handle: int, kind: int, memory: int, size: int) -> None:
        assert (kind, size) == (9, 144)
        data = ctypes.string_at(memory, size)
        self.job(handle).flags, self.job(handle).memory = (
            *struct.unpack_from("<I", data, 16),
            *struct.unpack_from("<Q", data, 112),
        )

    def AssignProcessToJobObject(self, handle: int, process: int) -> None:
        if self.refuse_assign:
            raise WindowsError(ACCESS_DENIED)
        if process == ctypes.c_void_p(-1).value:  # this process: all that its Job Object may be is a limit
            assert self.job(handle).flags == 0x100
            resource.setrlimit(resource.RLIMIT_AS, (self.job(handle).memory,) * 2)
        else:
            assert self.job(handle).flags == 0x2400
            self.job(handle).sessions.append(process)

    def QueryInformationJobObject(self, handle: int | None, kind: int, memory: int, size: int, length: int) -> None:
        assert length is None
        if kind == 9:
            ctypes.memmove(memory + 128, struct.pack("<Q", self.job(handle or 0).peak), 8)
            return
        assert (kind, handle) == (3, None)
        pids = session_of(os.getsid(0))
        room = (size - 8) // 8
        listed = pids[:room]
        ctypes.memmove(memory, struct.pack(f"<II{len(listed)}Q", len(pids), len(listed), *listed), 8 + 8 * len(listed))
        if room < len(pids):
            raise WindowsError(MORE_DATA)

    def TerminateJobObject(self, handle: int, code: int) -> None:
        assert code == KILLED
        for session in self.job(handle).sessions:
            for pid in session_of(session):
                os.kill(pid, signal.SIGKILL)

    def CloseHandle(self, handle: int) -> None:
        if handle >= 1 << 40:
            if self.job(handle).flags & 0x2000:
                self.TerminateJobObject(handle, KILLED)
            self.jobs[handle].closed = True

    # Processes: the handle of one is its pid

    def OpenProcess(self, access: int, inherit: bool, pid: int) -> int:
        if fields_of(pid) is None:
            raise WindowsError(INVALID_PARAMETER)
        return pid

    def WaitForSingleObject(self, handle: int, milliseconds: int) -> int:
        return 0 if fields_of(handle) is None else WAIT_TIMEOUT

    def TerminateProcess(self, handle: int, code: int) -> None:
        os.kill(handle, signal.SIGKILL)

    def GetProcessTimes(self, handle: int, creation: int, *others: int) -> None:
        fields = fields_of(handle)
        ctypes.c_uint64.from_address(creation).value = int(fields[19]) * TICK if fields else 0

    def GetSystemTimeAsFileTime(self, moment: int) -> None:
        ticks = int(time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK"))
        ctypes.c_uint64.from_address(moment).value = ticks * TICK

    def K32GetProcessMemoryInfo(self, handle: int, counters: int, size: int) -> None:
        with open("/proc/self/statm") as file:
            committed = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        ctypes.c_uint64.from_address(counters + 8 + 6 * 8).value = committed


PROTOTYPES: dict[str, tuple[Any, ...]] = {
    "CreateJobObjectW": (HANDLE, POINTER, POINTER),
    "SetInformationJobObject": (BOOL, HANDLE, ctypes.c_int, POINTER, DWORD),
    "AssignProcessToJobObject": (BOOL, HANDLE, HANDLE),
    "QueryInformationJobObject": (BOOL, HANDLE, ctypes.c_int, POINTER, DWORD, POINTER),
    "TerminateJobObject": (BOOL, HANDLE, ctypes.c_uint),
    "CloseHandle": (BOOL, HANDLE),
    "GetProcessTimes": (BOOL, HANDLE, POINTER, POINTER, POINTER, POINTER),
    "GetSystemTimeAsFileTime": (None, POINTER),
    "K32GetProcessMemoryInfo": (BOOL, HANDLE, POINTER, DWORD),
}


class Popen(subprocess.Popen[bytes]):
    """Start a process as Windows would; sockets that are shared with it go by inheritance, under the numbers in its arguments."""

    def __init__(self, argv: list[str], **options: Any) -> None:
        assert options.pop("creationflags") == 0x08000000
        assert options["close_fds"]
        self.environment = options["env"]
        super().__init__(argv, pass_fds=[int(number) for number in argv[2:6]], start_new_session=True, **options)
        self._handle = self.pid

    def wait(self, timeout: float | None = None) -> int:
        code = super().wait(timeout)
        return {-signal.SIGKILL: KILLED, -signal.SIGSEGV: ACCESS_VIOLATION}.get(code, code)


def share(sock: socket.socket, pid: int) -> bytes:
    """Stand for `socket.socket.share`: as long as the real thing's."""
    return b"%-372d" % sock.fileno()


def fromshare(shared: bytes) -> socket.socket:
    """Stand for `socket.fromshare`."""
    os.set_inheritable(int(shared), False)
    return socket.socket(fileno=int(shared))
