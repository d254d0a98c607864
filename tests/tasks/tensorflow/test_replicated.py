"""Models on several workspaces of a server: the host of each is a script."""

from __future__ import annotations

import threading

import pytest
from support.hosts import WAIT, Desk
from support.replicas import NAMES, loads, names, wait_for
from support.waiting import wait_until

from bgpy.tasks.tensorflow import replicas
from bgpy.tasks.tensorflow.replicas import BUSY


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


def test_an_idle_time_of_a_class_of_its_own_comes_to_the_worker_as_a_plain_number(desk: Desk) -> None:
    class Seconds(float):
        pass

    desk.run("deploy", path="m", max_replicas=2, idle_time=Seconds(0.5))
    known = desk.ask("describe")["idle_time"]
    assert (known, type(known)) == (0.5, float)


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
