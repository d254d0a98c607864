"""What a Python program sees of workspaces: a real server, real workers, and its own objects back."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.servers import COUNTER, Served, background_server, running_server, tasks

import bgpy
from bgpy.errors import (
    BgpyError,
    JobFailedError,
    RefusedError,
    RequestTimeoutError,
    SerializationError,
    ServerNotFoundError,
    WorkspaceNotFoundError,
)
from bgpy.sockets import ClientSocket
from bgpy.tasks.workspace import Job, Workspace, Workspaces, dispatch, workspace_tasks
from bgpy.tasks.workspace.face import Event
from bgpy.tasks.workspace.jobs import JobState
from bgpy.tasks.workspace.remote import Asker, JobError, Output

LONG = 30.0
ENDLESS = "while True: pass"


@pytest.fixture
def served() -> Iterator[Served]:
    with running_server(workspace_tasks()) as served:
        yield served


@pytest.fixture
def workspaces(served: Served) -> Workspaces:
    return Workspaces(served.client())


@pytest.fixture
def workspace(workspaces: Workspaces) -> Workspace:
    return workspaces.create("a")


def blocked(workspace: Workspace) -> Job:
    """Push a job that runs until somebody ends it, and wait until it does run."""
    since = workspace.status()["last_event"]
    job = workspace.push_job(f"print('begun', flush=True)\n{ENDLESS}")
    for event in workspace.watch(since):
        if (event.kind, event.job) == ("output", job.number):
            break
    return job


# Workspaces


def test_workspaces_are_iterated_counted_and_found_by_name(workspaces: Workspaces) -> None:
    assert (list(workspaces), len(workspaces)) == ([], 0)
    made = workspaces.create("a", "thread")
    random = workspaces.create(type=1)
    assert (list(workspaces), len(workspaces)) == (["a", random.name], 2)
    assert "a" in workspaces
    assert "b" not in workspaces
    assert workspaces["a"].name == made.name == "a"
    with pytest.raises(WorkspaceNotFoundError) as caught:
        workspaces["b"]
    assert caught.value.name == "b"


def test_workspace_that_exists_is_refused_unless_that_is_fine(workspaces: Workspaces) -> None:
    workspaces.create("a", "thread").run("x = 1")
    with pytest.raises(RefusedError, match="already") as caught:
        workspaces.create("a")
    assert caught.value.field == "name"
    assert workspaces.create("a", exist_ok=True).run("x") == 1


@pytest.mark.parametrize(
    ("options", "field"), [({"type": "nonsense"}, "type"), ({"on_crash": "x"}, "on_crash"), ({"name": ""}, "name")]
)
def test_wrong_options_are_refused_and_named(workspaces: Workspaces, options: dict[str, Any], field: str) -> None:
    with pytest.raises(RefusedError) as caught:
        workspaces.create(**options, exist_ok=True)
    assert caught.value.field == field


def test_destroyed_workspace_is_not_found_any_more(workspaces: Workspaces) -> None:
    first, second = workspaces.create("a", "thread"), workspaces.create("b", "thread")
    first.destroy()
    with pytest.raises(WorkspaceNotFoundError):
        first.push_job("1")
    with pytest.raises(WorkspaceNotFoundError):
        workspaces.destroy("a")
    workspaces.destroy()
    assert list(workspaces) == []
    with pytest.raises(WorkspaceNotFoundError):
        second.status()


def test_status_has_the_keys_of_the_original_and_more(workspace: Workspace) -> None:
    assert workspace.status()["CUR_JOB_NUM"] == -1
    workspace.run("1")
    status = workspace.status()
    assert [status[key] for key in ("STATUS", "CUR_JOB_NUM", "FIN_JOB_NUM", "JOB_COUNT")] == ["IDLE", 0, 0, 0]
    assert (status["type"], status["restarts"], status["next_job"]) == ("process", 0, 1)


def test_workspaces_find_a_server_by_its_name() -> None:
    with pytest.raises(ServerNotFoundError, match="No server 'default' runs"):
        Workspaces()
    with background_server("bgpy.tasks.workspace", name="default"):
        with Workspaces() as workspaces, Workspaces("default") as others:
            workspaces.create("a", "thread")
            assert list(others) == ["a"]
        with bgpy.connect("default") as client:
            client.terminate()


def test_server_without_workspaces_is_refused() -> None:
    def answer(client_socket: ClientSocket, state: dict[str, Any], args: dict[str, Any]) -> dict[str, Any]:
        client_socket.respond({"echo": args})
        return state

    with running_server(tasks(answer)) as served, pytest.raises(RefusedError, match="has no workspaces"):
        list(Workspaces(served.client()))
    with running_server(COUNTER) as served, pytest.raises(RefusedError, match="has no workspaces"):
        list(Workspaces(served.client()))


def test_refusal_is_known_by_the_name_of_its_error() -> None:
    class Client:
        timeout = None

        def execute(self, message: dict[str, Any], **_: Any) -> dict[str, Any]:
            text = str(WorkspaceNotFoundError("a"))
            return {"request_result": False, "result": text, "field": "name", "error": message["command"]}

    server = Asker(Client())  # type: ignore[arg-type]
    with pytest.raises(WorkspaceNotFoundError):
        server.ask("WorkspaceNotFoundError", "a")
    with pytest.raises(RefusedError) as caught:
        server.ask("RefusedError", "a")
    assert type(caught.value) is RefusedError


def test_service_that_is_switched_off_says_so(served: Served, workspaces: Workspaces) -> None:
    served.client().execute({"command": "destroy"}, await_response=True)
    with pytest.raises(RefusedError, match="switched off"):
        list(workspaces)


def test_client_that_was_given_is_not_closed(served: Served) -> None:
    client = served.client()
    with Workspaces(client):
        pass
    assert client.status()["initialized"]


# Jobs


def test_job_gives_its_value_output_and_record(workspace: Workspace) -> None:
    job = workspace.push_job("import sys\nprint('out')\nprint('err', file=sys.stderr)\nx = 41\nx + 1")
    assert job.result(LONG) == 42
    assert (job.number, job.workspace, job.state, job.error) == (0, "a", JobState.DONE, None)
    assert job.output == Output("out\n", "err\n", False)
    assert str(job.output) == "out\n"
    record = job.record
    assert (record["number"], record["state"], record["result"], record["value"]) == (0, JobState.DONE, True, 42)
    assert record["times"]["pushed"] <= record["times"]["started"] <= record["times"]["ended"]
    assert workspace.job(0).result() == 42


def test_job_that_raises_raises_here_with_its_own_lines(workspace: Workspace) -> None:
    job = workspace.push_job("def half(x):\n    return x / 0\nhalf(1)")
    with pytest.raises(JobFailedError) as caught:
        job.result(LONG)
    failure = caught.value
    assert (failure.workspace, failure.number, failure.state) == ("a", 0, "failed")
    assert (failure.type_name, failure.message) == ("ZeroDivisionError", "division by zero")
    assert "    return x / 0" in failure.traceback_text
    assert str(pickle.loads(pickle.dumps(failure))) == str(failure)
    assert job.error == JobError("ZeroDivisionError", "division by zero", failure.traceback_text)
    assert str(job.error) == failure.traceback_text


def test_text_is_a_script_and_a_path_a_file_unless_told_otherwise(workspace: Workspace, tmp_path: Path) -> None:
    path = tmp_path / "half.py"
    path.write_text("__file__")
    assert workspace.run(path) == workspace.run(str(path), type="file") == workspace.run(str(path), type=0) == str(path)
    assert workspace.run("'text'") == workspace.run("'text'", type="script") == workspace.run("'text'", type=1) == "text"
    with pytest.raises(JobFailedError, match="No such file"):
        workspace.run(tmp_path / "none.py")


def test_jobs_share_a_namespace_until_it_is_cleared(workspace: Workspace) -> None:
    workspace.run("x = 1")
    assert workspace.run("x") == 1
    assert workspace.clear(LONG).state is JobState.DONE
    assert list(workspace.variables) == []
    workspace.run("x = 1")
    assert workspace.run("'x' in globals()", clear=True) is False


def test_pushed_jobs_are_all_known_in_their_order(workspace: Workspace) -> None:
    jobs = [workspace.push_job(f"{number} * 2") for number in range(20)]
    assert [job.result(LONG) for job in jobs] == [number * 2 for number in range(20)]
    assert [job.number for job in workspace.jobs()] == list(range(20))
    assert workspace.job().number == 19
    with pytest.raises(RefusedError):
        workspace.job(20)


def test_jobs_that_are_forgotten_are_not_listed(workspaces: Workspaces) -> None:
    workspace = workspaces.create("a", "thread", max_jobs=3)
    for _ in range(10):
        workspace.run("1")
    assert [job.number for job in workspace.jobs()] == [7, 8, 9]
    with pytest.raises(RefusedError):
        workspace.job(2)


def test_result_waits_no_longer_than_it_is_told(workspace: Workspace) -> None:
    job = blocked(workspace)
    with pytest.raises(RequestTimeoutError, match=r"0\.05 s for the end of job 0 of workspace 'a'"):
        job.result(0.05)
    assert job.wait(0) is False
    assert job.state is JobState.RUNNING
    assert job.output.stdout == "begun\n"
    assert job.kill()
    assert job.wait() is True


def test_who_waits_for_a_job_is_woken_by_its_end(workspace: Workspace) -> None:
    first = blocked(workspace)
    second = workspace.push_job("'second'")
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(workspace.job(second.number).result()))
    thread.start()
    assert first.interrupt()
    thread.join(LONG)
    assert results == ["second"]


def test_clients_own_timeout_leaves_a_job_its_time(served: Served, workspace: Workspace) -> None:
    """The client gave up its request before the server had waited for as long as it was asked to."""
    impatient = Workspaces(served.client(timeout=0.5))["a"]
    assert impatient.run("import time\ntime.sleep(1)\n'slow'", LONG) == "slow"


def test_job_can_be_interrupted_killed_and_cancelled(workspace: Workspace) -> None:
    running = blocked(workspace)
    waiting = workspace.push_job("1")
    assert waiting.state is JobState.QUEUED
    assert waiting.cancel() is True
    assert waiting.interrupt() is waiting.kill() is waiting.cancel() is False
    assert running.cancel() is False
    assert workspace.interrupt() is True
    for job, state in ((running, JobState.INTERRUPTED), (waiting, JobState.CANCELLED)):
        with pytest.raises(JobFailedError) as caught:
            job.result(LONG)
        assert (caught.value.state, job.state) == (state.value, state)
    another = blocked(workspace)
    assert workspace.kill() is True
    assert another.state is JobState.KILLED
    assert workspace.interrupt() is workspace.kill() is False
    assert workspace.run("'alive'", LONG) == "alive"


def test_time_limit_ends_a_job(workspace: Workspace) -> None:
    job = workspace.push_job(ENDLESS, time_limit=0.05)
    with pytest.raises(JobFailedError) as caught:
        job.result(LONG)
    assert caught.value.state == "timed_out"


def test_thread_workspace_says_that_it_cannot_kill(workspaces: Workspaces) -> None:
    workspace = workspaces.create("a", "thread")
    job = blocked(workspace)
    with pytest.raises(RefusedError, match="cannot be killed"):
        job.kill()
    assert job.interrupt()
    assert job.wait(LONG)


def test_held_jobs_run_after_a_restart_when_they_are_resumed(tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    with running_server(workspace_tasks(store=store)) as served:
        workspace = Workspaces(served.client()).create("a")
        blocked(workspace)
        workspace.push_job("'waited'")
    with running_server(workspace_tasks(store=store)) as served:
        workspace = Workspaces(served.client())["a"]
        ran, waited = workspace.jobs()
        assert (ran.state, waited.state) == (JobState.INTERRUPTED, JobState.HELD)
        assert workspace.resume() == 1
        assert waited.result(LONG) == "waited"


# Values


def test_arrays_and_frames_go_both_ways(workspace: Workspace) -> None:
    pd: Any = pytest.importorskip("pandas")
    frame = pd.DataFrame({"a": [1, 2], "b": ["x", None]})
    array = np.arange(1_000_000, dtype="float64")
    workspace.variables["frame"] = frame
    workspace.variables["array"] = array
    assert workspace.run("(type(frame).__name__, type(array).__name__, array.sum())") == ("DataFrame", "ndarray", array.sum())
    pd.testing.assert_frame_equal(workspace.variables["frame"], frame)
    found = workspace.variables["array"]
    assert found.dtype == array.dtype
    assert np.array_equal(found, array)
    assert isinstance(workspace.run("frame"), pd.DataFrame)


def test_value_that_is_too_large_for_a_record_names_the_way_out(workspace: Workspace) -> None:
    job = workspace.push_job("import numpy\nbig = numpy.zeros(10_000_000)\nbig")
    with pytest.raises(SerializationError, match="put it into a variable"):
        job.result(LONG)
    assert job.state is JobState.DONE
    assert workspace.variables["big"].shape == (10_000_000,)


def test_what_cannot_be_pickled_comes_as_its_text(workspace: Workspace) -> None:
    assert str(workspace.run("import threading\nlock = threading.Lock()\nlock")).startswith("<unlocked _thread.lock")
    assert workspace.variables["lock"].startswith("<unlocked _thread.lock")


def test_variables_are_read_and_set_like_a_dict(workspace: Workspace) -> None:
    variables = workspace.variables
    workspace.run("import os\ndef f(): pass\nx = 1\nnothing = None")
    assert (list(variables), len(variables), variables.keys()) == (["x", "nothing"], 2, ["x", "nothing"])
    assert "nothing" in variables
    assert "os" not in variables
    assert (variables["x"], variables["nothing"], variables.get("none", "default")) == (1, None, "default")
    variables.update({"y": [2]}, z={3})
    assert variables.read() == {"x": 1, "nothing": None, "y": [2], "z": {3}}
    assert variables.read("z", "x") == {"z": {3}, "x": 1}
    assert dict(variables) == dict(variables.items()) == variables.read()
    assert variables.values() == [1, None, [2], {3}]
    with pytest.raises(KeyError, match="none"):
        variables["none"]
    with pytest.raises(KeyError, match="none"):
        variables.read("x", "none")


def test_variables_are_read_and_set_while_a_job_runs(workspace: Workspace) -> None:
    workspace.variables["go_on"] = True
    job = workspace.push_job("n = 0\nwhile go_on: n += 1\n'ended'")
    workspace.variables["go_on"] = False
    assert job.result(LONG) == "ended"


@pytest.mark.parametrize("name", ["a b", "class", "1"])
def test_what_is_no_name_is_no_variable(workspace: Workspace, name: str) -> None:
    with pytest.raises(RefusedError) as caught:
        workspace.variables[name] = 1
    assert caught.value.field == "variable"


def test_value_that_cannot_travel_is_told_here(workspace: Workspace) -> None:
    with pytest.raises(SerializationError):
        workspace.variables["lock"] = threading.Lock()


# Events


def test_watch_replays_what_was_missed_up_to_the_end_of_a_job(workspace: Workspace) -> None:
    script = "from bgpy.tasks.workspace import progress\nfor x in progress([1, 2], 'steps'): print(x, flush=True)\n1 / 0"
    job = workspace.push_job(script)
    job.wait(LONG)
    events = [event for event in workspace.watch(since=0, until=job.number) if event.job == job.number]
    assert [event.kind for event in events if event.kind not in ("output", "progress")] == ["queued", "started", "finished"]
    assert "".join(event.details["text"] for event in events if event.kind == "output") == "1\n2\n"
    bars = [event.details for event in events if event.kind == "progress"]
    assert (bars[0], bars[-1]) == ({"name": "steps", "done": 0, "total": 2}, {"name": "steps", "done": 2, "total": 2})
    end = events[-1]
    assert (end.details["state"], end.details["result"], end.details["error"]["type"]) == ("failed", False, "ZeroDivisionError")
    assert list(workspace.watch(since=end.number - 1, until=job.number)) == [end]


def test_watcher_hears_what_happens_from_now_on_until_the_workspace_is_gone(workspaces: Workspaces) -> None:
    workspace = workspaces.create("a", "thread")
    workspace.run("'before'")
    heard: list[Event] = []
    since = workspace.status()["last_event"]
    thread = threading.Thread(target=lambda: heard.extend(workspace.watch(since)))
    thread.start()
    workspace.run("'after'")
    workspace.destroy()
    thread.join(LONG)
    assert [event.job for event in heard if event.kind == "finished"] == [1]
    assert heard[-1].kind == "gone"


def test_signs_of_life_are_no_events(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "ALIVE_INTERVAL", 0.01)
    job = workspace.push_job("import threading\nthreading.Event().wait(0.3)")
    assert {event.kind for event in workspace.watch(0, job.number)} == {"worker_started", "queued", "started", "finished"}


def test_events_are_numbered_one_after_another(workspace: Workspace) -> None:
    job = workspace.push_job("1")
    events = list(workspace.watch(0, job.number))
    assert [event.number for event in events] == list(range(1, len(events) + 1))


def test_server_ends_at_once_while_somebody_waits_and_watches() -> None:
    """The exit task was skipped after 10 seconds: those who waited held the state."""
    with running_server(workspace_tasks()) as served:
        workspace = Workspaces(served.client()).create("a")
        blocked(workspace)
        heard: list[Event] = []
        begun = threading.Event()

        def watch() -> None:
            for event in workspace.watch(0):
                begun.set()
                heard.append(event)

        watcher = threading.Thread(target=watch)
        watcher.start()
        assert begun.wait(LONG)
        failures: list[Exception] = []

        def wait() -> None:
            try:
                workspace.job().wait()
            except BgpyError as error:
                failures.append(error)

        waiter = threading.Thread(target=wait)
        waiter.start()
        served.client().terminate()
        watcher.join(LONG)
        waiter.join(LONG)
        assert not watcher.is_alive()
        assert not waiter.is_alive()
        assert heard[-1].kind == "gone"
        assert len(failures) == 1
