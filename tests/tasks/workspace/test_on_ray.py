"""Workspaces on Ray behind a server: what outlives it, what ends with it, what is refused; for real, on one cluster."""

from __future__ import annotations

import importlib.util
import json
import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from support.backends import PATIENCE, Recorder, Session
from support.ray_cluster import RayCluster

import bgpy
from bgpy.cli import main
from bgpy.client import Client
from bgpy.errors import RefusedError, ServerStartError
from bgpy.records import Registry
from bgpy.system import kill_process, process_start_time, wait_for_end, workers
from bgpy.tasks.workspace import workspace_tasks
from bgpy.tasks.workspace.backends import ray as ray_backend
from bgpy.tasks.workspace.backends.ray import RayBackend
from bgpy.tasks.workspace.face import Workspaces
from bgpy.tasks.workspace.jobs import JobState
from bgpy.tasks.workspace.onray.agent import seconds_left
from bgpy.tasks.workspace.onray.cluster import Cluster
from bgpy.tasks.workspace.workspaces import Workspaces as WorkspacesOfServer

pytestmark = [pytest.mark.ray, pytest.mark.process, pytest.mark.timeout(180), pytest.mark.usefixtures("ray_agent")]


def kill_server() -> None:
    record = Registry().find("lab")
    assert record is not None
    kill_process(record.pid, record.start_time)
    assert wait_for_end(record.pid, record.start_time, PATIENCE)


def names(agent: Cluster) -> set[str]:
    """Return the workspaces that have an actor."""
    return {record["home"].partition("/")[2] for record in agent.ask("records")}


def make_pipes(folder: Path, *pipes: str) -> list[Path]:
    for name in pipes:
        os.mkfifo(folder / name)
    return [folder / name for name in pipes]


def test_a_killed_servers_workspaces_go_on_and_the_next_one_finds_them(
    start: Callable[..., Client], ray_agent: Cluster, tmp_path: Path
) -> None:
    go, done = make_pipes(tmp_path, "go", "done")
    client = start(store=str(tmp_path / "jobs.db"))
    lab = Workspaces(client).create("lab", num_cpus=0)
    lab.run("x = 41")
    log = tmp_path / "log"
    running = lab.push_job(
        f"print('before', flush=True)\nopen({str(go)!r}).read()\nprint('after')\n"
        f"open({str(log)!r}, 'a').write('ran ')\nopen({str(done)!r}, 'w').write('done')\nx + 1"
    )
    next(event for event in lab.watch(0) if event.kind == "output")
    queued = lab.push_job("x += 1\nx")
    kill_server()
    go.write_text("go")
    assert done.read_text() == "done"  # it ran to its end without a server

    lab = Workspaces(start(store=str(tmp_path / "jobs.db")))["lab"]
    assert lab.job(running.number).result(timeout=PATIENCE) == 42
    assert lab.job(running.number).output.stdout == "before\nafter\n"
    assert lab.job(queued.number).result(timeout=PATIENCE) == 42
    assert lab.run("x") == 42
    assert log.read_text() == "ran "
    assert lab.status()["restarts"] == 0
    assert names(ray_agent) == {"lab"}


def test_a_job_that_still_runs_when_the_next_server_comes_is_followed_interrupted_and_killed(
    start: Callable[..., Client], tmp_path: Path
) -> None:
    store = str(tmp_path / "jobs.db")
    lab = Workspaces(start(store=store)).create("lab", num_cpus=0)
    lab.run("import time")
    number = lab.push_job("print('in', flush=True)\nwhile True: time.sleep(100)").number
    next(event for event in lab.watch(0) if event.kind == "output")
    kill_server()
    lab = Workspaces(start(store=store))["lab"]
    event = next(event for event in lab.watch(0) if event.kind == "output")
    assert event.details["text"] == "in\n"
    assert lab.job(number).interrupt()
    assert lab.job(number).wait(PATIENCE)
    assert lab.job(number).state is JobState.INTERRUPTED
    assert lab.run("time.__name__") == "time"
    kill_server()
    lab = Workspaces(start(store=store))["lab"]
    number = lab.push_job("print('in again', flush=True)\nwhile True: pass").number
    next(event for event in lab.watch(0) if event.kind == "output")
    assert lab.job(number).kill()
    with pytest.raises(bgpy.JobFailedError):
        lab.run("time")  # a fresh worker


