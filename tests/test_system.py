from __future__ import annotations

import ctypes
import errno
import mmap
import os
import resource
import select
import signal
import socket
import stat
import subprocess
import sys
import threading
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bgpy import system
from bgpy.errors import TokenError
from bgpy.system import detached, files, machine, processes, sockets, waiting, windows


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    left, right = socket.socketpair()
    with left, right:
        yield left, right


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process that waits until its input ends."""
    with subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def start_time_of(process: subprocess.Popen[bytes]) -> str:
    start_time = system.process_start_time(process.pid)
    assert start_time is not None
    return start_time


# Machine and memory


def test_the_identity_is_32_bytes_and_the_same_in_every_process() -> None:
    identity = system.machine_identity()
    code = "from bgpy.system import machine_identity; print(machine_identity().hex())"
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(system.__file__))))
    output = subprocess.check_output([sys.executable, "-c", code], text=True, env={**os.environ, "PYTHONPATH": root})
    assert identity is not None
    assert len(identity) == 32
    assert output == identity.hex() + "\n"
    assert identity.hex().startswith(system.boot_name())


@pytest.mark.parametrize("boot", [None, "", "not hex", "0123"])
def test_no_identity_where_the_system_tells_none(boot: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fake_open(path: str, **options: Any) -> Any:
        if boot is None:
            raise FileNotFoundError(path)
        (tmp_path / "boot").write_text(boot)
        return (tmp_path / "boot").open()

    monkeypatch.setattr(machine, "open", fake_open, raising=False)
    assert system.machine_identity() is None
    assert system.boot_name() == (boot or "")[:8]


def test_anonymous_memory_takes_pages_only_when_written() -> None:
    before = system.resident_memory()
    memory = system.anonymous_memory(256 << 20)
    announced = system.resident_memory()
    memory[: 64 << 20] = bytes(64 << 20)
    assert announced - before < 16 << 20
    assert system.resident_memory() - before > 60 << 20
    memory.close()


def test_huge_pages_are_asked_for_but_not_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Memory(mmap.mmap):
        def madvise(self, *advice: int) -> None:
            asked.append(advice)
            raise OSError(errno.EINVAL, "no huge pages")

    monkeypatch.setattr(mmap, "mmap", Memory)
    with system.anonymous_memory(10) as memory:
        assert memory[:] == bytes(10)
    assert asked == [(mmap.MADV_HUGEPAGE,)]


def test_the_peak_stands_in_for_the_resident_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def fake_open(path: str, **options: Any) -> Any:
        raise FileNotFoundError(path)

    monkeypatch.setattr(machine, "open", fake_open, raising=False)
    monkeypatch.setattr(resource, "getrusage", lambda who: types.SimpleNamespace(ru_maxrss=5))
    assert system.resident_memory() == 5 * 1024
    monkeypatch.setattr(sys, "platform", "darwin")
    assert system.resident_memory() == 5


# Sockets


def test_connections_notice_dead_peers_and_do_not_hold_small_frames_back() -> None:
    with socket.socket() as sock:
        system.prepare_socket(sock)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert sock.getblocking()


def test_without_a_flag_for_it_sockets_do_not_block_at_all(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockets, "DONTWAIT", 0)
    system.prepare_socket(pair[0])
    assert not pair[0].getblocking()


def test_a_port_that_was_just_left_can_be_bound_and_a_used_one_cannot() -> None:
    with socket.socket() as first:
        system.prepare_listener(first)
        first.bind(("127.0.0.1", 0))
        first.listen()
        address = first.getsockname()
        with socket.socket() as second:
            system.prepare_listener(second)
            with pytest.raises(OSError, match="in use"):
                second.bind(address)
        with socket.create_connection(address) as client, first.accept()[0] as accepted:
            accepted.close()  # this end first, so the port stays in TIME_WAIT
            assert client.recv(1) == b""
    with socket.socket() as second:
        system.prepare_listener(second)
        second.bind(address)


def test_ipv6_listeners_leave_ipv4_alone() -> None:
    with socket.socket(socket.AF_INET6) as sock:
        system.prepare_listener(sock)
        assert sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)


def test_on_windows_no_second_server_can_take_a_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "WINDOWS", True)
    monkeypatch.setattr(socket, "SO_EXCLUSIVEADDRUSE", socket.SO_BROADCAST, raising=False)
    with socket.socket() as sock:
        system.prepare_listener(sock)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST)
        assert not sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)


@pytest.mark.parametrize("has_poll", [True, False])
def test_waiting_for_a_socket(has_poll: bool, pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "_HAS_POLL", has_poll)
    left, right = pair
    assert not system.wait_socket(left, timeout=0)
    assert not system.wait_socket(left, timeout=-1)
    assert not system.wait_socket(left, timeout=0.01)
    assert system.wait_socket(left, write=True, timeout=0)
    right.send(b"x")
    assert system.wait_socket(left, timeout=None)
    assert left.recv(1) == b"x"
    right.close()
    assert system.wait_socket(left.fileno(), timeout=None)


def test_descriptors_above_what_select_knows(pair: tuple[socket.socket, socket.socket]) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(limits[0], 2100), limits[1]))
    os.dup2(pair[0].fileno(), 2050)
    try:
        assert system.wait_socket(2050, write=True, timeout=0)
        assert not system.wait_socket(2050, timeout=0)
    finally:
        os.close(2050)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.parametrize("has_sendmsg", [True, False])
def test_parts_are_sent_as_far_as_they_go(has_sendmsg: bool, pair: tuple[socket.socket, socket.socket]) -> None:
    left, right = pair
    sender: Any = left if has_sendmsg else types.SimpleNamespace(send=left.send)
    parts = [memoryview(b"ab"), memoryview(b"cd")]
    sent = system.send_parts(sender, parts)
    assert sent == (4 if has_sendmsg else 2)
    assert right.recv(10) == b"abcd"[:sent]
    big = [memoryview(bytes(1 << 20))]
    total = 0
    while taken := system.send_parts(sender, big):  # until the kernel takes no more; the socket itself would block
        total += taken
    assert total > 0
    right.close()
    with pytest.raises(BrokenPipeError):
        system.send_parts(sender, parts)


def test_more_parts_than_the_kernel_takes_at_once(pair: tuple[socket.socket, socket.socket]) -> None:
    assert os.sysconf("SC_IOV_MAX") == system.IOV_MAX
    assert system.send_parts(pair[0], [memoryview(b"x")] * (system.IOV_MAX + 1)) == system.IOV_MAX


# Processes


def test_start_times_tell_processes_apart(sleeper: subprocess.Popen[bytes]) -> None:
    start_time = start_time_of(sleeper)
    assert system.process_start_time(sleeper.pid) == start_time
    assert system.process_alive(sleeper.pid, start_time)
    assert not system.process_alive(sleeper.pid, start_time + "0")
    assert system.process_start_time(2**22 + 1) is None  # above the largest pid of Linux


def test_a_name_with_brackets_does_not_confuse(tmp_path: Path) -> None:
    (tmp_path / "a) Z 1 (b").symlink_to("/bin/cat")
    with subprocess.Popen([tmp_path / "a) Z 1 (b"], stdin=subprocess.PIPE, executable=tmp_path / "a) Z 1 (b") as process:
        assert start_time_of(process).isdigit()


def test_killing_the_process_that_is_meant(sleeper: subprocess.Popen[bytes]) -> None:
    start_time = start_time_of(sleeper)
    assert not system.kill_process(sleeper.pid, "1")
    assert not system.wait_for_end(sleeper.pid, start_time, 0.01)
    assert system.wait_for_end(sleeper.pid, "1", 0)
    assert system.kill_process(sleeper.pid, start_time)
    assert system.wait_for_end(sleeper.pid, start_time, 10)
    assert not system.process_alive(sleeper.pid, start_time)  # a zombie still
    assert not system.kill_process(sleeper.pid, start_time)
    assert sleeper.wait() == -signal.SIGKILL
    assert not system.kill_process(sleeper.pid, start_time)
    assert system.wait_for_end(sleeper.pid, start_time, 0)


def test_a_pid_reused_between_look_and_kill_is_spared(sleeper: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """The descriptor is of the process as it was first; that one has ended when the signal is sent."""
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pidfd = os.pidfd_open(ended.pid)
    start_time = start_time_of(sleeper)
    monkeypatch.setattr(os, "pidfd_open", lambda pid: pidfd)
    assert not system.kill_process(sleeper.pid, start_time)
    assert sleeper.poll() is None


def test_a_kernel_without_process_descriptors(sleeper: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(pid: int) -> int:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(os, "pidfd_open", fail)
    start_time = start_time_of(sleeper)
    assert not system.wait_for_end(sleeper.pid, start_time, 0.05)
    assert system.kill_process(sleeper.pid, start_time)
    assert system.wait_for_end(sleeper.pid, start_time, None)


def test_too_many_open_files_are_not_taken_for_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(pid: int) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "pidfd_open", fail)
    with pytest.raises(OSError, match="Too many"):
        system.wait_for_end(os.getpid(), "1", 0)


def test_elsewhere_ps_tells_the_start_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "LINUX", False)
    lines = iter(["S    Mon Jan  5 10:00:00 2026\n", "Z    Mon Jan  5 10:00:00 2026\n", ""])
    commands = []

    def run(command: list[str], **options: Any) -> Any:
        commands.append(command)
        return types.SimpleNamespace(stdout=next(lines))

    monkeypatch.setattr(subprocess, "run", run)
    assert [system.process_start_time(7) for _ in range(3)] == ["Mon Jan  5 10:00:00 2026", None, None]
    assert commands[0] == ["ps", "-o", "stat=", "-o", "lstart=", "-p", "7"]


def test_ps_tells_the_same_of_the_same_process(sleeper: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "LINUX", False)
    first = system.process_start_time(sleeper.pid)
    assert first is not None
    assert len(first.split()) == 5  # Sun Nov 22 15:05:46 2026
    assert system.process_start_time(sleeper.pid) == first
    sleeper.kill()
    sleeper.wait()
    assert system.process_start_time(sleeper.pid) is None


def test_on_a_mac_the_kernel_tells_the_end(sleeper: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    queues: list[Any] = []

    class Queue:
        def __init__(self) -> None:
            queues.append(self)
            self.calls: list[tuple[Any, int, float | None]] = []

        def control(self, changes: Any, count: int, timeout: float | None) -> list[str]:
            if changes and changes[0][0] == 999:
                raise ProcessLookupError
            self.calls.append((changes, count, timeout))
            return ["ended"] if timeout is None else []

        def close(self) -> None:
            self.calls.append(("closed", 0, 0))

    monkeypatch.setattr(processes, "_pidfd", lambda pid: None)
    monkeypatch.setattr(select, "kqueue", Queue, raising=False)
    monkeypatch.setattr(select, "kevent", lambda *args: args, raising=False)
    for name, value in {"KQ_FILTER_PROC": -5, "KQ_EV_ADD": 1, "KQ_EV_ONESHOT": 16, "KQ_NOTE_EXIT": 1 << 31}.items():
        monkeypatch.setattr(select, name, value, raising=False)
    start_time = start_time_of(sleeper)
    assert not system.wait_for_end(sleeper.pid, start_time, 3)
    assert queues[-1].calls == [([(sleeper.pid, -5, 17, 1 << 31)], 0, 0), (None, 1, 3), ("closed", 0, 0)]
    assert not system.wait_for_end(sleeper.pid, start_time, -1)
    assert queues[-1].calls[1] == (None, 1, 0)  # the kernel takes no time that has passed
    assert system.wait_for_end(sleeper.pid, start_time, None)
    assert system.wait_for_end(sleeper.pid, "another", 3)
    assert system.wait_for_end(999, start_time, 3)


# Locks and private files


def test_a_lock_has_one_holder(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    fd = system.open_locked(path)
    assert fd is not None
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert system.open_locked(path) is None
    assert system.open_locked(path, timeout=0.01) is None
    system.close_locked(fd)
    fd = system.open_locked(path, timeout=10)  # the wait given up above may have it for an instant
    assert fd is not None
    assert not os.get_inheritable(fd)
    system.close_locked(fd)


def test_waiting_for_a_lock(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    fd = system.open_locked(path)
    assert fd is not None
    timer = threading.Timer(0.1, system.close_locked, [fd])
    timer.start()
    second = system.open_locked(path, timeout=20)
    timer.join()
    assert second is not None
    system.close_locked(second)


def test_a_lock_file_that_was_removed_is_not_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between opening and locking its holder removes it: two processes would hold locks of one name."""
    path = str(tmp_path / "lock")
    lock_file = files.lock_file

    def remove_first(fd: int, *, wait: bool = False) -> bool:
        monkeypatch.setattr(files, "lock_file", lock_file)
        os.unlink(path)
        return lock_file(fd, wait=wait)

    monkeypatch.setattr(files, "lock_file", remove_first)
    fd = system.open_locked(path)
    assert fd is not None
    assert os.path.samestat(os.fstat(fd), os.stat(path))
    system.close_locked(fd)


