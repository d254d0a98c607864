"""What the server knows of models: from the ends of jobs, in any order, and only while their interpreter lives."""

from __future__ import annotations

import dataclasses
import gc
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from bgpy.errors import RefusedError
from bgpy.tasks.tensorflow.catalog import DEFAULT_BATCH, MAX_VERSIONS, Catalog
from bgpy.tasks.workspace.jobs import JobRecord, JobState
from bgpy.tasks.workspace.values import Value


class Worker:
    """What stands for an interpreter; knows its workspace."""

    def __init__(self, home: Home) -> None:
        self.home = home


class Home:
    """A workspace, as far as the catalog knows one."""

    def __init__(self, records: Sequence[JobRecord] = ()) -> None:
        self.worker: object | None = Worker(self)
        self.records = {record.number: record for record in records}
        self.then: dict[int, Callable[[JobRecord], object]] = {}

    def status(self) -> dict[str, Any]:
        return {"first_job": 0, "next_job": 10}

    def record(self, number: int | None, whole: bool = True) -> JobRecord:
        if number not in self.records:
            raise RefusedError("There is no such job", "job")
        # Of what it has in its store, a workspace tells all but the value.
        return self.records[number] if whole else dataclasses.replace(self.records[number], value=None)

    def when_ended(self, number: int, then: Callable[[JobRecord], object]) -> bool:
        if self.record(number).state.ended:
            return False
        self.then[number] = then
        return True


class Story:
    """A workspace in which jobs end, one after another."""

    def __init__(self) -> None:
        self.catalog = Catalog()
        self.home = Home()
        self.number = 0

    def record(self, kind: str, state: JobState, version: int | None = None, number: int | None = None) -> JobRecord:
        value = None if version is None else Value({"path": f"m{version}", "version": version, "max_batch": 8}, None)
        self.number += 1
        at = self.number if number is None else number
        return JobRecord("w", at, kind, "", state=state, value=value, ended=1000.0 + at)

    def load(self, version: int, kind: str = "deploy", number: int | None = None) -> None:
        self.catalog.ended(self.home, self.record(kind, JobState.DONE, version, number))

    def unload(self, state: JobState = JobState.DONE, number: int | None = None) -> None:
        self.catalog.ended(self.home, self.record("undeploy", state, None, number))

    def predict(self, state: JobState = JobState.DONE, runs: int = 0) -> None:
        record = self.record("predict", state)
        record.value = Value(None, None, runs=runs) if state is JobState.DONE else None
        self.catalog.ended(self.home, record)

    @property
    def known(self) -> dict[str, Any]:
        known = self.catalog.describe(self.home)
        assert known is not None
        return known


@pytest.fixture
def story() -> Story:
    return Story()


def test_a_workspace_of_which_nothing_was_heard_has_no_model(story: Story) -> None:
    story.predict()
    assert story.catalog.describe(story.home) is None
    assert story.catalog.versions(story.home) == 0
    assert story.catalog.max_batch(story.home) == DEFAULT_BATCH


def test_what_was_deployed_is_described_until_it_is_undeployed(story: Story) -> None:
    story.load(1)
    assert story.known == {
        "path": "m1",
        "version": 1,
        "max_batch": 8,
        "versions": {"1": "AVAILABLE"},
        "predictions": 0,
        "executions": 0,
        "failed_predictions": 0,
        "last_prediction": None,
    }
    assert story.catalog.max_batch(story.home) == 8
    story.unload()
    assert story.catalog.describe(story.home) is None
    assert story.catalog.versions(story.home) == 1


@pytest.mark.parametrize("state", [JobState.FAILED, JobState.CANCELLED, JobState.KILLED, JobState.TIMED_OUT])
def test_what_did_not_succeed_changes_nothing(story: Story, state: JobState) -> None:
    story.load(1)
    story.catalog.ended(story.home, story.record("deploy", state))
    story.unload(state)
    assert story.known["version"] == 1


