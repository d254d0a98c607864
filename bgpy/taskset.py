"""
Task sets: the three tasks that make a server, from callables, a module or a file.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
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
    """

    __slots__ = ("concurrent", "exec", "exit", "init")

    def __init__(self, init: Callable[..., Any], exec: Callable[..., Any], exit: Callable[..., Any]) -> None:
        for role, task in (("init", init), ("exec", exec), ("exit", exit)):
            if not callable(task):
                raise TypeError(f"The {role} task is {type(task).__name__}, not a callable")
        self.init = init
        self.exec = exec
        self.exit = exit
        #: Whether the exec task was marked with `concurrent`.
        self.concurrent = bool(getattr(exec, _CONCURRENT, False))

    @classmethod
    def of(cls, *tasks: Any) -> TaskSet:
        """
        Return the task set that three callables, a module, a module's name, or a task set stand for.

        Raises
        ------
        TypeError
            It is none of these.
        AttributeError, ImportError
            The module lacks a task, or cannot be imported.
        """
        if len(tasks) == 3:
            return cls(*tasks)
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
        return cls(source.init_task, source.exec_task, source.exit_task)

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

    def message(self) -> dict[str, Any]:
        """Return the tasks as an INIT message."""
        return {"init_task": self.init, "exec_task": self.exec, "exit_task": self.exit}

    @classmethod
    def from_message(cls, message: dict[str, Any]) -> TaskSet:
        """Return the tasks of an INIT message; raises KeyError and TypeError."""
        return cls(message["init_task"], message["exec_task"], message["exit_task"])

    def make_state(self, client_socket: ClientSocket) -> Any:
        """Run the init task, with or without the client socket as its parameters ask."""
        return self.init(client_socket) if _takes_argument(self.init) else self.init()


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
