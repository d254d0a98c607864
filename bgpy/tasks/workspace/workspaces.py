"""
All workspaces of one server, by name, and what they share.
"""

from __future__ import annotations

import importlib
import os
import secrets
import sys
import threading
import time
import unicodedata
from collections import Counter
from collections.abc import Callable
from typing import Any, Literal

from bgpy._version import __version__
from bgpy.errors import ClusterError, MissingExtraError, RefusedError, WorkspaceNotFoundError
from bgpy.serving.deadlines import Deadlines
from bgpy.system import kill_process, wait_for_end
from bgpy.tasks.workspace.backends import NAMES, Backend, Listener
from bgpy.tasks.workspace.jobs import JobState
from bgpy.tasks.workspace.means import Gate, Means, Options
from bgpy.tasks.workspace.queue import MAX_JOBS
from bgpy.tasks.workspace.records import StoredWorkspace, WorkspaceCreated
from bgpy.tasks.workspace.store import MemoryStore, SqliteStore, Store
from bgpy.tasks.workspace.workspace import KEPT_OUTPUT, Workspace

#: Jobs that an overview tells of.
MAX_ENDED = 1000
#: Characters of a name.
MAX_NAME = 200
#: Seconds for a cluster to tell of its nodes.
NODES_TIMEOUT = 5.0
#: Seconds that a worker of a killed server has to end by itself, as it does when its control pipe ends.
_SURVIVOR_TIMEOUT = 2.0

MakeBackend = Callable[[Options, Listener], Backend]


