"""What a process of its own can do; for real."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path, PurePath
from typing import Any

import pytest
from support.backends import PATIENCE, Recorder, Session

from bgpy.system import workers
from bgpy.tasks.workspace import worker
from bgpy.tasks.workspace.backends import Order, Outcome
from bgpy.tasks.workspace.backends import driver as driver_module
from bgpy.tasks.workspace.backends import process as process_module
from bgpy.tasks.workspace.backends.process import ProcessBackend, Spawner
from bgpy.tasks.workspace.output import SECRET_SIZE, Cutter

DONE = Outcome("done", None, None)
pytestmark = pytest.mark.skipif(not workers.LINUX, reason="reads /proc")


# A main of its own


def test_the_namespace_is_the_main_of_the_process(session: Session, tmp_path: Path) -> None:
    assert session.value("import sys, os\nvars(sys.modules['__main__']) is globals(), sys.argv, sys.path[0]") == [True, [""], ""]
    assert session.value("class C: x = 5\nimport pickle\npickle.loads(pickle.dumps(C())).x") == 5
    path = tmp_path / "program.py"
    path.write_text("import sys\n(__file__, sys.argv, sys.path[0], __name__)")
    outcome = session.run(str(path), "file")
    assert outcome.value is not None
    assert outcome.value.json == [str(path), [str(path)], str(tmp_path), "__main__"]
    assert session.value("sys.path.insert(0, 'x'); sys.path[:2]") == ["x", ""]
    assert session.value("sys.path.count('')") == 1
    assert session.value("os.getpid()") == session.backend.process[0]  # type: ignore[index]


def test_multiprocessing_works_in_a_job(session: Session) -> None:
    script = (
        "import multiprocessing\ndef double(x): return 2 * x\n"
        "with multiprocessing.get_context('fork').Pool(2) as pool: values = pool.map(double, [1, 2])\nvalues"
    )
    assert session.value(script) == [2, 4]


def test_a_child_that_a_job_forks_does_not_answer_for_it(session: Session) -> None:
    assert session.value("import os\npid = os.fork()\nif pid: status = os.waitpid(pid, 0)[1]\nprint('here')\n7") == 7
    assert session.text() == "here\nhere\n"
    assert session.value("status") == 0


def test_input_has_nobody_to_ask(session: Session) -> None:
    outcome = session.run("input('name? ')")
    assert outcome.error is not None
    assert "no standard input" in outcome.error["message"]
    assert session.value("import sys; sys.stdin.read()") == ""


# Output


OF_ALL_KINDS = """
import ctypes, os, subprocess, sys
ctypes.CDLL(None).puts(b"by C")
os.write(1, b"by os\\n")
subprocess.run([sys.executable, "-c", "print('by a child')"])
os.system("echo by a shell")
sys.stdout.write("by Python, without an end of line")
"""


def test_output_of_c_code_and_of_children_is_told_before_the_end(
    make: Callable[..., Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)  # with it C code would not buffer either
    session = make()
    for _ in range(3):
        session.run(OF_ALL_KINDS)
        assert set(session.text().replace("Python, without an end of line", "Python\n").splitlines()) == {
            "by C",
            "by os",
            "by a child",
            "by a shell",
            "by Python",
        }
    assert session.recorder.text(None) == ""


def test_an_end_waits_for_all_output_before_it(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver_module, "CHUNK", 1000)
    for number in range(5):
        session.run("print('x' * 30_000); print('y' * 30_000, file=__import__('sys').stderr)")
        told = [each for each in session.recorder.told if each[1] == number]
        assert told[-1][0] == "ended"
        assert (len(session.text()), len(session.text("stderr"))) == (30_001, 30_001)


def test_a_flood_is_throttled_and_nothing_of_it_is_lost(make: Callable[..., Session]) -> None:
    session = make()
    sizes: list[int] = []
    recorder = session.recorder
    recorder.output = lambda number, stream, data: sizes.append(len(data))  # type: ignore[method-assign]
    script = "import resource\nline = 'x' * 999\nfor i in range(100_000): print(line)\nresource.getrusage(0).ru_maxrss"
    outcome = session.run(script)
    assert sum(sizes) == 100_000_000
    assert max(sizes) <= 1 << 16
    assert outcome.value is not None
    assert outcome.value.json < 200_000  # KiB


def test_a_job_that_closes_its_streams_ends_all_the_same(session: Session) -> None:
    assert session.run("import os, sys\nprint('x', flush=True)\nos.close(1); sys.stderr.close()") == DONE
    assert session.value("1 + 1") == 2


BETWEEN = """
import subprocess, sys, threading
child = subprocess.Popen([sys.executable, "-c", "input(); print(5)"], stdin=subprocess.PIPE)
event = threading.Event()
def work():
    event.wait()
    child.communicate(b"x")
    print("late", flush=True)
