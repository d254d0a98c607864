from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import bgpy.background
from bgpy import _entry
from bgpy.background import Ready, launch
from bgpy.errors import NameTakenError, ServerStartError
from bgpy.system import close_locked, kill_process, open_locked, process_alive, process_start_time, wait_for_end

pytestmark = pytest.mark.process
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(bgpy.background.__file__)))

# What stands for the server in these tests: it says what it sees, then waits for a SIGTERM.
SERVER = """
import json, os, signal, sys, threading
from bgpy.errors import NameTakenError

def descriptors():
    paths = ["/proc/self/fd/" + fd for fd in os.listdir("/proc/self/fd")]
    return {os.path.basename(path): os.readlink(path) for path in paths if os.path.lexists(path)}

def state(config):
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return {
        "config": config, "cwd": os.getcwd(), "path": sys.path, "ppid": os.getppid(), "session": os.getsid(0),
        "blocked": int(status["SigBlk"], 16), "ignored": int(status["SigIgn"], 16), "environment": dict(os.environ),
        "descriptors": descriptors(), "umask": status["Umask"].strip(), "modules": sorted(sys.modules),
        "package": sys.modules["bgpy"].__path__[0],
        "command": open("/proc/self/cmdline").read(), "stdin": sys.stdin.read(),
    }

def serve(config, ready):
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *args: ended.set())
    signal.signal(signal.SIGINT, lambda *args: os._exit(3))
    with open(config["report"], "w") as file:
        json.dump(state(config), file)
    ready({"pid": os.getpid(), "host": "127.0.0.1", "port": 4242, "id": "00ff", "later": 1})
    print("pr\\u00fcfung \\udc80")
    ended.wait()
    with open(config["report"], "w") as file:
        json.dump(descriptors(), file)
    return 0

def fail(config, ready):
    raise {"value": ValueError("no such model"), "taken": NameTakenError("models", 4711), "exit": SystemExit(5),
           "mute": Mute()}[config["how"]]

class Mute(Exception):
    def __str__(self):
        raise RuntimeError("mute")

def fail_with_a_child(config, ready):
    import subprocess
    child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    with open(config["report"], "w") as file:
        file.write(str(child.pid))
    raise ValueError("after a child")

def die(config, ready):
    print("last words", flush=True)
    os._exit(7)

def die_with_a_fork(config, ready):
    if os.fork() == 0:
        with open(config["fifo"]) as file:
            file.read()
        os._exit(0)
    os._exit(7)

def hang(config, ready):
    os.setsid()  # out of the group that the starter could end
    with open(config["report"], "w") as file:
        file.write(str(os.getpid()))
    print("hanging", flush=True)
    threading.Event().wait()

def return_early(config, ready):
    return 4

def fail_late(config, ready):
    ready({"pid": os.getpid(), "host": "h", "port": 1, "id": "00"})
    raise ValueError("after it was ready")
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with the module of the stand-in server."""
    (tmp_path / "stand_in.py").write_text(SERVER)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@contextlib.contextmanager
def running(pid: int) -> Iterator[str]:
    """See to it that a server has ended afterwards; its start time."""
    start_time = process_start_time(pid)
    assert start_time is not None
    try:
        yield start_time
    finally:
        kill_process(pid, start_time)
        assert wait_for_end(pid, start_time, 10)


def read_report(place: Path) -> Any:
    return json.loads((place / "report").read_text())


def config_for(place: Path, **more: Any) -> dict[str, Any]:
    return {"host": "127.0.0.1", "port": 0, "token": "a secret", "report": str(place / "report"), **more}


def start(place: Path, **more: Any) -> Ready:
    return launch(config_for(place, **more), serve="stand_in:serve")


def starter(place: Path, before: str = "", after: str = "") -> list[str]:
    """Command of a Python process that starts the stand-in server and prints its pid."""
    code = f"import sys; sys.path.append({ROOT!r})\n{before}\nfrom bgpy.background import launch\n"
    code += f"ready = launch({config_for(place)!r}, serve='stand_in:serve')\n"
    code += f"with open({str(place / 'pid')!r}, 'w') as file: file.write(str(ready.pid))\n{after}"
    return [sys.executable, "-W", "error", "-c", code]


def end(pid: int, start_time: str) -> None:
    os.kill(pid, signal.SIGTERM)
    assert wait_for_end(pid, start_time, 10)