class Workspaces:
    """
    The workspaces of one server. Thread-safe.

    Parameters
    ----------
    store
        The path of a file for jobs and results, a `Store`, or None to keep them in memory.
    synchronous
        "NORMAL": what was acknowledged survives the death of the server; "FULL": also a power cut.
    max_jobs
        How many jobs a workspace remembers, unless it is created with another number.
    make_backend
        For tests and for backends of other packages; None finds them by name.
    ray
        The Ray cluster for workspaces of that type, which are then the default: auto, local, HOST:PORT or ray://HOST:PORT. None
        for that of the environment or of this machine, and processes by default.

    Raises
    ------
    MissingExtraError, ClusterError
        Ray is not installed, or there is no such cluster.
    StoreError
        The store cannot be used, or another server has it.
    """

    def __init__(
        self,
        store: Store | str | None = None,
        *,
        synchronous: Literal["NORMAL", "FULL"] = "NORMAL",
        max_jobs: int = MAX_JOBS,
        make_backend: MakeBackend | None = None,
        ray: str | None = None,
    ) -> None:
        self._default_type = "process" if ray is None else "ray"
        self._backends = Backends(ray)
        if ray is not None:
            try:
                self._backends.connect()
            except BaseException:
                self._backends.close()
                raise
        if store is None:
            store = MemoryStore()
        elif isinstance(store, str):
            store = SqliteStore(store, synchronous=synchronous)
        self._store = store
        self._max_jobs = max_jobs
        keeps = not isinstance(store, MemoryStore)
        self._means = Means(store, keeps, Deadlines(), make_backend or self._backends.make, self._tell_death)
        self._unkept = self._means._replace(store=MemoryStore(), keeps=False)
        self._began = time.time()
        self._lock = threading.Lock()
        self._workspaces: dict[str, Workspace] = {}
        self._coming: set[str] = set()
        self._unlisted: set[Workspace] = set()
        #: Whether the service is switched on.
        self.on = True
        self._closed = False
        #: Called with a workspace that is about to be destroyed; may destroy others first.
        self.when_destroyed: list[Callable[[Workspace], object]] = []
        #: Called with a workspace whose worker has died, or which has been destroyed; from whatever thread, and must not block.
        self.when_died: list[Callable[[Workspace], object]] = []
        try:
            self._take_up(store.load(KEPT_OUTPUT))
        except BaseException:
            self.close()
            raise

    def __getitem__(self, name: str) -> Workspace:
        """Return a workspace; raises WorkspaceNotFoundError."""
        workspace = self._workspaces.get(name)
        if workspace is None:
            raise WorkspaceNotFoundError(name)
        return workspace

    def names(self) -> list[str]:
        """Return the names, in the order in which the workspaces were made."""
        with self._lock:
            return list(self._workspaces)

    def create(self, name: str | None = None, **options: Any) -> Workspace:
        """
        Create a workspace; returns once the store has it. Its worker starts meanwhile.

        Parameters
        ----------
        name
            None for a random one.
        options
            The fields of `Options`; `type` is a name or a number.

        Raises
        ------
        RefusedError
            The name is taken, or cannot be used; there is no such type, or it cannot limit memory.
        StoreError
            It could not be kept.
        """
        name = secrets.token_hex(8) if name is None else name
        _check_name(name)
        type_name = options.get("type", self._default_type)
        options = {"max_jobs": self._max_jobs, **options, "type": NAMES.get(type_name, type_name)}
        if options["type"] == "ray":
            options["home"] = f"{secrets.token_hex(8)}/{name}"
        elif options.get("placement"):
            field = next(iter(options["placement"]))
            raise RefusedError(f"{field} is for workspaces on Ray, and this one is of the type {options['type']}", field)
        with self._lock:
            if self._closed:
                raise RefusedError("The server is ending")
            if name in self._workspaces or name in self._coming:
                raise RefusedError(f"There is a workspace {name!r} already", "name")
            self._coming.add(name)
        workspace = None
        try:
            workspace = self._make(name, Options(**options))
            with self._lock:
                if self._closed:
                    raise RefusedError("The server is ending")
                self._workspaces[name] = workspace
            workspace.open()
        except BaseException:
            if workspace is not None:
                workspace.close()
            raise
        finally:
            with self._lock:
                self._coming.discard(name)
        return workspace

    def create_unlisted(self, name: str, **options: Any) -> Workspace:
        """
        Create a workspace that no client can name and no store keeps: whoever has made it gives it back by `release`.

        It ends with the others. Parameters and errors as of `create`.
        """
        workspace = Workspace(name, Options(**{"max_jobs": self._max_jobs, **options}), self._unkept)
        try:
            workspace.prepare()
            with self._lock:
                if self._closed:
                    raise RefusedError("The server is ending")
                self._unlisted.add(workspace)
            workspace.open()
        except BaseException:
            self.release(workspace)
            raise
        return workspace

    def release(self, workspace: Workspace) -> None:
        """End an unlisted workspace with all that it runs, in bounded time. Again is fine."""
        workspace.close()
        with self._lock:
            self._unlisted.discard(workspace)

    def destroy(self, name: str | None = None) -> None:
        """End one or all workspaces; raises WorkspaceNotFoundError and StoreError."""
        workspaces = [self[name]] if name is not None else list(self._workspaces.values())
        for workspace in workspaces:
            if name is None and self._workspaces.get(workspace.name) is not workspace:
                continue  # it went with another one
            for tell in self.when_destroyed:
                tell(workspace)
            try:
                workspace.destroy()
            finally:
                with self._lock:
                    if self._workspaces.get(workspace.name) is workspace:
                        del self._workspaces[workspace.name]
                self._tell_death(workspace)

    def _tell_death(self, workspace: Workspace) -> None:
        for tell in self.when_died:
            tell(workspace)

    def switch_on(self) -> None:
        """Undo `switch_off`."""
        self.on = True

    def switch_off(self) -> None:
        """End all workspaces and take no requests until `switch_on`."""
        self.on = False
        self.destroy()

    def metrics(self) -> dict[str, Any]:
        """Return how many workspaces there are, and how many of their remembered jobs are in each state."""
        with self._lock:
            workspaces = list(self._workspaces.values())
        counts: Counter[JobState] = Counter()
        for workspace in workspaces:
            counts.update(workspace.look(lambda jobs: dict(jobs.counts)))
        return {"workspaces": len(workspaces), "jobs": {state.value: counts[state] for state in JobState}}

    def overview(self, since: float | None) -> dict[str, Any]:
        """
        Return how the server and all workspaces are, and how long jobs took that ended lately.

        Parameters
        ----------
        since
            Seconds since 1970: of jobs only those that ended later. None for the last ones.
        """
        with self._lock:
            workspaces = list(self._workspaces.values())
        found = ((each.name, each.look(lambda jobs: jobs.ended_since(since or 0.0))) for each in workspaces)
        ended = [{"workspace": name, **job} for name, jobs in found for job in jobs]
        ended.sort(key=lambda job: job["ended"])
        server = {"pid": os.getpid(), "started": self._began, "version": __version__, "python": sys.version.split()[0]}
        return {
            "time": time.time(),
            "server": server,
            "workspaces": [{"name": workspace.name, **workspace.status()} for workspace in workspaces],
            "ended": ended[-MAX_ENDED:],
        }

    def nodes(self) -> list[dict[str, Any]]:
        """
        Return the nodes of the Ray cluster, and how many workspaces of this server run on each; [] where it uses none.

        Raises RefusedError where the cluster does not answer.
        """
        with self._lock:
            workspaces = list(self._workspaces.values())
        counts = Counter(workspace.status()["node"] for workspace in workspaces)
        return [{**node, "workspaces": counts[node["node"]]} for node in self._backends.nodes()]

    def shut(self) -> None:
        """Begin to close: nothing starts any more, and whoever waits for a job, or watches, is woken. Does not block."""
        for workspace in self._begin_to_close():
            workspace.shut()

    def close(self) -> None:
        """End all workers in bounded time and close the store: what it has waits for the next server. Again is fine."""
        workspaces = self._begin_to_close()
        # All at once: each may take a moment to end politely.
        threads = [threading.Thread(target=workspace.close, name="bgpy-workspace-end") for workspace in workspaces]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self._means.deadlines.close()
        self._backends.close()
        self._store.close()

    def _begin_to_close(self) -> list[Workspace]:
        with self._lock:
            self._closed = True
            return [*self._workspaces.values(), *self._unlisted]

    def _make(self, name: str, options: Options) -> Workspace:
        workspace = Workspace(name, options, self._means)
        try:
            abilities = workspace.prepare()
            if options.memory_limit is not None and not abilities.memory_limit:
                raise RefusedError(f"A {options.type} workspace cannot limit its memory here", "memory_limit")
            gate = Gate()
            self._store.commit([WorkspaceCreated(name, options._asdict())], gate.open)
            gate.wait_for_store()
        except BaseException:
            workspace.close()
            raise
        return workspace

    def _take_up(self, stored: list[StoredWorkspace]) -> None:
        for each in stored:
            if each.worker is not None and not wait_for_end(*each.worker, _SURVIVOR_TIMEOUT):
                # Stopped, or deaf: it must be gone before the queue opens, or two would use the same files.
                kill_process(*each.worker)
                wait_for_end(*each.worker, _SURVIVOR_TIMEOUT)
        for each in stored:
            known = {field: value for field, value in each.options.items() if field in Options._fields}
            workspace = self._workspaces[each.name] = Workspace(each.name, Options(**known), self._means, each)
            workspace.open()


