"""
The replicas of one model, sans-I/O: which of them a prediction goes to, and what is to be done so that all have the model.

Whoever drives it tells what happens, and does what `Group.plan` returns. What all shall have is one `Load`; a deploy, an update,
a replica whose worker died and a change of their number are all the same to it: a replica that does not have it yet.
"""

from __future__ import annotations

import enum
import weakref
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

from bgpy.tasks.tensorflow.catalog import Home

#: Replicas of one model, its own workspace among them.
MAX_REPLICAS = 64
#: How many of them load at the same time.
MAX_LOADING = 8
#: Predictions for each replica above which one more is worth its memory, and seconds for which there must be as many.
BUSY = 4
BUSY_TIME = 2.0
#: Seconds without need of the last replica after which it goes, unless the deploy says otherwise.
IDLE_TIME = 300.0
#: Seconds until a replica that could not load tries again; doubled each time, up to the last.
FIRST_RETRY = 1.0
LAST_RETRY = 300.0


#: The calls that load: methods of the host, with their arguments.
Steps = Sequence[tuple[str, dict[str, Any]]]


def replica_name(model: str, number: int) -> str:
    """Return the name of a replica beside the first."""
    return f"{model}.{number}"


class Load(NamedTuple):
    """
    What a replica has, or shall have.

    Attributes
    ----------
    version
        As the model's own workspace counts.
    base
        The argument of its deploy.
    weights
        The path of the update since, None for none.
    deployed
        The version of that deploy, None where another server did it.
    """

    version: int
    base: Mapping[str, Any]
    weights: str | None = None
    deployed: int | None = None

    def steps(self, before: Load | None) -> Steps:
        """Return the calls that bring a replica here, from what it has."""
        name = self.base["name"]
        update = ("update", {"name": name, "path": self.weights, "as_version": self.version})
        if self.weights is None:
            return [("deploy", {**self.base, "as_version": self.version})]
        if before is not None and (before.base, before.deployed) == (self.base, self.deployed):
            return [update]
        return [("deploy", {**self.base, "as_version": self.version - 1}), update]


class State(enum.Enum):
    """Where a replica is in its life."""

    #: It does not have the model, and nothing is done for that yet.
    MISSING = 0
    LOADING = 1
    READY = 2
    #: It goes as soon as what it has been asked is answered.
    LEAVING = 3


class Replica:
    """
    One workspace of the model.

    Attributes
    ----------
    home
        The workspace, None before it is made.
    load
        What it has, or had.
    waiting
        Predictions that it has been given and not answered.
    queued
        Loads that it has been given, and not ended.
    rolls
        Whether it had a model when it began to load, so that the others wait for it.
    goes
        Whether its workspace is being destroyed.
    error
        Why it could not load.
    """

    def __init__(self, name: str, home: Home | None = None) -> None:
        self.name = name
        self.home = home
        self.state = State.MISSING
        self.load: Load | None = None
        self.waiting = 0
        self.queued = 0
        self.rolls = False
        self.error: str | None = None
        self.failures = 0
        self.retry_at: float | None = None
        self.turn = 0
        self.goes = False
        self._worker: weakref.ref[object] | None = None

    def take(self, load: Load | None) -> None:
        """Note what its interpreter has now."""
        worker = None if self.home is None else self.home.worker
        self._worker = None if worker is None or load is None else weakref.ref(worker)
        self.load = load

    def has_model(self) -> bool:
        """Tell whether the interpreter that has loaded the model lives."""
        return self._worker is not None and self.home is not None and self.home.worker is self._worker()

    def serves(self) -> bool:
        """Tell whether predictions go there."""
        return self.state is State.READY and self.has_model()

    def word(self) -> str:
        """Return how it is, for those who ask."""
        if self.state is State.LEAVING or (self.state is State.LOADING and self.rolls and self.waiting):
            return "draining"
        if self.state is State.LOADING or (self.state is State.MISSING and self.error is None):
            return "loading"
        return "ready" if self.serves() else "failed"

    def row(self) -> dict[str, Any]:
        """Return what is told of it."""
        version = self.load.version if self.load is not None and self.has_model() else None
        row = {"workspace": self.name, "state": self.word(), "version": version, "waiting": self.waiting}
        return row if self.error is None else {**row, "error": self.error}


class Fill(NamedTuple):
    """Have a replica load; make its workspace first where there is none."""

    replica: Replica
    load: Load
    steps: Steps


class Remove(NamedTuple):
    """Destroy the workspace of a replica, and tell by `Group.removed`."""

    replica: Replica


