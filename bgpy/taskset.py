"""
Task sets: the three tasks that make a server, from callables, a module or a file.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from bgpy.sockets import ClientSocket

Task = TypeVar("Task", bound=Callable[..., Any])

_CONCURRENT = "__bgpy_concurrent__"
_HAS_VARARGS = 0x04  # inspect.CO_VARARGS, without the cost of importing inspect


def concurrent(task: Task) -> Task:
    """
    Mark an exec task so that it runs without the state's lock, many calls at once.

    Its return value is ignored: it changes the state that it was given, under its own guards. It may call
    ``client_socket.defer()`` and return before somebody else responds.
    """
    setattr(task, _CONCURRENT, True)
    return task


class TaskSet:
    """
    An init, an exec and an exit task.

    Parameters
    ----------
    init
        ``init_task(client_socket) -> dict`` or ``init_task() -> dict``: makes the state.
    exec
        ``exec_task(client_socket, state, args) -> dict``: answers one request and returns the state.
    exit
        ``exit_task(client_socket, state, args) -> None``: runs once at the end.
    commands
        The names of all commands that the exec task knows, for `combine`; none where its messages have no commands.
    """

    __slots__ = ("commands", "concurrent", "exec", "exit", "init")

    def __init__(
        self, init: Callable[..., Any], exec: Callable[..., Any], exit: Callable[..., Any], commands: Iterable[str] = ()
    ) -> None:
        for role, task in (("init", init), ("exec", exec), ("exit", exit)):
            if not callable(task):
                raise TypeError(f"The {role} task is {type(task).__name__}, not a callable")
        self.init = init
        self.exec = exec
        self.exit = exit
        #: Whether the exec task was marked with `concurrent`.
        self.concurrent = bool(getattr(exec, _CONCURRENT, False))
        self.commands = tuple(commands)

    @classmethod
    def of(cls, *tasks: Any, **named: Any) -> TaskSet:
        """
        Return the task set that three callables, a module, a module's name, or a task set stand for.

        The callables may be named ``init``, ``exec`` and ``exit``.

        Raises
        ------
        TypeError
            It is none of these.
        AttributeError, ImportError
            The module lacks a task, or cannot be imported.
        """
        if named or len(tasks) == 3:
            return cls(*tasks, **named)
        if len(tasks) != 1:
            raise TypeError(f"Expected init, exec and exit task, a module or a TaskSet, got {len(tasks)} arguments")
        (source,) = tasks
        if isinstance(source, TaskSet):
            return source
        if isinstance(source, str):
            import importlib

            source = importlib.import_module(source)
        if not isinstance(source, ModuleType):
            raise TypeError(f"Expected init, exec and exit task, a module or a TaskSet, got {type(source).__name__}")
        missing = [name for name in ("init_task", "exec_task", "exit_task") if not hasattr(source, name)]
        if missing:
            raise AttributeError(f"The module {source.__name__!r} has no {' and no '.join(missing)}")
        commands = [command.name for command in getattr(source, "COMMANDS", ())]
        return cls(source.init_task, source.exec_task, source.exit_task, commands)

    @classmethod
    def from_file(cls, path: str) -> TaskSet:
        """
        Run a Python file and return the tasks it defines; its folder becomes importable, as for a script.

        Raises whatever the file raises, and AttributeError where a task is missing.
        """
        import importlib.util

        path = os.path.abspath(path)
        folder, file_name = os.path.split(path)
        if folder not in sys.path:
            sys.path.insert(0, folder)
        name = os.path.splitext(file_name)[0]
        if name in sys.modules:
            name = f"bgpy_init_{name}"
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise ImportError(f"{path} is no Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        return cls.of(module)

    @classmethod
    def combine(cls, sets: Mapping[str, Any]) -> TaskSet:
        """
        Return one task set of several, so that one server has them all.

        A message's "command" is ``NAME.command``, NAME that of a set, or bare where only one set has it. A set without commands
        gets every message that is for no other, if it is the only one of that kind. Each keeps its own state; one that is not
        concurrent answers one request at a time. Sets whose init task takes a keyword `workspaces` share what the first of
        them has put under that key into its state. They are initialised in their order, and end in the reverse one.

        Parameters
        ----------
        sets
            Task sets by name, or whatever `of` takes as one argument.

        Raises
        ------
        ValueError
            There is none, or a name is empty or has a dot.
        TypeError, AttributeError, ImportError
            As `of`.
        """
        from bgpy.combining import Combination

        for name in sets:
            if not name or "." in name:
                raise ValueError(f"A task set's name has no dot and is not empty, unlike {name!r}.")
        if not sets:
            raise ValueError("At least one task set is needed.")
        combination = Combination({name: cls.of(tasks) for name, tasks in sets.items()})
        return cls(combination.init, combination.exec, combination.exit, combination.commands)

    def message(self) -> dict[str, Any]:
        """Return the tasks as an INIT message."""
        return {"init_task": self.init, "exec_task": self.exec, "exit_task": self.exit}

    @classmethod
    def from_message(cls, message: dict[str, Any]) -> TaskSet:
        """Return the tasks of an INIT message; raises KeyError and TypeError."""
        return cls(message["init_task"], message["exec_task"], message["exit_task"])

    def make_state(self, client_socket: ClientSocket, **options: Any) -> Any:
        """Run the init task, with or without the client socket as its parameters ask, and with keywords."""
        return self.init(client_socket, **options) if _takes_argument(self.init) else self.init(**options)


def _takes_argument(task: Callable[..., Any]) -> bool:
    code = getattr(task, "__code__", None)
    if code is not None and not hasattr(task, "__wrapped__") and not hasattr(task, "__self__"):
        return bool(code.co_argcount or code.co_flags & _HAS_VARARGS)
    import inspect

    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    try:
        parameters = inspect.signature(task).parameters.values()
    except ValueError:  # dict and other builtins that do not tell theirs
        return False
    return any(parameter.kind in positional for parameter in parameters)
