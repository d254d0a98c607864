"""All workspaces of a server: names, creation, destruction, restart on a store, and the end."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.scripted import Backends

from bgpy.errors import RefusedError, StoreError, WorkspaceNotFoundError
from bgpy.system import process_start_time
from bgpy.tasks.workspace import workspaces as module
from bgpy.tasks.workspace.backends import Abilities
from bgpy.tasks.workspace.jobs import JobState
from bgpy.tasks.workspace.records import Change, WorkerStarted, WorkspaceCreated
from bgpy.tasks.workspace.store import SqliteStore
from bgpy.tasks.workspace.workspace import Workspace
from bgpy.tasks.workspace.workspaces import Workspaces


@pytest.fixture
def backends() -> Backends:
    return Backends()


@pytest.fixture
def workspaces(backends: Backends) -> Iterator[Workspaces]:
    workspaces = Workspaces(make_backend=backends.make)
    yield workspaces
    workspaces.close()


@pytest.mark.parametrize("name", ["a", "x" * 200, "two words", "\N{SNOWMAN}", "a/b:c"])
def test_any_printable_name_is_taken_once(workspaces: Workspaces, name: str) -> None:
    assert workspaces.create(name).name == name
    with pytest.raises(RefusedError, match="already") as refused:
        workspaces.create(name)
    assert refused.value.field == "name"
    assert workspaces.names() == [name]
    assert workspaces[name].name == name


@pytest.mark.parametrize("name", ["", "x" * 201, "a\nb", "\0", "\x7f", "\x85", "\ud800"])
def test_other_names_are_refused(workspaces: Workspaces, name: str) -> None:
    with pytest.raises(RefusedError) as refused:
        workspaces.create(name)
    assert refused.value.field == "name"
    assert workspaces.names() == []


def test_no_name_is_a_random_one(workspaces: Workspaces) -> None:
    assert len({workspaces.create().name for _ in range(5)}) == 5


def test_one_of_many_threads_gets_a_name(workspaces: Workspaces) -> None:
    start = threading.Barrier(10)
    made: list[Any] = []

    def create() -> None:
        start.wait(10)
        try:
            made.append(workspaces.create("one"))
        except RefusedError:
            made.append(None)

    threads = [threading.Thread(target=create) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(each is None for each in made) == [False, *[True] * 9]


def test_what_is_destroyed_is_gone_and_its_name_free(workspaces: Workspaces, backends: Backends) -> None:
    for name in ("a", "b", "c"):
        workspaces.create(name)
    workspaces.destroy("b")
    assert workspaces.names() == ["a", "c"]
    with pytest.raises(WorkspaceNotFoundError):
        workspaces.destroy("b")
    with pytest.raises(WorkspaceNotFoundError):
        workspaces["b"]
    workspaces.create("b")
    workspaces.destroy()
    assert workspaces.names() == []
    assert all(backend.closed for backend in backends.made)


def test_a_type_is_a_number_or_a_name(workspaces: Workspaces) -> None:
    assert workspaces.create("a", type=1).status()["type"] == "thread"
    assert workspaces.create("b", type="process").status()["type"] == "process"
    assert workspaces.create("c").status()["type"] == "process"


def test_a_backend_that_is_not_there_is_refused() -> None:
    workspaces = Workspaces()
    try:
        with pytest.raises(RefusedError) as refused:
            workspaces.create("a", type="nowhere")
        assert refused.value.field == "type"
        assert workspaces.names() == []
    finally:
        workspaces.close()


def test_a_memory_limit_is_refused_where_there_can_be_none(workspaces: Workspaces, backends: Backends) -> None:
    backends.abilities = Abilities(False, False, False, False, memory_limit=False)
    with pytest.raises(RefusedError) as refused:
        workspaces.create("a", memory_limit=1 << 30)
    assert refused.value.field == "memory_limit"
    assert backends.last.closed
    workspaces.create("a")


def test_metrics_count_workspaces_and_jobs(workspaces: Workspaces) -> None:
    for name in ("a", "b"):
        workspace = workspaces.create(name)
        workspace.wait(workspace.push("script", "done"), 10)
        workspace.wait(workspace.push("script", "fail"), 10)
    metrics = workspaces.metrics()
    assert metrics["workspaces"] == 2
    assert {state: count for state, count in metrics["jobs"].items() if count} == {"done": 2, "failed": 2}
    assert set(metrics["jobs"]) == {state.value for state in JobState}


def test_an_overview_tells_how_all_are_and_which_jobs_ended_lately(workspaces: Workspaces) -> None:
    begun = time.time()
    for name in ("a", "b"):
        workspace = workspaces.create(name)
        workspace.wait(workspace.push("script", "done"), 10)
    workspaces["b"].wait(workspaces["b"].push("script", "fail"), 10)
    overview = workspaces.overview(None)
    assert begun <= overview["server"]["started"] + 60
    assert overview["server"]["pid"] == os.getpid()
    assert [each["name"] for each in overview["workspaces"]] == ["a", "b"]
    assert [(job["workspace"], job["job"], job["state"]) for job in overview["ended"]] == [
        ("a", 0, "done"), ("b", 0, "done"), ("b", 1, "failed"),
    ]  # fmt: skip
    assert all(job["waited"] >= 0 and job["ran"] >= 0 and begun <= job["ended"] <= overview["time"] for job in overview["ended"])
    later = workspaces.overview(overview["ended"][1]["ended"])
    assert [(job["workspace"], job["job"]) for job in later["ended"]] == [("b", 1)]


def test_an_unlisted_workspace_runs_jobs_and_is_nobodys_but_its_makers(tmp_path: Path, backends: Backends) -> None:
    workspaces = Workspaces(str(tmp_path / "store"), make_backend=backends.make)
    workspace = workspaces.create_unlisted("hidden")
    assert workspace.wait(workspace.push("script", "done"), 10) is JobState.DONE
    assert workspaces.names() == []
    assert workspaces.metrics()["workspaces"] == 0
    with pytest.raises(WorkspaceNotFoundError):
        workspaces["hidden"]
    workspaces.release(workspace)
    workspaces.release(workspace)
    assert backends.last.closed
    with pytest.raises(RefusedError, match="gone"):
        workspace.push("script", "done")
    workspaces.close()
    again = Workspaces(str(tmp_path / "store"), make_backend=backends.make)
    assert again.names() == []
    again.close()


def test_an_unlisted_workspace_ends_with_the_others(backends: Backends) -> None:
    workspaces = Workspaces(make_backend=backends.make)
    workspace = workspaces.create_unlisted("hidden")
    workspace.push("script", "deaf")
    assert backends.last.waiting.wait(10)
    workspaces.close()
    assert backends.last.closed
    with pytest.raises(RefusedError, match="ending"):
        workspaces.create_unlisted("late")
    assert backends.last.closed


def test_after_the_end_nothing_is_created(backends: Backends) -> None:
    workspaces = Workspaces(make_backend=backends.make)
    workspaces.create("a").push("script", "deaf")
    assert backends.last.waiting.wait(10)
    workspaces.close()
    workspaces.close()
    assert backends.last.closed
    with pytest.raises(RefusedError):
        workspaces.create("b")


class TestRestart:
    """On the same store, as after an end of the server."""

    def start(self, path: Path, backends: Backends, **options: Any) -> Workspaces:
        return Workspaces(str(path), make_backend=backends.make, **options)

    def test_all_is_there_again(self, tmp_path: Path, backends: Backends) -> None:
        first = self.start(tmp_path / "store", backends)
        try:
            workspace = first.create("a", on_crash="continue", max_jobs=50)
            workspace.wait(workspace.push("script", "value 7", identity=(b"c", 0, 1)), 10)
            workspace.push("script", "print before")
            running = workspace.push("script", "deaf")
            for number in (2, 3):
                workspace.push("script", "done", identity=(b"c", 0, number))
            assert backends.last.waiting.wait(10)
            assert workspace.wait(running, 0) is JobState.RUNNING
        finally:
            first.close()
        second = self.start(tmp_path / "store", backends)
        try:
            assert second.names() == ["a"]
            workspace = second["a"]
            assert workspace.options.on_crash == "continue"
            assert workspace.options.max_jobs == 50
            states = [workspace.state(number).value for number in range(5)]
            assert states == ["done", "done", "interrupted", "held", "held"]
            value = workspace.record(0).value
            assert value is not None
            assert value.json == "7"
            assert workspace.record(1).stdout == b"before"
            assert workspace.push("script", "done", identity=(b"c", 0, 1)) == 0
            assert workspace.push("script", "done") == 5
            assert workspace.resume(None) == 2
            assert workspace.wait(5, 10) is JobState.DONE
            assert [order.number for order in backends.last.orders] == [3, 4, 5]
        finally:
            second.close()

    def test_what_was_destroyed_does_not_come_back(self, tmp_path: Path, backends: Backends) -> None:
        first = self.start(tmp_path / "store", backends)
        try:
            first.create("a")
            first.create("b")
            first.destroy("a")
        finally:
            first.close()
        second = self.start(tmp_path / "store", backends)
        try:
            assert second.names() == ["b"]
            second.create("a")
        finally:
            second.close()

    def test_large_output_is_read_back_from_the_store(self, tmp_path: Path, backends: Backends) -> None:
        text = "x" * 100_000
        for expected in range(2):
            workspaces = self.start(tmp_path / "store", backends)
            try:
                workspace = workspaces["a"] if expected else workspaces.create("a")
                number = workspace.push("script", f"print {text}")
                assert workspace.wait(number, 10) is JobState.DONE
                assert [len(workspace.record(each).stdout) for each in range(number + 1)] == [100_000] * (expected + 1)
            finally:
                workspaces.close()

    def test_a_store_has_one_server(self, tmp_path: Path, backends: Backends) -> None:
        first = self.start(tmp_path / "store", backends)
        try:
            with pytest.raises(StoreError):
                self.start(tmp_path / "store", backends)
        finally:
            first.close()


def test_a_worker_that_survived_its_server_is_ended_before_the_queue_opens(
    backends: Backends, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SURVIVOR_TIMEOUT", 0.05)
    path, told = str(tmp_path / "store"), threading.Event()
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"]) as survivor:
        try:
            start_time = process_start_time(survivor.pid)
            assert start_time is not None
            changes: list[Change] = [WorkspaceCreated("w", {"type": "process"}), WorkerStarted("w", survivor.pid, start_time)]
            store = SqliteStore(path)
            store.commit(changes, lambda error: told.set())
            assert told.wait(10)
            store.close()
            alive: list[bool] = []
            monkeypatch.setattr(Workspace, "open", lambda workspace: alive.append(process_start_time(survivor.pid) == start_time))
            Workspaces(path, make_backend=backends.make).close()
            assert alive == [False]
            assert survivor.wait(10) != 0
        finally:
            survivor.kill()