def test_predictions_are_counted_from_the_deploy_on_and_through_updates(story: Story) -> None:
    story.load(1)
    story.predict()
    story.predict(JobState.FAILED)
    story.predict(JobState.CANCELLED)
    story.load(2, "update")
    story.predict(runs=2)
    assert (story.known["predictions"], story.known["executions"], story.known["failed_predictions"]) == (2, 2, 1)
    assert story.known["last_prediction"] == 1000.0 + story.number
    assert story.known["versions"] == {"1": "END", "2": "AVAILABLE"}
    story.load(3)
    assert story.known["executions"] == 0
    assert (story.known["predictions"], story.known["failed_predictions"], story.known["last_prediction"]) == (0, 0, None)


def test_the_model_goes_with_its_interpreter_and_versions_count_on(story: Story) -> None:
    story.load(1)
    story.load(2)
    story.home.worker = None
    assert story.catalog.describe(story.home) is None
    story.home.worker = Worker(story.home)
    assert story.catalog.describe(story.home) is None
    assert story.catalog.versions(story.home) == 2
    story.load(3)
    assert story.known["versions"] == {"1": "END", "2": "END", "3": "AVAILABLE"}


def test_an_update_in_a_new_interpreter_does_not_take_over_the_counts_of_the_old(story: Story) -> None:
    story.load(1)
    story.predict()
    story.home.worker = Worker(story.home)
    story.load(2, "update")
    assert story.known["predictions"] == 0


def test_ends_that_are_told_in_the_wrong_order_leave_what_came_last(story: Story) -> None:
    story.load(2, number=20)
    story.load(1, number=10)
    assert (story.known["version"], story.catalog.versions(story.home)) == (2, 2)
    story.unload(number=15)
    assert story.known["version"] == 2
    story.unload(number=30)
    story.load(3, number=25)
    assert story.catalog.describe(story.home) is None
    assert story.catalog.versions(story.home) == 3


def test_only_the_latest_versions_are_told(story: Story) -> None:
    story.load(MAX_VERSIONS + 50)
    versions = story.known["versions"]
    assert (len(versions), next(iter(versions)), versions[str(MAX_VERSIONS + 50)]) == (MAX_VERSIONS, "51", "AVAILABLE")


def test_what_is_known_goes_with_the_workspace(story: Story) -> None:
    story.load(1)
    story.home = Home()
    gc.collect()
    assert story.catalog.describe(story.home) is None
    assert story.catalog.versions(story.home) == 0
    assert len(story.catalog._entries) == 0


def test_no_prediction_is_lost_when_many_threads_tell_of_theirs(story: Story) -> None:
    story.load(1)
    record = story.record("predict", JobState.DONE)

    def tell() -> None:
        for _ in range(2000):
            story.catalog.ended(story.home, record)

    threads = [threading.Thread(target=tell) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert story.known["predictions"] == 8000


def test_a_prediction_that_the_end_of_the_server_leaves_unended_is_not_counted(story: Story) -> None:
    story.load(1)
    story.predict(JobState.RUNNING)
    assert (story.known["predictions"], story.known["failed_predictions"]) == (0, 0)


def test_what_an_earlier_server_has_left_is_taken_up(story: Story) -> None:
    loads = [story.record(kind, JobState.DONE, version) for kind, version in (("deploy", 4), ("update", 5))]
    failed, held = story.record("deploy", JobState.FAILED), story.record("deploy", JobState.HELD)
    others = [story.record("script", JobState.DONE), story.record("script", JobState.HELD)]
    story.home = Home([*loads, failed, held, *others])
    story.catalog.take_up(story.home)
    assert story.catalog.versions(story.home) == 5
    assert story.catalog.describe(story.home) is None
    value = Value({"path": "late", "version": 6, "max_batch": 1}, None)
    story.home.then[held.number](dataclasses.replace(held, state=JobState.DONE, value=value))
    assert (story.known["path"], story.catalog.versions(story.home)) == ("late", 6)


def test_the_end_of_a_deploy_may_be_told_twice(story: Story) -> None:
    story.load(1, number=10)
    story.predict()
    story.load(1, number=10)
    assert story.known["predictions"] == 1
