"""Models on several workspaces of a server: the host of each is a script."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support.hosts import WAIT, Desk, ModelBackend, ModelBackends
from support.scripted import KeepingSocket
from support.waiting import wait_until

from bgpy.tasks.tensorflow import replicas
from bgpy.tasks.tensorflow.replicas import BUSY, MAX_REPLICAS
from bgpy.tasks.workspace.backends import Abilities
from bgpy.tasks.workspace.workspaces import MAX_NAME

NAMES = ["w", "w.1", "w.2"]


@pytest.fixture
def desk() -> Iterator[Desk]:
    desk = Desk()
    desk.ask("create_workspace")
    yield desk
    desk.close()


@pytest.fixture
def three(desk: Desk) -> Desk:
    desk.run("deploy", path="m", replicas=3)
    return desk


def names(desk: Desk) -> list[str]:
    found: list[str] = desk.answer({"command": "get_workspace"})["result"]
    return found


def rows(desk: Desk) -> dict[str, Any]:
    """Return the state and version of each replica."""
    known = desk.ask("describe") or {"replicas": []}  # of a server that was just started nothing, until one has answered
    return {row["workspace"]: (row["state"], row["version"]) for row in known["replicas"]}


def wait_for(desk: Desk, version: int = 1, *workspaces: str) -> None:
    """Wait until replicas are ready."""
    wanted = dict.fromkeys(workspaces or NAMES, ("ready", version))
    wait_until(lambda: rows(desk) == wanted)


def loads(backend: ModelBackend) -> list[tuple[str, str, int | None]]:
    return [(kind, given["path"], given.get("as_version")) for kind, given in backend.arguments if kind in ("deploy", "update")]


def test_a_model_is_on_all_replicas_when_the_answer_comes(desk: Desk) -> None:
    desk.backends.gate = threading.Event()
    client = desk.send({"command": "deploy", "name": "w", "path": "m", "replicas": 3, "max_batch": 7, "timeout": WAIT})
    wait_until(lambda: names(desk) == NAMES)
    assert desk.of("w.1").at_gate.wait(WAIT)
    assert client.responses.empty()
    desk.backends.gate.set()
    answer = client.answer()["result"]
    assert (answer["job"], answer["finish"], answer["state"], answer["value"]) == (0, True, "done", desk.ask("describe"))
    row = {"workspace": "w", "state": "ready", "version": 1, "waiting": 0}
    assert answer["value"]["replicas"] == [row, {**row, "workspace": "w.1"}, {**row, "workspace": "w.2"}]
    assert (answer["value"]["min_replicas"], answer["value"]["max_replicas"]) == (3, 3)
    assert [desk.ask("get_status", name=name).get("replica_of") for name in NAMES] == [None, "w", "w"]
    (given,) = [argument for _, argument in desk.of("w.2").arguments]
    assert (given["name"], given["path"], given["max_batch"], given["as_version"]) == ("w", "m", 3, 1)


def test_an_answer_that_cannot_wait_says_that_it_goes_on(desk: Desk) -> None:
    desk.backends.gate = threading.Event()
    answer = desk.ask("deploy", path="m", replicas=2, timeout=0.05)
    assert (answer["job"], answer["finish"], answer["result"], answer["state"]) == (0, False, None, "running")
    desk.backends.gate.set()
    wait_for(desk, 1, "w", "w.1")


def test_replicas_are_workspaces_like_that_of_the_model(desk: Desk) -> None:
    desk.answer({"command": "create_workspace", "name": "special", "on_crash": "continue", "max_jobs": 5})
    desk.run("deploy", name="special", path="m", replicas=2)
    options = [desk.state["workspaces"][name].options for name in ("special", "special.1")]
    assert options[1] == options[0]._replace(replica_of="special")


def test_each_prediction_tells_whose_job_it_is(three: Desk) -> None:
    answers = [three.run("predict", feed_dict={"x": n}) for n in range(6)]
    assert [answer["result"].open() for answer in answers] == [[{"x": n}] for n in range(6)]
    assert [answer["name"] for answer in answers[:3]] == [answer["name"] for answer in answers[3:]]
    assert sorted(answer["name"] for answer in answers[:3]) == NAMES
    for answer in answers:
        assert three.ask("get_record", name=answer["name"], job=answer["job"])["type"] == "predict"
    described = three.ask("describe")
    assert (described["predictions"], [row["waiting"] for row in described["replicas"]]) == (6, [0, 0, 0])


def test_a_busy_replica_gets_no_more_than_the_others(three: Desk) -> None:
    gate = three.of("w.1").gate = threading.Event()
    message = {"command": "predict", "name": "w", "feed_dict": {"x": 1}, "timeout": WAIT}
    clients = [three.send(message) for _ in range(3)]
    assert three.of("w.1").at_gate.wait(WAIT)
    assert {three.run("predict")["name"] for _ in range(10)} <= {"w", "w.2"}
    gate.set()
    assert all(client.answer()["result"]["finish"] for client in clients)


def test_predictions_that_wait_for_one_replica_go_to_its_host_together(three: Desk) -> None:
    for name in NAMES:
        three.of(name).gate = threading.Event()
    message = {"command": "predict", "name": "w", "feed_dict": {"x": 1}, "timeout": WAIT}
    clients = [three.send(message) for _ in range(12)]
    for name in NAMES:
        gate = three.of(name).gate
        assert gate is not None
        gate.set()
    assert all(client.answer()["result"]["finish"] for client in clients)
    assert [len(order.calls) for order in three.of("w.2").orders] == [1, 1, 3]  # a load, one at once, those that waited


def test_infer_and_a_version_that_is_asked_for_reach_a_replica(three: Desk) -> None:
    from bgpy.tasks.workspace.values import Packed

    fields = {"protocol": "v1", "verb": "predict", "version": "1", "body": Packed(b"", (b"abc",))}
    answers = [three.run("infer", **fields) for _ in range(3)]
    assert [bytes(answer["result"].buffers[0]) for answer in answers] == [b"cba"] * 3
    assert sorted(answer["name"] for answer in answers) == NAMES


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


# What goes wrong


def test_a_prediction_whose_replica_dies_has_crashed_and_the_others_go_on(three: Desk) -> None:
    gate = three.of("w.1").gate = threading.Event()
    message = {"command": "predict", "name": "w", "feed_dict": {"x": 1}, "timeout": WAIT}
    clients = [three.send(message) for _ in range(3)]
    assert three.of("w.1").at_gate.wait(WAIT)
    dead = three.of("w.1")
    dead.listener.died("it fell", False)
    answers = {answer["name"]: answer for answer in (client.answer()["result"] for client in clients)}
    assert [answers[name]["state"] for name in NAMES] == ["done", "crashed", "done"]
    gate.set()
    wait_for(three)
    assert three.of("w.1") is not dead
    assert loads(three.of("w.1")) == [("deploy", "m", 1)]
    assert [kind for kind, _ in three.of("w.1").arguments] == ["deploy"]  # it was not run again
    assert {three.run("predict")["name"] for _ in range(3)} == set(NAMES)


def test_the_models_own_workspace_may_die_too(three: Desk) -> None:
    three.run("update", path="b")
    three.run("push_job", job="die", type=1)
    assert three.ask("describe")["version"] == 2
    wait_for(three, 2)
    assert loads(three.of("w")) == [("deploy", "m", 1), ("update", "b", 2)]
    three.run("push_job", job="die", type=1)
    assert three.run("update", path="c")["value"]["version"] == 3
    wait_for(three, 3)


def test_a_replica_that_is_destroyed_is_made_again(three: Desk) -> None:
    three.answer({"command": "destroy_workspace", "name": "w.1"})
    assert all(three.run("predict")["state"] == "done" for _ in range(6))
    wait_for(three)
    assert sorted(names(three)) == NAMES


def test_a_model_that_an_interpreter_has_lost_is_loaded_again(three: Desk) -> None:
    error = {"type": "bgpy.errors.ModelNotFoundError", "message": "No model is deployed in workspace 'w'.", "traceback": ""}
    three.of("w.2").fails_with = error
    assert {three.run("predict")["state"] for _ in range(3)} == {"done"}
    three.of("w.2").fails_with = None
    wait_for(three)
    assert len(loads(three.of("w.2"))) == 2


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


# Their number by load


def test_load_makes_replicas_and_idle_time_takes_them_away(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replicas, "BUSY_TIME", 0.02)
    desk.run("deploy", path="m", min_replicas=1, max_replicas=2, idle_time=0.1)
    assert (names(desk), desk.ask("describe")["idle_time"]) == (["w"], 0.1)
    gate = desk.of("w").gate = threading.Event()
    message = {"command": "predict", "name": "w", "feed_dict": {"x": 1}, "timeout": WAIT}
    clients = [desk.send(message) for _ in range(2 * BUSY)]
    wait_for(desk, 1, "w", "w.1")
    assert desk.run("predict")["name"] == "w.1"
    gate.set()
    assert all(client.answer()["result"]["state"] == "done" for client in clients)
    wait_until(lambda: names(desk) == ["w"])
    assert desk.run("predict")["state"] == "done"


def test_a_prediction_that_comes_when_one_more_is_due_does_not_put_that_off(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replicas, "BUSY_TIME", 0.3)
    now = [0.0]
    desk.state["fleet"].clock = lambda: now[0]
    desk.run("deploy", path="m", min_replicas=1, max_replicas=2)
    gate = desk.of("w").gate = threading.Event()
    message = {"command": "predict", "name": "w", "feed_dict": {"x": 1}, "timeout": WAIT}
    clients = [desk.send(message) for _ in range(BUSY + 1)]
    now[0] = 10.0  # the timer is about to call
    clients.append(desk.send(message))
    wait_for(desk, 1, "w", "w.1")
    gate.set()
    assert all(client.answer()["result"]["state"] == "done" for client in clients)


# After a restart


def test_replicas_in_processes_have_lost_their_models_and_get_the_next(tmp_path: Path) -> None:
    desk = Desk(store=str(tmp_path / "jobs.db"))
    desk.ask("create_workspace")
    desk.run("deploy", path="m", replicas=3)
    desk.run("update", path="b")
    desk.close()
    desk = Desk(store=str(tmp_path / "jobs.db"))
    try:
        assert (names(desk), desk.ask("describe")) == (NAMES, None)
        assert desk.ask("get_status", name="w.1")["replica_of"] == "w"
        desk.run("deploy", path="n")
        assert rows(desk) == dict.fromkeys(NAMES, ("ready", 3))
    finally:
        desk.close()


def test_a_replica_that_was_loading_when_the_server_ended_holds_up_nothing(tmp_path: Path) -> None:
    desk = Desk(store=str(tmp_path / "jobs.db"))
    desk.ask("create_workspace")
    desk.run("deploy", path="m", replicas=2)
    desk.run("update", path="b")
    gate = desk.backends.gate = threading.Event()
    desk.run("push_job", name="w.1", job="die", type=1)
    wait_until(lambda: rows(desk)["w.1"][0] == "loading" and desk.of("w.1").at_gate.is_set())
    desk.state["workspaces"].shut()
    gate.set()
    desk.close()
    desk = Desk(store=str(tmp_path / "jobs.db"))
    try:
        assert desk.run("deploy", path="n")["value"]["version"] == 3
        assert rows(desk) == {"w": ("ready", 3), "w.1": ("ready", 3)}
    finally:
        desk.close()


def surviving_desk(folder: Path, before: Desk | None = None) -> Desk:
    backends = ModelBackends()
    backends.abilities = Abilities(kill=True, interrupt=True, capture=True, own_main=True, memory_limit=False, survive=True)
    if before is not None:
        backends.survivors = dict(before.backends.homes)
    return Desk(backends, store=str(folder / "jobs.db"))


def test_replicas_that_outlive_the_server_serve_at_once(tmp_path: Path) -> None:
    before = surviving_desk(tmp_path)
    before.ask("create_workspace", type="ray")
    before.run("deploy", path="m", replicas=3)
    before.run("update", path="b")
    before.close()
    after = surviving_desk(tmp_path, before)
    try:
        assert all(after.run("predict")["state"] == "done" for _ in range(6))
        wait_for(after, 2)
        assert {after.run("predict")["name"] for _ in range(3)} == set(NAMES)
        assert [loads(after.of(name)) for name in NAMES] == [[], [], []]
        assert after.ask("describe")["max_replicas"] == 3
        assert after.run("update", path="c")["value"]["version"] == 3
        wait_for(after, 3)
    finally:
        after.close()


def test_of_replicas_that_outlive_the_server_those_that_have_not_are_mended(tmp_path: Path) -> None:
    before = surviving_desk(tmp_path)
    before.ask("create_workspace", type="ray")
    before.run("deploy", path="m", replicas=3)
    home = before.state["workspaces"]["w"].options.home
    before.close()
    del before.backends.homes[home]
    after = surviving_desk(tmp_path, before)
    try:
        wait_for(after)
        assert loads(after.of("w")) == [("deploy", "m", 1)]
    finally:
        after.close()


def test_a_model_alone_that_outlives_the_server_is_known_again(tmp_path: Path) -> None:
    before = surviving_desk(tmp_path)
    before.ask("create_workspace", type="ray")
    before.run("deploy", path="m")
    before.close()
    after = surviving_desk(tmp_path, before)
    try:
        wait_until(lambda: after.ask("describe") is not None)
        assert (after.ask("describe")["version"], loads(after.of("w"))) == (1, [])
    finally:
        after.close()


def test_replicas_whose_model_has_gone_for_good_are_destroyed_at_the_next_start(tmp_path: Path) -> None:
    desk = Desk(store=str(tmp_path / "jobs.db"))
    desk.ask("create_workspace")
    desk.run("deploy", path="m", replicas=2)
    desk.state["workspaces"].when_destroyed.clear()  # as if the server were killed in between
    desk.state["workspaces"].destroy("w")
    desk.close()
    desk = Desk(store=str(tmp_path / "jobs.db"))
    try:
        assert names(desk) == []
    finally:
        desk.close()
