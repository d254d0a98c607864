"""
The ends of jobs about models, on their way to the catalog and to whoever waits for them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from bgpy.errors import BgpyError, RefusedError
from bgpy.sockets import ClientSocket
from bgpy.tasks.tensorflow.catalog import Catalog
from bgpy.tasks.tensorflow.readings import HOST, has_not_run
from bgpy.tasks.tensorflow.replicas import MAX_REPLICAS, Replica
from bgpy.tasks.workspace.answering import MakeResult, Pushed, answer_at_end
from bgpy.tasks.workspace.calls import Call
from bgpy.tasks.workspace.dispatch import job_result
from bgpy.tasks.workspace.jobs import Identity, JobRecord, JobState
from bgpy.tasks.workspace.values import Packed, Value
from bgpy.tasks.workspace.workspace import Workspace

if TYPE_CHECKING:
    from bgpy.tasks.tensorflow.replicated import ReplicatedModel

#: Replicas that a prediction may lose one after the other before it is answered with how it lost the last one.
MAX_MOVES = 10

Fields = dict[str, Any]
#: Makes what an answer tells beside what it tells of any job, from the state and the value.
Make = Callable[[JobState, Value | None], dict[str, Any]]


def prediction(workspace: Workspace, catalog: Catalog, packed: Packed) -> Call:
    """Return the call of a prediction. Of these there may be thousands a second: the store does not keep them."""
    return Call(HOST, "predict", packed, batch=catalog.max_batch(workspace), kept=False)


def answer_maker(catalog: Catalog, workspace: Workspace, make: Make) -> MakeResult:
    """Return what makes the answer of a job about the model of a workspace."""

    def answer(record: JobRecord, waited: float) -> dict[str, Any]:
        told = {**job_result(record, waited), **make(record.state, record.value)}
        if record.kind == "predict":
            told["name"] = record.workspace
        else:
            # Whoever has this answer may ask at once what is deployed: it must not be faster than the word to the catalog.
            catalog.ended(workspace, record)
        return told

    return answer


class Prediction(Pushed):
    """
    The end of a prediction of a model with replicas.

    Where it has not run, as its replica's worker died before its turn, it goes on to another replica: with another number.

    Parameters
    ----------
    fields
        Of the request, without what is large: who has the answer may keep this for longer.
    """

    def __init__(self, model: ReplicatedModel, catalog: Catalog, make: Make, fields: Fields, packed: Packed) -> None:
        super().__init__(model.home)
        self._model = model
        self._catalog = catalog
        self._make = make
        self._fields = fields
        self._packed: Packed | None = packed
        self._begun = time.monotonic()
        self._number = -1
        self._moves = 0
        self._lost: tuple[Workspace, JobRecord] | None = None

    def answer(self, client_socket: ClientSocket) -> None:
        """Have the client answered at the job's end, or when it has waited for as long as it wants to."""
        make = answer_maker(self._catalog, self.workspace, self._make)
        answer_at_end(self, client_socket, self._number, self._fields["timeout"], make, self._begun)

    def send(self, identity: Identity | None = None) -> None:
        """Queue it at the replica that is chosen for it; raises as `Workspace.push`."""
        moves, packed = self._moves, self._packed
        assert packed is not None
        for left in reversed(range(MAX_REPLICAS)):
            replica = self._model.choose(self._fields.get("version"))
            home = replica.home if isinstance(replica.home, Workspace) else self._model.home
            then = partial(self._heard, replica, home)
            time_limit = self._fields.get("time_limit")
            try:
                number = home.call(
                    prediction(home, self._catalog, packed), "", time_limit=time_limit, identity=identity, then=then
                )
            except BgpyError as error:
                self._model.release(replica)
                if type(error) is not RefusedError or home is self._model.home or not left:
                    raise
                continue  # it has just been destroyed, and will not be chosen again
            with self._lock:
                if moves == self._moves:  # else it has ended, and is somewhere else already
                    self.workspace, self._number = home, number
            return

    def send_on(self) -> None:
        """Go to another replica, unless nobody waits any more."""
        if time.monotonic() >= self._begun + self._fields["timeout"]:
            self.end()
            return
        with self._lock:
            self._moves += 1
        try:
            self.send()  # without its identity, by which the job that was lost would be found
        except BgpyError:
            self.end()

    def end(self) -> None:
        """End as it has ended where it was lost."""
        assert self._lost is not None
        self._end(*self._lost)

    def place(self, number: int | None) -> tuple[Workspace, int | None]:
        """See `Pushed`."""
        with self._lock:
            return self.workspace, self._number

    def _heard(self, replica: Replica, home: Workspace, record: JobRecord) -> None:
        self._model.release(replica, record)
        self._lost = home, record
        if not (has_not_run(record) and self._moves < MAX_MOVES and self._model.take_lost(self)):
            self._end(home, record)

    def _end(self, home: Workspace, record: JobRecord) -> None:
        self._packed = None  # for the same reason
        self._lost = None
        self._catalog.ended(home, record)
        Pushed.note(self, record)