class Backends:
    """
    Find backends by name, and own what those of a kind share. Thread-safe.

    `ray` is the address of the cluster, None for that of the environment or of this machine.
    """

    def __init__(self, ray: str | None = None) -> None:
        self._lock = threading.Lock()
        self._spawner: Any = None
        self._ray = ray
        self._cluster: Any = None

    def connect(self) -> Any:
        """Return the Ray cluster, connected; raises MissingExtraError and ClusterError."""
        from bgpy.tasks.workspace.backends.spawner import Spawner
        from bgpy.tasks.workspace.onray import cluster

        cluster.check_installed()
        with self._lock:
            if self._spawner is None:
                self._spawner = Spawner()
            if self._cluster is None:
                self._cluster = cluster.Cluster(self._ray or cluster.default_address(), self._spawner)
            found = self._cluster
        found.connect()
        return found

    def make(self, options: Options, listener: Listener) -> Backend:
        """Make a backend, a file of the folder ``backends`` each; raises RefusedError where there is none of that name."""
        if options.type not in NAMES.values():
            raise RefusedError(f"There is no backend {options.type!r}", "type")
        try:
            module = importlib.import_module(f"bgpy.tasks.workspace.backends.{options.type}")
        except ImportError as error:
            raise RefusedError(f"The backend {options.type!r} is not installed here: {error}", "type") from error
        backend: Backend
        if options.type == "process":
            backend = module.ProcessBackend(listener, spawner=self._shared_spawner(module), memory_limit=options.memory_limit)
        elif options.type == "ray":
            backend = module.RayBackend(
                listener, cluster=self._connected(), home=options.home or secrets.token_hex(8), placement=options.placement
            )
        else:
            backend = getattr(module, f"{options.type.capitalize()}Backend")(listener)
        return backend

    def _connected(self) -> Any:
        try:
            return self.connect()
        except (MissingExtraError, ClusterError) as error:
            raise RefusedError(str(error).rstrip("."), "type") from error

    def nodes(self) -> list[dict[str, Any]]:
        """Return the nodes of the cluster that is in use, [] for none; raises RefusedError where it does not answer."""
        with self._lock:
            cluster = self._cluster
        try:
            found: list[dict[str, Any]] = [] if cluster is None else cluster.ask("nodes", NODES_TIMEOUT)
        except (MissingExtraError, ClusterError) as error:
            raise RefusedError(str(error).rstrip(".")) from error
        return found

    def close(self) -> None:
        """End what was shared."""
        with self._lock:
            spawner, self._spawner = self._spawner, None
            cluster, self._cluster = self._cluster, None
        if cluster is not None:
            cluster.close()
        if spawner is not None:
            spawner.close()

    def _shared_spawner(self, module: Any) -> Any:
        with self._lock:
            if self._spawner is None:
                self._spawner = module.Spawner()
            return self._spawner


def _check_name(name: str) -> None:
    if not 0 < len(name) <= MAX_NAME:
        raise RefusedError(f"A workspace's name has 1 to {MAX_NAME} characters, not {len(name)}", "name")
    # Half of a surrogate pair is no character, and no store or terminal takes it.
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in name):
        raise RefusedError("A workspace's name has no control characters", "name")