def test_a_server_that_ends_leaves_what_its_store_knows_and_removes_the_rest(
    start: Callable[..., Client], ray_agent: Cluster, tmp_path: Path
) -> None:
    client = start(store=str(tmp_path / "jobs.db"))
    Workspaces(client).create("kept", num_cpus=0).run("x = 1")
    client.terminate(timeout=30)
    assert names(ray_agent) == {"kept"}
    client = start(store=str(tmp_path / "jobs.db"))
    assert Workspaces(client)["kept"].run("x") == 1
    Workspaces(client).destroy("kept")
    assert names(ray_agent) == set()
    client.terminate(timeout=30)
    client = start()
    Workspaces(client).create("lost", num_cpus=0).run("x = 1")
    client.terminate(timeout=30)
    assert names(ray_agent) == set()


def test_a_node_that_dies_takes_its_workspace_which_begins_anew_elsewhere(
    start: Callable[..., Client], ray_cluster: RayCluster
) -> None:
    spare = ray_cluster.add_node(resources={"spare": 1})
    workspaces = Workspaces(start())
    there = workspaces.create("there", node=spare, num_cpus=0)
    here = workspaces.create("here", num_cpus=0, resources={"node:__internal_head__": 0.001})
    assert there.run("import ray; x = 1; ray.get_runtime_context().get_node_id()") == spare
    assert here.run("x = 2; import ray; ray.get_runtime_context().get_node_id()") != spare
    nodes = {node["node"]: node for node in workspaces.nodes() if node["alive"]}
    assert [nodes[lab.status()["node"]]["address"] for lab in (there, here)] == [lab.status()["address"] for lab in (there, here)]
    assert (there.status()["node"], nodes[spare]["workspaces"], nodes[spare]["resources"]["spare"]) == (spare, 1, 1.0)
    assert workspaces.create("beside", "process").status()["node"] is None
    moved = workspaces.create("moved", num_cpus=0, resources={"spare": 0.5}, on_crash="continue")
    given_up = workspaces.create("given up", num_cpus=0, resources={"spare": 0.25}, on_crash="abort")
    endless = "x = 3\nprint('in', flush=True)\nwhile True: pass"
    job, other_job = moved.push_job(endless), given_up.push_job(endless)
    goes_on, aborted = moved.push_job("'x' in globals()"), given_up.push_job("1")
    for lab in (moved, given_up):
        next(event for event in lab.watch(0) if event.kind == "output")
    other = ray_cluster.add_node(resources={"spare": 1})
    try:
        ray_cluster.remove_node(spare)
        assert job.wait(60)
        assert job.state is JobState.CRASHED
        assert job.error is not None
        assert "its node has died" in job.error.message
        assert other_job.wait(60)
        assert (other_job.state, aborted.state) == (JobState.CRASHED, JobState.ABORTED)
        assert aborted.error is not None
        assert "its node has died" in aborted.error.message
        assert goes_on.result(timeout=60) is False
        assert given_up.run("'x' in globals()", timeout=60) is False
        assert moved.run("'x' in globals(), __import__('ray').get_runtime_context().get_node_id()", timeout=60) == (False, other)
        assert here.run("x") == 2
        with pytest.raises((RefusedError, bgpy.JobFailedError), match=r"its node has died|no node"):
            there.run("x", timeout=60)
        assert there.status()["node"] is None
        assert [node["alive"] for node in workspaces.nodes() if node["node"] == spare] == [False]
    finally:
        ray_cluster.remove_node(other)


