"""Locks, private files, pipes and children."""

from __future__ import annotations

import errno
import os
import signal
import stat
import sys
import threading
from pathlib import Path

import pytest

from bgpy import system
from bgpy.errors import TokenError
from bgpy.system import detached, files, waiting

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
