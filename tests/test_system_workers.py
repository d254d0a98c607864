"""What keeps hold of worker processes; calls of other platforms, and those that would end the tests, are replaced."""

from __future__ import annotations

import os
import resource
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from bgpy.system import workers


def run_python(code: str, **options: Any) -> subprocess.CompletedProcess[str]:
    root = str(Path(workers.__file__).resolve().parents[2])
    environment = {**os.environ, "PYTHONPATH": root}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=30, check=False, **options
    )


ADOPT = """
import os, signal, subprocess, sys
from bgpy.system import workers
assert workers.adopt_orphans()
# A child in a session of its own, whose child is in yet another one, and which ends at once.
inner = "import os, signal; os.setsid(); print(os.getpid(), flush=True); signal.pause()"
outer = f"import os, subprocess, sys; os.setsid(); subprocess.Popen([sys.executable, '-c', {inner!r}]); sys.exit(3)"
child = subprocess.Popen([sys.executable, "-c", outer], stdout=subprocess.PIPE, text=True)
orphan = int(child.stdout.readline())
reaped = {}
while child.pid not in reaped:
    workers.reap_child(lambda pid, status, memory: reaped.update({pid: (status, memory)}), wait=True)
assert workers.describe_end(reaped[child.pid][0]) == "exit code 3"
assert reaped[child.pid][1] > 1 << 20
assert workers.child_processes() == [orphan] == workers._children_by_search(os.getpid())
workers.end_children(lambda pid, status, memory: reaped.update({pid: (status, memory)}))
assert workers.describe_end(reaped[orphan][0]) == "signal SIGKILL"
assert workers.child_processes() == []
assert not workers.reap_child(lambda *_: None, wait=True)
child.returncode = 3
print("fine")
"""


def test_orphans_are_adopted_and_ended_whatever_their_session() -> None:
    result = run_python(ADOPT)
    assert (result.stdout, result.stderr) == ("fine\n", "")


def test_without_the_list_of_children_they_are_searched_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def fake_open(path: str, *rest: Any) -> Any:
        raise FileNotFoundError(path)

    monkeypatch.setattr(workers, "_children_by_search", lambda of: [1, 2])
    monkeypatch.setattr(workers, "open", fake_open, raising=False)
    assert workers.child_processes() == [1, 2]


def test_a_child_of_another_user_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []

    def kill(pid: int, number: int) -> None:
        tried.append(pid)
        raise PermissionError

    monkeypatch.setattr(os, "kill", kill)
    monkeypatch.setattr(workers, "child_processes", lambda: [77])
    workers.end_children(lambda *_: None)
    assert 77 in tried


def test_there_is_nothing_to_reap_while_a_child_runs() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        assert not workers.reap_child(lambda *_: pytest.fail("nothing has ended"))
        process.kill()


def test_a_process_hears_of_the_end_of_the_thread_that_started_it() -> None:
    """The reason why one lifelong thread starts all workers."""
    code = (
        "import signal; from bgpy.system import workers; workers.die_with_parent(signal.SIGTERM); print('ready', flush=True); "
        "signal.pause()"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(workers.__file__).resolve().parents[2])}
    processes: list[subprocess.Popen[bytes]] = []

    def start() -> None:
        processes.append(subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment))
        assert processes[0].stdout is not None
        assert processes[0].stdout.readline() == b"ready\n"

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    with processes[0] as process:
        assert process.wait(10) == -signal.SIGTERM


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_other_platforms_say_that_they_cannot(platform: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "LINUX", False)
    monkeypatch.setattr(workers, "MACOS", platform == "darwin")
    monkeypatch.setattr(workers, "WINDOWS", platform == "win32")
    assert not workers.adopt_orphans()
    assert not workers.die_with_parent(signal.SIGKILL)
    assert workers.unread_probe(-1)() == 1
    if platform == "win32":
        workers.lead_own_group()
        workers.hold_interrupts_back()
        workers.end_group(0)  # it would end the tests
    else:
        assert workers.start_clock()() == 0
        workers.end_younger_than(0, 1)
        with pytest.raises(RuntimeError, match="macOS does not keep"):
            workers.limit_memory(1 << 40)


