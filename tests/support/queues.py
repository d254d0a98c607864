"""The queue of a workspace in the hands of a test, and how jobs may end there."""

from __future__ import annotations

from typing import Any

from bgpy.errors import StoreError
from bgpy.tasks.workspace.backends import Outcome
from bgpy.tasks.workspace.instructions import Announce, Commit, Run
from bgpy.tasks.workspace.jobs import JobRecord
from bgpy.tasks.workspace.queue import JobQueue
from bgpy.tasks.workspace.values import Value

DONE = Outcome("done", Value(2, None), None)
RAISED = Outcome("failed", None, {"type": "ValueError", "message": "no", "traceback": "..."})
STOPPED = Outcome("interrupted", None, {"type": "KeyboardInterrupt", "message": "", "traceback": "..."})
FULL = StoreError("here", "The disk is full", "Make room on the disk")


class Driver:
    """Does what a queue wants, but for commits, which wait for `commit` unless `at_once` is on."""

    def __init__(self, *, at_once: bool = True, ready: bool = True, **options: Any) -> None:
        self.queue = JobQueue("w", **options)
        self.at_once = at_once
        self.commits: list[Commit] = []
        self.done: list[Any] = []
        if ready:
            self.queue.want_worker()
            self.queue.ready(None, 0.0)
            self.work()
            self.done.clear()

    def work(self) -> list[Any]:
        """Do what is to be done, and return what was done since the last call."""
        while instructions := self.queue.take():
            for instruction in instructions:
                self.done.append(instruction)
                if isinstance(instruction, Commit):
                    self.commits.append(instruction)
                elif isinstance(instruction, Run):
                    self.queue.handed(instruction.order.number)
            if self.at_once:
                self.commit()
        done, self.done = self.done, []
        return done

    def commit(self, error: StoreError | None = None) -> None:
        commits, self.commits = self.commits, []
        for commit in commits:
            self.queue.committed(commit, error, 3.0)

    def push(self, text: str = "x", **options: Any) -> int:
        return self.queue.push("script", text, **{"clear": False, "time_limit": None, "identity": None, "now": 1.0, **options})

    def states(self) -> list[str]:
        return [self.queue.jobs.state(number).value for number in self.queue.jobs.numbers()]


def of_kind(instructions: list[Any], *kinds: type) -> list[Any]:
    return [instruction for instruction in instructions if isinstance(instruction, kinds)]


def events(instructions: list[Any]) -> list[tuple[str, int | None]]:
    return [(announce.event, announce.job) for announce in of_kind(instructions, Announce)]


def restored(count: int = 3) -> Driver:
    driver = Driver(ready=False)
    driver.queue.restore([JobRecord("w", number, "script", "old", pushed=0.5) for number in range(count)], count, 0, 5.0)
    driver.queue.want_worker()
    driver.queue.ready(None, 5.0)
    driver.work()
    return driver
