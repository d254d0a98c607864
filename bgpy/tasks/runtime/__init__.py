"""
Run sessions: files come in, one of them runs in a fresh process, what it says and what its variables are goes out.

``bgpy.start("name", "bgpy.tasks.runtime")`` starts a server with it; `runtime_tasks` is the same with options. The code that runs
may say ``from bgpy.tasks.runtime import save_placeholder``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bgpy.lazy import lazy_names
from bgpy.tasks import workspace
from bgpy.tasks.runtime.commands import COMMANDS
from bgpy.taskset import TaskSet, concurrent

if TYPE_CHECKING:
    from bgpy.sockets import ClientSocket
    from bgpy.tasks.runtime.face import Placeholder as Placeholder
    from bgpy.tasks.runtime.face import Run as Run
    from bgpy.tasks.runtime.face import Runtime as Runtime
    from bgpy.tasks.runtime.saving import save_placeholder as save_placeholder
    from bgpy.tasks.workspace.workspaces import Workspaces as _Workspaces

#: Where the names are that a server does not need.
_HOMES = {
    "Placeholder": "bgpy.tasks.runtime.face",
    "Run": "bgpy.tasks.runtime.face",
    "Runtime": "bgpy.tasks.runtime.face",
    "save_placeholder": "bgpy.tasks.runtime.saving",
}


def init_task(
    client_socket: ClientSocket | None = None,
    *,
    workspaces: _Workspaces | None = None,
    keep: float = 3600.0,
    max_sessions: int = 100,
    folder: str | None = None,
) -> dict[str, Any]:
    """
    Make the sessions, and where they run.

    Parameters
    ----------
    workspaces
        Those of another task set of the same server, which then owns them.
    keep, max_sessions, folder
        As for `bgpy.tasks.runtime.sessions.Sessions`.
    """
    from bgpy.tasks.runtime.sessions import Sessions

    state = workspace.init_task(client_socket, workspaces=workspaces)
    try:
        sessions = Sessions(state["workspaces"], keep=keep, max_sessions=max_sessions, folder=folder)
    except BaseException:
        if state["owned"]:
            state["workspaces"].close()
        raise
    return {**state, "sessions": sessions}


@concurrent
def exec_task(client_socket: ClientSocket, state: dict[str, Any], args: dict[str, Any]) -> dict[str, Any]:
    """Answer one request; see `bgpy.tasks.runtime.commands` for all that can be asked."""
    from bgpy.tasks.runtime.dispatch import dispatch

    dispatch(state["sessions"], client_socket, args)
    return state


def exit_task(client_socket: ClientSocket, state: dict[str, Any], args: dict[str, Any]) -> None:
    """End all runs and remove their folders."""
    try:
        state["sessions"].close()
    finally:
        workspace.exit_task(client_socket, state, args)


def runtime_tasks(**options: Any) -> TaskSet:
    """
    Return the task set with options: ``keep``, ``max_sessions``, ``folder``; see `sessions.Sessions`.

    It can be pickled, so that a server in the background gets it.
    """
    import functools

    return TaskSet(functools.partial(init_task, **options), exec_task, exit_task, [command.name for command in COMMANDS])


__getattr__ = lazy_names(__name__, _HOMES)