def test_an_interrupt_goes_to_the_group_and_on_windows_to_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []
    monkeypatch.setattr(os, "killpg", lambda *arguments: calls.append(("killpg", *arguments)))
    monkeypatch.setattr(signal, "raise_signal", lambda *arguments: calls.append(("raise", *arguments)))
    monkeypatch.setattr(workers, "end_younger_than", lambda *arguments: calls.append(("end", *arguments)))
    workers.interrupt_own_group(5)
    monkeypatch.setattr(workers, "WINDOWS", True)
    workers.interrupt_own_group(5)
    assert calls == [("killpg", 0, signal.SIGINT), ("raise", signal.SIGINT), ("end", 5, os.getpid())]


def test_a_group_that_is_gone_is_ended_already(monkeypatch: pytest.MonkeyPatch) -> None:
    for error in (ProcessLookupError, PermissionError):

        def killpg(leader: int, number: int, error: type[OSError] = error) -> None:
            raise error

        monkeypatch.setattr(os, "killpg", killpg)
        workers.end_group(1)


def test_the_memory_limit_is_refused_where_the_process_has_more_already() -> None:
    with pytest.raises(RuntimeError, match="below the"):
        workers.limit_memory(1 << 20)


def test_the_memory_limit_holds() -> None:
    code = (
        "from bgpy.system import workers; workers.limit_memory(workers.used_address_space() + (64 << 20)); bytes(32 << 20)\n"
        "try: bytes(128 << 20)\nexcept MemoryError: print('refused')"
    )
    result = run_python(code)
    assert (result.stdout, result.stderr) == ("refused\n", "")


def test_a_platform_that_does_not_tell_the_address_space_gets_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    def fake_open(path: str, *rest: Any) -> Any:
        raise FileNotFoundError(path)

    calls: list[Any] = []
    monkeypatch.setattr(workers, "open", fake_open, raising=False)
    monkeypatch.setattr(resource, "setrlimit", lambda *arguments: calls.append(arguments))
    workers.limit_memory(5)
    assert calls == [(resource.RLIMIT_AS, (5, 5))]


def test_a_pipe_tells_at_both_ends_what_is_unread() -> None:
    read, write = os.pipe()
    try:
        os.write(write, b"12345")
        assert [workers.unread_probe(fd)() for fd in (read, write)] == [5, 5]
        os.read(read, 5)
        assert workers.unread_probe(write)() == 0
    finally:
        os.close(read)
        os.close(write)


def test_c_output_is_flushed() -> None:
    code = "import ctypes, os; from bgpy.system import workers; ctypes.CDLL(None).printf(b'by C'); "
    code += "workers.flusher_of_c()(); os._exit(0)"
    assert run_python(code).stdout == "by C"


def test_ends_are_described_in_words() -> None:
    assert workers.describe_end(3 << 8) == "exit code 3"
    assert workers.describe_end(signal.SIGSEGV) == "signal SIGSEGV"
    assert workers.signal_name(250) == "250"


@pytest.mark.parametrize("poll", [True, False])
def test_a_watch_tells_which_can_be_read(poll: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_HAS_POLL", poll and hasattr(select, "poll"))
    first, second = os.pipe(), os.pipe()
    try:
        watch = workers.Watch([first[0], second[0]])
        assert watch.wait(0) == []
        os.write(second[1], b"x")
        assert watch.wait() == [second[0]]
        os.write(first[1], b"x")
        assert sorted(watch.wait(5)) == sorted([first[0], second[0]])
        watch.drop(second[0])
        watch.drop(second[0])
        assert watch.wait(-1) == [first[0]]
    finally:
        for fd in (*first, *second):
            os.close(fd)


def test_an_exception_is_raised_in_a_thread_that_there_is() -> None:
    assert not workers.raise_in_thread(1, KeyboardInterrupt)
