"""What `bgpy.system` knows of this machine, its sockets and processes."""

from __future__ import annotations

import errno
import mmap
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bgpy import system
from bgpy.system import machine, processes, sockets


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
