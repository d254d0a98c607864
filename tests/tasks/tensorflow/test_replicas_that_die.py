"""Replicas whose interpreters die: what waited for them goes to others, and nobody has to ask before they load again."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
from support.hosts import WAIT, Desk
from support.scripted import KeepingSocket
from support.waiting import wait_until

from bgpy.tasks.tensorflow import ends

NAMES = ["w", "w.1", "w.2"]
PREDICT = {"command": "predict", "name": "w", "feed_dict": {"x": 1}, "timeout": WAIT}


@pytest.fixture(params=["abort", "continue"])
def desk(request: pytest.FixtureRequest) -> Iterator[Desk]:
    desk = Desk()
    desk.backends.forgets = True
    desk.ask("create_workspace", on_crash=request.param)
    desk.run("deploy", path="m", replicas=3)
    yield desk
    desk.close()


def fill(desk: Desk, each: int) -> list[KeepingSocket]:
    """Have each replica run one prediction, and several wait behind it; return who waits for them."""
    for name in NAMES:
        desk.of(name).gate = threading.Event()
    clients = [desk.send(PREDICT) for _ in range(3)]
    for name in NAMES:
        assert desk.of(name).at_gate.wait(WAIT)
    return [*clients, *(desk.send(PREDICT) for _ in range(3 * each - 3))]


def open_gates(desk: Desk) -> None:
    for backend in desk.backends.made:
        gate = backend.gate  # type: ignore[attr-defined]
        if gate is not None:
            gate.set()


def predicted(desk: Desk) -> int:
    """Return how many predictions have been run, by whatever interpreter."""
    return [kind for backend in desk.backends.made for kind, _ in backend.arguments].count("predict")  # type: ignore[attr-defined]


def results(clients: list[KeepingSocket]) -> list[Any]:
    return [client.answer()["result"] for client in clients]


def test_what_waits_behind_a_prediction_that_takes_its_replica_along_goes_to_others(desk: Desk) -> None:
    clients = fill(desk, each=4)
    desk.of("w.1").listener.died("it fell", False)
    open_gates(desk)
    answers = results(clients)
    assert sorted(answer["state"] for answer in answers) == ["crashed", *["done"] * 11]
    assert len({(answer["name"], answer["job"]) for answer in answers}) == 12
    wait_until(lambda: predicted(desk) == 12)  # each was given to one interpreter only, also that which fell with it
    for answer in answers:
        record = desk.ask("get_record", name=answer["name"], job=answer["job"])
        assert (record["type"], record["state"]) == ("predict", answer["state"])
    wait_until(lambda: [row["waiting"] for row in desk.ask("describe")["replicas"]] == [0, 0, 0])


def test_where_no_replica_is_left_predictions_wait_for_the_model(desk: Desk) -> None:
    clients = fill(desk, each=3)
    desk.backends.gate = threading.Event()
    fallen = [desk.of(name) for name in NAMES]
    for backend in fallen:
        backend.listener.died("it fell", False)
    late = desk.send(PREDICT)  # of a model that nobody has now
    for backend in fallen:
        assert backend.gate is not None
        backend.gate.set()
    wait_until(lambda: any(desk.of(name).at_gate.is_set() for name in ("w.1", "w.2")))
    desk.backends.gate.set()
    answers = results([*clients, late])
    assert sorted(answer["state"] for answer in answers) == [*["crashed"] * 3, *["done"] * 7]


def test_a_prediction_that_nobody_waits_for_any_more_goes_nowhere(desk: Desk) -> None:
    clients = fill(desk, each=1)
    late = [desk.send({**PREDICT, "timeout": 0.01}) for _ in range(3)]
    assert [answer["state"] for answer in results(late)] == ["queued"] * 3
    fallen = desk.of("w.1")
    fallen.listener.died("it fell", False)
    open_gates(desk)
    assert sorted(answer["state"] for answer in results(clients)) == ["crashed", "done", "done"]
    wait_until(lambda: [(row["state"], row["waiting"]) for row in desk.ask("describe")["replicas"]] == [("ready", 0)] * 3)
    wait_until(lambda: predicted(desk) == 5)


def test_what_was_fed_is_let_go_with_the_answer(desk: Desk) -> None:
    class Feed(dict[str, int]):
        """What a test can watch."""

    feeds = [Feed(x=number) for number in range(2)]
    watched = [weakref.ref(feed) for feed in feeds]
    for number in range(2):
        assert desk.run("predict", feed_dict=feeds[number])["state"] == "done"
    feeds.clear()
    gc.collect()
    assert [feed() for feed in watched] == [None, None]


def test_a_prediction_does_not_follow_replicas_that_fall_for_ever(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ends, "MAX_MOVES", 0)
    clients = fill(desk, each=2)
    desk.of("w.1").listener.died("it fell", False)
    open_gates(desk)
    states = sorted(answer["state"] for answer in results(clients))
    assert states in ([*["aborted", "crashed"], *["done"] * 4], ["crashed", *["done"] * 4, "failed"])


def test_what_waits_for_a_replica_when_the_server_ends_is_answered(desk: Desk) -> None:
    clients = fill(desk, each=2)
    gate = desk.backends.gate = threading.Event()
    for name in NAMES:
        desk.of(name).listener.died("it fell", False)
    desk.state["fleet"].shut()
    desk.state["workspaces"].shut()
    open_gates(desk)
    gate.set()
    assert all(answer["state"] != "done" for answer in results(clients))


def test_a_replica_that_dies_with_nothing_to_do_is_loaded_again_unasked(desk: Desk) -> None:
    fallen = [desk.of("w"), desk.of("w.2")]
    for backend in fallen:
        backend.die("it fell")
    assert len(fallen) == 2
    for name in ("w", "w.2"):
        wait_until(lambda name=name: desk.of(name) not in fallen and desk.of(name).deployed)


def test_a_replica_that_is_destroyed_is_made_again_unasked(desk: Desk) -> None:
    made = len(desk.backends.made)
    desk.answer({"command": "destroy_workspace", "name": "w.1"})
    wait_until(lambda: len(desk.backends.made) > made and desk.backends.last.arguments)  # type: ignore[attr-defined]


def test_a_model_without_replicas_is_not_loaded_again(desk: Desk) -> None:
    desk.run("deploy", path="m", replicas=1)
    desk.run("push_job", job="die", type=1)
    assert desk.run("predict")["state"] == "failed"
    assert desk.ask("describe") is None


def test_changes_that_wait_for_a_replica_that_hangs_are_bounded(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bgpy.tasks.tensorflow.replicated.MAX_CHANGES", 2)
    gate = desk.of("w.1").gate = threading.Event()
    clients = [desk.send({"command": "update", "name": "w", "path": str(number), "timeout": WAIT}) for number in range(2)]
    wait_until(lambda: desk.ask("describe")["version"] == 3)
    assert all(client.responses.empty() for client in clients)
    last = desk.send({"command": "update", "name": "w", "path": "2", "timeout": WAIT})
    assert clients[0].answer()["result"]["state"] == "running"
    gate.set()
    assert [client.answer()["result"]["state"] for client in (clients[1], last)] == ["done", "done"]