def test_what_fits_no_node_is_told_and_what_is_for_ray_is_refused_elsewhere(start: Callable[..., Client]) -> None:
    workspaces = Workspaces(start())
    with pytest.raises(RefusedError, match="num_cpus is for workspaces on Ray") as refused:
        workspaces.create("a", "process", num_cpus=1)
    assert refused.value.field == "num_cpus"
    with pytest.raises(RefusedError, match="memory"):
        workspaces.create("a", memory_limit=1 << 30)
    assert workspaces.create("a", "process").status()["type"] == "process"
    lab = workspaces.create("b", num_cpus=0, runtime_env={"env_vars": {"BGPY_TEST_WORD": "hello"}})
    assert lab.status()["type"] == "ray"
    assert lab.run("import os; os.environ['BGPY_TEST_WORD']", timeout=60) == "hello"


@pytest.fixture
def session(ray_agent: Cluster) -> Iterator[Session]:
    recorder = Recorder()
    backend = RayBackend(recorder, cluster=ray_agent, home=secrets.token_hex(8), placement={"num_cpus": 0})
    backend.start()
    yield Session(backend, recorder)
    backend.close()


ESCAPES = """
import os, subprocess, sys
code = 'import time; print(__import__("os").getpid(), flush=True); time.sleep(1000)'
subprocess.Popen([sys.executable, '-c', code])
subprocess.Popen([sys.executable, '-c', code], start_new_session=True)
if not os.fork():
    os.setsid()
    if not os.fork():
        os.write(1, b'%d\\n' % os.getpid())  # number and newline in one piece: the others write too
        import signal
        signal.pause()
    os._exit(0)
while True: pass
"""


def test_a_kill_takes_along_all_that_the_job_has_started(session: Session) -> None:
    number = session.begin(ESCAPES)
    session.recorder.wait_for(lambda: session.recorder.text(number).count("\n") >= 3)
    pids = [(int(pid), process_start_time(int(pid)) or "") for pid in session.recorder.text(number).split()]
    assert session.backend.kill()
    assert session.recorder.death() == ("signal SIGKILL", False)
    for pid, start_time in pids:
        assert wait_for_end(pid, start_time, PATIENCE)


def test_an_actor_that_dies_by_itself_has_told_all_and_takes_along_what_it_has_started(session: Session) -> None:
    number = session.begin(
        "import os, subprocess, sys\nchild = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(1000)'],"
        " start_new_session=True)\nprint(child.pid, flush=True)\nos.write(2, b'last words')\nos._exit(3)"
    )
    reason, memory = session.recorder.death()
    assert "actor died" in reason
    assert not memory
    assert session.recorder.text(number, "stderr") == "last words"
    pid = int(session.recorder.text(number))
    assert wait_for_end(pid, process_start_time(pid) or "", PATIENCE)


def test_output_of_c_code_and_children_comes_in_order_before_the_end(session: Session) -> None:
    outcome = session.run(
        "import ctypes, os, subprocess, sys\nprint('python')\nsys.stdout.flush()\n"
        "libc = ctypes.CDLL(None)\nlibc.puts(b'c code')\nlibc.fflush(None)\nsubprocess.run(['echo', 'child'])\n"
        "libc.puts(b'buffered')"
    )
    assert outcome.state == "done"
    assert session.text() == "python\nc code\nchild\nbuffered\n"


def test_an_interrupt_ends_a_sleep_and_what_the_job_had_started_and_leaves_the_variables(session: Session) -> None:
    session.run("x = 5")
    number = session.begin(
        "import subprocess, sys, time\nchild = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(1000)'])\n"
        "print(child.pid, flush=True)\ntime.sleep(1000)"
    )
    session.recorder.wait_for_text(number, "\n")
    pid = int(session.recorder.text(number))
    assert session.backend.interrupt(number)
    assert session.recorder.outcome(number).state == "interrupted"
    assert wait_for_end(pid, process_start_time(pid) or "", PATIENCE)
    assert session.value("x") == 5