threading.Thread(target=work).start()
"""


def test_what_is_written_between_two_jobs_belongs_to_none(session: Session) -> None:
    session.run(BETWEEN)
    session.run("threading.Timer(0.05, event.set).start()")
    session.recorder.wait_for_text(None, "5\nlate\n")


# Memory


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS keeps to no limit")
def test_a_memory_limit_beyond_all_memory_is_none(make: Callable[..., Session]) -> None:
    session = make(memory_limit=10**30)
    assert session.value("6 * 7") == 42


def test_the_memory_limit_fails_a_job_and_leaves_the_worker(make: Callable[..., Session]) -> None:
    session = make(memory_limit=1 << 30)
    outcome = session.run("x = bytearray(2 << 30)")
    assert outcome.error is not None
    assert outcome.error["type"] == "MemoryError"
    assert session.value("1 + 1") == 2


def test_a_death_for_want_of_memory_is_told_as_such(make: Callable[..., Session]) -> None:
    session = make(memory_limit=1 << 30)
    session.begin("import os\nx = b'x' * (600 << 20)\nos.abort()")
    assert session.recorder.death() == ("signal SIGABRT", True)


def test_a_crash_under_a_limit_that_is_not_reached_is_a_crash(make: Callable[..., Session]) -> None:
    session = make(memory_limit=1 << 30)
    session.begin("import ctypes; ctypes.string_at(0)")
    assert session.recorder.death() == ("signal SIGSEGV", False)


def test_a_limit_below_what_an_interpreter_needs_is_refused(spawner: Spawner) -> None:
    with pytest.raises(RuntimeError, match="memory limit of 1,000 bytes"):
        ProcessBackend(Recorder(), spawner=spawner, memory_limit=1000).start()


def test_a_worker_that_does_not_start_says_why(spawner: Spawner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = tmp_path / "worker.py"
    script.write_text("raise ValueError('no such luck')")
    monkeypatch.setattr(worker, "__file__", str(script))
    with pytest.raises(RuntimeError, match=r"(?s)before it was ready.*no such luck"):
        ProcessBackend(Recorder(), spawner=spawner).start()


def test_a_worker_that_says_nothing_is_given_up(spawner: Spawner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = tmp_path / "worker.py"
    script.write_text("import signal; signal.pause()")
    monkeypatch.setattr(worker, "__file__", str(script))
    monkeypatch.setattr(process_module, "START_TIMEOUT", 0.3)
    monkeypatch.setattr(process_module, "KILL_GRACE", 0.1)
    with pytest.raises(RuntimeError, match="not ready after"):
        ProcessBackend(Recorder(), spawner=spawner).start()


def test_a_program_that_cannot_be_started_is_an_error(spawner: Spawner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(OSError, match="nowhere"):
        ProcessBackend(Recorder(), spawner=spawner).start()


def test_a_closed_spawner_starts_nothing() -> None:
    spawner = Spawner()
    spawner.close()
    spawner.close()
    with pytest.raises(RuntimeError, match="closed"):
        ProcessBackend(Recorder(), spawner=spawner).start()


def test_a_message_that_is_too_large_does_not_end_the_worker(make: Callable[..., Session]) -> None:
    session = make(max_size=100_000)
    session.run("x = 'y' * 1_000_000")
    with pytest.raises(Exception, match="limit is 100,000"):
        session.backend.read(["x"], "json", None, PATIENCE)
    assert session.value("1 + 1") == 2


def test_a_job_that_is_too_large_to_be_sent_has_failed_and_the_worker_lives_on(make: Callable[..., Session]) -> None:
    session = make(max_size=100_000)
    session.backend.run(Order(101, "script", "x" * 200_000, False))
    state, _, error, _ = session.recorder.outcome(101)
    assert error is not None
    assert (state, error["type"]) == ("failed", "MessageTooLargeError")
    assert error["message"].startswith("It cannot be sent to its worker: ")
    assert session.value("1 + 1") == 2


def test_a_question_that_no_server_asks_is_told_to_have_no_answer_at_once(make: Callable[..., Session]) -> None:
    """Its reader ended without a word: who asked waited for all of the time, and so did everybody after."""
    session = make()
    for _ in range(2):
        with pytest.raises(EOFError):
            session.backend.write("x", PurePath("of no plain data"), PATIENCE)
    assert session.value("1 + 1") == 2


def test_the_environment_does_not_shadow_the_standard_library(
    make: Callable[..., Session], tmp_path: Path, monkeypatch: Any
) -> None:
    (tmp_path / "select.py").write_text("raise ValueError")
    (tmp_path / "pickle.py").write_text("raise ValueError")
    monkeypatch.chdir(tmp_path)
    assert make().value("import pickle; pickle.loads(pickle.dumps(3))") == 3


def test_workers_started_by_a_thread_that_ends_live_on(make: Callable[..., Session]) -> None:
    sessions: list[Session] = []
    thread = threading.Thread(target=lambda: sessions.append(make()))
    thread.start()
    thread.join()
    assert sessions[0].value("1 + 1") == 2


def test_a_worker_has_no_descriptors_of_the_server(make: Callable[..., Session]) -> None:
    first, second = make(), make()
    own = "import os\nsorted(os.readlink(f'/proc/self/fd/{fd}') for fd in os.listdir('/proc/self/fd') if int(fd) < 100 and "
    second.run("import subprocess")
    script = own + "os.path.exists(f'/proc/self/fd/{fd}'))"
    assert not set(first.value(script)) & {each for each in second.value(script) if each.startswith(("socket", "pipe"))}
    listing = "subprocess.check_output(['ls', '/proc/self/fd'], close_fds=False).split()"
    assert [each for each in map(int, second.value(f"list(map(bytes.decode, {listing}))")) if each > 3] == []


def test_signals_are_as_in_a_fresh_process(session: Session) -> None:
    script = "import signal\n[signal.getsignal(n) == signal.SIG_DFL for n in (signal.SIGTERM, signal.SIGCHLD, signal.SIGHUP)]"
    assert session.value(script) == [True, True, True]


def test_output_that_looks_like_the_beginning_of_a_mark_is_told_before_the_end(session: Session) -> None:
    """A secret that began with a line break made the last one of a job's output come after its end, and so be lost."""
    secret = b"\n" + bytes(SECRET_SIZE - 1)
    session.run(
        f"import gc\nfor each in gc.get_objects():\n    if type(each).__name__ == 'Runner':\n        each._secret = {secret!r}\n"
    )
    assert isinstance(session.backend, ProcessBackend)
    for pipe in session.backend._driver.pipes.values():
        pipe.cutter = Cutter(secret)
    session.run(
        "import fcntl, os, termios\nos.write(1, b'line\\n')\n"
        "while any(fcntl.ioctl(1, termios.FIONREAD, bytes(4))): pass"  # until all of it has been read
    )
    assert session.text() == "line\n"
