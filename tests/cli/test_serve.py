"""bgpy serve and bgpy gateway: two processes that end together, and what a browser and a program find there."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from support.commands import ROOT, next_line, one_line_error, run_command, running_command
from support.scripted import KeepingSocket
from support.servers import background_server

import bgpy
from bgpy.cli.pairing import DEFAULT_TASKS, STORING, installed_tasks, make_tasks
from bgpy.errors import ClusterError, MissingExtraError, ServerStartError
from bgpy.records import Registry
from bgpy.system import process_start_time, wait_for_end
from bgpy.tasks.workspace import Workspaces
from bgpy.tasks.workspace.jobs import JobState
from bgpy.token import find_token

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("servers")]
LONG = 30.0
FREE = ("--bind", "127.0.0.1:0")
SECRET = "s3cret-of-more-than-22-characters"
TASKS = """
def init_task():
    return {"count": 0}

def exec_task(client_socket, state, args):
    state = {"count": state["count"] + 1}
    client_socket.respond({"mine": args, **state})
    return state

def exit_task(client_socket, state, args):
    pass
"""


class Ended(NamedTuple):
    """A process that has to be gone."""

    pid: int
    start_time: str

    @classmethod
    def of(cls, pid: int) -> Ended:
        start_time = process_start_time(pid)
        assert start_time is not None
        return cls(pid, start_time)

    def assert_gone(self) -> None:
        assert wait_for_end(self.pid, self.start_time, LONG), self


class Served(NamedTuple):
    """What `bgpy serve` has said of itself."""

    page: str
    login: str
    server_pid: int

    @property
    def port(self) -> int:
        return int(self.page.rstrip("/").rpartition(":")[2])

    @property
    def gateway_pid(self) -> int:
        return children(self.server_pid, "_gateway")[0]

    def post(self, path: str, fields: dict[str, Any], token: str | None = None) -> tuple[int, Any]:
        """Ask the gateway; `token` is by default the one that all programs of this user share, "" for none."""
        token = find_token() if token is None else token
        headers = {"Content-Type": "application/json"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        else:
            headers["Origin"] = self.page.rstrip("/")
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=LONG)
        try:
            connection.request("POST", path, json.dumps(fields), headers)
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()


def children(pid: int, word: str) -> list[int]:
    """Return the children of a process that have a word among their arguments."""
    all_children: list[str] = []
    for thread in os.listdir(f"/proc/{pid}/task"):
        with suppress(FileNotFoundError, ProcessLookupError):  # that thread has just ended
            all_children += Path(f"/proc/{pid}/task/{thread}/children").read_text().split()
    found = []
    for child in all_children:
        with suppress(FileNotFoundError, ProcessLookupError):
            if word.encode() in Path(f"/proc/{child}/cmdline").read_bytes():
                found.append(int(child))
    return found


def read_announcement(lines: Iterator[str]) -> Served:
    page = re.fullmatch(r"The page: (http://127\.0\.0\.1:\d+/)", next(lines))
    login = next(lines)
    place = re.fullmatch(r'From Python: bgpy\.connect\("\w+"\), the server at 127\.0\.0\.1:\d+, process (\d+)\.', next(lines))
    assert page is not None
    assert place is not None
    return Served(page[1], login, int(place[1]))


@contextmanager
def serving(*args: str, **options: Any) -> Iterator[tuple[Served, subprocess.Popen[str]]]:
    """Run `bgpy serve` in the foreground until the test has ended it."""
    with running_command("serve", *FREE, *args, **options) as process:
        served = read_announcement(next_line(process) for _ in range(3))
        assert next_line(process) == "Ctrl-C ends both."
        yield served, process


def serve_in_background(*args: str, **options: Any) -> Served:
    done = run_command("serve", "--background", *FREE, *args, **options)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert re.fullmatch(r"Their log: .+\. bgpy terminate( --name mine)? ends both\.", lines[3])
    return read_announcement(iter(lines))


def all_processes(served: Served) -> list[Ended]:
    """Return server, gateway, and a worker with the process that it has started."""
    with Workspaces() as workspaces:
        workspace = workspaces.create("a", exist_ok=True)
        child = workspace.run("import subprocess\nchild = subprocess.Popen(['sleep', '1000'])\nchild.pid")
        worker = workspace.status()["pid"]
    return [Ended.of(pid) for pid in (served.server_pid, served.gateway_pid, worker, child)]


# One command, two doors


def test_one_workspace_behind_both_doors(bgpy_home: Path) -> None:
    with serving() as (served, process):
        assert served.login == f"Log in with the token in {bgpy_home / 'token'}."
        assert served.post("/create_workspace/", {"name": "a"}) == (200, {"request_result": True, "result": "a"})
        with Workspaces() as workspaces:
            workspaces["a"].run("x = 41")
        status, answer = served.post("/push_job", {"name": "a", "job": "x + 1", "type": 1, "timeout": LONG})
        assert (status, answer["result"]["value"], answer["result"]["variable"]) == (200, 42, {"x": 41})
        assert served.post("/get_workspace/", {}, token="x" * 40)[0] == 401
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=LONG)
    assert (process.returncode, output) == (0, "")
    assert "Traceback" not in errors


def terminate_and_look(served: Served, name: str = "default") -> None:
    """End the server: whoever has done so can start the next one at the gateway's port."""
    with bgpy.connect(name) as client:
        client.terminate()
    with pytest.raises(ConnectionRefusedError):
        served.post("/get_workspace/", {})