def test_actors_of_dead_servers_are_listed_and_pruned_and_no_others(
    start: Callable[..., Client], ray_cluster: RayCluster
) -> None:
    def ask(*options: str) -> Any:
        result = CliRunner().invoke(main, ["workspaces", "--ray", ray_cluster.address, "--json", *options])
        assert result.exit_code == 0, result.output
        return {(each["workspace"], each["server"], each["running"]) for each in json.loads(result.stdout)}

    left = Workspaces(start()).create("left", num_cpus=0)
    left.push_job("print('in', flush=True)\nwhile True: pass")
    next(event for event in left.watch(0) if event.kind == "output")
    kill_server()
    assert ask() == {("left", "no", True)}
    Workspaces(start()).create("new", num_cpus=0).run("x = 1")
    assert ask() == {("left", "no", True), ("new", "yes", False)}
    assert ask("--prune") == {("left", "no", True)}
    assert ask() == {("new", "yes", False)}
    assert "--prune goes with --ray" in CliRunner().invoke(main, ["workspaces", "--prune"]).output


def test_a_server_for_a_cluster_that_is_not_there_does_not_start_and_says_what_to_do() -> None:
    with pytest.raises(ServerStartError, match=r"The Ray cluster '127.0.0.1:9': .*refused.*--ray local"):
        bgpy.start("nowhere", workspace_tasks(ray="127.0.0.1:9"), timeout=90)


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(bgpy.MissingExtraError, match=r"bgpy\[ray\]"):
        WorkspacesOfServer(ray="auto")
    workspaces = WorkspacesOfServer()
    try:
        with pytest.raises(RefusedError, match=r"bgpy\[ray\]") as refused:
            workspaces.create("a", type=2)
        assert refused.value.field == "type"
    finally:
        workspaces.close()


def test_an_embedded_ray_serves_and_ends_with_the_server() -> None:
    with bgpy.start("small", workspace_tasks(ray="local"), timeout=120) as client:
        lab = Workspaces(client).create("lab", num_cpus=0)
        raylet = lab.run("import os; os.getppid()")
        assert lab.run("import ray; ray.is_initialized()") is True
        start_time = process_start_time(raylet) or ""
        client.terminate(timeout=60)
    assert wait_for_end(raylet, start_time, PATIENCE)


def test_a_variable_goes_from_one_workspace_to_another_by_the_object_store(start: Callable[..., Client]) -> None:
    workspaces = Workspaces(start())
    first, second = (workspaces.create(name, num_cpus=0) for name in ("first", "second"))
    here = workspaces.create("here", "process")
    first.run("import numpy\nclass Point:\n    x = 5\nbig, point = numpy.arange(1_000_000), Point()")
    first.copy_variable("big", second)
    first.copy_variable("point", "second", "p")
    assert second.run("(int(big.sum()), big.flags.writeable, p.x)") == (499_999_500_000, False, 5)
    # More than the store has room for: what was handed over before is let go, but for what is still used.
    first.run("other = numpy.zeros(1_000_000)")
    for _ in range(12):
        first.copy_variable("other", second)
    counted = "import ray; ray._private.worker.global_worker.core_worker.get_all_reference_counts()"
    assert first.run(counted) == {}
    # Where it came from may change, or go.
    first.run("big[:] = 0")
    first.destroy()
    assert second.run("int(big.sum())") == 499_999_500_000
    second.copy_variable("big", here)
    assert here.run("int(big.sum())") == 499_999_500_000
    with pytest.raises(RefusedError, match="no variable 'missing'"):
        second.copy_variable("missing", second)
    with pytest.raises(RefusedError, match="no variable 'missing'"):
        here.copy_variable("missing", second)
    with pytest.raises(RefusedError, match="no workspace 'missing'"):
        here.copy_variable("big", "missing")


