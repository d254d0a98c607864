"""
The models of a server that have replicas, by their workspaces.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from functools import partial

from bgpy.errors import BgpyError, RefusedError, WorkspaceNotFoundError
from bgpy.tasks.tensorflow.catalog import Catalog
from bgpy.tasks.tensorflow.readings import recall
from bgpy.tasks.tensorflow.replicas import replica_name
from bgpy.tasks.tensorflow.replicated import ReplicatedModel
from bgpy.tasks.workspace.workspace import Workspace
from bgpy.tasks.workspace.workspaces import MAX_NAME, Workspaces


class Fleet:
    """
    All models of a server that have replicas. Thread-safe.

    Parameters
    ----------
    clock
        Tells seconds.
    """

    def __init__(self, workspaces: Workspaces, catalog: Catalog, clock: Callable[[], float] = time.monotonic) -> None:
        self.workspaces = workspaces
        self.catalog = catalog
        self.clock = clock
        self._lock = threading.Lock()
        self._models: dict[str, ReplicatedModel] = {}
        self.closed = False
        workspaces.when_destroyed.append(self._destroyed)
        workspaces.when_died.append(self._died)

    def find(self, workspace: Workspace) -> ReplicatedModel | None:
        """Return the model of a workspace, where it has replicas."""
        model = self._models.get(workspace.name)
        return model if model is not None and model.home is workspace else None

    def check_names(self, workspace: Workspace, count: int) -> None:
        """Raise RefusedError where the name of one of so many replicas cannot be had."""
        for number in range(1, count):
            name = replica_name(workspace.name, number)
            if len(name) > MAX_NAME:
                raise RefusedError(f"A replica's name would have more than {MAX_NAME} characters: {name[:50]}...", "name")
            self.find_replica(workspace, name)

    def find_replica(self, workspace: Workspace, name: str) -> Workspace | None:
        """Return a replica's workspace, None where there is none; raises RefusedError where the name is another's."""
        try:
            found = self.workspaces[name]
        except WorkspaceNotFoundError:
            return None
        if found.options.replica_of != workspace.name:
            raise RefusedError(f"A replica would need the name {name!r}, which another workspace has", "name")
        return found

    def make(self, workspace: Workspace) -> ReplicatedModel:
        """Return the model of a workspace, which may have replicas from now on."""
        with self._lock:
            found = self.find(workspace)
            if found is None:
                found = self._models[workspace.name] = ReplicatedModel(self, workspace)
            return found

    def forget(self, model: ReplicatedModel) -> None:
        """Take note that a model has no replicas any more."""
        with self._lock:
            if self._models.get(model.home.name) is model:
                del self._models[model.home.name]

    def keep(self, model: ReplicatedModel) -> None:
        """Take note that a model may have replicas again."""
        with self._lock:
            self._models.setdefault(model.home.name, model)

    def lacks(self, workspace: Workspace) -> bool:
        """Tell whether a workspace has been destroyed."""
        try:
            return self.workspaces[workspace.name] is not workspace
        except WorkspaceNotFoundError:
            return True

    def take_up(self) -> None:
        """Learn what an earlier server has left: its replicas are known, and those whose interpreter lives are asked."""
        names = self.workspaces.names()
        found = [self.workspaces[name] for name in names]
        for home in [each for each in found if each.options.replica_of is None]:
            left = self.catalog.take_up(home)
            replicas = [each for each in found if each.options.replica_of == home.name]
            for each in replicas:
                self.catalog.take_up(each)
            bounds = {} if left is None else left
            if replicas or bounds.get("max_replicas", 1) > 1:
                self.make(home).take_up(replicas, bounds)
            elif left is not None and home.options.home is not None:
                with contextlib.suppress(BgpyError):  # its queue is full, or broken
                    home.call(recall(), "", then=partial(self.catalog.ended, home))
        for orphan in [each.name for each in found if each.options.replica_of not in (None, *names)]:
            self.workspaces.destroy(orphan)  # the server was killed between the end of the model's workspace and its own

    def _destroyed(self, workspace: Workspace) -> None:
        """Destroy the replicas of a workspace that is about to be destroyed; blocks until that is done."""
        model = self.find(workspace)
        if model is not None:
            model.dissolve()

    def _died(self, workspace: Workspace) -> None:
        """Have a model looked after one of whose replicas has lost its interpreter, or is gone."""
        model = self._models.get(workspace.options.replica_of or workspace.name)
        if model is not None:
            model.wake()

    def shut(self) -> None:
        """Begin to close: nothing is mended any more, and whoever waits for a load is told. Does not block."""
        self.closed = True
        with self._lock:
            models = list(self._models.values())
        for model in models:
            model.tell_all()