@pytest.mark.parametrize("end", ["Ctrl-C", "SIGTERM", "terminate"])
def test_whoever_ends_it_ends_all_of_it(end: str) -> None:
    with serving(group=True) as (served, process):
        processes = all_processes(served)
        if end == "Ctrl-C":
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the whole group
        elif end == "SIGTERM":
            process.send_signal(signal.SIGTERM)
        else:
            terminate_and_look(served)
        output, errors = process.communicate(timeout=LONG)
        for ended in processes:
            ended.assert_gone()
    assert (process.returncode, output) == (0, "")
    assert "Traceback" not in errors


@pytest.mark.parametrize("end", ["Ctrl-C", "terminate"])
def test_end_is_prompt_while_jobs_run_and_watchers_watch(end: str) -> None:
    """It took 10 seconds, and the exit task was skipped."""
    with serving(group=True) as (served, process), Workspaces() as workspaces:
        workspace = workspaces.create("a")
        begun = threading.Event()

        def watch() -> None:
            for event in workspace.watch(0):
                if event.kind == "started":
                    begun.set()

        watcher = threading.Thread(target=watch)
        watcher.start()
        answers: list[Any] = []
        endless = {"name": "a", "job": "while True: pass", "type": 1, "timeout": 600}
        waiter = threading.Thread(target=lambda: answers.append(served.post("/push_job", endless)))
        waiter.start()
        assert begun.wait(LONG)
        if end == "Ctrl-C":
            os.killpg(process.pid, signal.SIGINT)
            errors = process.communicate(timeout=LONG)[1]
        else:
            assert run_command("terminate", "--name", "default").returncode == 0
            errors = process.communicate(timeout=LONG)[1]
        watcher.join(LONG)
        waiter.join(LONG)
        assert not watcher.is_alive()
        assert not waiter.is_alive()
    assert (process.returncode, "skipped" in errors) == (0, False), errors


@pytest.mark.parametrize("victim", ["server", "gateway"])
def test_death_of_one_ends_the_other_and_all_workers(victim: str) -> None:
    with serving() as (served, process):
        processes = all_processes(served)
        os.kill(served.server_pid if victim == "server" else served.gateway_pid, signal.SIGKILL)
        errors = process.communicate(timeout=LONG)[1]
        for ended in processes:
            ended.assert_gone()
    if victim == "gateway":
        assert process.returncode == 1
        assert errors.splitlines()[-1] == "Error: The gateway has ended (exit code -9), and the server with it. Start both again."


def test_background_pair_outlives_its_starter_and_ends_together() -> None:
    served = serve_in_background("--name", "mine")
    assert served.post("/get_workspace/", {}) == (200, {"request_result": True, "result": []})
    both = [Ended.of(pid) for pid in (served.server_pid, served.gateway_pid)]
    terminate_and_look(served, "mine")
    for ended in both:
        ended.assert_gone()


def test_death_in_the_background_ends_both_too() -> None:
    served = serve_in_background()
    both = [Ended.of(pid) for pid in (served.server_pid, served.gateway_pid)]
    os.kill(both[1].pid, signal.SIGKILL)
    for ended in both:
        ended.assert_gone()
    assert "The gateway has ended" in run_command("logs", "--name", "default").stdout


