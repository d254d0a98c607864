"""
One model with replicas: drives its group with the workspaces.

Nothing here waits for a load: whoever hears of its end looks what is to be done next. What blocks, making and destroying
workspaces, is done by a thread that a model has while there is something to do.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from bgpy.errors import BgpyError
from bgpy.tasks.tensorflow.changes import MAX_CHANGES, Bounds, Change
from bgpy.tasks.tensorflow.readings import HOST, bounds_in, description_in, load_in, misses_model, recall, why, with_node
from bgpy.tasks.tensorflow.replicas import Fill, Group, Load, Remove, Replica, Steps
from bgpy.tasks.workspace.calls import Call
from bgpy.tasks.workspace.jobs import Identity, JobRecord, JobState
from bgpy.tasks.workspace.line import MAX_WAITING
from bgpy.tasks.workspace.values import Packed
from bgpy.tasks.workspace.workspace import Workspace

if TYPE_CHECKING:
    from bgpy.tasks.tensorflow.ends import Prediction
    from bgpy.tasks.tensorflow.fleet import Fleet


class ReplicatedModel:
    """
    One model with its replicas. Thread-safe.

    Parameters
    ----------
    home
        The model's own workspace.
    """

    def __init__(self, fleet: Fleet, home: Workspace) -> None:
        self.home = home
        self._fleet = fleet
        self._group = Group(home.name, home)
        self._lock = threading.Lock()
        self._works = False
        self._again = False
        self._timer: _Timer | None = None
        self._changes: list[Change] = []
        self._lost: list[Prediction] = []
        self._time_limit: float | None = None  # of each load, as the last request had it
        known = fleet.catalog.describe(home)
        if known is not None:
            self._group.adopt(load_in(home.name, known, None))

    @property
    def bounds(self) -> Bounds:
        """How many replicas there may be, at least and at most; and the seconds after which one that is not needed goes."""
        return self._group.low, self._group.high, self._group.idle_time

    # Predictions.

    def choose(self, version: str | None = None) -> Replica:
        """Return the replica for a prediction, which counts as waiting until `release`."""
        with self._lock:
            now = self._fleet.clock()
            chosen = self._group.choose(version, now)
            self._look_after(now)
        return chosen

    def release(self, replica: Replica, record: JobRecord | None = None) -> None:
        """Take note that a prediction has ended, or could not be queued. Does not block."""
        with self._lock:
            now = self._fleet.clock()
            self._group.release(replica, now)
            if misses_model(record):
                replica.take(None)
            self._look_after(now)

    def take_lost(self, prediction: Prediction) -> bool:
        """Have a prediction that its replica has not run sent on; returns False where it cannot be. Does not block."""
        with self._lock:
            if self._fleet.closed or len(self._lost) >= MAX_WAITING:
                return False
            self._lost.append(prediction)
            self._wake()
        return True

    # What all shall have.

    def change(
        self,
        kind: str,
        argument: dict[str, Any],
        bounds: Bounds | None,
        identity: Identity | None,
        time_limit: float | None,
    ) -> tuple[Change | Workspace, int]:
        """
        Have the first replica load, and then the others; returns what to wait for, and the number of the first one's job.

        Parameters
        ----------
        kind
            deploy, update or undeploy.
        bounds
            How many replicas there may be from then on; None for as many as now.
        time_limit
            Seconds that each of them may load.
        """
        known = self.home.look(lambda jobs: jobs.find(identity))
        if known is not None:
            return next((each for each in self._changes if each.number == known), self.home), known
        change, first = Change(self.home, bounds), self._group.first
        with self._lock:
            late = next((each for each in self._changes if each.begun), None) if len(self._changes) >= MAX_CHANGES else None
            self._changes = [*(each for each in self._changes if each is not late), change]
            self._time_limit = time_limit
            target, lost = self._group.target, not first.has_model() and not first.queued
        if late is not None:  # a replica hangs: who waits for the oldest is told that it goes on
            late.tell()
        self._fleet.keep(self)
        if kind == "update" and target is not None and lost:
            self._load(first, self.home, target, target.steps(None))  # there is nothing yet that could have new weights
        with self._lock:
            self._group.begin(first)
        call, path = Call(HOST, kind, argument), str(argument.get("path", ""))
        try:
            change.number = self.home.call(
                call, path, identity=identity, time_limit=time_limit, then=partial(self._changed, change)
            )
        except BgpyError as error:
            with self._lock:
                self._changes = [each for each in self._changes if each is not change]
                self._group.failed(first, str(error), self._fleet.clock(), stays=True)
            self.wake()
            raise
        return change, change.number

    def take_up(self, replicas: list[Workspace], bounds: Mapping[str, Any]) -> None:
        """Learn of the replicas that an earlier server has left; those whose interpreters may live are asked what they have."""
        found = [(self._group.take_up(workspace.name, workspace), workspace) for workspace in [self.home, *replicas]]
        self._group.bound(*bounds_in(bounds, len(found)))
        living = [each for each in found if each[1].options.home is not None]
        for replica, _ in living:  # all, before the first one answers: none is taken for lost
            self._group.begin(replica)
        for replica, workspace in living:
            try:
                workspace.call(recall(), "", then=partial(self._recalled, replica, workspace))
            except BgpyError:  # its queue is full, or broken
                self._group.unloaded(replica)

    def dissolve(self) -> None:
        """Destroy all replicas but the first, with what they run; blocks until that is done."""
        with self._lock:
            self._group.dissolve()
            leaving = self._group.take_leaving()
        for replica in leaving:
            self._remove(replica)
        self.wake()

    def describe(self) -> dict[str, Any] | None:
        """Return what is known of the model and of each replica, None where none has it."""
        with self._lock:
            self._look_after(self._fleet.clock())
            target, rows = self._group.target, [(each, each.home, each.row()) for each in self._group.replicas]
            low, high, idle_time = self.bounds
        homes = [home for _, home, _ in rows if isinstance(home, Workspace)]
        having = [known for known in map(self._fleet.catalog.describe, homes) if known is not None]
        if not having:
            return None
        best = next((each for each in having if target is not None and each["version"] == target.version), having[0])
        times = [each["last_prediction"] for each in having if each["last_prediction"] is not None]
        return {
            **best,
            "predictions": sum(each["predictions"] for each in having),
            "executions": sum(each["executions"] for each in having),
            "failed_predictions": sum(each["failed_predictions"] for each in having),
            "last_prediction": max(times, default=None),
            "min_replicas": low,
            "max_replicas": high,
            "idle_time": idle_time,
            "replicas": [with_node(row, home) for _, home, row in rows],
        }

    def tell_all(self) -> None:
        """Tell whoever waits for a change, or for a prediction without a replica, that the server ends."""
        with self._lock:
            changes, self._changes = self._changes, []
            lost, self._lost = self._lost, []
        for change in changes:
            change.tell()
        for prediction in lost:
            prediction.end()

    # What happens; called by the ends of jobs, and must not block.

    def _changed(self, change: Change, record: JobRecord) -> None:
        """Take the end of the first one's job: the others follow where it went well."""
        self._fleet.catalog.ended(self.home, record)
        first, known = self._group.first, description_in(record)
        with self._lock:
            if record.state is JobState.DONE and known is None:
                self._group.unloaded(first)
                self._group.dissolve()  # now, not when it was asked for: an update before it has just aimed at its weights
            elif known is not None:
                load = load_in(self.home.name, known, self._group.target)
                self._group.loaded(first, load)
                if change.bounds is not None:
                    self._group.bound(*change.bounds)
                self._group.aim(load)
            else:
                self._group.failed(first, why(record), self._fleet.clock(), stays=True)
            change.begun = record.state.ended
            self._wake()

    def _loaded(self, replica: Replica, home: Workspace, load: Load | None, record: JobRecord) -> None:
        self._fleet.catalog.ended(home, record)
        with self._lock:
            if record.state is JobState.DONE:
                self._group.loaded(replica, load)
            else:
                self._group.failed(replica, why(record), self._fleet.clock())
            self._wake()

    def _recalled(self, replica: Replica, home: Workspace, record: JobRecord) -> None:
        """Take the answer of an interpreter that an earlier server has left, or of a new one that has nothing."""
        self._fleet.catalog.ended(home, record)
        known = description_in(record)
        with self._lock:
            if known is None:
                self._group.unloaded(replica)
            else:
                target = self._group.target
                load = load_in(self.home.name, known, target)
                self._group.loaded(replica, load)
                if target is None or load.version > target.version:
                    self._group.bound(*bounds_in(known, len(self._group.replicas)))
                    self._group.aim(load)
            self._wake()

    # What is to be done about it.

    def _look_after(self, now: float) -> None:
        if self._group.needs_care():
            self._wake()
        elif self._group.low != self._group.high:
            self._set_timer(now)

    def wake(self) -> None:
        """Have done what is to be done now, by a thread of its own. Does not block."""
        with self._lock:
            self._wake()

    def _wake(self) -> None:
        assert self._lock.locked()
        self._again = True
        if not self._works and not self._fleet.closed:
            with contextlib.suppress(RuntimeError):  # no more threads can be had: what happens next tries again
                threading.Thread(target=self._work, name="bgpy-replicas", daemon=True).start()
                self._works = True

    def _work(self) -> None:
        now = self._fleet.clock()
        while True:
            with self._lock:
                if not self._again or self._fleet.closed:
                    self._works = False
                    self._set_timer(now)
                    over = self._take_over()
                    break
                self._again = False
                if self._fleet.lacks(self.home):
                    self._group.dissolve()
                now = self._fleet.clock()
                todo = self._group.plan(now)
                self._again = bool(todo)
            for each in todo:
                if isinstance(each, Remove):
                    self._remove(each.replica)
                else:
                    self._fill(each)
            self._send_on()
        for change in over:
            change.tell(over=True)

    def _send_on(self) -> None:
        """Give what lost its replica to another one: as soon as one has the model, or is about to."""
        with self._lock:
            able = self._group.can_take()
            if able is None:
                return
            lost, self._lost = self._lost, []
        for prediction in lost:
            if able:
                prediction.send_on()
            else:
                prediction.end()

    def _take_over(self) -> list[Change]:
        """Return the changes that are over; where no replicas are left, the model is one like any other."""
        settled = self._group.settled()
        over = [change for change in self._changes if change.begun and settled]
        self._changes = [change for change in self._changes if change not in over]
        alone = len(self._group.replicas) == 1 and not self._group.first.queued and not self._changes
        if alone and (self._group.target is None or self._group.high == 1):
            self._fleet.forget(self)
        return over

    def _fill(self, fill: Fill) -> None:
        replica = fill.replica
        try:
            home = self._home_of(replica)
        except Exception as error:  # noqa: BLE001 - whatever it is, such as no more open files: it is tried again
            reason = str(error) if isinstance(error, BgpyError) else f"{type(error).__name__}: {error}"
            with self._lock:
                self._group.unfilled(replica, reason, self._fleet.clock())
            return
        with self._lock:
            replica.home = home
        if replica.goes:  # since its workspace was begun
            self._remove(replica)
        else:
            self._load(replica, home, fill.load, fill.steps)

    def _load(self, replica: Replica, home: Workspace, load: Load, steps: Steps) -> None:
        """Put the calls that load into a replica's queue. No store keeps them: the next server would hold them, and others."""
        for place, (method, argument) in enumerate(steps, 1):
            then = partial(self._loaded, replica, home, load if place == len(steps) else None)
            with self._lock:
                self._group.begin(replica)
            try:
                home.call(
                    Call(HOST, method, Packed.of(argument), kept=False), argument["path"], time_limit=self._time_limit, then=then
                )
            except BgpyError as error:
                with self._lock:
                    self._group.failed(replica, str(error), self._fleet.clock())
                break

    def _home_of(self, replica: Replica) -> Workspace:
        """Return the workspace of a replica: one like that of the model, on Ray each on the next node where there is room."""
        found = self.home if replica is self._group.first else self._fleet.find_replica(self.home, replica.name)
        if found is not None:
            return found
        options = {**self.home.options._asdict(), "home": None, "replica_of": self.home.name}
        if self.home.options.type == "ray":
            number = int(replica.name.rpartition(".")[2])
            options["placement"] = {
                "spread": {"beside": self.home.status()["node"], "number": number},
                **(options["placement"] or {}),
            }
        return self._fleet.workspaces.create(replica.name, **options)

    def _remove(self, replica: Replica) -> None:
        with self._lock:
            home, replica.home = replica.home, None  # whoever has it destroys it, and nobody else does
        try:
            if home is not None and self._fleet.workspaces[replica.name] is home:
                self._fleet.workspaces.destroy(replica.name)
        except BgpyError:
            pass  # somebody else has destroyed it; or the store could not note that, and the next server finds it again
        with self._lock:
            self._group.removed(replica)

    def _set_timer(self, now: float) -> None:
        """Have `wake` called when it is time, by what the group was told or asked at `now`."""
        assert self._lock.locked()
        if self._timer is not None and self._timer.due <= now:
            return  # it is about to call, and what is due is looked for then
        due = self._group.due(now)
        if due is None or self._fleet.closed:
            self._timer = None
        elif self._timer is None or due < self._timer.due:
            self._timer = _Timer(self, due)
            self.home.deadlines.add(self._timer, max(due - self._fleet.clock(), 0.0))

    def is_set(self, timer: _Timer) -> bool:
        """Tell whether a timer is the one that counts."""
        return self._timer is timer

    def time_passed(self) -> None:
        """Take the end of the timer's time. For the thread of the deadlines."""
        with self._lock:
            self._timer = None
            self._wake()


class _Timer:
    """The time at which a group looks after its replicas without being asked to."""

    __slots__ = ("_model", "due")

    def __init__(self, model: ReplicatedModel, due: float) -> None:
        self.due = due
        self._model = model

    @property
    def settled(self) -> bool:
        """See `Expiring`."""
        return not self._model.is_set(self)

    def expire(self) -> None:
        """See `Expiring`."""
        self._model.time_passed()
