"""
Timed requests: each lives for some seconds at most, can have a script that runs in it, and can be killed by its connection id.

``bgpy.start("requests", "bgpy.tasks.requests")`` starts a server with this task set; `requests_tasks` is the same with options.
It also searches the public names of Python modules.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bgpy.lazy import lazy_names
from bgpy.tasks.requests.commands import COMMANDS
from bgpy.taskset import TaskSet, concurrent

if TYPE_CHECKING:
    from bgpy.sockets import ClientSocket
    from bgpy.tasks.requests.face import Request as Request
    from bgpy.tasks.requests.face import Requests as Requests
    from bgpy.tasks.workspace.workspaces import Workspaces

#: Where the names of the face are, which a server does not need.
_HOMES = {"Request": "bgpy.tasks.requests.face", "Requests": "bgpy.tasks.requests.face"}


def init_task(
    client_socket: ClientSocket | None = None, *, workspaces: Workspaces | None = None, **options: Any
) -> dict[str, Any]:
    """
    Make the table of requests.

    Parameters
    ----------
    workspaces
        Those of another task set of the same server, which makes the workers of jobs and searches; None: some of its own.
    options
        As for `bgpy.tasks.requests.requests.Requests`.
    """
    from bgpy.tasks import workspace
    from bgpy.tasks.requests.modules import Search
    from bgpy.tasks.requests.requests import Requests

    state = workspace.init_task(client_socket, workspaces=workspaces)
    requests = Requests(state["workspaces"], **options)
    if client_socket is not None:
        # Who waits for a request, or watches, would hold up the server's end.
        client_socket.when_ending(requests.shut)
    return {**state, "requests": requests, "search": Search(state["workspaces"])}


@concurrent
def exec_task(client_socket: ClientSocket, state: dict[str, Any], args: dict[str, Any]) -> dict[str, Any]:
    """Answer one message; see `bgpy.tasks.requests.commands` for all that can be asked."""
    from bgpy.tasks.requests.dispatch import dispatch

    dispatch(state["requests"], state["search"], client_socket, args)
    return state


def exit_task(client_socket: ClientSocket, state: dict[str, Any], args: dict[str, Any]) -> None:
    """End all requests, with their jobs."""
    from bgpy.tasks import workspace

    state["requests"].close()
    workspace.exit_task(client_socket, state, args)


def requests_tasks(**options: Any) -> TaskSet:
    """
    Return the task set with options: ``max_requests`` and ``max_jobs`` at once; see `requests.Requests`.

    It can be pickled, so that a server in the background gets it.
    """
    import functools

    return TaskSet(functools.partial(init_task, **options), exec_task, exit_task, [command.name for command in COMMANDS])


__getattr__ = lazy_names(__name__, _HOMES)
