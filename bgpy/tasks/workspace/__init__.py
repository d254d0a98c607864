"""
Named workspaces that keep their variables and run jobs in order: a task set, and its face for Python programs.

``bgpy.start("name", "bgpy.tasks.workspace")`` starts a server with it; `workspace_tasks` is the same with options.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bgpy.lazy import lazy_names
from bgpy.tasks.workspace.commands import COMMANDS

# At once, and by its name: the module of that name would take its place with its first import.
from bgpy.tasks.workspace.progress import progress as progress
from bgpy.taskset import TaskSet, concurrent

if TYPE_CHECKING:
    from bgpy.sockets import ClientSocket
    from bgpy.tasks.workspace.face import Event as Event
    from bgpy.tasks.workspace.face import Workspace as Workspace
    from bgpy.tasks.workspace.face import Workspaces as Workspaces
    from bgpy.tasks.workspace.jobs import JobState as JobState
    from bgpy.tasks.workspace.remote import Job as Job
    from bgpy.tasks.workspace.remote import Variables as Variables
    from bgpy.tasks.workspace.workspaces import Workspaces as _Workspaces

#: Where the names of the face are, which a server does not need.
_HOMES = {
    "Event": "bgpy.tasks.workspace.face",
    "Job": "bgpy.tasks.workspace.remote",
    "JobState": "bgpy.tasks.workspace.jobs",
    "Variables": "bgpy.tasks.workspace.remote",
    "Workspace": "bgpy.tasks.workspace.face",
    "Workspaces": "bgpy.tasks.workspace.face",
}


def init_task(
    client_socket: ClientSocket | None = None, *, workspaces: _Workspaces | None = None, **options: Any
) -> dict[str, Any]:
    """
    Make the workspaces; takes up what the store has.

    Parameters
    ----------
    workspaces
        Those of another task set of the same server, which then owns them.
    options
        As for `bgpy.tasks.workspace.workspaces.Workspaces`.
    """
    if workspaces is not None:
        return {"workspaces": workspaces, "owned": False}
    from bgpy.tasks.workspace.workspaces import Workspaces

    made = Workspaces(**options)
    if client_socket is not None:
        # Who waits for a job, or watches, would hold up the server's end.
        client_socket.when_ending(made.shut)
    return {"workspaces": made, "owned": True}


@concurrent
def exec_task(client_socket: ClientSocket, state: dict[str, Any], args: dict[str, Any]) -> dict[str, Any]:
    """Answer one request; see `bgpy.tasks.workspace.commands` for all that can be asked."""
    from bgpy.tasks.workspace.dispatch import dispatch

    dispatch(state["workspaces"], client_socket, args)
    return state


def exit_task(client_socket: ClientSocket, state: dict[str, Any], args: dict[str, Any]) -> None:
    """End all workers; what the store has waits for the next server."""
    if state["owned"]:
        state["workspaces"].close()


def workspace_tasks(**options: Any) -> TaskSet:
    """
    Return the task set with options: ``store`` (a path), ``synchronous``, ``max_jobs``, ``ray``; see `workspaces.Workspaces`.

    It can be pickled, so that a server in the background gets it.
    """
    import functools

    return TaskSet(functools.partial(init_task, **options), exec_task, exit_task, [command.name for command in COMMANDS])


__getattr__ = lazy_names(__name__, _HOMES)