def test_an_error_while_waiting_is_raised_by_who_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(fd: int, *, wait: bool = False) -> bool:
        if wait:
            raise OSError(errno.ENOLCK, "No locks available")
        return False

    monkeypatch.setattr(files, "lock_file", fail)
    with pytest.raises(OSError, match="No locks available"):
        system.open_locked(str(tmp_path / "lock"), timeout=10)


def test_work_that_comes_too_late_is_undone() -> None:
    gate, undone = threading.Event(), threading.Event()
    results: list[int] = []

    def work() -> int:
        gate.wait()
        return 7

    def undo(result: int) -> None:
        results.append(result)
        undone.set()

    assert waiting.within(0.01, work, undo) is None
    gate.set()
    assert undone.wait(10)
    assert results == [7]
    assert waiting.within(None, lambda: 8, undo) == 8


@pytest.mark.parametrize(
    ("platform", "variables", "expected"),
    [
        ("linux", {"BGPY_HOME": "/x/../y"}, "/y"),
        ("linux", {"XDG_STATE_HOME": "/state"}, "/state/bgpy"),
        ("linux", {"XDG_STATE_HOME": "relative"}, "/home/u/.local/state/bgpy"),
        ("linux", {}, "/home/u/.local/state/bgpy"),
        ("darwin", {"XDG_STATE_HOME": "/state"}, "/home/u/Library/Application Support/bgpy"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/bgpy"),
    ],
)
def test_the_users_folder(platform: str, variables: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BGPY_HOME", "XDG_STATE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": "/home/u", **variables}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(files, "WINDOWS", platform == "win32")
    assert system.user_state_dir() == expected


def test_private_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a" / "b"
    assert system.private_folder(str(path)) == system.private_folder(str(path)) == str(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    path.chmod(0o711)
    with pytest.raises(TokenError, match=f"chmod 700 '{path}'"):
        system.private_folder(str(path))
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(TokenError, match="is no folder"):
        system.private_folder(str(tmp_path / "link"))
    monkeypatch.setattr(files, "WINDOWS", True)
    assert system.private_folder(str(path)) == str(path)


def test_private_files_on_windows_are_those_of_the_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch(0o644)
    with pytest.raises(TokenError, match="chmod 600"):
        system.open_private(str(tmp_path / "file"), os.O_RDONLY)
    monkeypatch.setattr(files, "WINDOWS", True)
    os.close(system.open_private(str(tmp_path / "file"), os.O_RDONLY))


def test_a_missing_private_file_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        system.open_private(str(tmp_path / "file"), os.O_RDONLY)


# Pipes and children


def test_pipes_with_a_time_limit() -> None:
    read, write = os.pipe()
    assert system.read_pipe(read, 0.01) is None
    assert system.write_pipe(write, b"abc", 1)
    assert system.read_pipe(read, None) == b"abc"
    assert not system.write_pipe(write, bytes(1 << 20), 0.01)
    os.close(write)
    while system.read_pipe(read, 1):
        pass
    assert system.read_pipe(read, 1) == b""
    os.close(read)


def test_a_pipe_without_a_reader() -> None:
    read, write = os.pipe()
    os.close(read)
    with pytest.raises(BrokenPipeError):
        system.write_pipe(write, b"abc", 1)
    os.close(write)


def test_pipes_on_windows_are_waited_for_by_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detached, "WINDOWS", True)
    before = set(threading.enumerate())
    read, write = os.pipe()
    assert system.write_pipe(write, b"abc", 1)
    assert system.read_pipe(read, None) == b"abc"
    assert system.read_pipe(read, 0.01) is None
    os.write(write, b"for the thread that still reads")
    os.close(write)
    for thread in set(threading.enumerate()) - before:
        thread.join(10)
    assert system.read_pipe(read, None) == b""
    os.close(read)


def test_a_program_that_is_none_leaves_no_pipe(tmp_path: Path) -> None:
    log = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    try:
        with pytest.raises(FileNotFoundError):
            system.spawn_detached([str(tmp_path / "none")], log_fd=log)
    finally:
        os.close(log)


def test_ending_a_child_ends_its_group(tmp_path: Path) -> None:
    log = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    code = "import os, sys; child = os.fork(); os.write(int(sys.argv[-1]), b'x'); sys.stdin.read()"
    process, pipe = system.spawn_detached([sys.executable, "-c", code], log_fd=log)
    os.close(log)
    assert process.stdin is not None
    with process.stdin:
        assert os.read(pipe, 1) == os.read(pipe, 1) == b"x"
        system.end_spawned(process)
        assert process.returncode == -signal.SIGKILL
        assert os.read(pipe, 1) == b""  # the child's child has ended too
    os.close(pipe)


# Windows: the platform's modules are replaced, and what they are called with is what counts


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
