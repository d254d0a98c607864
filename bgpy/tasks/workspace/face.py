"""
Workspaces for Python programs: scripts go in, Python objects come out, and no JSON lies between.

Every method asks the server and blocks until it has answered; all of them are safe from several threads. What the server refuses
raises RefusedError, WorkspaceNotFoundError where there is no such workspace; what stands in the way of an answer raises as
`bgpy.Client.execute`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from bgpy.errors import RefusedError, WorkspaceNotFoundError
from bgpy.tasks.faces import Face
from bgpy.tasks.workspace.jobs import JobState
from bgpy.tasks.workspace.remote import Asker, Job, JobError, Output, Variables, deadline_in, seconds_left

if TYPE_CHECKING:
    from bgpy.client import Client
    from bgpy.tasks.workspace.onray.shared import Shared

__all__ = ["Event", "Job", "JobError", "JobState", "Output", "Variables", "Workspace", "Workspaces"]


class Event(NamedTuple):
    """
    Something that happened in a workspace.

    Attributes
    ----------
    kind
        queued, started, output, progress, finished, held, resumed, worker_started, worker_failed, worker_died; gap: events were
        missed; gone: the workspace is.
    number
        Counts the events of a workspace, with holes where output is joined; `Workspace.watch(since=...)` takes it.
    time
        Seconds since 1970.
    job
        The number of the job that it is about, None for none.
    details
        What else is known, by kind: ``stream`` and ``text`` of output, ``name``, ``done`` and ``total`` of progress, ``state``,
        ``result`` and ``error`` of a job that has finished, ``missed`` of a gap.
    """

    kind: str
    number: int
    time: float
    job: int | None
    details: Mapping[str, Any]


class Workspaces(Face):
    """
    The workspaces of a server. Iteration yields their names.

    Parameters
    ----------
    client
        A client of a server with the task set ``bgpy.tasks.workspace``; or the name of such a server, by default ``default``, as
        ``bgpy serve`` starts it. A client that is made here is closed with this object.
    """

    def __init__(self, client: Client | str | None = None) -> None:
        super().__init__(client)
        self._server = Asker(self.client)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names())

    def __len__(self) -> int:
        return len(self._names())

    def __contains__(self, name: object) -> bool:
        return name in self._names()

    def __getitem__(self, name: str) -> Workspace:
        """Return a workspace; raises WorkspaceNotFoundError."""
        if name not in self:
            raise WorkspaceNotFoundError(name)
        return Workspace(self._server, name)

    def create(
        self,
        name: str | None = None,
        type: Literal["process", "thread", "ray"] | int | None = None,
        *,
        on_crash: Literal["abort", "continue"] = "abort",
        memory_limit: int | None = None,
        max_jobs: int | None = None,
        exist_ok: bool = False,
        **placement: Any,
    ) -> Workspace:
        """
        Create a workspace.

        Parameters
        ----------
        name
            None for a random one.
        type
            Where it runs: process (0), thread (1) or ray (2); None for what the server was started for, by default a process.
        on_crash
            What becomes of queued jobs when the worker dies.
        memory_limit
            Bytes of address space that the worker may take (not on macOS).
        max_jobs
            How many jobs are remembered; None is the server's own limit, 10,000.
        exist_ok
            Whether one of that name, with whatever options, is fine.
        placement
            On Ray, as Ray takes them: num_cpus, num_gpus, memory, resources, runtime_env; and node, the id, address or name of
            one.

        Raises
        ------
        RefusedError
            The name is taken or cannot be used; there is no such type, or it cannot limit memory, or choose its place; Ray is not
            installed, or there is no cluster.
        """
        options = {"type": type, "on_crash": on_crash, "memory_limit": memory_limit, "max_jobs": max_jobs, **placement}
        try:
            made = self._server.ask("create_workspace", name, **options)
        except RefusedError as refused:
            # Asked first, another client could have been faster.
            if not exist_ok or refused.field != "name" or name is None or name not in self:
                raise
            made = name
        return Workspace(self._server, made)

    def destroy(self, name: str | None = None) -> None:
        """End one workspace, or all of them, with all that they run; raises WorkspaceNotFoundError."""
        self._server.ask("destroy_workspace", name)

    def nodes(self) -> list[dict[str, Any]]:
        """
        List the nodes of the Ray cluster, those that live first; none where the server uses no cluster.

        Returns
        -------
        nodes
            Of each ``node`` (its id), ``address``, ``name``, ``alive``, ``resources``, and ``workspaces``: how many of this
            server run there.
        """
        nodes: list[dict[str, Any]] = self._server.ask("get_nodes")
        return nodes

    def _names(self) -> list[str]:
        names: list[str] = self._server.ask("get_workspace")
        return names


class Workspace:
    """A namespace on a server that runs jobs in order. Made by `Workspaces`."""

    def __init__(self, server: Asker, name: str) -> None:
        self.name = name
        self._server = server
        #: The variables of its jobs.
        self.variables = Variables(server, name)

    @property
    def shared(self) -> Shared:
        """Its variables by Ray's object store, for a program that is on the cluster itself; see `Shared`."""
        from bgpy.tasks.workspace.onray.shared import Shared

        return Shared(self._server, self.name)

    def __repr__(self) -> str:
        return f"<Workspace {self.name!r}>"

    def push_job(
        self,
        job: str | os.PathLike[str],
        type: Literal["script", "file", 0, 1] | None = None,
        clear: bool = False,
        timeout: float = 0.0,
        time_interval: float = 1,
        time_limit: float | None = None,
    ) -> Job:
        """
        Queue a job; return as soon as it is safe with the server.

        Parameters
        ----------
        job
            A script; or a path on the server, of a file in Python.
        type
            script (1) or file (0); None: a text is a script, a `Path` is a file.
        clear
            Whether to empty the namespace first.
        timeout
            Seconds to wait for its end.
        time_interval
            Of no effect: nothing polls.
        time_limit
            Seconds that it may run; then it is interrupted, and killed where that does not help.

        Raises
        ------
        OverloadedError
            Too many jobs wait.
        StoreError
            The server cannot keep it; it will not run.
        """
        if type is None:
            type = "file" if isinstance(job, os.PathLike) else "script"
        fields = {"job": os.fspath(job), "type": type, "clear": clear, "time_interval": time_interval, "time_limit": time_limit}
        return self._pushed(self._server.ask("push_job", self.name, timeout=timeout, variables=False, **fields))

    def run(
        self,
        job: str | os.PathLike[str],
        timeout: float | None = None,
        *,
        type: Literal["script", "file", 0, 1] | None = None,
        clear: bool = False,
        time_limit: float | None = None,
    ) -> Any:
        """Run a job and return the value of its last expression: `push_job` and `Job.result` in one request."""
        deadline = deadline_in(timeout)
        pushed = self.push_job(job, type, clear, seconds_left(deadline), time_limit=time_limit)
        return pushed.result(None if deadline is None else seconds_left(deadline))

    def clear(self, timeout: float = 0.0) -> Job:
        """Queue a job that empties the namespace; `timeout` are seconds to wait for its end."""
        return self._pushed(self._server.ask("clear", self.name, timeout=timeout))

    def job(self, number: int | None = None) -> Job:
        """Return a job by its number, the last one for None; raises RefusedError where there is none, or it is forgotten."""
        record = self._server.ask("get_record", self.name, job=number)
        return Job(self._server, self.name, int(record["number"]), record)

    def jobs(self) -> list[Job]:
        """Return all jobs that are remembered, in the order of their numbers."""
        status = self.status()
        return [Job(self._server, self.name, number) for number in range(status["first_job"], status["next_job"])]

    def status(self) -> dict[str, Any]:
        """
        Tell how the workspace is.

        Returns
        -------
        status
            STATUS (INITIAL, IDLE, BUSY, EXCEPT: the last job did not run through), CUR_JOB_NUM and FIN_JOB_NUM (-1 at first),
            JOB_COUNT (how many are queued); last_state (how the job FIN_JOB_NUM has ended), held, restarts (how many workers have
            died), type, pid (of the worker), abilities; on Ray node and address (of that node); first_job and next_job (the
            numbers of those that are remembered), last_event.
        """
        status: dict[str, Any] = self._server.ask("get_status", self.name)
        return status

    def watch(self, since: int | None = None, until: int | None = None) -> Iterator[Event]:
        """
        Yield what happens, as it happens; it begins with the first step, and ends with the workspace.

        Parameters
        ----------
        since
            The number of the last event that was seen: what came after it is replayed first. None: only what is new.
        until
            The number of a job: its end is the last event.
        """
        for event in self._server.stream("watch", self.name, since=since, until=until):
            kind, number, when, job = (event.pop(field) for field in ("event", "number", "time", "job"))
            if kind != "alive":
                yield Event(kind, number, when, job, event)

    def copy_variable(self, variable: str, to: Workspace | str, new_name: str | None = None) -> None:
        """
        Copy a variable into another workspace of the same server, under the same name unless another one is given.

        Between two on Ray it goes through the object store, and neither server nor client sees it; arrays are read-only there.
        Raises RefusedError where there is no such variable or workspace, SerializationError where it cannot be copied.
        """
        target = to if isinstance(to, str) else to.name
        self._server.ask("copy_variable", self.name, variable=variable, to=target, new_name=new_name)

    def interrupt(self) -> bool:
        """Raise KeyboardInterrupt in the running job; returns whether one ran."""
        return bool(self._server.ask("interrupt", self.name))

    def kill(self) -> bool:
        """End the running job's process, and all that it started, at once: variables are lost. Returns whether a job ran."""
        return bool(self._server.ask("kill", self.name))

    def resume(self, job: int | None = None) -> int:
        """Let one job run that was held at a restart of the server, or all of them; returns how many."""
        return int(self._server.ask("resume", self.name, job=job))

    def destroy(self) -> None:
        """End it, with all that it runs."""
        self._server.ask("destroy_workspace", self.name)

    def _pushed(self, answer: dict[str, Any]) -> Job:
        return Job(self._server, self.name, answer["job"], answer)