class Group:
    """
    The replicas of one model. Not thread-safe.

    Parameters
    ----------
    name
        Of the model, and of its own workspace: the first replica.
    home
        That workspace.
    """

    def __init__(self, name: str, home: Home) -> None:
        self.name = name
        self.first = Replica(name, home)
        self.replicas = [self.first]
        #: What all shall have, None for nothing.
        self.target: Load | None = None
        self.low = self.high = 1
        self.idle_time = IDLE_TIME
        self._count = 1  # how many there shall be now
        self._turns = 0
        self._busy_since: float | None = None
        self._idle_since: float | None = None

    # What happens to it.

    def adopt(self, load: Load) -> None:
        """Take note that the first has a model, which had no replicas before."""
        self.first.take(load)
        self.first.state, self.target = State.READY, load

    def take_up(self, name: str, home: Home) -> Replica:
        """Take a replica that an earlier server has left, or the first; what it has is not known yet."""
        replica = self.first if name == self.name else Replica(name, home)
        if replica is not self.first:
            self.replicas.append(replica)
            self._count = len(self.replicas)
        return replica

    def bound(self, low: int, high: int, idle_time: float) -> None:
        """Set how many replicas there may be."""
        self.low, self.high, self.idle_time = low, high, idle_time
        self._count = min(max(self._count, low), high)
        self._busy_since = self._idle_since = None

    def aim(self, load: Load) -> None:
        """Set what all shall have."""
        self.target = load
        for replica in self.replicas:
            replica.failures, replica.retry_at = 0, None

    def dissolve(self) -> None:
        """Let all but the first go, which keeps what it has."""
        self.target = None
        self.bound(1, 1, self.idle_time)
        self._resize()

    def take_leaving(self) -> list[Replica]:
        """Return those that leave, for whoever removes them at once."""
        leaving = [each for each in self.replicas if each.state is State.LEAVING and not each.goes]
        for each in leaving:
            each.goes = True
        return leaving

    def begin(self, replica: Replica, home: Home | None = None) -> None:
        """Take note that a load is put into a replica's queue: it is out of the routing until that has ended."""
        replica.home = home or replica.home
        replica.queued += 1
        if replica.state is not State.LEAVING:
            replica.rolls = replica.rolls or replica.has_model()
            replica.state = State.LOADING

    def loaded(self, replica: Replica, load: Load | None) -> None:
        """Take note that a load ended well; None: that another one follows it."""
        replica.queued -= 1
        if load is None:
            return
        replica.take(load)
        replica.error, replica.failures, replica.retry_at = None, 0, None
        if not replica.queued and replica.state is State.LOADING:
            replica.state, replica.rolls = State.READY, False

    def failed(self, replica: Replica, error: str, now: float, *, stays: bool = False) -> None:
        """
        Take note that a load failed: after a while the replica is loaded anew.

        `stays`: where its model is still there, it goes on with that.
        """
        replica.queued -= 1
        self.unfilled(replica, error, now, stays=stays)

    def unfilled(self, replica: Replica, error: str, now: float, *, stays: bool = False) -> None:
        """Take note that a load could not be put into a replica's queue, for there is no workspace; as `failed`."""
        if replica.queued or replica.state is not State.LOADING:
            return
        replica.rolls = False
        if stays and replica.has_model():
            replica.state = State.READY
            return
        replica.take(None)
        replica.state, replica.error = State.MISSING, error
        replica.retry_at = now + min(FIRST_RETRY * 2**replica.failures, LAST_RETRY)
        replica.failures += 1

    def unloaded(self, replica: Replica) -> None:
        """Take note that a replica let its model go when it was asked to."""
        replica.queued -= 1
        replica.take(None)
        if not replica.queued and replica.state is State.LOADING:
            replica.state, replica.rolls = State.MISSING, False

    def removed(self, replica: Replica) -> None:
        """Take note that a replica's workspace is gone."""
        self.replicas = [each for each in self.replicas if each is not replica]

    # Predictions.

    def choose(self, version: str | None, now: float) -> Replica:
        """
        Return the replica for a prediction, which is counted until `release`: the least loaded; of several each in its turn.

        While a roll goes on, a prediction for a certain version goes to one that has it. Where none serves it is one that will
        have loaded when the prediction's turn comes, else the first.
        """
        pool = [each for each in self.replicas if each.serves()]
        if version is not None:
            pool = [each for each in pool if each.load is not None and str(each.load.version) == version.lstrip("0")] or pool
        chosen = min(pool or self._loading() or [self.first], key=lambda each: (each.waiting, each.turn))
        self._turns += 1
        chosen.turn = self._turns
        chosen.waiting += 1
        self._weigh(now)
        return chosen

    def can_take(self) -> bool | None:
        """Tell whether `choose` finds a replica that has the model, or will have loaded it; None: not yet, but soon."""
        if self._loading() or any(each.serves() for each in self.replicas):
            return True
        staying = [each for each in self.replicas if each.state is not State.LEAVING]
        coming = any(each.state is State.LOADING or each.error is None for each in staying)
        return None if self.target is not None and coming else False

    def _loading(self) -> list[Replica]:
        """Return those behind whose load a prediction can wait."""
        return [each for each in self.replicas if each.state is State.LOADING and each.queued]

    def release(self, replica: Replica, now: float) -> None:
        """Take note that a prediction has ended."""
        replica.waiting -= 1
        self._weigh(now)

    def needs_care(self) -> bool:
        """Tell whether `plan` would find a replica that has lost its model, or may go."""
        return any(
            (each.state is State.READY and not each.has_model())
            or (each.state is State.LEAVING and not each.waiting and not each.queued and not each.goes)
            for each in self.replicas
        )

    def _weigh(self, now: float) -> None:
        """Note since when there is too much for the replicas, or too little."""
        if self.low == self.high:
            return
        total = sum(each.waiting for each in self.replicas if each.state is not State.LEAVING)
        if total <= BUSY * self._count or self._count == self.high:
            self._busy_since = None
        elif self._busy_since is None:
            self._busy_since = now
        if total >= self._count or self._count == self.low:
            self._idle_since = None
        elif self._idle_since is None:
            self._idle_since = now

    # What is to be done.

    def plan(self, now: float) -> list[Fill | Remove]:
        """Return what is to be done now, each once."""
        for each in self.replicas:
            if each.state is State.READY and not each.has_model():
                each.take(None)
                each.state = State.MISSING
        if self.target is not None:
            self._scale(now)
        self._resize()
        removed: list[Fill | Remove] = []
        for each in self.replicas:
            if each.state is State.LEAVING and not each.waiting and not each.queued and not each.goes:
                each.goes = True
                removed.append(Remove(each))
        return removed if self.target is None else [*removed, *self._fill(self.target, now)]

    def settled(self) -> bool:
        """Tell whether all have what they shall have, but for those that could not load."""
        return all(each.state is State.READY or (each.state is State.MISSING and not each.queued) for each in self.replicas)

    def due(self, now: float) -> float | None:
        """Return when `plan` should be asked at the latest, None where only an event can change what it says."""
        times = [each.retry_at for each in self.replicas if each.state is State.MISSING]
        if self._busy_since is not None:
            times.append(self._busy_since + BUSY_TIME)
        if self._idle_since is not None:
            times.append(self._idle_since + self.idle_time)
        # What was due and is not done waits for the end of a load.
        return min((time for time in times if time is not None and time > now), default=None)

    def _scale(self, now: float) -> None:
        """Have one more or one less, where that has been too much or too little for long enough."""
        self._weigh(now)
        calm = all(each.state in (State.READY, State.LEAVING) for each in self.replicas)
        if self._busy_since is not None and calm and now >= self._busy_since + BUSY_TIME:
            self._count += 1
        elif self._idle_since is not None and now >= self._idle_since + self.idle_time:
            self._count -= 1
        else:
            return
        self._busy_since = self._idle_since = None
        self._weigh(now)

    def _resize(self) -> None:
        staying = [each for each in self.replicas if each.state is not State.LEAVING]
        for each in staying[self._count :]:
            each.state = State.LEAVING
        if self.target is not None:
            taken = {each.name for each in self.replicas}
            names = (replica_name(self.name, number) for number in range(1, 2 * MAX_REPLICAS))
            free = (name for name in names if name not in taken)
            self.replicas += [Replica(next(free)) for _ in range(self._count - len(staying))]

    def _fill(self, target: Load, now: float) -> list[Fill | Remove]:
        """Have those load that have nothing, several at once; and of those that serve an older version the next one, alone."""
        chosen = [
            each
            for each in self.replicas
            if each.state is State.MISSING and not each.queued and (each.retry_at is None or each.retry_at <= now)
        ]
        chosen = chosen[: max(MAX_LOADING - sum(each.state is State.LOADING for each in self.replicas), 0)]
        if not any(each.rolls for each in self.replicas):
            older = (
                each for each in self.replicas if each.serves() and each.load is not None and each.load.version != target.version
            )
            chosen += islice(older, 1)
        for each in chosen:
            each.rolls = each.state is State.READY
            each.state = State.LOADING
        return [Fill(each, target, target.steps(each.load if each.rolls else None)) for each in chosen]
