"""Changes of models on several workspaces that follow each other closely, and what goes wrong beside them."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from support.hosts import WAIT, Desk
from support.replicas import names
from support.scripted import ScriptedBackend
from support.waiting import wait_until

from bgpy.errors import RefusedError
from bgpy.tasks.tensorflow import replicas
from bgpy.tasks.workspace.backends import Listener
from bgpy.tasks.workspace.means import Options
from bgpy.tasks.workspace.workspace import Workspace


@pytest.fixture
def desk(desk: Desk) -> Desk:
    desk.run("deploy", path="m", replicas=3)
    return desk


def follow(desk: Desk, first: dict[str, Any], second: dict[str, Any]) -> list[Any]:
    """Ask for two changes, the second while the first one runs; return the states that are answered."""
    gate = desk.of("w").gate = threading.Event()
    clients = [desk.send({"name": "w", "timeout": WAIT, **first})]
    assert desk.of("w").at_gate.wait(WAIT)
    clients.append(desk.send({"name": "w", "timeout": WAIT, **second}))
    gate.set()
    return [client.answer()["result"]["state"] for client in clients]


def test_nothing_is_deployed_after_an_undeploy_that_follows_an_update(desk: Desk) -> None:
    states = follow(desk, {"command": "update", "path": "b"}, {"command": "undeploy"})
    assert (states, names(desk), desk.ask("describe")) == (["done", "done"], ["w"], None)


def test_an_update_leaves_the_number_that_the_deploy_before_it_set(desk: Desk) -> None:
    states = follow(desk, {"command": "deploy", "path": "b", "replicas": 4}, {"command": "update", "path": "c"})
    rows = [(row["workspace"], row["version"]) for row in desk.ask("describe")["replicas"]]
    assert (states, rows) == (["done", "done"], [(name, 3) for name in ("w", "w.1", "w.2", "w.3")])


def test_an_undeploy_that_is_cancelled_leaves_all_replicas(desk: Desk) -> None:
    gate = desk.of("w").gate = threading.Event()
    predicting = [desk.send({"command": "predict", "name": "w", "feed_dict": {"x": 1}, "timeout": WAIT}) for _ in range(3)]
    assert desk.of("w").at_gate.wait(WAIT)
    undeploying = desk.send({"command": "undeploy", "name": "w", "timeout": WAIT})
    assert desk.ask("cancel", job=desk.ask("get_status")["next_job"] - 1) is True
    gate.set()
    states = [client.answer()["result"]["state"] for client in (*predicting, undeploying)]
    assert (states, names(desk)) == (["done", "done", "done", "cancelled"], ["w", "w.1", "w.2"])
    assert {row["state"] for row in desk.ask("describe")["replicas"]} == {"ready"}


def test_a_prediction_whose_record_is_gone_before_its_answer_is_answered_and_has_run_once(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(workspace: Workspace, number: int, *_: Any) -> bool:
        raise RefusedError(f"Job {number} of the workspace {workspace.name!r} is gone", "job")

    with monkeypatch.context() as patch:
        for method in ("when_ended", "record"):
            patch.setattr(Workspace, method, gone)
        assert [desk.run("predict", feed_dict={"x": 1})["state"] for _ in range(3)] == ["done"] * 3
    wait_until(lambda: {row["waiting"] for row in desk.ask("describe")["replicas"]} == {0})
    asked = [kind for name in names(desk) for kind, _ in desk.of(name).arguments]
    assert asked.count("predict") == 3


def test_a_replica_that_could_not_be_made_for_want_of_files_is_made_later(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replicas, "FIRST_RETRY", 0.01)
    make = desk.backends.make

    def run_out(options: Options, listener: Listener) -> ScriptedBackend:
        means = desk.state["workspaces"]._means
        desk.state["workspaces"]._means = means._replace(make_backend=make)
        raise OSError(24, "Too many open files")

    desk.state["workspaces"]._means = desk.state["workspaces"]._means._replace(make_backend=run_out)
    desk.answer({"command": "destroy_workspace", "name": "w.1"})
    wait_until(lambda: [row["state"] for row in desk.ask("describe")["replicas"]] == ["ready"] * 3)
    assert sorted(names(desk)) == ["w", "w.1", "w.2"]


def test_replicas_are_looked_after_once_a_thread_can_be_had_again(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start

    def fail(thread: threading.Thread) -> None:
        if thread.name == "bgpy-replicas":
            raise RuntimeError("can't start new thread")
        start(thread)

    desk.answer({"command": "destroy_workspace", "name": "w.1"})
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        assert desk.run("predict", feed_dict={"x": 1})["state"] == "done"
    wait_until(lambda: [row["state"] for row in desk.ask("describe")["replicas"]] == ["ready"] * 3)
