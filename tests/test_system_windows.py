"""Windows as `bgpy.system` knows it: the platform's modules are replaced, and what they are called with counts."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import types
from pathlib import Path
from typing import Any

import pytest

from bgpy import system
from bgpy.system import detached, files, machine, processes, windows


class FakeOsError(OSError):
    def __init__(self, winerror: int) -> None:
        super().__init__(errno.EACCES, "denied")
        self.winerror = winerror


class FakeWindows:
    """Stand in for _winapi, msvcrt, ctypes.WinDLL and subprocess; processes are those of `running`."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.running: dict[int, int] = {42: 1234}
        self.ended: set[int] = set()
        self.errors: list[OSError] = []
        self.LK_LOCK, self.LK_NBLCK, self.LK_UNLCK = 1, 2, 0
        self.PIPE = -1
        self.c_uint64, self.c_uint32, self.c_size_t = ctypes.c_uint64, ctypes.c_uint32, ctypes.c_size_t
        self.c_void_p = ctypes.c_void_p
        self.byref, self.sizeof, self.create_string_buffer = lambda each: each, ctypes.sizeof, ctypes.create_string_buffer
        self.get_last_error = lambda: 6
        self.WinError = FakeOsError
        self.good = True

    def module(self, name: str) -> FakeWindows:
        assert name in ("_winapi", "msvcrt", "ctypes", "subprocess", "os")
        return self

    def OpenProcess(self, access: int, inherit: bool, pid: int) -> int:
        assert (access, inherit) == (0x101001, False)
        if pid == 5:
            raise FakeOsError(5)
        if pid not in self.running:
            raise FakeOsError(87)
        return pid

    def WaitForSingleObject(self, handle: int, milliseconds: int) -> int:
        self.calls.append(("wait", milliseconds))
        return 0 if handle in self.ended else 0x102

    def CloseHandle(self, handle: int) -> None:
        self.calls.append("close")

    def TerminateProcess(self, handle: int, code: int) -> None:
        self.ended.add(handle)

    def WinDLL(self, name: str, use_last_error: bool) -> FakeWindows:
        assert name == "kernel32"
        return self

    def GetProcessTimes(self, handle: Any, *times: Any) -> bool:
        times[0].value = self.running[handle.value]
        return self.good

    def K32GetProcessMemoryInfo(self, handle: Any, counters: Any, size: int) -> bool:
        assert ctypes.c_uint32.from_buffer(counters).value == size == 72
        ctypes.c_uint64.from_buffer(counters, 8).value = 99  # the peak
        ctypes.c_uint64.from_buffer(counters, 16).value = 77
        return self.good

    def locking(self, fd: int, mode: int, count: int) -> None:
        self.calls.append((mode, os.lseek(fd, 0, os.SEEK_CUR), count))
        if self.errors:
            raise self.errors.pop(0)

    def get_osfhandle(self, fd: int) -> int:
        return fd + 1000

    def open_osfhandle(self, handle: int, flags: int) -> int:
        return handle - 1000

    def set_handle_inheritable(self, handle: int, inheritable: bool) -> None:
        self.calls.append((handle, inheritable))

    def STARTUPINFO(self, **options: Any) -> Any:
        return options

    def Popen(self, argv: list[str], **options: Any) -> Any:
        self.calls.append((argv, options))
        if self.errors:
            raise self.errors.pop(0)
        return types.SimpleNamespace(returncode=None, kill=lambda: None, wait=lambda: 0)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeWindows:
    fake = FakeWindows()
    monkeypatch.setattr(windows, "module", fake.module)
    for module in (detached, files, machine, processes):
        monkeypatch.setattr(module, "WINDOWS", True)
    return fake


