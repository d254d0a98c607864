"""How a process of its own ends, with all that it has started, and how its jobs are interrupted; for real."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.backends import PATIENCE, Session
from support.processes import process_of, said_pids, wait_until_gone

from bgpy.system import process_start_time, workers
from bgpy.tasks.workspace import worker
from bgpy.tasks.workspace.backends import Outcome, distant
from bgpy.tasks.workspace.backends import process as process_module
from bgpy.tasks.workspace.backends.process import ProcessBackend
from bgpy.tasks.workspace.channel import Kind

DONE = Outcome("done", None, None)
pytestmark = pytest.mark.skipif(not workers.LINUX, reason="reads /proc")


# Death


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("import os; os._exit(3)", "exit code 3"),
        ("import ctypes; ctypes.string_at(0)", "signal SIGSEGV"),
        ("import os; os.abort()", "signal SIGABRT"),
        ("import os, signal; os.killpg(0, signal.SIGKILL)", "signal SIGKILL"),
    ],
)
def test_a_job_that_ends_its_process(session: Session, script: str, reason: str) -> None:
    number = session.begin("print('last words', flush=True)\n" + script)
    assert session.recorder.death() == (reason, False)
    assert session.recorder.text(number) == "last words\n"
    with pytest.raises(EOFError):
        session.backend.read(None, "json", None, PATIENCE)
    assert session.recorder.told[-1][0] == "died"


def test_recursion_without_end_that_overflows_the_stack(session: Session) -> None:
    session.begin("import sys\nsys.setrecursionlimit(10**9)\ndef f(x): return list(map(f, [1]))\nf(1)")
    told = session.recorder.wait_for(lambda: [each for each in session.recorder.told if each[0] in ("died", "ended")])
    # Python 3.12 and newer count the calls of C code by themselves.
    assert told[0] == ("died", "signal SIGSEGV", False) or told[0][2].error["type"] == "RecursionError"


def test_an_exit_in_a_job_does_not_end_the_worker(session: Session) -> None:
    assert session.run("import sys; sys.exit(0)") == DONE
    assert session.run("exit(3)").state == "failed"
    assert session.value("1 + 1") == 2


def test_a_death_takes_along_what_the_job_started(session: Session) -> None:
    script = "import os, subprocess\np = subprocess.Popen(['sleep', '1000'], start_new_session=True)\nprint(p.pid, flush=True)\n"
    number = session.begin(script)
    children = said_pids(session, number, 1)
    session.begin("os._exit(1)")
    session.recorder.death()
    wait_until_gone(children)


def test_children_that_outlive_their_job_stay_until_the_workspace_ends(session: Session) -> None:
    session.run("import subprocess\np = subprocess.Popen(['sleep', '1000'])\nprint(p.pid)")
    children = said_pids(session, 0, 1)
    assert session.value("p.poll()") is None
    session.backend.close()
    wait_until_gone(children)


FAMILY = """
import os, subprocess, sys
say = "os.write(1, str(os.getpid()).encode() + bytes([10]))"
inner = f"import os, signal; os.setsid(); {say}; signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.pause()"
outer = f"import os, subprocess, sys, signal; {say}; subprocess.Popen([sys.executable, '-c', {inner!r}]); signal.pause()"
subprocess.Popen([sys.executable, "-c", outer], start_new_session=True)
subprocess.Popen([sys.executable, "-c", outer])
orphan = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {inner!r}])"
subprocess.run([sys.executable, "-c", orphan], start_new_session=True)
while True: pass
"""


def test_kill_ends_all_at_once_whatever_their_session(session: Session) -> None:
    number = session.begin(FAMILY)
    family = [*said_pids(session, number, 5), session.backend.process]
    begun = time.monotonic()
    assert session.backend.kill()
    assert session.recorder.death() == ("signal SIGKILL", False)
    took = time.monotonic() - begun
    assert all(process_start_time(pid) != start for pid, start in family)  # type: ignore[misc]
    assert took < process_module.KILL_GRACE


def test_kill_ends_a_worker_whose_reaper_was_stopped(session: Session) -> None:
    number = session.begin(
        "import os, signal\nos.kill(os.getppid(), signal.SIGSTOP)\nprint('stopped', flush=True)\nwhile True: pass"
    )
    session.recorder.wait_for_text(number, "stopped")
    session.backend.kill()
    assert session.recorder.death() == ("signal SIGKILL", False)


def test_the_death_of_the_reaper_is_that_of_the_interpreter(session: Session) -> None:
    process = session.backend.process
    session.begin("import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\nwhile True: pass")
    assert "watches over" in session.recorder.death()[0]
    assert process is not None
    wait_until_gone([process])


def test_a_worker_told_to_end_by_a_signal_takes_all_along(session: Session) -> None:
    session.begin("import os, signal\nos.kill(os.getppid(), signal.SIGTERM)\nwhile True: pass")
    assert session.recorder.death() == ("signal SIGKILL", False)


def test_an_idle_worker_ends_by_itself_so_that_what_was_registered_runs(session: Session, tmp_path: Path) -> None:
    path = tmp_path / "ran"
    session.run(f"import atexit, pathlib\natexit.register(pathlib.Path({str(path)!r}).touch)")
    session.backend.close()
    assert path.exists()


def test_a_job_that_breaks_the_channel_ends_its_own_worker_only(session: Session) -> None:
    session.begin(
        "import os, contextlib\nfor fd in range(3, 100):\n    with contextlib.suppress(OSError): os.write(fd, b'rubbish' * 999)\n"
        "while True: pass"
    )
    reason, _ = session.recorder.death()
    assert "channel" in reason or "signal SIGKILL" in reason


def test_a_pickle_that_names_code_ends_its_own_worker_only(session: Session) -> None:
    script = (
        "from bgpy.tasks.workspace.progress import SINK\nimport os\nclass Bad:\n    def __reduce__(self): return os._exit, (9,)\n"
        "sink = SINK.get()._tell.__self__\n"
        f"sink._jobs.send({int(Kind.NEWS)}, sink._current, {{'name': Bad()}})\nwhile True: pass"
    )
    session.begin(script)
    reason, _ = session.recorder.death()
    assert "no plain data" in reason


ORPHANS = """
import sys, threading
from bgpy.tasks.workspace.backends import Order
from bgpy.tasks.workspace.backends.process import ProcessBackend, Spawner
class Listener:
    def output(self, number, stream, data): sys.stdout.write(data.decode()); sys.stdout.flush()
    def ended(self, *what): pass
    died = progress = ended