@pytest.mark.parametrize("background", [(), ("--background",)], ids=["foreground", "background"])
def test_what_keeps_it_from_starting_is_one_line_and_leaves_nothing(background: tuple[str, ...]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = last_error(run_command("serve", *background, "--bind", f"127.0.0.1:{port}"))
        assert f"the gateway cannot listen on 127.0.0.1:{port}: Address already in use" in said
        said = last_error(run_command("serve", *background, *FREE, "--listen", f"127.0.0.1:{port}"))
        assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in said
    assert "needs TLS" in last_error(run_command("serve", *background, "--bind", "0.0.0.0:0"))
    assert "no_such_tasks" in last_error(run_command("serve", *background, *FREE, "--tasks", "no_such_tasks"))
    assert Registry().running() == []
    serve_in_background()
    log = run_command("logs").stdout
    assert "bgpy terminate --name default" in last_error(run_command("serve", *background, *FREE))
    assert run_command("logs").stdout == log  # of the server that runs, not of one that did not start


@pytest.mark.parametrize("background", [(), ("--background",)], ids=["foreground", "background"])
def test_missing_extra_is_named(background: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['starlette'] = None\n")
    path = f"{tmp_path}{os.pathsep}{ROOT}"
    wanted = 'The gateway needs an optional dependency: pip install "bgpy[gateway]"'
    assert wanted in last_error(run_command("serve", *background, *FREE, PYTHONPATH=path))
    assert wanted in last_error(run_command("gateway", "127.0.0.1", "1", *FREE, PYTHONPATH=path))
    assert Registry().running() == []


def last_error(done: subprocess.CompletedProcess[str]) -> str:
    """Return the line of an error, behind whatever was logged."""
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1]


# The token


def test_token_is_neither_in_arguments_nor_in_the_environment(tmp_path: Path) -> None:
    with serving(BGPY_TOKEN=SECRET) as (served, process):
        assert served.login == "Log in with the token in BGPY_TOKEN."
        assert served.post("/get_workspace/", {}, SECRET)[0] == 200
        assert served.post("/get_workspace/", {})[0] == 401
        place = Path(f"/proc/{served.gateway_pid}")
        assert SECRET.encode() not in (place / "cmdline").read_bytes() + (place / "environ").read_bytes()
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=LONG)
    assert SECRET not in output + errors
    (tmp_path / "token").write_text(SECRET)
    with serving("--token-file", str(tmp_path / "token")) as (served, process):
        assert served.login == f"Log in with the token in {tmp_path / 'token'}."
        assert served.post("/get_workspace/", {}, SECRET)[0] == 200
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=LONG)


def test_no_token_lets_everybody_in_at_the_gateway_and_nobody_at_the_server() -> None:
    with serving("--no-token") as (served, process):
        assert served.login.startswith("Nobody is asked for a token")
        assert served.post("/get_workspace/", {}, "")[0] == 200
        assert run_command("status", "--name", "default").returncode == 0
        assert "No proof of the token" in one_line_error(run_command("status", "--name", "default", "--no-token"))
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=LONG)
    assert "loopback only" in last_error(run_command("serve", "--no-token", "--bind", "0.0.0.0:0", "--insecure"))


# Task sets and the store


def test_what_was_kept_is_there_after_a_kill(tmp_path: Path) -> None:
    store = tmp_path / "jobs.db"
    served = serve_in_background("--store", str(store))
    processes = all_processes(served)
    with Workspaces() as workspaces:
        workspaces["a"].run("'kept'")
    os.kill(served.server_pid, signal.SIGKILL)
    for ended in processes:
        ended.assert_gone()
    serve_in_background("--store", store.name, cwd=tmp_path)
    with Workspaces() as workspaces:
        assert [job.state for job in workspaces["a"].jobs()] == [JobState.DONE, JobState.DONE]
        assert workspaces["a"].job().result() == "kept"
    assert run_command("terminate", "--name", "default").returncode == 0


@pytest.mark.parametrize("background", [True, False])
def test_modules_stand_beside_the_sets_of_the_package(background: bool, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(TASKS)
    args = ("--tasks", "workspace", "--tasks", "mine")

    def check(served: Served) -> None:
        assert served.post("/get_workspace/", {}) == (200, {"request_result": True, "result": []})
        status, answer = served.post("/execute", {"hello": 1})
        assert (status, answer) == (200, {"request_result": True, "result": {"mine": {"hello": 1}, "count": 1}})

    if background:
        check(serve_in_background(*args, cwd=tmp_path))
        assert run_command("terminate", "--name", "default").returncode == 0
        return
    with serving(*args, cwd=tmp_path) as (served, process):
        check(served)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=LONG)