def test_a_server_is_ready_and_knows_its_configuration(place: Path) -> None:
    ready = start(place, name="models")
    with running(ready.pid) as start_time:
        assert ready[1:4] == ("127.0.0.1", 4242, "00ff")
        report = read_report(place)
        assert report["config"] == {**config_for(place, name="models"), "log_file": ready.log_file}
        assert report["cwd"] == str(place)
        assert report["package"] == os.path.join(ROOT, "bgpy")
        end(ready.pid, start_time)


def test_it_is_detached_and_no_child_of_the_starter(place: Path) -> None:
    """In a session of its own that it does not lead, so that it can never get a terminal."""
    ready = start(place)
    with running(ready.pid):
        report = read_report(place)
        assert report["ppid"] != os.getpid()
        assert report["session"] not in (os.getsid(0), ready.pid)
        with pytest.raises(ChildProcessError):
            os.waitpid(ready.pid, os.WNOHANG)
        # That nobody in between is left, not even as a zombie, the check for leaks says.


def test_it_holds_nothing_of_the_starter(place: Path) -> None:
    read, write = os.pipe()
    os.set_inheritable(write, True)
    try:
        ready = start(place)
    finally:
        os.close(read)
        os.close(write)
    with running(ready.pid) as start_time:
        end(ready.pid, start_time)
        descriptors = {number: path for number, path in read_report(place).items() if path != str(place / "report")}
    assert descriptors == {"0": "/dev/null", "1": ready.log_file, "2": ready.log_file}


def test_no_secret_shows(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BGPY_TOKEN", "a secret")
    ready = start(place)
    with running(ready.pid):
        report = read_report(place)
        assert "secret" not in report["command"]
        assert report["command"].split("\0")[2:4] == ["server", "127.0.0.1:0"]
        assert "BGPY_TOKEN" not in report["environment"]
        assert b"a secret" not in Path(f"/proc/{ready.pid}/environ").read_bytes()
        assert report["stdin"] == ""


def test_the_starting_folder_is_importable_but_shadows_nothing(place: Path) -> None:
    (place / "json.py").write_text("raise ImportError('not this one')")
    ready = start(place)
    with running(ready.pid):
        path = read_report(place)["path"]
        assert path[-1] == str(place) or path[-2:] == [str(place), ROOT]
        assert os.path.join(ROOT, "bgpy") not in path


def test_it_loads_no_module_that_makes_a_start_slow(place: Path) -> None:
    ready = start(place)
    with running(ready.pid):
        slow = {"asyncio", "click", "cloudpickle", "inspect", "ssl", "logging", "dataclasses", "tempfile", "pathlib"}
        slow |= {"runpy", "subprocess"}
        assert slow & set(read_report(place)["modules"]) == set()


def test_signals_that_the_parent_ignored_or_blocked_work_in_the_server(place: Path) -> None:
    before = "import signal; signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
    before += "signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())"
    subprocess.run(starter(place, before), check=True, timeout=20)
    with running(int((place / "pid").read_text())) as start_time:
        report = read_report(place)
        assert report["blocked"] == 0
        assert report["ignored"] & 1 << (signal.SIGCHLD - 1) == 0
        assert report["ignored"] & 1 << (signal.SIGHUP - 1) != 0
        end(int((place / "pid").read_text()), start_time)


def test_the_umask_is_the_starters(place: Path) -> None:
    old = os.umask(0o027)
    try:
        ready = start(place)
    finally:
        os.umask(old)
    with running(ready.pid):
        assert read_report(place)["umask"] == "0027"
        assert stat.S_IMODE(os.stat(ready.log_file).st_mode) == 0o600


def test_a_starter_with_captured_output_returns_while_the_server_lives(place: Path) -> None:
    done = subprocess.run(starter(place), capture_output=True, timeout=20, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    with running(int((place / "pid").read_text())) as start_time:
        assert process_alive(int((place / "pid").read_text()), start_time)


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])
def test_a_starter_without_standard_streams(closed: tuple[int, ...], place: Path) -> None:
    before = f"import os\nfor fd in {closed}: os.close(fd)"
    subprocess.run(starter(place, before), timeout=20, check=True)
    with running(int((place / "pid").read_text())):
        descriptors = read_report(place)["descriptors"]
        assert descriptors["0"] == "/dev/null"
        assert descriptors["1"] == descriptors["2"]
        assert "/logs/+" in descriptors["1"]