PROGRAM = """
import sys, numpy, ray, bgpy
from bgpy.tasks.workspace import Workspaces
with bgpy.connect("lab") as client:
    shared = Workspaces(client)["lab"].shared
    try:
        shared["x"] = 1
    except bgpy.RefusedError as refused:
        print(refused)
    ray.init(sys.argv[1], log_to_driver=False, configure_logging=False)
    shared["x"] = numpy.arange(1_000_000)
    for _ in range(12):  # more than the store has room for
        shared["y"] = numpy.ones(1_000_000)
        y = shared["y"]
    shared["word"] = ray.put("hello")
    x = shared["x"]
    counted = ray._private.worker.global_worker.core_worker.get_all_reference_counts()
    print(int(x.sum()), x.flags.writeable, int(y.sum()), len(counted))
    try:
        shared["missing"]
    except bgpy.RefusedError as refused:
        print(refused)
"""


def test_a_program_on_the_cluster_hands_values_over_by_the_object_store(
    start: Callable[..., Client], ray_cluster: RayCluster
) -> None:
    workspaces = Workspaces(start())
    lab = workspaces.create("lab", num_cpus=0)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, ray_cluster.address], capture_output=True, text=True, timeout=90, check=False
    )
    assert done.returncode == 0, done.stderr
    refused, figures, missing = done.stdout.splitlines()
    assert "not connected to a Ray cluster" in refused
    assert figures == "499999500000 False 1000000 0"
    assert "no variable 'missing'" in missing
    assert lab.run("(int(x.sum()), x.flags.writeable, word)") == (499_999_500_000, False, "hello")
    assert lab.run("import ray; ray._private.worker.global_worker.core_worker.get_all_reference_counts()") == {}
    with pytest.raises(RefusedError, match="hexadecimal"):
        lab._server.ask("take_variable", "lab", variable="x", reference="none")
    workspaces.create("here", "process")
    with pytest.raises(RefusedError, match="'here' is not on Ray"):
        lab._server.ask("lend_variable", "here", variable="x")


def test_the_end_of_the_agent_ends_no_workspace_and_another_one_follows(ray_cluster: RayCluster) -> None:
    before = set(workers.child_processes())
    workspaces = WorkspacesOfServer(ray=ray_cluster.address)
    try:
        (agent,) = set(workers.child_processes()) - before
        first = workspaces.create("first", placement={"num_cpus": 0})
        assert first.wait(first.push("script", "x = 1"), PATIENCE) is JobState.DONE
        start_time = process_start_time(agent)
        assert start_time is not None
        kill_process(agent, start_time)
        assert wait_for_end(agent, start_time, PATIENCE)
        assert first.wait(first.push("script", "x"), PATIENCE) is JobState.DONE
        second = workspaces.create("second", placement={"num_cpus": 0})
        assert second.wait(second.push("script", "x = 2"), PATIENCE) is JobState.DONE
    finally:
        workspaces.close()


def test_a_start_behind_a_crowd_is_waited_for_as_long_as_others_become_ready_up_to_a_limit() -> None:
    assert seconds_left(begun=100, came=0, timeout=60, until=700, now=130) == 30
    assert seconds_left(begun=100, came=0, timeout=60, until=700, now=161) == 0
    assert seconds_left(begun=100, came=150, timeout=60, until=700, now=161) == 49
    assert seconds_left(begun=100, came=690, timeout=60, until=700, now=695) == 5


def test_an_actor_that_waits_for_a_node_ends_with_its_server_and_the_wait_is_told(
    ray_cluster: RayCluster, ray_agent: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_backend, "START_TIMEOUT", 2.0)
    workspaces = WorkspacesOfServer(ray=ray_cluster.address)
    try:
        lab = workspaces.create("lab", placement={"num_cpus": 0, "resources": {"moon": 1}})
        number = lab.push("script", "1")
        assert lab.wait(number, PATIENCE) is JobState.ABORTED
        error = lab.record(number).error
        assert error is not None
        assert (
            "no node of the cluster had room for it within 2 s: it asks for num_cpus 0, resources {'moon': 1}" in error["message"]
        )
        monkeypatch.setattr(ray_backend, "START_TIMEOUT", 60.0)
        lab.push("script", "1")
    finally:
        workspaces.close()
    assert ray_agent.ask("records") == []
