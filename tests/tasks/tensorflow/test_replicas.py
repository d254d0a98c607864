"""Which replica a prediction goes to, and what is to be done about replicas: without threads, processes or a clock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from bgpy.tasks.tensorflow.replicas import (
    BUSY,
    BUSY_TIME,
    FIRST_RETRY,
    LAST_RETRY,
    MAX_LOADING,
    Fill,
    Group,
    Load,
    Remove,
    Replica,
    State,
)

BASE = {"name": "m", "path": "a"}


class Worker:
    """What stands for an interpreter."""


class Home:
    """A workspace, as far as a replica knows one."""

    def __init__(self) -> None:
        self.worker: object | None = Worker()
        for name in ("status", "record", "when_ended"):
            setattr(self, name, self._unasked)

    status: Callable[..., Any]
    record: Callable[..., Any]
    when_ended: Callable[..., Any]

    def _unasked(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("nobody asks for that")


class Story:
    """A group whose loads end when a test says so."""

    def __init__(self, low: int, high: int | None = None) -> None:
        self.now = 1000.0
        self.group = Group("m", Home())
        self.removed: list[str] = []
        self.steps: list[Any] = []
        self.under_way: list[Fill] = []
        self.deploy(low, low if high is None else high)

    def deploy(self, low: int, high: int, path: str = "a") -> None:
        version = 1 if self.group.target is None else self.group.target.version + 1
        self.first_loads(Load(version, {**BASE, "path": path}, None, version), low, high)

    def update(self, path: str) -> None:
        target = self.group.target
        assert target is not None
        self.first_loads(target._replace(version=target.version + 1, weights=path), self.group.low, self.group.high)

    def first_loads(self, load: Load, low: int, high: int) -> None:
        self.group.begin(self.group.first)
        self.group.loaded(self.group.first, load)
        self.group.bound(low, high, 60.0)
        self.group.aim(load)

    def plan(self) -> list[str]:
        """Begin what is to be done; returns the names of those that load."""
        fills = []
        for each in self.group.plan(self.now):
            if isinstance(each, Remove):
                self.group.removed(each.replica)
                self.removed.append(each.replica.name)
            else:
                fills.append(each)
        for fill in fills:
            self.steps.append((fill.replica.name, [method for method, _ in fill.steps]))
            for _ in fill.steps:
                self.group.begin(fill.replica, fill.replica.home or Home())
        self.under_way += fills
        return [fill.replica.name for fill in fills]

    def end(self, name: str, error: str | None = None) -> None:
        """End the load of a replica."""
        fill = next(each for each in self.under_way if each.replica.name == name)
        self.under_way.remove(fill)
        for number in range(1, len(fill.steps) + 1):
            if error is not None:
                self.group.failed(fill.replica, error, self.now)
            else:
                self.group.loaded(fill.replica, fill.load if number == len(fill.steps) else None)

    def run(self) -> None:
        """Do all that is to be done."""
        while names := self.plan():
            for name in names:
                self.end(name)

    def replica(self, name: str) -> Replica:
        return next(each for each in self.group.replicas if each.name == name)

    def words(self) -> dict[str, str]:
        return {each.name: each.word() for each in self.group.replicas}

    def choose(self, version: str | None = None) -> str:
        return self.group.choose(version, self.now).name

    def answer(self, name: str) -> None:
        self.group.release(self.replica(name), self.now)

    def die(self, name: str) -> None:
        home = self.replica(name).home
        assert home is not None
        home.worker = Worker()  # type: ignore[misc]


@pytest.fixture
def three() -> Story:
    story = Story(3)
    story.run()
    return story


def test_the_others_load_together_once_the_first_has() -> None:
    story = Story(3)
    assert story.words() == {"m": "ready"}
    assert story.plan() == ["m.1", "m.2"]
    assert story.plan() == []
    assert (story.words(), story.group.settled()) == ({"m": "ready", "m.1": "loading", "m.2": "loading"}, False)
    story.end("m.1")
    assert story.plan() == []
    story.end("m.2")
    assert (story.words(), story.group.settled()) == (dict.fromkeys(("m", "m.1", "m.2"), "ready"), True)


def test_no_more_load_at_once_than_may() -> None:
    story = Story(20)
    begun = story.plan()
    assert len(begun) == MAX_LOADING
    story.end(begun[0])
    assert len(story.plan()) == 1


def test_predictions_go_to_the_least_loaded_and_in_turns_where_all_have_as_many(three: Story) -> None:
    assert sorted(three.choose() for _ in range(3)) == ["m", "m.1", "m.2"]
    three.answer("m.1")
    assert three.choose() == "m.1"
    for name in ("m", "m.1", "m.2"):
        three.answer(name)
    turns = []
    for _ in range(6):
        turns.append(three.choose())
        three.answer(turns[-1])
    assert sorted(turns[:3]) == sorted(turns[3:]) == ["m", "m.1", "m.2"]


def test_an_update_takes_one_replica_after_the_other_out_of_the_routing(three: Story) -> None:
    three.update("w")
    for name in ("m.1", "m.2"):
        assert three.plan() == [name]
        assert three.plan() == []
        assert name not in {three.choose() for _ in range(6)}
        three.end(name)
        assert three.words()[name] == "ready"
    assert (three.plan(), three.group.settled()) == ([], True)
    assert three.steps[-2:] == [("m.1", ["update"]), ("m.2", ["update"])]


def test_a_replica_that_is_taken_out_is_draining_until_it_has_answered(three: Story) -> None:
    for _ in range(3):
        three.choose()
    three.update("w")
    three.plan()
    assert three.words()["m.1"] == "draining"
    three.answer("m.1")
    assert three.words()["m.1"] == "loading"


def test_while_a_roll_goes_on_a_version_that_is_asked_for_is_found(three: Story) -> None:
    three.update("w")
    three.plan()
    assert {three.choose("2") for _ in range(4)} == {"m"}
    assert {three.choose("01") for _ in range(4)} == {"m.2"}
    three.end("m.1")
    assert three.plan() == ["m.2"]
    assert {three.choose("1") for _ in range(9)} == {"m", "m.1"}  # it is gone, which either will say


def test_a_deploy_rolls_too_and_what_came_meanwhile_is_loaded_whole(three: Story) -> None:
    three.deploy(3, 3, "b")
    assert three.plan() == ["m.1"]
    three.update("w")
    three.end("m.1")
    assert three.plan() == ["m.1"]  # it has the new model, and now gets its weights
    three.end("m.1")
    three.run()
    assert three.steps[-3:] == [("m.1", ["deploy"]), ("m.1", ["update"]), ("m.2", ["deploy", "update"])]


def test_a_replica_that_has_lost_its_model_is_left_out_and_gets_the_same_version(three: Story) -> None:
    three.update("w")
    three.run()
    three.die("m.1")
    assert {three.choose() for _ in range(6)} == {"m", "m.2"}
    assert three.group.needs_care()
    assert three.words()["m.1"] == "failed"
    assert three.plan() == ["m.1"]
    assert not three.group.needs_care()
    fill = three.under_way[0]
    assert [(method, argument["as_version"]) for method, argument in fill.steps] == [("deploy", 1), ("update", 2)]
    three.end("m.1")
    assert three.words()["m.1"] == "ready"
    load = three.replica("m.1").load
    assert load is not None
    assert load.version == 2


def test_what_dies_does_not_wait_for_a_roll_nor_a_roll_for_it(three: Story) -> None:
    three.update("w")
    assert three.plan() == ["m.1"]
    three.die("m")
    assert three.plan() == ["m"]
    three.end("m.1")
    assert three.plan() == ["m.2"]


def test_a_replica_that_cannot_load_is_tried_again_later_and_later() -> None:
    story = Story(2)
    waits = []
    story.plan()
    for _ in range(12):
        story.end("m.1", "no")
        assert (story.words()["m.1"], story.group.settled(), story.plan()) == ("failed", True, [])
        assert story.replica("m.1").row()["error"] == "no"
        due = story.group.due(story.now)
        assert due is not None
        waits.append(due - story.now)
        story.now = due
        assert story.plan() == ["m.1"]
    assert (waits[:3], waits[-1]) == ([FIRST_RETRY, 2 * FIRST_RETRY, 4 * FIRST_RETRY], LAST_RETRY)
    story.end("m.1")
    assert story.replica("m.1").row() == {"workspace": "m.1", "state": "ready", "version": 1, "waiting": 0}


def test_a_new_load_for_all_does_not_wait_for_the_next_try() -> None:
    story = Story(2)
    story.plan()
    story.end("m.1", "no")
    story.update("w")
    assert story.plan() == ["m.1"]


def test_weights_that_do_not_fit_a_later_replica_have_it_deployed_anew(three: Story) -> None:
    three.update("w")
    three.plan()
    three.end("m.1", "no")
    assert three.words()["m.1"] == "failed"
    three.now += FIRST_RETRY
    assert three.plan() == ["m.1", "m.2"]
    assert three.steps[-2:] == [("m.1", ["deploy", "update"]), ("m.2", ["update"])]


def test_weights_that_do_not_fit_the_first_leave_all_as_they_are(three: Story) -> None:
    first = three.group.first
    three.group.begin(first)
    assert first.word() == "loading"
    three.group.failed(first, "no", three.now, stays=True)
    assert (first.word(), three.plan(), three.group.settled()) == ("ready", [], True)


def test_predictions_wait_behind_a_load_where_none_serves(three: Story) -> None:
    for name in ("m", "m.1", "m.2"):
        three.die(name)
    assert three.choose() == "m"  # as one model alone that is gone
    assert three.plan() == ["m", "m.1", "m.2"]
    three.answer("m")
    assert sorted(three.choose() for _ in range(3)) == ["m", "m.1", "m.2"]


def test_fewer_replicas_go_when_they_have_answered(three: Story) -> None:
    for _ in range(3):
        three.choose()
    three.deploy(1, 1)
    assert three.plan() == []
    assert (three.words(), three.removed) == ({"m": "ready", "m.1": "draining", "m.2": "draining"}, [])
    assert {three.choose() for _ in range(5)} == {"m"}
    three.answer("m.2")
    assert three.group.needs_care()
    three.plan()
    assert (three.removed, three.group.settled()) == (["m.2"], False)
    three.answer("m.1")
    three.plan()
    assert (three.removed, three.words(), three.group.settled()) == (["m.2", "m.1"], {"m": "ready"}, True)


def test_a_name_is_free_again_once_its_workspace_is_gone(three: Story) -> None:
    three.choose(), three.choose(), three.choose()
    three.deploy(1, 1)
    three.plan()
    three.deploy(2, 2)
    assert three.plan() == ["m.3"]
    three.answer("m.1"), three.answer("m.2")
    three.plan()
    three.deploy(3, 3)
    three.end("m.3")
    assert three.plan() == ["m.1", "m.3"]


def test_what_is_dissolved_keeps_the_first_alone(three: Story) -> None:
    three.group.dissolve()
    three.plan()
    assert (three.removed, list(three.words())) == (["m.1", "m.2"], ["m"])
    three.die("m")
    assert three.plan() == []


# Their number by load


def load_up(story: Story, count: int) -> list[str]:
    return [story.choose() for _ in range(count)]


def test_one_more_is_made_when_too_many_predictions_wait_for_a_while() -> None:
    story = Story(1, 3)
    story.run()
    load_up(story, BUSY)
    assert story.group.due(story.now) is None
    load_up(story, 1)
    assert story.group.due(story.now) == story.now + BUSY_TIME
    story.now += BUSY_TIME / 2
    assert story.plan() == []
    story.now += BUSY_TIME / 2
    assert story.plan() == ["m.1"]
    load_up(story, 10 * BUSY)
    story.now += BUSY_TIME
    assert story.plan() == []  # one at a time
    story.end("m.1")
    assert story.plan() == ["m.2"]
    story.end("m.2")
    story.now += 100 * BUSY_TIME
    assert (story.plan(), story.group.due(story.now)) == ([], None)  # no more than there may be


def test_a_moment_of_load_makes_none() -> None:
    story = Story(1, 3)
    chosen = load_up(story, BUSY + 1)
    story.now += BUSY_TIME / 2
    story.answer(chosen[0])
    story.now += BUSY_TIME
    story.choose()
    assert story.plan() == []


def test_the_last_one_goes_when_it_was_not_needed_for_a_while() -> None:
    story = Story(1, 2)
    load_up(story, 5 * BUSY)
    story.now += BUSY_TIME
    story.run()
    assert list(story.words()) == ["m", "m.1"]
    for name in ["m"] * (5 * BUSY):
        story.answer(name)
    assert story.group.due(story.now) == story.now + 60.0
    story.now += 59.0
    story.plan()
    chosen = load_up(story, 2)  # both were needed
    for name in chosen:
        story.answer(name)
    story.now += 59.0
    story.plan()
    assert list(story.words()) == ["m", "m.1"]
    story.now += 1.0
    story.plan()
    assert (story.removed, story.group.due(story.now)) == (["m.1"], None)


def test_a_fixed_number_is_none_of_the_loads_business(three: Story) -> None:
    load_up(three, 100 * BUSY)
    three.now += 1000.0
    assert (three.plan(), three.group.due(three.now), three.removed) == ([], None, [])


# After a restart


def test_what_an_earlier_server_has_left_is_as_many_as_it_is() -> None:
    group = Group("m", Home())
    replicas = [group.take_up(name, Home()) for name in ("m", "m.1", "m.4")]
    group.bound(2, 5, 60.0)
    for each in replicas:
        group.begin(each)
    assert {each.state for each in replicas} == {State.LOADING}
    load = Load(3, BASE, "w", None)
    for each in replicas[1:]:
        group.loaded(each, load)
    group.aim(load)
    assert group.plan(0.0) == []
    assert group.choose(None, 0.0).name == "m.1"
    group.unloaded(replicas[0])
    (fill,) = group.plan(0.0)
    assert isinstance(fill, Fill)
    assert (fill.replica, [method for method, _ in fill.steps]) == (replicas[0], ["deploy", "update"])


def test_models_that_are_all_gone_are_not_loaded_by_themselves() -> None:
    group = Group("m", Home())
    group.take_up("m.1", Home())
    group.bound(2, 2, 60.0)
    assert (group.plan(0.0), group.choose(None, 0.0).name) == ([], "m")
