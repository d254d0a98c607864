"""bgpy run and bgpy workspaces, against a server in the background; and what a job's output and progress look like."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from support.commands import ROOT, command, environment, next_line, one_line_error, run_command, running_command
from support.servers import background_server

import bgpy
from bgpy.cli import main
from bgpy.cli.screen import ProgressLines
from bgpy.tasks.workspace import Job, Workspace, Workspaces, workspace_tasks
from bgpy.tasks.workspace.jobs import JobState

pytestmark = pytest.mark.process
LONG = 30.0
BLOCK = "print('begun', flush=True)\nimport threading\nthreading.Event().wait(60)"
STEPS = """
from bgpy.tasks.workspace import progress
print("line ", end="", flush=True)
for n in progress(range(50), "steps"):
    print(f"{n}\\nline ", end="", flush=True)
"""


@pytest.fixture
def workspaces() -> Iterator[Workspaces]:
    """The workspaces of a server called default."""
    with background_server("bgpy.tasks.workspace", name="default"):
        with Workspaces() as workspaces:
            yield workspaces
        with bgpy.connect("default") as client:
            client.terminate()


def run_script(script: str, *args: str) -> subprocess.CompletedProcess[str]:
    return run_command("run", "-", *args, text=script)


def invoke(*args: str) -> Result:
    return CliRunner().invoke(main, list(args))


def write(folder: Path, text: str) -> str:
    path = folder / "script.py"
    path.write_text(text, encoding="utf-8")
    return str(path)


def wait_until_it_runs(workspace: Workspace, number: int) -> None:
    for event in workspace.watch(0):
        if (event.kind, event.job) == ("started", number):
            return


# bgpy run


def test_script_runs_in_a_workspace_that_is_made_at_its_first_use(workspaces: Workspaces, tmp_path: Path) -> None:
    path = write(tmp_path, "import sys\nprint('out é')\nprint('err', file=sys.stderr)\nx = 1\n'no output'")
    first = run_command("run", path)
    assert (first.returncode, first.stdout, first.stderr) == (0, "out é\n", "Created the workspace 'default'.\nerr\n")
    second = run_script("print(x)")
    assert (second.returncode, second.stdout, second.stderr) == (0, "1\n", "")
    assert list(workspaces) == ["default"]


def test_workspace_and_server_are_chosen(workspaces: Workspaces) -> None:
    client = workspaces.client
    for place in ([], ["--name", "default"], [client.host, str(client.port)]):
        assert run_script("n = globals().get('n', 0) + 1\nprint(n)", *place, "-w", "mine").stdout != ""
    assert workspaces["mine"].variables["n"] == 3
    assert run_script("print('n' in globals())", "-w", "mine", "--clear").stdout == "False\n"


def test_script_that_raises_is_exit_code_one_with_its_own_lines(workspaces: Workspaces) -> None:
    done = run_script("print('before')\ndef half(x):\n    return x / 0\nhalf(1)", "-w", "w")
    assert (done.returncode, done.stdout) == (1, "before\n")
    lines = done.stderr.splitlines()
    assert lines[:2] == ["Created the workspace 'w'.", "Traceback (most recent call last):"]
    assert "    return x / 0" in lines
    assert lines[-1] == "ZeroDivisionError: division by zero"


@pytest.mark.parametrize(
    ("script", "args", "said"),
    [
        ("import os; os._exit(3)", (), "crashed: Its worker died: exit code 3"),
        ("while True: pass", ("--time-limit", "0.05"), "passed its time limit"),
    ],
)
def test_job_that_does_not_end_by_itself_is_exit_code_one(
    workspaces: Workspaces, script: str, args: tuple[str, ...], said: str
) -> None:
    done = run_script(script, *args)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"Error: Job 0 of the workspace 'default' {said}" in done.stderr.splitlines()[-1]


def test_script_is_read_in_the_encoding_that_it_names(workspaces: Workspaces, tmp_path: Path) -> None:
    path = tmp_path / "latin.py"
    path.write_bytes(b"# coding: latin-1\r\nprint('\xe9')\r\n")
    assert run_command("run", str(path)).stdout == "é\n"


def test_letters_that_the_terminal_lacks_do_not_end_the_command(workspaces: Workspaces) -> None:
    done = run_command("run", "-", text="print('é')", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stdout) == (0, "\\xe9\n")


def test_output_comes_while_the_job_runs_and_ctrl_c_interrupts_it(workspaces: Workspaces, tmp_path: Path) -> None:
    path = write(tmp_path, f"x = 'kept'\n{BLOCK}")
    with running_command("run", path) as process:
        assert next_line(process) == "begun"
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=LONG)
    assert (process.returncode, output) == (130, "")
    assert "Interrupting job 0" in errors
    assert "KeyboardInterrupt" in errors
    workspace = workspaces["default"]
    assert workspace.job(0).state is JobState.INTERRUPTED
    assert workspace.run("x") == "kept"


def test_second_ctrl_c_leaves_a_job_that_goes_on(workspaces: Workspaces, tmp_path: Path) -> None:
    stubborn = "import threading\nwhile True:\n    try:\n        print('wait', flush=True)\n        threading.Event().wait(60)\n"
    path = write(tmp_path, stubborn + "    except KeyboardInterrupt:\n        pass")
    with running_command("run", path) as process:
        assert next_line(process) == "wait"
        process.send_signal(signal.SIGINT)
        assert next_line(process) == "wait"
        process.send_signal(signal.SIGINT)
        errors = process.communicate(timeout=LONG)[1]
    assert process.returncode == 130
    assert errors.endswith("Left job 0 of the workspace 'default'; it may go on.\n")
    job = workspaces["default"].job(0)
    assert job.state is JobState.RUNNING
    assert job.kill()


def test_ctrl_c_takes_a_job_that_waits_out_of_the_queue(workspaces: Workspaces, tmp_path: Path) -> None:
    workspace = workspaces.create("default")
    running = workspace.push_job(BLOCK)
    wait_until_it_runs(workspace, running.number)
    with running_command("run", write(tmp_path, "1")) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "Job 1 waits behind job 0.\n"
        process.send_signal(signal.SIGINT)
        errors = process.communicate(timeout=LONG)[1]
    assert process.returncode == 130
    assert errors.splitlines() == [
        "Interrupting job 1; Ctrl-C again leaves it.",
        "Error: Job 1 of the workspace 'default' was cancelled: It was cancelled before its turn came.",
    ]
    assert running.state is JobState.RUNNING
    assert running.kill()


def test_ctrl_c_that_comes_before_the_jobs_number_interrupts_it_too(
    workspaces: Workspaces, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push = Workspace.push_job

    def push_and_press(self: Workspace, *args: Any, **options: Any) -> Job:
        job = push(self, *args, **options)
        wait_until_it_runs(self, job.number)
        signal.raise_signal(signal.SIGINT)
        return job

    monkeypatch.setattr(Workspace, "push_job", push_and_press)
    result = invoke("run", write(tmp_path, BLOCK))
    assert result.exit_code == 130
    assert "Interrupting job 0" in result.stderr
    assert workspaces["default"].job(0).state is JobState.INTERRUPTED


@pytest.mark.skipif(os.name == "nt", reason="a pipe that nobody reads is another error there")
def test_job_whose_output_nobody_takes_is_left_and_that_is_said(workspaces: Workspaces, tmp_path: Path) -> None:
    block = "import threading\nprint('begun', flush=True)\nwhile True:\n    print('more', flush=True)\n"
    with running_command("run", write(tmp_path, f"{block}    threading.Event().wait(0.01)")) as process:
        assert next_line(process) == "begun"
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read().endswith("Left job 0 of the workspace 'default'; it may go on.\n")
        assert process.wait(LONG) == 1
    assert workspaces["default"].job(0).kill()


def test_job_that_waits_behind_held_ones_says_how_to_let_them_run(tmp_path: Path) -> None:
    def serve() -> bgpy.Client:
        return bgpy.start("default", workspace_tasks(store=str(tmp_path / "store")))

    with serve() as client:
        workspace = Workspaces(client).create("a b")
        wait_until_it_runs(workspace, workspace.push_job(BLOCK).number)
        workspace.push_job("print('held')")
        client.terminate()
    with serve() as client:
        with running_command("run", write(tmp_path, "print('behind')"), "-w", "a b") as process:
            assert process.stderr is not None
            said, _, hint = process.stderr.readline().rstrip("\n").partition(". To let them run: bgpy ")
            assert said == "Job 2 waits behind jobs that are held since the server's restart (1)"
            assert json.loads(run_command(*shlex.split(hint)).stdout)["result"] == 1
            assert next_line(process) == "behind"
            assert process.wait(LONG) == 0
        client.terminate()


def test_output_of_a_job_that_is_faster_than_its_watcher_is_shown(
    workspaces: Workspaces, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push = Workspace.push_job

    def push_and_wait(self: Workspace, *args: Any, **options: Any) -> Job:
        return push(self, *args, **{**options, "timeout": LONG})

    monkeypatch.setattr(Workspace, "push_job", push_and_wait)
    path = write(tmp_path, "print('fast')")
    for _ in range(2):
        assert invoke("run", path).stdout == "fast\n"


def test_detached_job_is_named_and_goes_on(workspaces: Workspaces, tmp_path: Path) -> None:
    done = run_command("run", write(tmp_path, "import threading\nthreading.Event().wait(0.5)\n'ended'"), "--detach")
    assert (done.returncode, done.stdout) == (0, "0\n")
    assert workspaces["default"].job(0).result(LONG) == "ended"


def test_workspace_that_goes_meanwhile_is_one_line(workspaces: Workspaces, tmp_path: Path) -> None:
    workspaces.create("default")
    with running_command("run", write(tmp_path, BLOCK)) as process:
        assert next_line(process) == "begun"
        workspaces.destroy("default")
        errors = process.communicate(timeout=LONG)[1]
    assert process.returncode == 1
    assert errors.startswith("Error: Job 0 of the workspace 'default' was killed")


def test_what_is_wrong_is_one_line(workspaces: Workspaces) -> None:
    assert one_line_error(run_command("run", "/no/such/file.py")) == "/no/such/file.py: No such file or directory"
    assert one_line_error(run_command("run", "-", text="# coding: odd")) == "- cannot be read: unknown encoding: odd"
    assert one_line_error(run_command("run", "-", "-w", "a\nb")) == "A workspace's name has no control characters."
    assert "No server 'other' runs. Running: default." in one_line_error(run_command("run", "-", "--name", "other"))
    assert one_line_error(run_command("run")).startswith("Missing argument 'FILE'.")
    assert one_line_error(run_command("run", "-", "127.0.0.1")).startswith("Give HOST and PORT, or --name")


@pytest.mark.parametrize("args", [("run", "-"), ("workspaces",), ("gateway",)])
def test_without_a_server_the_error_tells_how_to_start_one(args: tuple[str, ...]) -> None:
    said = one_line_error(run_command(*args))
    assert said == "The server 'default' does not run. Start it: bgpy serve --background"


# Progress


def test_progress_without_a_terminal_is_a_line_now_and_then(workspaces: Workspaces) -> None:
    done = run_script(STEPS)
    assert done.stdout == "".join(f"line {n}\n" for n in range(50)) + "line "
    lines = [line for line in done.stderr.splitlines() if line.startswith("steps: ")]
    assert (lines[0], lines[-1]) == ("steps: 0/50 (0 %)", "steps: 50/50 (100 %)")
    assert len(lines) <= 11


def on_a_terminal(folder: Path, script: str, **env: str) -> str:
    """Return what a terminal gets to see of a script, as bytes come, without colours."""
    show = "import pty, sys; sys.exit(pty.spawn(sys.argv[1:]) >> 8)"
    args = [sys.executable, "-c", show, *command("run", write(folder, script))]
    plain = environment(TERM="xterm", NO_COLOR="1", COLUMNS="80", **env)
    done = subprocess.run(args, stdin=subprocess.DEVNULL, capture_output=True, env=plain, cwd=ROOT, timeout=LONG, check=False)
    assert done.returncode == 0, done.stdout
    return done.stdout.decode().replace("\r\n", "\n")


@pytest.mark.skipif(os.name == "nt", reason="needs a pseudo-terminal")
def test_progress_on_a_terminal_is_a_bar_below_the_output(workspaces: Workspaces, tmp_path: Path) -> None:
    slowly = STEPS.replace("50", "10") + "    threading.Event().wait(0.05)\n"  # so that its output comes in pieces
    shown = on_a_terminal(tmp_path, f"import threading\n{slowly}")
    assert "━" in shown
    assert "10/10" in shown.splitlines()[-2]
    # Whole lines, each at the beginning of one: the bar was taken away before. (It may come before or after the first lines.)
    lines = [line.rpartition("\x1b[2K")[2].rpartition("\x1b[?25h")[2] for line in shown.splitlines()]
    assert [line for line in lines if line.startswith("line ")][-6:] == [*(f"line {n}" for n in range(5, 10)), "line "]


@pytest.mark.skipif(os.name == "nt", reason="needs a pseudo-terminal")
def test_terminal_without_rich_shows_lines(workspaces: Workspaces, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['rich'] = None\n")
    shown = on_a_terminal(tmp_path, STEPS, PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}")
    assert "━" not in shown
    assert "steps: 50/50 (100 %)" in shown


def test_lines_of_progress_are_few() -> None:
    lines = ProgressLines()
    assert lines.next("a", 0, 1000, 0.0) == "a: 0/1000 (0 %)"
    assert [lines.next("a", done, 1000, 1.0) for done in (1, 99)] == [None, None]
    assert lines.next("a", 100, 1000, 1.0) == "a: 100/1000 (10 %)"
    assert lines.next("", 5, None, 1.0) == "Progress: 5"
    assert lines.next("", 6, None, 10.9) is None
    assert lines.next("", 7, None, 11.0) == "Progress: 7"
    assert lines.next("a", 1000, 1000, 2.0) == "a: 1000/1000 (100 %)"
    assert lines.next("a", 1000, 1000, 3.0) is None
    assert lines.next("a", 0, 1000, 4.0) == "a: 0/1000 (0 %)"  # it begins anew


# bgpy workspaces


def test_workspaces_are_listed_with_their_status(workspaces: Workspaces) -> None:
    assert invoke("workspaces").output == "There are no workspaces at default.\n"
    assert json.loads(invoke("workspaces", "--json").output) == []
    workspaces.create("a b").run("1")
    failing = workspaces.create("threads", "thread").push_job("1 / 0")
    assert failing.wait(LONG)
    found: list[dict[str, Any]] = json.loads(invoke("workspaces", "--json").output)
    assert [(one["name"], one["type"], one["STATUS"]) for one in found] == [
        ("a b", "process", "IDLE"),
        ("threads", "thread", "EXCEPT"),
    ]
    head, first, second = invoke("workspaces", "--name", "default").output.splitlines()
    assert head.split("  ")[0] == "NAME"
    assert first.split() == ["a", "b", "process", "IDLE", "0", "0", "0", "0", str(found[0]["pid"])]
    assert second.split()[:4] == ["threads", "thread", "EXCEPT", "0"]