backend = ProcessBackend(Listener(), spawner=Spawner())
backend.start()
backend.run(Order(0, "script", "import os, subprocess\\np = subprocess.Popen(['sleep', '1000'], start_new_session=True)\\n"
    "print(os.getppid(), os.getpid(), p.pid, flush=True)\\nwhile True: pass", False))
threading.Event().wait()
"""


def test_a_server_that_is_killed_leaves_no_orphan() -> None:
    root = str(Path(worker.__file__).resolve().parents[3])
    with subprocess.Popen(
        [sys.executable, "-c", ORPHANS], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": root}
    ) as server:
        assert server.stdout is not None
        processes = [process_of(int(pid)) for pid in server.stdout.readline().split()]
        server.kill()
        wait_until_gone(processes)


# Interrupts


def test_an_interrupt_ends_a_sleep_at_once(session: Session) -> None:
    number = session.begin("import time\nprint('in', flush=True)\ntime.sleep(1000)")
    session.recorder.wait_for_text(number, "in")
    begun = time.monotonic()
    assert session.backend.interrupt(number)
    assert session.recorder.outcome(number).state == "interrupted"
    assert time.monotonic() - begun < distant.INTERRUPT_TIMEOUT


def test_the_worker_itself_refuses_an_interrupt_of_another_job(session: Session) -> None:
    """The server may ask when that job has just ended."""
    backend = session.backend
    assert isinstance(backend, ProcessBackend)
    number = session.begin("print('in', flush=True)\nwhile not globals().get('go'): pass")
    session.recorder.wait_for_text(number, "in")
    assert backend._beside.control.ask(Kind.INTERRUPT, {"job": number - 1}, PATIENCE) == {"hit": False}
    backend.write("go", True, PATIENCE)
    assert session.recorder.outcome(number) == DONE


def test_a_plain_signal_between_two_jobs_hurts_nobody(session: Session) -> None:
    assert session.backend.process is not None
    for number in range(50):
        os.kill(session.backend.process[0], signal.SIGINT)
        assert session.value(f"{number} + 1") == number + 1


def test_an_interrupt_reaches_the_children_of_the_job(session: Session) -> None:
    number = session.begin("import subprocess\nprint('in', flush=True)\nsubprocess.run(['sleep', '1000'])")
    session.recorder.wait_for_text(number, "in")
    assert session.backend.interrupt(number)
    assert session.recorder.outcome(number).state == "interrupted"


def test_an_interrupt_ends_top_level_await(session: Session) -> None:
    number = session.begin("import asyncio\nprint('in', flush=True)\nawait asyncio.sleep(1000)")
    session.recorder.wait_for_text(number, "in")
    assert session.backend.interrupt(number)
    assert session.recorder.outcome(number).state == "interrupted"
    assert session.value("await asyncio.sleep(0, 3)") == 3


def test_a_handler_that_a_job_leaves_behind_does_not_keep_the_next_from_being_interrupted(session: Session) -> None:
    session.run("import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)")
    number = session.begin("print('in', flush=True)\nwhile True: pass")
    session.recorder.wait_for_text(number, "in")
    assert session.backend.interrupt(number)
    assert session.recorder.outcome(number).state == "interrupted"


def test_a_job_that_keeps_the_interpreter_to_itself_is_interrupted_later(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distant, "INTERRUPT_TIMEOUT", 0.05)
    # C code that holds the lock of the interpreter, so that no thread of ours runs: usleep called as Python's own functions are.
    number = session.begin("import ctypes\nprint('in', flush=True)\nctypes.PyDLL(None).usleep(500_000)\nwhile True: pass")
    session.recorder.wait_for_text(number, "in")
    assert session.backend.interrupt(number)
    assert session.recorder.outcome(number).state == "interrupted"