def test_windows_processes(fake: FakeWindows) -> None:
    assert system.process_start_time(42) == "1234"
    assert system.process_start_time(43) is None
    with pytest.raises(FakeOsError):
        system.process_start_time(5)
    assert not system.wait_for_end(42, "1234", 1.5)
    assert ("wait", 1500) in fake.calls
    assert not system.kill_process(42, "1235")
    assert not system.kill_process(43, "1234")
    assert system.kill_process(42, "1234")
    assert system.wait_for_end(42, "1234", None)
    assert not system.kill_process(42, "1234")
    assert system.process_start_time(42) is None
    opened = sum(call == ("wait", 0) for call in fake.calls)
    assert fake.calls.count("close") == opened  # each handle that was opened


def test_windows_waits_without_end_where_no_timeout_is_given(fake: FakeWindows) -> None:
    assert not system.wait_for_end(42, "1234", None)
    assert ("wait", 0xFFFFFFFF) in fake.calls


def test_windows_memory(fake: FakeWindows) -> None:
    assert system.resident_memory() == 77
    with system.anonymous_memory(10) as memory:
        assert memory[:] == bytes(10)
    fake.good = False
    with pytest.raises(FakeOsError):
        system.resident_memory()
    with pytest.raises(FakeOsError):
        system.process_start_time(42)


def test_windows_locks_lie_past_the_end_of_the_file(fake: FakeWindows, tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    fd = system.open_locked(path)
    assert fd is not None
    system.close_locked(fd)
    assert fake.calls == [(2, 0x7FFF0000, 1), (0, 0x7FFF0000, 1)]
    fake.errors = [PermissionError(errno.EACCES, "locked")]
    assert system.open_locked(path) is None
    fake.errors = [OSError(errno.EIO, "broken")]
    with pytest.raises(OSError, match="broken"):
        system.open_locked(path)


def test_windows_waits_for_a_lock_longer_than_its_runtime_does(fake: FakeWindows, tmp_path: Path) -> None:
    fake.errors = [PermissionError(errno.EACCES, "locked"), OSError(errno.EDEADLK, "ten seconds are over")]
    fd = system.open_locked(str(tmp_path / "lock"), timeout=20)
    assert fd is not None
    os.close(fd)
    assert [call[0] for call in fake.calls] == [2, 1, 1]


def test_windows_children_break_away_and_inherit_one_pipe(fake: FakeWindows, tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as log:
        number = log.fileno()
        process, pipe = system.spawn_detached(["python"], log_fd=number, env={"A": "b"})
    (handle, inheritable), (argv, options) = fake.calls
    assert inheritable
    assert argv == ["python", str(handle)]
    assert options["creationflags"] == 0x08000000 | 0x200 | 0x01000000
    assert options["startupinfo"] == {"lpAttributeList": {"handle_list": [handle]}}
    assert options["close_fds"]
    assert (options["stdin"], options["stdout"], options["stderr"]) == (-1, number, number)
    assert options["env"] == {"A": "b"}
    assert system.read_pipe(pipe, None) == b""  # our copy of the child's end is closed
    os.close(pipe)
    system.release_spawned(process)
    assert process.returncode == 0
    system.end_spawned(process)


def test_windows_children_stay_in_a_job_that_nobody_may_leave(fake: FakeWindows, tmp_path: Path) -> None:
    fake.errors = [FakeOsError(5)]
    with (tmp_path / "log").open("wb") as log:
        _, pipe = system.spawn_detached(["python"], log_fd=log.fileno())
    os.close(pipe)
    assert [call[1]["creationflags"] for call in fake.calls[1:]] == [0x09000200, 0x08000200]
    assert b"ends with the job object" in (tmp_path / "log").read_bytes()
    fake.errors = [FakeOsError(2)]
    with (tmp_path / "log").open("wb") as log, pytest.raises(FakeOsError):
        system.spawn_detached(["python"], log_fd=log.fileno())


def test_windows_children_take_the_pipe_over(fake: FakeWindows) -> None:
    assert system.open_inherited("1007") == 7
    assert fake.calls == [(1007, False)]
    handler = signal.getsignal(signal.SIGCHLD)
    system.reset_signals()  # there are none
    assert signal.getsignal(signal.SIGCHLD) is handler
