"""
The namespace that jobs run in, in whatever process it lives.

It behaves like a fresh ``__main__``. All code of the user runs in here, its exceptions included: `Interpreter.run` says by its
outcome how a job ended.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import linecache
import os
import sys
from collections import deque
from math import isfinite
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any, Literal, NoReturn

from bgpy.encoding import other_nulls, to_json, to_json_limited, type_name
from bgpy.errors import SerializationError
from bgpy.tasks.workspace.backends import Order, Outcome
from bgpy.tasks.workspace.values import Packed, Value

#: Most bytes of the value of a last expression, as JSON and as a pickle: records keep it.
MAX_VALUE = 1 << 20
#: Most bytes of each of the texts of an error.
MAX_TEXT = 64 << 10
#: Where a traceback is longer, its middle is left out.
MAX_FRAMES = 200
#: Sources of scripts that are kept for tracebacks: functions outlive the job that defined them.
MAX_SOURCES = 1000
MAX_SOURCE_SIZE = 16 << 20

#: Scripts of up to so many characters are kept compiled, so many of them.
MAX_COMPILED_SIZE = 1000
MAX_COMPILED = 500

#: Left out of "all variables".
_NO_VARIABLES = (ModuleType, FunctionType, BuiltinFunctionType, type)
_CO_COROUTINE = 0x80
#: Takes the value of the last expression; no code can have such a name of its own.
_VALUE = "<value>"
#: Takes what the last expression calls ``show`` of: where that is pyplot, and no window opens, its figure is the value.
_SHOWN = "<shown>"
_OWN_FOLDER = os.path.dirname(os.path.abspath(__file__)) + os.sep

_DONE = Outcome("done", None, None)


class Interpreter:
    """
    Run jobs one after another in one namespace.

    `run` is for one thread; `read`, `write` and `ask` for any, also meanwhile.

    Parameters
    ----------
    own_process
        Whether the process is ours: then the namespace is its ``__main__``, and `sys.argv`, `sys.path` and `input` are those of
        the job. Otherwise nothing of the process changes but that the folders of file jobs come last in `sys.path`.
    """

    def __init__(self, *, own_process: bool) -> None:
        self._own_process = own_process
        self._module = ModuleType("__main__")
        #: The dict that is the jobs' globals.
        self.namespace: dict[str, Any] = vars(self._module)
        self._sources: deque[tuple[str, int]] = deque()
        self._sources_size = 0
        self._compiled: dict[str | bytes, tuple[CodeType, bool]] = {}
        self._folder: str | None = None
        self._hosts: dict[str, Any] = {}  # of calls, by their class
        # In a shared process other interpreters count their jobs as well, and all sources have one table.
        self._suffix = "" if own_process else f" of thread workspace {id(self):x}"
        if own_process:
            sys.modules["__main__"] = self._module
            builtins.input = refuse_input
        self.clear()

    def clear(self) -> None:
        """Make the namespace that of a fresh ``__main__``. It stays the same dict: functions that live on elsewhere see it."""
        namespace = self.namespace
        namespace.clear()
        namespace.update(__name__="__main__", __doc__=None, __package__=None, __loader__=None, __spec__=None)
        namespace["__builtins__"] = builtins if self._own_process else {**vars(builtins), "input": refuse_input}

    def run(self, order: Order) -> Outcome:
        """
        Run a job and say how it ended.

        Raises nothing of the job's; a KeyboardInterrupt that comes while its outcome is put together is the caller's to catch.
        """
        try:
            if order.calls:
                return self._call(order)
            if order.clear or order.kind == "clear":
                self.clear()
                if order.kind == "clear":
                    return _DONE
            value = self._execute(order)
            return _DONE if value is None else Outcome("done", pack_result(value), None)
        except KeyboardInterrupt as error:
            return Outcome("interrupted", None, self._describe(error, order))
        except SystemExit as error:
            code = error.code
            if code is None or (type(code) is int and code == 0):
                return _DONE
            return Outcome("failed", None, self._describe(error, order))
        except BaseException as error:  # noqa: BLE001 - whatever the job raises is the job's outcome
            return Outcome("failed", None, self._describe(error, order))

    def _call(self, order: Order) -> Outcome:
        """Run calls as one; what their method raises is the end of all of them, what it returns that of each."""
        host = self._host(order.host)
        outcomes: list[Outcome | None] = []
        arguments = []
        for _, argument in order.calls:
            try:
                arguments.append(argument.open() if isinstance(argument, Packed) else argument)
                outcomes.append(None)
            except SerializationError as error:
                outcomes.append(Outcome("failed", None, self._describe(error, order)))
        results = iter(getattr(host, order.kind)(arguments) if arguments else ())
        first, *rest = [outcome or self._outcome_of(next(results), order) for outcome in outcomes]
        return first._replace(rest=rest)

    def _host(self, path: str) -> Any:
        host = self._hosts.get(path)
        if host is None:
            module, _, name = path.partition(":")
            make = getattr(importlib.import_module(module), name)
            made = make(self.namespace) if getattr(make, "takes_namespace", False) else make()
            host = self._hosts.setdefault(path, made)
        return host

    def ask(self, host: str, method: str, argument: Any) -> Any:
        """Return what a method of a host of calls says, beside the jobs; plain data both ways. Raises what it raises."""
        return getattr(self._host(host), method)(argument)

    def _outcome_of(self, result: Value | BaseException | None, order: Order) -> Outcome:
        if isinstance(result, BaseException):
            return Outcome("failed", None, self._describe(result, order))
        return _DONE if result is None else Outcome("done", result, None)

    def _execute(self, order: Order) -> Any:
        """Run the code and return the value of its last expression."""
        namespace = self.namespace
        filename = self._file_of(order)
        code, has_value = self._compile(self._source(order, filename), filename)
        # What a job has left that did not come to its end.
        namespace.pop(_VALUE, None)
        namespace.pop(_SHOWN, None)
        if code.co_flags & _CO_COROUTINE:
            import asyncio

            asyncio.run(eval(code, namespace))
        else:
            exec(code, namespace)
        if not has_value:
            return None
        value, shown = namespace.pop(_VALUE, None), namespace.pop(_SHOWN, None)
        if value is None and shown is not None and self._own_process and shown is sys.modules.get("matplotlib.pyplot"):
            value = take_figure(shown)
        return value

    def _compile(self, source: str | bytes, filename: str) -> tuple[CodeType, bool]:
        """Compile the source of a job. A short script that comes again and again is compiled once."""
        known = self._compiled.get(source)
        if known is not None:
            return known[0].replace(co_filename=filename), known[1]
        code, has_value = compile_job(source, filename)
        # The code of a function or class inside would keep the name of the job that came first.
        if len(source) <= MAX_COMPILED_SIZE and not any(isinstance(constant, CodeType) for constant in code.co_consts):
            if len(self._compiled) >= MAX_COMPILED:
                self._compiled.clear()
            self._compiled[source] = code, has_value
        return code, has_value

    def _file_of(self, order: Order) -> str:
        return os.path.abspath(order.text) if order.kind == "file" else f"<job {order.number}{self._suffix}>"

    def _source(self, order: Order, filename: str) -> str | bytes:
        """Return what is to be compiled, and make the process look as it does to a program that was started like that."""
        if order.kind == "script":
            self._remember(filename, order.text)
            self._look("", [""])
            return order.text
        with open(filename, "rb") as file:
            source = file.read()
        self.namespace["__file__"] = filename
        self._look(os.path.dirname(filename), [filename])
        return source

    def _look(self, folder: str, argv: list[str]) -> None:
        if not self._own_process:
            if folder and folder not in sys.path:
                sys.path.append(folder)
            return
        sys.argv = argv
        if folder == self._folder:
            return
        if self._folder in sys.path:
            sys.path[sys.path.index(self._folder)] = folder
        else:
            sys.path.insert(0, folder)
        self._folder = folder

    def _remember(self, filename: str, text: str) -> None:
        """Let tracebacks show the lines of a script."""
        size = len(text)
        linecache.cache[filename] = (size, None, text.splitlines(keepends=True), filename)
        self._sources.append((filename, size))
        self._sources_size += size
        while len(self._sources) > MAX_SOURCES or (self._sources_size > MAX_SOURCE_SIZE and len(self._sources) > 1):
            self._forget_source()

    def _forget_source(self) -> None:
        filename, size = self._sources.popleft()
        self._sources_size -= size
        linecache.cache.pop(filename, None)

    def _describe(self, error: BaseException, order: Order) -> dict[str, str]:
        return describe_error(error, self._file_of(order))

    # Variables

    def variables(self) -> dict[str, Any]:
        """Return all variables of the jobs, see `variables_of`."""
        return variables_of(self.namespace)

    def read(self, names: list[str] | None, encoding: Literal["json", "objects"], limit: int | None) -> dict[str, Any]:
        """Return variables by name, encoded, see `Backend.read`."""
        found = find_variables(self.namespace, names)
        if encoding == "json":
            return {name: to_json_limited(value, limit) for name, value in found.items()}
        return {name: pack(value) for name, value in found.items()}

    def write(self, name: str, value: Any) -> None:
        """Set a variable to plain data, or to what is in a `Packed`; raises SerializationError where that cannot be opened."""
        self.namespace[name] = value.open() if isinstance(value, Packed) else value

    def close(self) -> None:
        """Forget the sources that are shared with the process."""
        while self._sources:
            self._forget_source()


def find_variables(namespace: dict[str, Any], names: list[str] | None) -> dict[str, Any]:
    """Return the variables of a namespace that have one of these names, all of them for None; see `variables_of`."""
    if names is None:
        return variables_of(namespace)
    missing = object()
    return {name: value for name in names if (value := namespace.get(name, missing)) is not missing}


def variables_of(namespace: dict[str, Any]) -> dict[str, Any]:
    """Return all variables of a namespace. Modules, functions, classes and names like ``__doc__`` are none."""
    found = dict(namespace)  # in one step, so that a job may go on meanwhile
    return {
        name: value
        for name, value in found.items()
        # By its type: `isinstance` would ask the value for its ``__class__``, which is code of the user.
        if type(name) is str and not issubclass(type(value), _NO_VARIABLES) and not _is_hidden(name)
    }


def _is_hidden(name: str) -> bool:
    return name in (_VALUE, _SHOWN) or (name.startswith("__") and name.endswith("__"))


def refuse_input(prompt: object = "") -> NoReturn:
    """Stand for `input`."""
    raise EOFError("input() has nobody to ask: a job in a workspace has no standard input. Set a variable instead.")


def compile_job(source: str | bytes, filename: str) -> tuple[CodeType, bool]:
    """Compile the source of a job, and say whether it leaves the value of its last expression under the name for it."""
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    tree = compile(source, filename, "exec", flags | ast.PyCF_ONLY_AST, dont_inherit=True)
    has_value = bool(tree.body) and isinstance(tree.body[-1], ast.Expr)
    if has_value:
        last = tree.body[-1]
        target = ast.copy_location(ast.Name(_VALUE, ast.Store()), last)
        tree.body[-1] = ast.copy_location(ast.Assign([target], last.value), last)
        match last.value:
            case ast.Call(func=ast.Attribute(value=ast.Name() as owner, attr="show")):
                target = ast.copy_location(ast.Name(_SHOWN, ast.Store()), owner)
                tree.body.insert(-1, ast.copy_location(ast.Assign([target], owner), last))
    return compile(tree, filename, "exec", flags, dont_inherit=True), has_value


def take_figure(pyplot: Any) -> Any:
    """Return the figure that pyplot has in hand and let it begin another, as a window does that was closed; None without one."""
    if not pyplot.get_fignums() or pyplot.get_backend().lower() != "agg":
        return None
    figure = pyplot.gcf()
    pyplot.close(figure)
    return figure


def pack(value: object) -> Packed:
    """Pack a value, or its text where it cannot be pickled."""
    try:
        return Packed.of(value)
    except SerializationError:
        return Packed.of(safe_text(value))


def pack_result(value: Any) -> Value:
    """Return the value of a last expression both ways, described or left out where it is too large."""
    kind = type(value)
    name = type_name(value)
    if (
        kind is bool
        or (kind is float and isfinite(value))
        or (kind is str and len(value) <= 1000)
        or (kind is int and value.bit_length() <= 1000)
    ):
        return Value(to_json(value), Packed.of(value), name)
    nulls: set[str] = set()
    return Value(to_json_limited(value, MAX_VALUE, nulls), _pack_small(value), name, tuple(other_nulls(nulls)))


def _pack_small(value: object) -> Packed | None:
    try:
        if sys.getsizeof(value) > 2 * MAX_VALUE:
            return None  # found without making the pickle, where the value itself tells
        packed = Packed.of(value)
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001 - a value whose own methods fail cannot be kept
        return None
    size = len(packed.pickle) + sum(memoryview(buffer).nbytes for buffer in packed.buffers)
    if size > MAX_VALUE:
        return None
    # The buffers are views into the object, which the next job may change.
    return Packed(packed.pickle, tuple(bytes(buffer) for buffer in packed.buffers))


def safe_text(value: object) -> str:
    """Return the `str` of a value, whatever its class does in it."""
    try:
        return str(value)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - a class of the user may raise anything
        return f"<{type(value).__name__}: its text cannot be made, {type(error).__name__}>"


def describe_error(error: BaseException, filename: str) -> dict[str, str]:
    """Return type, message and traceback of an exception, without frames of this package before those of the file."""
    kind = type(error)
    try:
        name = kind.__qualname__ if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}.{kind.__qualname__}"
        text = _traceback_text(error, filename)
    except KeyboardInterrupt:
        raise
    except BaseException as broken:  # noqa: BLE001 - an exception of the user may raise anything while it is shown
        name, text = str(type.__dict__["__name__"].__get__(kind)), f"<no traceback: {type(broken).__name__} while it was made>"
    # By its type: `isinstance` would ask the error itself, which may raise.
    told: Any = error
    message = safe_text(told.code if issubclass(kind, SystemExit) else told)
    return {"type": plain_text(name), "message": plain_text(message[:MAX_TEXT]), "traceback": plain_text(text[-MAX_TEXT:])}


def _traceback_text(error: BaseException, filename: str) -> str:
    from traceback import TracebackException

    first = error.__traceback__
    while first is not None and first.tb_frame.f_code.co_filename != filename:
        first = first.tb_next
    # A call has no file of its own: all its frames are shown but ours.
    shown = TracebackException(type(error), error, first or error.__traceback__, lookup_lines=False)
    waiting: list[Any] = [shown]
    seen: set[int] = set()
    while waiting:
        each = waiting.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        _shorten(each)
        waiting += [each.__cause__, each.__context__, *(getattr(each, "exceptions", None) or ())]
    return "".join(shown.format())


def _shorten(shown: Any) -> None:
    """Leave out of one traceback what is ours, and the middle where it is very long."""
    frames = [frame for frame in shown.stack if not frame.filename.startswith(_OWN_FOLDER)]
    if len(frames) > MAX_FRAMES:
        frames[MAX_FRAMES // 2 : -MAX_FRAMES // 2] = []
    shown.stack[:] = frames


def plain_text(text: str) -> str:
    """Return a text as exactly `str`, whatever its class, that UTF-8 can carry."""
    return str.encode(text, "utf-8", "backslashreplace").decode("utf-8")
