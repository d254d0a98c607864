"""Job Objects, with the calls of Windows replaced; the workers that they hold are tested as a whole with the workspaces."""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from support import windows_kernel

from bgpy.system import job_objects, spawning, windows, workers

pytestmark = pytest.mark.skipif(not workers.LINUX, reason="the stand-in is made of Linux's calls")


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> windows_kernel.Kernel:
    kernel = windows_kernel.Kernel()
    monkeypatch.setattr(windows, "module", kernel.module)
    monkeypatch.setattr(workers, "WINDOWS", True)
    monkeypatch.setattr(spawning, "WINDOWS", True)
    monkeypatch.setattr(socket.socket, "share", windows_kernel.share, raising=False)
    return kernel


def test_the_limits_lie_where_windows_has_them_on_64_bits() -> None:
    """JOBOBJECT_EXTENDED_LIMIT_INFORMATION of winnt.h."""
    assert ctypes.sizeof(job_objects.Limits) == 144
    offsets = {name: getattr(job_objects.Limits, name).offset for name, _ in job_objects.Limits._fields_}
    assert offsets["limit_flags"] == 16
    assert offsets["minimum_working_set"] == 24
    assert offsets["affinity"] == 48
    assert offsets["io_counters"] == 64
    assert offsets["process_memory"] == 112
    assert offsets["peak_process_memory"] == 128


def test_a_job_object_is_closed_once_and_then_left_alone(kernel: windows_kernel.Kernel) -> None:
    job = job_objects.JobObject(0x2400)
    [made] = kernel.jobs.values()
    made.peak = 5 << 40
    assert (made.flags, made.memory) == (0x2400, 0)
    assert job.peak_memory() == 5 << 40
    job.close()
    job.close()
    job.terminate()
    assert made.closed


def test_a_worker_that_ends_by_itself_has_ended_before_the_rest_is_killed() -> None:
    """Otherwise its exit code could be that of the rest."""
    calls: list[Any] = []

    def wait(timeout: float) -> int:
        calls.append(timeout)
        if timeout < 1:
            raise subprocess.TimeoutExpired("worker", timeout)
        return 0

    process, job = SimpleNamespace(pid=7, wait=wait), SimpleNamespace(terminate=lambda: calls.append("terminate"))
    held = job_objects.JobProcess(process, job)  # type: ignore[arg-type]
    held.end_rest(5)
    held.end_rest(0.5)
    assert calls == [5, "terminate", 0.5, "terminate"]


def test_a_call_that_fails_raises_the_error_of_windows(kernel: windows_kernel.Kernel) -> None:
    job = job_objects.JobObject(0)
    kernel.refuse_assign = True
    with pytest.raises(OSError, match="WinError 5"):
        job.assign(42)
    job.close()


def test_a_job_object_that_takes_no_limits_is_not_left_open(
    kernel: windows_kernel.Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(job_objects._CALLS, "SetInformationJobObject", job_objects._CALLS["QueryInformationJobObject"])
    with pytest.raises((TypeError, ctypes.ArgumentError)):
        job_objects.JobObject(0)
    assert [job.closed for job in kernel.jobs.values()] == [True]


def test_in_a_virtual_environment_the_python_below_it_is_started(
    kernel: windows_kernel.Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[tuple[list[str], Any]] = []

    def popen(argv: list[str], **options: Any) -> Any:
        started.append((argv, options["env"]))
        raise FileNotFoundError(argv[0])

    monkeypatch.setattr(windows_kernel, "Popen", popen)
    monkeypatch.setattr(sys, "_base_executable", "/base/python")
    for program in (sys.executable, "/another/python"):
        with pytest.raises(FileNotFoundError):
            job_objects.spawn([program, "script"], [], 1, 2)
    (first, environment), (second, untouched) = started
    assert first == ["/base/python", "script"]
    assert environment["__PYVENV_LAUNCHER__"] == sys.executable
    assert environment.items() >= dict(os.environ).items()
    assert (second, untouched) == (["/another/python", "script"], None)
    assert all(job.closed for job in kernel.jobs.values())


def test_sockets_come_from_the_input_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = [b"a" * 372, b"b" * 5]
    data = b"".join(len(each).to_bytes(4, "little") + each for each in shared)
    pieces = [data[:2], data[2:100], data[100:380], data[380:], b""]

    def read(fd: int, size: int) -> bytes:
        assert fd == 0
        piece = pieces.pop(0)
        if len(piece) > size:
            pieces.insert(0, piece[size:])
        return piece[:size]

    monkeypatch.setattr(job_objects.os, "read", read)
    monkeypatch.setattr(socket, "fromshare", lambda data: data, raising=False)
    assert job_objects.take_shared(2) == shared
    with pytest.raises(EOFError, match="gave up"):
        job_objects.take_shared(1)


def test_a_process_that_is_dead_already_is_told_by_whoever_waits_for_it(kernel: windows_kernel.Kernel) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:

        class Dead:
            pid = 1
            stdin = open(os.devnull, "rb", buffering=0)

        job_objects._share(Dead, [theirs])  # type: ignore[arg-type]
        assert Dead.stdin.closed


YOUNG = """
import subprocess, sys
from bgpy.system import job_objects, windows
from support import windows_kernel
windows.module = windows_kernel.Kernel().module
def start():
    return subprocess.Popen(["sleep", "1000"])
older = start()
clock = job_objects.start_clock()
first = clock()
while (begun := clock()) == first:
    pass
job_objects._ROOM = 2
young = [start() for _ in range(12)]
job_objects.end_younger_than(begun)
assert {each.wait() for each in young} == {-9}
assert older.poll() is None
older.kill()
older.wait()
print("fine")
"""


def test_only_what_is_young_is_ended_however_many_there_are() -> None:
    root = os.path.dirname(os.path.dirname(os.path.abspath(windows_kernel.__file__)))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([os.path.dirname(root), root])}
    result = subprocess.run(
        [sys.executable, "-c", YOUNG],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        start_new_session=True,
    )
    assert (result.stdout, result.stderr) == ("fine\n", "")


def test_what_may_not_be_ended_is_left(kernel: windows_kernel.Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    refused: list[Any] = []

    def refuse(*arguments: Any) -> Any:
        refused.append(arguments)
        raise windows_kernel.WindowsError(windows_kernel.ACCESS_DENIED)

    monkeypatch.setattr(job_objects, "_own_job", lambda: iter([1, 2, os.getpid()]))
    monkeypatch.setattr(windows, "open_process", lambda pid: refuse() if pid == 1 else pid)
    monkeypatch.setattr(windows, "start_time_of", lambda handle: "7")
    monkeypatch.setattr(kernel, "TerminateProcess", refuse)
    job_objects.end_younger_than(5)
    monkeypatch.setattr(job_objects, "_own_job", refuse)
    job_objects.end_younger_than(5)  # in no Job Object
    assert {len(arguments) for arguments in refused} == {0, 2}  # to open the first one, and to end the second


@pytest.mark.parametrize(
    ("code", "how", "crash"),
    [
        (0, "exit code 0", False),
        (3, "exit code 3", False),
        (0xE0000009, "killed", False),
        (0xC0000005, "exception 0xC0000005 (access violation)", True),
        (0xC0001234, "exception 0xC0001234", True),
    ],
)
def test_ends_are_described_in_words(code: int, how: str, crash: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "WINDOWS", True)
    assert workers.describe_exit(code) == how
    assert workers.is_crash(how) is crash