def test_task_sets_of_the_package_are_found_by_name() -> None:
    assert {"workspace", "tensorflow", *DEFAULT_TASKS, *STORING} == set(installed_tasks())
    assert "create_workspace" in make_tasks(["workspace"], None).commands
    assert {"create_workspace", "deploy"} < set(make_tasks([*DEFAULT_TASKS], None).commands)
    with pytest.raises(ServerStartError, match="two task sets are called 'workspace'"):
        make_tasks(["workspace", "bgpy.tasks.workspace"], None)
    with pytest.raises(ServerStartError, match="the task set 'json' cannot be loaded: AttributeError: The module 'json' has no"):
        make_tasks(["json"], None)


@pytest.mark.parametrize("name", STORING)
def test_store_is_for_the_first_set_that_has_workspaces(name: str, tmp_path: Path) -> None:
    names = [name, *(other for other in STORING if other != name)]
    tasks = make_tasks(names, str(tmp_path / "jobs.db"))
    state = tasks.make_state(KeepingSocket())
    assert (tmp_path / "jobs.db").exists()
    first, second = (state["members"][each]._state["workspaces"] for each in names)
    assert first is second
    tasks.exit(KeepingSocket(), state, {})


@pytest.mark.parametrize("name", STORING)
def test_a_cluster_is_for_the_first_set_that_has_workspaces(name: str) -> None:
    tasks = make_tasks([name], None, "127.0.0.1:9")
    with pytest.raises((ClusterError, MissingExtraError), match=r"'127\.0\.0\.1:9'|bgpy\[ray\]"):
        tasks.make_state(KeepingSocket())


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--bind", "8000"), "--bind is HOST:PORT"),
        (("--bind", "127.0.0.1:65536"), "--bind is HOST:PORT, with a port from 0 to 65535"),
        (("--bind", "::1:8000"), "an IPv6 address has brackets"),
        (("--listen", "127.0.0.1:x"), "--listen is HOST:PORT"),
        (("--keyfile", "key.pem"), "--keyfile needs --certfile"),
        (("--tasks", "mine", "--store", "x"), "--store is for the task sets workspace and tensorflow"),
        (("--tasks", "mine", "--ray", "auto"), "--ray is for the task sets workspace and tensorflow"),
        (("--log-file", "x"), "--log-file goes with --background"),
        (("--name", "a b"), "cannot name a server"),
    ],
)
def test_wrong_use_is_one_line(args: tuple[str, ...], said: str) -> None:
    assert said in one_line_error(run_command("serve", *args))


# bgpy gateway


@contextmanager
def gateway(*args: str) -> Iterator[tuple[Served, subprocess.Popen[str]]]:
    with running_command("gateway", *args, *FREE) as process:
        page, login, place = (next_line(process) for _ in range(3))
        assert place.endswith(". Ctrl-C ends it.")
        yield Served(page.removeprefix("The page: "), login, process.pid), process


@pytest.mark.parametrize("by_name", [True, False])
def test_gateway_comes_and_goes_and_no_workspace_notices(by_name: bool) -> None:
    with background_server("bgpy.tasks.workspace", name="models") as server:
        place = ("--name", "models") if by_name else ("127.0.0.1", str(server.port))
        with gateway(*place) as (served, process):
            assert served.post("/create_workspace", {"name": "a"})[1]["result"] == "a"
            process.kill()
            process.wait(LONG)
        with gateway(*place) as (served, process):
            assert served.post("/get_workspace", {})[1]["result"] == ["a"]
            process.send_signal(signal.SIGINT)
            output, errors = process.communicate(timeout=LONG)
        assert (process.returncode, output, "Traceback" in errors) == (0, "", False)
        with bgpy.connect("models") as client:
            client.terminate()


def test_gateway_waits_for_a_server_that_does_not_run_yet() -> None:
    with gateway("127.0.0.1", "1") as (served, process):
        status, answer = served.post("/get_workspace", {})
        assert (status, answer["request_result"]) == (503, False)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=LONG)
    assert process.returncode == 0


def test_gateway_reaches_a_server_without_a_token() -> None:
    with background_server("bgpy.tasks.workspace", token="") as server:
        with gateway("127.0.0.1", str(server.port), "--server-no-token", "--no-token") as (served, process):
            assert served.post("/get_workspace", {}, "")[0] == 200
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=LONG)
        with bgpy.Client("127.0.0.1", server.port, "") as client:
            client.terminate()


def test_lifeline_that_ends_before_the_configuration_is_an_end(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bgpy", "_gateway"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, input=b"", capture_output=True, cwd=tmp_path, env=environment, timeout=LONG, check=False)
    assert done.returncode == 1
    assert b"Traceback" not in done.stderr
