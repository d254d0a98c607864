"""
Several task sets behind one server: which of them a message is for, and each set's own order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from bgpy.errors import InvalidResultError
from bgpy.held import get_held_instances, held_instances
from bgpy.turns import TurnLock

if TYPE_CHECKING:
    from bgpy.sockets import ClientSocket


class Tasks(Protocol):
    """What this needs of a task set."""

    init: Callable[..., Any]
    exec: Callable[..., Any]
    exit: Callable[..., Any]
    concurrent: bool
    commands: tuple[str, ...]

    def make_state(self, client_socket: ClientSocket, **options: Any) -> Any:
        """Run the init task."""


class Combination:
    """
    The three tasks of a server with several task sets; see `TaskSet.combine`. Can be pickled where its sets can.

    Parameters
    ----------
    sets
        By name, in the order in which they are initialised.
    """

    def __init__(self, sets: Mapping[str, Tasks]) -> None:
        self._sets = dict(sets)
        self._homes: dict[str, list[str]] = {}
        for name, tasks in self._sets.items():
            for command in tasks.commands:
                self._homes.setdefault(command, []).append(name)
        without = [name for name, tasks in self._sets.items() if not tasks.commands]
        self._rest = without[0] if len(without) == 1 else None

    def init(self, client_socket: ClientSocket) -> dict[str, Any]:
        """Run all init tasks; where one fails, the exit tasks of those before it run, and its error is raised."""
        members: dict[str, _Member] = {}
        shared = None
        try:
            for name, tasks in self._sets.items():
                takes = _takes_workspaces(tasks.init)
                options: dict[str, Any] = {"workspaces": shared} if takes and shared is not None else {}
                state = tasks.make_state(client_socket, **options)
                if not isinstance(state, dict):
                    raise InvalidResultError(f"init_task of {name}", type(state).__name__)
                members[name] = _Member(name, tasks, state)
                shared = state.get("workspaces") if takes and shared is None else shared
        except BaseException:
            _end(members, client_socket, {})
            raise
        return {"members": members, "workspaces": shared}

    @property
    def commands(self) -> list[str]:
        """All commands, with the names of their sets, and bare where only one set has them."""
        named = [f"{name}.{command}" for command, names in self._homes.items() for name in names]
        return [*named, *(command for command, names in self._homes.items() if len(names) == 1)]

    def exec(self, client_socket: ClientSocket, state: dict[str, Any], args: dict[str, Any]) -> dict[str, Any]:
        """Pass a message on to the set that it is for."""
        name, message, refusal = self._route(args)
        if refusal is not None:
            client_socket.respond({"request_result": False, "result": refusal, "field": "command"})
        else:
            state["members"][name].execute(client_socket, message)
        return state

    # The mark of `bgpy.taskset.concurrent`, which stands above this module: each member sees to its own order.
    exec.__bgpy_concurrent__ = True  # type: ignore[attr-defined]

    def exit(self, client_socket: ClientSocket, state: dict[str, Any], args: dict[str, Any]) -> None:
        """Run all exit tasks, the last set's first; raises the first error when all have run."""
        failure = _end(state["members"], client_socket, args)
        if failure is not None:
            raise failure

    def _route(self, args: dict[str, Any]) -> tuple[str, dict[str, Any], str | None]:
        """Return the set that a message is for and what it is given, or why there is none."""
        command = args.get("command")
        if isinstance(command, str):
            name, dot, bare = command.partition(".")
            if dot and name in self._sets:
                return name, {**args, "command": bare}, None
            homes = self._homes.get(command, [])
            if len(homes) == 1:
                return homes[0], args, None
            if homes:
                choice = " or ".join(f"{home}.{command}" for home in homes)
                return "", args, f"Several task sets have the command {command!r}: say {choice}."
        if self._rest is not None:
            return self._rest, args, None
        known = ", ".join(sorted(self._homes)) or "none without the name of a task set before it"
        what = f"There is no command {command!r:.100}" if "command" in args else "The message has no field 'command'"
        return "", args, f"{what}; there are {known}. The task sets are {', '.join(self._sets)}."


class _Member:
    """
    One of the sets, initialised. Thread-safe: one that is not concurrent answers one request at a time, in their order.

    Made in the init task of the combination.
    """

    def __init__(self, name: str, tasks: Tasks, state: dict[str, Any]) -> None:
        self.name = name
        self._tasks = tasks
        self._state = state
        self._turns = TurnLock()
        # The server holds its own state during the init task. Its exec task it calls as a concurrent one; this set is none.
        self._held = () if tasks.concurrent else get_held_instances()[-1:]

    def execute(self, client_socket: ClientSocket, message: dict[str, Any]) -> None:
        """Run the exec task, in its turn where it is not concurrent."""
        if self._tasks.concurrent:
            self._tasks.exec(client_socket, self._state, message)
            return
        client_socket.deferrable = False
        with self._turns.draw():
            token = held_instances.set((*get_held_instances(), *self._held))
            try:
                state = self._tasks.exec(client_socket, self._state, message)
            finally:
                held_instances.reset(token)
            if not isinstance(state, dict):
                raise InvalidResultError(f"exec_task of {self.name}", type(state).__name__)
            self._state = state

    def exit(self, client_socket: ClientSocket, message: dict[str, Any]) -> None:
        """Run the exit task."""
        with self._turns.draw():
            self._tasks.exit(client_socket, self._state, message)


def _end(members: Mapping[str, _Member], client_socket: ClientSocket, args: dict[str, Any]) -> BaseException | None:
    failure = None
    for member in reversed(list(members.values())):
        try:
            member.exit(client_socket, args)
        except BaseException as error:  # noqa: BLE001 - the others must end as well
            failure = failure or error
    return failure


def _takes_workspaces(task: Callable[..., Any]) -> bool:
    import inspect

    try:
        return "workspaces" in inspect.signature(task).parameters
    except (TypeError, ValueError):  # builtins that do not tell theirs
        return False
