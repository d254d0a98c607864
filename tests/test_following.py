"""bgpy.system: follow a file for as long as its writer lives, and see the end of a process only when all of it has ended."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bgpy.system import follow_file, following, process_start_time, wait_for_end

WRITER = """if True:
    import sys
    with open(sys.argv[1], "a") as log:
        for line in sys.stdin:
            log.write(line)
            log.flush()
"""


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "log"
    path.write_text("first\n")
    return path


@pytest.fixture
def writer(log: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that appends to the log what it is told, and ends when nothing more comes."""
    with subprocess.Popen([sys.executable, "-c", WRITER, str(log)], stdin=subprocess.PIPE, text=True, bufsize=1) as process:
        yield process
        if process.stdin is not None and not process.stdin.closed:
            process.stdin.close()


def start_time(pid: int) -> str:
    found = process_start_time(pid)
    assert found is not None
    return found


def tell(process: subprocess.Popen[str], line: str | None) -> None:
    assert process.stdin is not None
    if line is None:
        process.stdin.close()
    else:
        process.stdin.write(line)


@pytest.mark.parametrize("told_by_the_kernel", [True, False])
def test_file_is_followed_to_the_end_of_its_writer(
    log: Path, writer: subprocess.Popen[str], told_by_the_kernel: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not told_by_the_kernel:
        monkeypatch.setattr(following, "_watch", lambda path: None)
        monkeypatch.setattr(following, "_LOOK_EVERY", 0.01)
    elif not sys.platform.startswith("linux"):
        pytest.skip("only Linux tells")
    says = iter(["second\n", "third\n", None])
    lines: list[str] = []
    with log.open() as file:
        for _ in follow_file(str(log), writer.pid, start_time(writer.pid)):
            new = file.readlines()
            lines += new
            if new:  # the next line is written only when the last one has been seen
                tell(writer, next(says))
    assert lines == ["first\n", "second\n", "third\n"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells")
def test_nobody_looks_at_a_file_that_does_not_change(
    log: Path, writer: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "wait_for_end", lambda *args: pytest.fail("it was looked at"))
    changes = follow_file(str(log), writer.pid, start_time(writer.pid))
    next(changes)
    tell(writer, "second\n")
    next(changes)
    changes.close()  # type: ignore[attr-defined]


def test_file_of_a_process_that_has_ended_is_read_once(log: Path, writer: subprocess.Popen[str]) -> None:
    started = start_time(writer.pid)
    tell(writer, None)
    writer.wait()
    assert list(follow_file(str(log), writer.pid, started)) == [None]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells")
def test_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        next(follow_file(str(tmp_path / "none"), os.getpid(), start_time(os.getpid())))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere the first thread does not end alone")
def test_process_whose_first_thread_has_ended_still_runs() -> None:
    """Its files and locks are still open: a killed server looks like this for an instant, until its last thread has gone."""
    code = """if True:
        import ctypes, sys, threading
        first = threading.main_thread().native_id
        def rest():
            # The state of a thread that has ended, of all tasks of this process, is Z.
            while open(f"/proc/self/task/{first}/stat").read().rpartition(")")[2].split()[0] != "Z":
                pass
            print("alone", flush=True)
            sys.stdin.read()
            import os
            os._exit(0)
        threading.Thread(target=rest).start()
        ctypes.CDLL(None).pthread_exit(None)
    """
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, text=True) as process:
        started = start_time(process.pid)
        assert process.stdout is not None
        assert process.stdout.readline() == "alone\n"
        assert process_start_time(process.pid) == started
        assert not wait_for_end(process.pid, started, 0.0)
        assert process.stdin is not None
        process.stdin.close()
        assert wait_for_end(process.pid, started, 10)
