"""
Models of TensorFlow in workspaces: a task set that deploys and runs them beside the jobs of the workspace, and its face.

``bgpy.start("models", "bgpy.tasks.tensorflow")`` starts a server with it; `tensorflow_tasks` is the same with options. It has
all commands of the task set ``bgpy.tasks.workspace`` as well. TensorFlow is imported by the workers, with the first deploy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bgpy.lazy import lazy_names
from bgpy.tasks import workspace
from bgpy.tasks.tensorflow import commands
from bgpy.taskset import TaskSet, concurrent

if TYPE_CHECKING:
    from bgpy.sockets import ClientSocket
    from bgpy.tasks.tensorflow.face import Model as Model
    from bgpy.tasks.tensorflow.face import Workspace as Workspace
    from bgpy.tasks.tensorflow.face import Workspaces as Workspaces
    from bgpy.tasks.workspace.face import Event as Event
    from bgpy.tasks.workspace.jobs import JobState as JobState
    from bgpy.tasks.workspace.remote import Job as Job
    from bgpy.tasks.workspace.remote import Variables as Variables
    from bgpy.tasks.workspace.workspaces import Workspaces as _Workspaces

#: All that it answers to, also what only the gateway asks.
COMMANDS = (*commands.COMMANDS, *commands.HIDDEN)
#: Where the names of the face are, which a server does not need.
_HOMES = {
    "Event": "bgpy.tasks.workspace.face",
    "Job": "bgpy.tasks.workspace.remote",
    "JobState": "bgpy.tasks.workspace.jobs",
    "Model": "bgpy.tasks.tensorflow.face",
    "Variables": "bgpy.tasks.workspace.remote",
    "Workspace": "bgpy.tasks.tensorflow.face",
    "Workspaces": "bgpy.tasks.tensorflow.face",
}


def init_task(
    client_socket: ClientSocket | None = None, *, workspaces: _Workspaces | None = None, **options: Any
) -> dict[str, Any]:
    """
    Make the workspaces, and the catalog of their models.

    Parameters
    ----------
    workspaces, options
        As for the task set ``bgpy.tasks.workspace``.
    """
    from bgpy.tasks.tensorflow.catalog import Catalog
    from bgpy.tasks.tensorflow.fleet import Fleet

    state = workspace.init_task(client_socket, workspaces=workspaces, **options)
    fleet = Fleet(state["workspaces"], Catalog())
    if client_socket is not None:
        client_socket.when_ending(fleet.shut)
    fleet.take_up()
    return {**state, "fleet": fleet}


@concurrent
def exec_task(client_socket: ClientSocket, state: dict[str, Any], args: dict[str, Any]) -> dict[str, Any]:
    """Answer one request; see `bgpy.tasks.tensorflow.commands` for all that can be asked."""
    from bgpy.tasks.tensorflow.dispatch import dispatch

    dispatch(state["fleet"], client_socket, args)
    return state


def exit_task(client_socket: ClientSocket, state: dict[str, Any], args: dict[str, Any]) -> None:
    """End all workers, and with them their models."""
    state["fleet"].shut()
    workspace.exit_task(client_socket, state, args)


def tensorflow_tasks(**options: Any) -> TaskSet:
    """
    Return the task set with options: those of `bgpy.tasks.workspace.workspace_tasks`.

    It can be pickled, so that a server in the background gets it.
    """
    import functools

    return TaskSet(functools.partial(init_task, **options), exec_task, exit_task, [command.name for command in COMMANDS])


__getattr__ = lazy_names(__name__, _HOMES)
