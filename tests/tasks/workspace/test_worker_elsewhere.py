"""Workers as they are on macOS and on Windows, for real but for the calls of those systems."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import windows_kernel, worker_elsewhere
from support.backends import PATIENCE, Recorder, Session
from support.processes import said_pids, wait_until_gone

from bgpy.system import process_start_time, spawning, streams, windows, workers
from bgpy.tasks.workspace import worker
from bgpy.tasks.workspace.backends import Outcome
from bgpy.tasks.workspace.backends import process as process_module
from bgpy.tasks.workspace.backends.process import ProcessBackend, Spawner

DONE = Outcome("done", None, None)
pytestmark = pytest.mark.skipif(not workers.LINUX, reason="stands in for other systems")
both = pytest.mark.parametrize("system", ["mac", "windows"])
KILLED = {"mac": "signal SIGKILL", "windows": "killed"}


@pytest.fixture
def kernel() -> windows_kernel.Kernel:
    return windows_kernel.Kernel()


@pytest.fixture
def make(system: str, kernel: windows_kernel.Kernel, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., ProcessBackend]]:
    """Return what makes backends whose workers are those of that system; all are closed in the end."""
    tests = Path(worker_elsewhere.__file__).resolve().parents[1]
    monkeypatch.setenv("BGPY_TEST_PATH", os.pathsep.join([str(tests.parent), str(tests)]))
    monkeypatch.setenv("BGPY_TEST_SYSTEM", system)
    monkeypatch.setattr(worker, "__file__", worker_elsewhere.__file__)
    if system == "windows":
        for module in (workers, spawning, streams):
            monkeypatch.setattr(module, "WINDOWS", True)
        monkeypatch.setattr(windows, "module", kernel.module)
        monkeypatch.setattr(socket.socket, "share", windows_kernel.share, raising=False)
    spawner = Spawner()
    backends: list[ProcessBackend] = []

    def new(**options: Any) -> ProcessBackend:
        backends.append(ProcessBackend(Recorder(), spawner=spawner, **options))
        return backends[-1]

    yield new
    for backend in backends:
        backend.close()
    spawner.close()
    assert all(job.closed for job in kernel.jobs.values())


@pytest.fixture
def session(make: Callable[..., ProcessBackend]) -> Session:
    return started(make())


def started(backend: ProcessBackend) -> Session:
    backend.start()
    assert isinstance(backend._listener, Recorder)
    return Session(backend, backend._listener)


@both
def test_jobs_run_in_one_process_and_their_output_comes_before_their_end(session: Session, system: str) -> None:
    assert session.run("x = 1") == DONE
    assert session.value("import os, sys; print('out', flush=True); os.write(2, b'err'); x + 1, os.getpid()") == [
        2,
        session.backend.process[0],  # type: ignore[index]
    ]
    assert (session.text(), session.text("stderr")) == ("out\n", "err")
    assert session.backend._held.pid == session.backend.process[0]  # type: ignore[attr-defined, index]
    assert session.value("sys.stdin.read()") == ""
    assert session.backend.read(["x"], "json", None, PATIENCE) == {"x": 1}


@both
def test_a_flood_is_told_whole_and_before_the_end(session: Session, system: str) -> None:
    script = "import subprocess, sys\nfor i in range(2000): print('x' * 999)\nsubprocess.run([sys.executable, '-c', 'print(5)'])"
    assert session.run(script).state == "done"
    assert len(session.text()) == 2_000_002
    assert [told for told in session.recorder.told if told[1] == 0][-1][0] == "ended"


@both
def test_kill_takes_along_what_the_job_started(session: Session, system: str) -> None:
    number = session.begin(
        "import subprocess\np = subprocess.Popen(['sleep', '1000'])\nprint(p.pid, flush=True)\nwhile True: pass"
    )
    children = said_pids(session, number, 1)
    session.backend.kill()
    assert session.recorder.death() == (KILLED[system], False)
    wait_until_gone(children)


@both
def test_kill_ends_a_job_that_keeps_the_interpreter_to_itself(session: Session, system: str) -> None:
    number = session.begin("import ctypes\nprint('in', flush=True)\nctypes.PyDLL(None).sleep(1000)")
    session.recorder.wait_for_text(number, "in")
    session.backend.kill()
    assert session.recorder.death() == (KILLED[system], False)


@both
@pytest.mark.parametrize(
    ("script", "reasons"),
    [
        ("os._exit(3)", {"mac": "exit code 3", "windows": "exit code 3"}),
        ("import ctypes; ctypes.string_at(0)", {"mac": "signal SIGSEGV", "windows": "exception 0xC0000005 (access violation)"}),
    ],
)
def test_a_death_is_told_with_its_reason_and_takes_the_children_along(
    session: Session, system: str, script: str, reasons: dict[str, str]
) -> None:
    begin = "import os, subprocess\np = subprocess.Popen(['sleep', '1000'])\nprint(p.pid, flush=True)"
    assert session.run(begin).state == "done"
    children = said_pids(session, 0, 1)
    number = session.begin("os.write(1, b'x' * 300_000)\n" + script)
    assert session.recorder.death() == (reasons[system], False)
    assert len(session.recorder.text(number)) == 300_000
    wait_until_gone(children)


@pytest.mark.parametrize("system", ["mac"])
def test_a_child_that_a_job_forked_does_not_hide_the_death(session: Session) -> None:
    script = (
        "import os, signal\nread, write = os.pipe()\nif os.fork() == 0:\n    os.setsid(); os.write(write, b'x'); signal.pause()\n"
    )
    number = session.begin(script + "os.read(read, 1); print(open(f'/proc/self/task/{os.getpid()}/children').read(), flush=True)")
    [(pid, _)] = said_pids(session, number, 1)
    session.begin("os._exit(1)")
    try:
        assert session.recorder.death() == ("exit code 1", False)
    finally:
        os.kill(pid, signal.SIGKILL)  # it has left the group, and only on Linux would it be found


@both
def test_an_interrupt_ends_what_the_job_waits_for(session: Session, system: str) -> None:
    # Start times are counted in ticks: the next job begins in a later one.
    tick = "\nimport time; end = time.monotonic() + 0.03\nwhile time.monotonic() < end: pass"
    session.run("import subprocess\nolder = subprocess.Popen(['sleep', '1000'])\nprint(older.pid)" + tick)
    older = said_pids(session, 0, 1)
    number = session.begin("p = subprocess.Popen(['sleep', '1000'])\nprint(p.pid, flush=True)\np.wait()")
    children = said_pids(session, number, 1)
    assert session.backend.interrupt(number)
    assert session.recorder.outcome(number).state == "interrupted"
    wait_until_gone(children)
    if system == "windows":
        assert session.value("older.poll()") is None  # what a job before it has left is none of its
        assert process_start_time(older[0][0]) == older[0][1]


@both
def test_a_worker_that_is_idle_ends_by_itself(session: Session, system: str, tmp_path: Path) -> None:
    session.run(f"import atexit, pathlib\natexit.register(pathlib.Path({str(tmp_path / 'ran')!r}).touch)")
    session.backend.close()
    assert (tmp_path / "ran").exists()


@both
def test_a_worker_whose_server_lets_go_ends_with_all(session: Session, system: str) -> None:
    number = session.begin(
        "import subprocess\np = subprocess.Popen(['sleep', '1000'])\nprint(p.pid, flush=True)\nwhile True: pass"
    )
    children = said_pids(session, number, 1)
    session.backend._ends.lifeline.shutdown(socket.SHUT_WR)  # type: ignore[attr-defined]
    assert session.recorder.death()[0] == {"mac": "signal SIGKILL", "windows": "exit code 1"}[system]
    wait_until_gone(children)


@both
def test_a_worker_that_does_not_start_says_why(
    make: Callable[..., ProcessBackend], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script = tmp_path / "worker.py"
    script.write_text("raise ValueError('no such luck')")
    monkeypatch.setattr(worker, "__file__", str(script))
    with pytest.raises(RuntimeError, match=r"(?s)before it was ready \(exit code 1\).*no such luck"):
        make().start()


@both
def test_a_worker_that_says_nothing_is_given_up(
    make: Callable[..., ProcessBackend], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script = tmp_path / "worker.py"
    script.write_text("import signal; signal.pause()")
    monkeypatch.setattr(worker, "__file__", str(script))
    monkeypatch.setattr(process_module, "START_TIMEOUT", 0.3)
    monkeypatch.setattr(process_module, "KILL_GRACE", 0.1)
    with pytest.raises(RuntimeError, match="not ready after"):
        make().start()


@both
def test_a_program_that_cannot_be_started_is_an_error(
    make: Callable[..., ProcessBackend], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    monkeypatch.setattr(sys, "_base_executable", "/nowhere/python")
    with pytest.raises(OSError, match="nowhere"):
        make().start()


@pytest.mark.parametrize("system", ["windows"])
def test_without_a_job_object_there_is_no_worker(make: Callable[..., ProcessBackend], kernel: windows_kernel.Kernel) -> None:
    kernel.refuse_assign = True
    with pytest.raises(RuntimeError, match="use a thread"):
        make().start()


@pytest.mark.parametrize("system", ["windows"])
def test_the_memory_limit_is_that_of_a_job_object(make: Callable[..., ProcessBackend], kernel: windows_kernel.Kernel) -> None:
    session = started(make(memory_limit=1 << 30))
    outcome = session.run("x = bytearray(2 << 30)")
    assert outcome.error is not None
    assert outcome.error["type"] == "MemoryError"
    next(iter(kernel.jobs.values())).peak = 600 << 20
    session.begin("import ctypes; ctypes.string_at(0)")
    assert session.recorder.death() == ("exception 0xC0000005 (access violation)", True)
    with pytest.raises(RuntimeError, match="memory limit of 1,000 bytes"):
        make(memory_limit=1000).start()


@pytest.mark.parametrize("system", ["mac"])
def test_no_memory_limit_is_promised_where_none_is_kept(make: Callable[..., ProcessBackend]) -> None:
    with pytest.raises(RuntimeError, match="macOS does not keep"):
        make(memory_limit=1 << 30).start()