def test_the_end_of_the_terminal_does_not_end_the_server(place: Path) -> None:
    """The starter leads the session of a terminal, which hangs up."""
    child, terminal = pty.fork()
    if child == 0:
        command = starter(place, after="print('started', flush=True); sys.stdin.read()")
        os.execv(command[0], command)
    output = b""
    while b"started" not in output:
        output += os.read(terminal, 1000)
    with running(int((place / "pid").read_text())) as start_time:
        os.close(terminal)  # SIGHUP for the whole session
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGHUP
        os.kill(int((place / "pid").read_text()), signal.SIGHUP)  # and once more, directly
        assert process_alive(int((place / "pid").read_text()), start_time)
        end(int((place / "pid").read_text()), start_time)


def test_control_c_in_the_terminal_does_not_reach_the_server(place: Path) -> None:
    child, terminal = pty.fork()
    if child == 0:
        before = "import signal; signal.signal(signal.SIGINT, signal.SIG_DFL)"
        command = starter(place, before, after="print('started', flush=True); sys.stdin.read()")
        os.execv(command[0], command)
    output = b""
    while b"started" not in output:
        output += os.read(terminal, 1000)
    with running(int((place / "pid").read_text())) as start_time:
        os.write(terminal, b"\x03")
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGINT
        os.close(terminal)
        end(int((place / "pid").read_text()), start_time)


def started(action: Callable[[], object]) -> tuple[ServerStartError, float]:
    begin = time.monotonic()
    with pytest.raises(ServerStartError) as caught:
        action()
    return caught.value, time.monotonic() - begin


@pytest.mark.parametrize(
    ("how", "reason", "line"),
    [
        ("value", "ValueError: no such model", "ValueError: no such model"),
        ("exit", "SystemExit: 5", "SystemExit: 5"),
        ("mute", "Mute: (its text cannot be made)", "stand_in.Mute: <"),
    ],
)
def test_a_failure_comes_with_the_childs_reason_and_traceback(how: str, reason: str, line: str, place: Path) -> None:
    error, seconds = started(lambda: launch(config_for(place, how=how), serve="stand_in:fail"))
    assert error.reason == reason
    assert error.traceback_text.splitlines()[-1].startswith(line)
    assert "in fail" in error.traceback_text
    assert error.log_file is not None
    assert error.traceback_text in Path(error.log_file).read_text()
    assert seconds < 5


def test_a_taken_name_is_its_own_error(place: Path) -> None:
    error, _ = started(lambda: launch(config_for(place, how="taken"), serve="stand_in:fail"))
    assert isinstance(error, NameTakenError)
    assert (error.name, error.pid) == ("models", 4711)


def test_a_module_that_does_not_import_is_a_failure(place: Path) -> None:
    error, _ = started(lambda: launch(config_for(place), serve="no_such_module:serve"))
    assert error.reason == "ModuleNotFoundError: No module named 'no_such_module'"


def test_a_server_that_returns_before_it_is_ready_has_failed(place: Path) -> None:
    error, _ = started(lambda: launch(config_for(place), serve="stand_in:return_early"))
    assert error.reason == "RuntimeError: It ended with code 4 before it was ready."


def test_what_a_failed_start_has_started_is_ended(place: Path) -> None:
    started(lambda: launch(config_for(place), serve="stand_in:fail_with_a_child"))
    pid = int((place / "report").read_text())
    start_time = process_start_time(pid)
    assert start_time is None or wait_for_end(pid, start_time, 10)


def test_a_death_comes_with_the_last_lines_of_the_log(place: Path) -> None:
    (place / "log").write_text("of an earlier run\n")
    error, seconds = started(lambda: launch(config_for(place), log_file="log", serve="stand_in:die"))
    assert error.reason == "its process ended before it was ready"
    assert error.traceback_text == "last words"
    assert error.log_file == str(place / "log")
    assert (place / "log").read_text() == "of an earlier run\nlast words\n"
    assert seconds < 5


def test_a_death_is_seen_though_a_forked_child_lives(place: Path) -> None:
    """The fork has a copy of the pipe to the starter, unless it is closed there."""
    os.mkfifo(place / "fifo")
    config = config_for(place, fifo=str(place / "fifo"))
    error, seconds = started(lambda: launch(config, timeout=20, serve="stand_in:die_with_a_fork"))
    assert error.reason == "its process ended before it was ready"
    assert seconds < 10


def test_a_late_server_is_killed(place: Path) -> None:
    error, _ = started(lambda: launch(config_for(place), timeout=1.5, serve="stand_in:hang"))
    assert error.reason == "it was not ready after 1.5 s"
    assert error.traceback_text == "hanging"
    assert process_start_time(int((place / "report").read_text())) is None


