"""Models on several workspaces: what changes or ends all replicas, and what is refused."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from support.hosts import WAIT, Desk
from support.replicas import NAMES, loads, names, rows, wait_for
from support.scripted import KeepingSocket
from support.waiting import wait_until

from bgpy.tasks.tensorflow import replicas
from bgpy.tasks.tensorflow.replicas import MAX_REPLICAS
from bgpy.tasks.workspace.workspaces import MAX_NAME

# Updates and further deploys


def test_an_update_rolls_over_all_and_no_answer_is_lost(three: Desk) -> None:
    over = threading.Event()

    def predict(number: int) -> int:
        count = 0
        while not over.is_set():
            answer = three.run("predict", feed_dict={"x": number})
            assert (answer["state"], answer["result"].open()) == ("done", [{"x": number}])
            count += 1
        return count

    with ThreadPoolExecutor(8) as pool:
        counts = [pool.submit(predict, number) for number in range(8)]
        try:
            for version in range(2, 6):
                answer = three.run("update", path=f"weights {version}")
                assert (answer["value"]["version"], rows(three)) == (version, dict.fromkeys(NAMES, ("ready", version)))
            assert three.run("deploy", path="other")["value"]["path"] == "other"
            assert rows(three) == dict.fromkeys(NAMES, ("ready", 6))
            assert list(rows(three)) == NAMES
            three.run("deploy", path="other", replicas=5)
            three.run("deploy", path="other", replicas=2)
        finally:
            over.set()
        assert min(count.result() for count in counts) > 0
    assert names(three) == ["w", "w.1"]
    assert [kind for kind, *_ in loads(three.of("w.1"))] == ["deploy", *["update"] * 4, "deploy", "deploy", "deploy"]


def test_one_replica_is_updated_after_the_other(three: Desk) -> None:
    gates = {name: threading.Event() for name in NAMES}
    for name in NAMES:
        three.of(name).gate = gates[name]
    client = three.send({"command": "update", "name": "w", "path": "b", "timeout": WAIT})
    for number, name in enumerate(NAMES):
        assert three.of(name).at_gate.wait(WAIT)
        assert all(not three.of(later).at_gate.is_set() for later in NAMES[number + 1 :])
        gates[name].set()
        assert client.responses.empty() or number == 2
    assert client.answer()["result"]["value"]["version"] == 2


def test_what_the_first_cannot_load_changes_no_replica(three: Desk) -> None:
    answer = three.run("update", path="missing")
    assert (answer["state"], answer["error"]["message"], answer["value"]) == ("failed", "no", None)
    assert three.run("deploy", path="missing")["state"] == "failed"
    assert rows(three) == dict.fromkeys(NAMES, ("ready", 1))
    assert {three.run("predict")["name"] for _ in range(3)} == set(NAMES)
    assert len(loads(three.of("w.1"))) == 1


def test_a_replica_that_cannot_load_is_told_left_out_and_tried_again(three: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replicas, "FIRST_RETRY", 0.01)
    monkeypatch.setattr(replicas, "LAST_RETRY", 0.01)
    three.of("w.1").missing = "b"
    answer = three.run("update", path="b")
    assert (answer["state"], [row["version"] for row in answer["value"]["replicas"]]) == ("done", [2, None, 2])
    assert answer["value"]["replicas"][1]["error"] == "bgpy.errors.ModelLoadError: no"
    assert {three.run("predict")["name"] for _ in range(10)} == {"w", "w.2"}
    three.of("w.1").missing = ""
    wait_for(three, 2)
    assert loads(three.of("w.1"))[-2:] == [("deploy", "m", 1), ("update", "b", 2)]


def test_a_model_that_is_there_gets_replicas_and_keeps_serving_where_that_fails(desk: Desk) -> None:
    desk.run("deploy", path="m")
    assert desk.ask("describe")["replicas"] == [{"workspace": "w", "state": "ready", "version": 1, "waiting": 0}]
    assert desk.run("deploy", path="missing", replicas=2)["state"] == "failed"
    assert (desk.ask("describe")["version"], names(desk)) == (1, ["w"])
    desk.run("deploy", path="m", replicas=2)
    assert rows(desk) == {"w": ("ready", 2), "w.1": ("ready", 2)}
    desk.run("deploy", path="n")
    assert rows(desk) == {"w": ("ready", 3), "w.1": ("ready", 3)}
    desk.run("deploy", path="n", replicas=1)
    assert (rows(desk), names(desk), "max_replicas" in desk.ask("describe")) == ({"w": ("ready", 4)}, ["w"], False)


def test_a_request_that_comes_twice_is_one_change(desk: Desk) -> None:
    desk.backends.gate = threading.Event()
    message = {"command": "deploy", "name": "w", "path": "m", "replicas": 2, "timeout": WAIT}
    clients = [desk.send(message, KeepingSocket(identity=(b"c", 0, 1))) for _ in range(2)]
    wait_until(lambda: names(desk) == ["w", "w.1"])
    assert all(client.responses.empty() for client in clients)
    desk.backends.gate.set()
    assert [client.answer()["result"]["value"]["version"] for client in clients] == [1, 1]
    again = desk.send(message, KeepingSocket(identity=(b"c", 0, 1))).answer()["result"]
    assert (again["job"], again["value"]["version"]) == (0, 1)


# What ends


def test_undeploy_takes_the_replicas_away(three: Desk) -> None:
    gate = three.of("w.2").gate = threading.Event()
    message = {"command": "predict", "name": "w", "feed_dict": {"x": 1}, "timeout": WAIT}
    clients = [three.send(message) for _ in range(3)]
    leaving = three.send({"command": "undeploy", "name": "w", "timeout": WAIT})
    wait_until(lambda: names(three) == ["w", "w.2"])
    assert leaving.responses.empty()
    gate.set()
    assert [client.answer()["result"]["state"] for client in clients] == ["done"] * 3
    answer = leaving.answer()["result"]
    assert (answer["state"], "value" in answer) == ("done", False)
    assert (names(three), three.ask("describe")) == (["w"], None)
    three.run("deploy", path="m")
    assert list(rows(three)) == ["w"]


@pytest.mark.parametrize("name", ["w", None])
def test_the_replicas_go_with_the_models_workspace(three: Desk, name: str | None) -> None:
    assert three.answer({"command": "destroy_workspace", "name": name})["request_result"] is True
    assert names(three) == []
    three.ask("create_workspace")
    three.run("deploy", path="m", replicas=2)
    assert rows(three) == {"w": ("ready", 1), "w.1": ("ready", 1)}


def test_a_service_that_is_switched_off_has_no_replicas(three: Desk) -> None:
    assert [three.answer({"command": command})["result"] for command in ("destroy", "create")] == [True, True]
    assert names(three) == []


def test_a_workspace_that_is_destroyed_while_its_replicas_load_leaves_none(desk: Desk) -> None:
    gate = desk.backends.gate = threading.Event()
    client = desk.send({"command": "deploy", "name": "w", "path": "m", "replicas": 3, "timeout": WAIT})
    wait_until(lambda: names(desk) == NAMES)
    gate.set()
    desk.answer({"command": "destroy_workspace", "name": "w"})
    client.answer()
    wait_until(lambda: names(desk) == [])


def test_a_server_that_ends_tells_whoever_waits_for_replicas(desk: Desk) -> None:
    gate = desk.backends.gate = threading.Event()
    client = desk.send({"command": "deploy", "name": "w", "path": "m", "replicas": 3, "timeout": WAIT})
    wait_until(lambda: names(desk) == NAMES)
    assert desk.of("w.1").at_gate.wait(WAIT)
    desk.state["fleet"].shut()
    desk.state["workspaces"].shut()
    assert client.answer()["result"]["state"] == "running"
    gate.set()


# What is refused


def test_a_name_that_a_replica_would_need_must_be_free(desk: Desk) -> None:
    desk.ask("create_workspace", name="w.2")
    reason, field, _ = desk.refused("deploy", path="m", replicas=3)
    assert (field, "'w.2'" in reason, names(desk)) == ("name", True, ["w", "w.2"])
    assert desk.ask("get_status")["next_job"] == 0
    desk.ask("create_workspace", name="n" * MAX_NAME)
    assert desk.refused("deploy", name="n" * MAX_NAME, path="m", replicas=2)[1] == "name"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"replicas": 0}, "replicas"),
        ({"replicas": MAX_REPLICAS + 1}, "replicas"),
        ({"max_replicas": MAX_REPLICAS + 1}, "max_replicas"),
        ({"min_replicas": MAX_REPLICAS + 1}, "min_replicas"),
        ({"min_replicas": 3, "max_replicas": 2}, "min_replicas"),
        ({"replicas": 2, "max_replicas": 3}, "replicas"),
        ({"replicas": 1.5}, "replicas"),
        ({"idle_time": -1}, "idle_time"),
    ],
)
def test_numbers_of_replicas_that_cannot_be_are_refused(desk: Desk, fields: dict[str, Any], field: str) -> None:
    assert desk.refused("deploy", path="m", **fields)[1] == field
    assert desk.ask("get_status")["next_job"] == 0


@pytest.mark.parametrize("command", ["deploy", "update", "undeploy"])
def test_a_replica_is_changed_with_its_model_alone(three: Desk, command: str) -> None:
    fields = {} if command == "undeploy" else {"path": "b"}
    reason, field, _ = three.refused(command, name="w.1", **fields)
    assert (field, "a replica of the model of 'w'" in reason) == ("name", True)
    assert three.run("push_job", name="w.1", job="value 7", type=1)["value"] == "7"