def test_a_child_that_never_takes_its_configuration_is_killed(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than a pipe holds, for an interpreter that hangs before our first statement."""
    (place / "site").mkdir()
    (place / "site" / "sitecustomize.py").write_text(
        f"import os, signal\nopen({str(place / 'report')!r}, 'w').write(str(os.getpid()))\nsignal.pause()"
    )
    monkeypatch.setenv("PYTHONPATH", str(place / "site"))
    error, _ = started(lambda: launch(config_for(place, big=bytes(1 << 20)), timeout=1.5, serve="stand_in:serve"))
    assert error.reason == "it was not ready after 1.5 s"
    assert process_start_time(int((place / "report").read_text())) is None


def test_a_large_configuration_arrives(place: Path) -> None:
    ready = start(place, big="x" * (1 << 20))
    with running(ready.pid):
        assert read_report(place)["config"]["big"] == "x" * (1 << 20)


def test_an_interrupted_start_leaves_nothing_running(place: Path) -> None:
    os.mkfifo(place / "report")  # the child opens it, and so both know how far it is
    code = f"import sys; sys.path.append({ROOT!r})\nfrom bgpy.background import launch\n"
    code += f"launch({config_for(place)!r}, serve='stand_in:hang')"
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE) as process:
        pid = int((place / "report").read_text())
        start_time = process_start_time(pid)
        assert start_time is not None
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert b"KeyboardInterrupt" in errors
    assert not process_alive(pid, start_time)


def test_an_error_after_the_answer_is_in_the_log(place: Path) -> None:
    ready = launch(config_for(place), serve="stand_in:fail_late")
    start_time = process_start_time(ready.pid)
    assert start_time is None or wait_for_end(ready.pid, start_time, 10)
    assert Path(ready.log_file).read_text().endswith("ValueError: after it was ready\n")


def test_all_that_is_printed_is_in_the_log(place: Path) -> None:
    """At once, and whatever the locale; a lone surrogate too."""
    ready = launch(config_for(place), serve="stand_in:serve", log_file="out.log")
    with running(ready.pid) as start_time:
        end(ready.pid, start_time)
    assert Path(ready.log_file) == place / "out.log"
    assert (place / "out.log").read_text(encoding="utf-8") == "prüfung \\udc80\n"


def test_a_log_that_cannot_be_opened_is_said_before_anything_starts(place: Path) -> None:
    error, _ = started(lambda: launch(config_for(place), log_file=str(place / "no" / "log"), serve="stand_in:serve"))
    assert "its log file cannot be opened" in error.reason


def test_no_interpreter_is_a_start_error(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(place / "python"))
    error, _ = started(lambda: start(place))
    assert "its process could not be started" in error.reason


def test_named_servers_keep_one_log_and_unnamed_ones_the_last_fifty(bgpy_home: Path) -> None:
    logs = bgpy_home / "logs"
    for _ in range(2):
        path, fd = bgpy.background._open_log(None, "models")
        os.close(fd)
        assert path == str(logs / "models.log")
    old = [logs / f"+20200101-0000{number:02}-00000000.log" for number in range(55)]
    for each in old:
        each.touch(0o600)
    in_use = open_locked(str(old[0]))
    assert in_use is not None
    path, fd = bgpy.background._open_log(None, None)
    os.close(fd)
    assert sorted(logs.iterdir()) == sorted([old[0], *old[6:], Path(path), logs / "models.log"])
    close_locked(in_use)


def test_another_bgpy_on_the_path_does_not_pass_for_ours(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "other" / "bgpy").mkdir(parents=True)
    (place / "other" / "bgpy" / "__init__.py").write_text("raise ImportError('another bgpy')")
    monkeypatch.setenv("PYTHONPATH", str(place / "other"))
    ready = start(place)
    with running(ready.pid):
        assert read_report(place)["package"] == os.path.join(ROOT, "bgpy")


def test_a_package_that_is_on_no_path_comes_last(monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
    monkeypatch.setattr(sys, "path", ["/nowhere"])
    _entry.complete_path(ROOT)
    assert sys.path == ["/nowhere", ROOT, str(place)]
    _entry.complete_path(ROOT)
    assert sys.path == ["/nowhere", ROOT, str(place)]


def test_a_removed_working_directory_does_not_stop_a_start(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(place))
    (place / "gone").mkdir()
    monkeypatch.chdir(place / "gone")
    (place / "gone").rmdir()
    error, _ = started(lambda: launch(config_for(place, how="value"), serve="stand_in:fail"))
    monkeypatch.chdir(place)
    assert error.reason == "ValueError: no such model"
