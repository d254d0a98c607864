"""
Pickle by value what the other side cannot import: cloudpickle's pickler, asked only after our own rules.

A module of its own because importing cloudpickle takes longer than starting the rest of the server.
"""

from __future__ import annotations

import dis
import functools
import io
import pickle
import sys
import typing
from collections.abc import Callable, Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
from cloudpickle.cloudpickle import _class_setstate, _dynamic_class_reduce  # type: ignore[import-untyped]

from bgpy.protocol.modules import MAIN_MODULES, NAMED_KINDS, NeededModules, absolute_name


class ByValuePickler(cloudpickle.CloudPickler):  # type: ignore[misc]
    """
    Pickle one message, by value where it must be.

    Attributes
    ----------
    by_value
        Whether bytecode went into the pickle.
    """

    def __init__(self, file: io.BytesIO, buffer_callback: Callable[[pickle.PickleBuffer], bool], needed: NeededModules) -> None:
        super().__init__(file, protocol=5, buffer_callback=buffer_callback)
        self.needed = needed
        self.by_value = False

    def reducer_override(self, obj: Any) -> Any:
        """Decide about functions, classes and modules, and about what pickles by name only, or not at all."""
        kind = type(obj)
        if kind is FunctionType:
            return NotImplemented if self.needed.by_name(obj) else self._reduce_function(obj)
        if issubclass(kind, type):
            return NotImplemented if self.needed.by_name(obj) else self._reduce_class(obj)
        if issubclass(kind, ModuleType):
            self._note_module(obj)
        elif id(kind) in NAMED_KINDS:
            return NotImplemented if self.needed.by_name(obj) else self._reduce_named(obj)
        elif kind is functools.cached_property:
            return kind, (obj.func,), {"attrname": obj.attrname}  # without the lock that it has before Python 3.12
        elif kind is CodeType:
            self.by_value = True
        else:
            self.needed.note_kind(kind)
        return NotImplemented

    def _reduce_function(self, function: FunctionType) -> Any:
        """Reduce a function; one whose module is there on the other side gets that module's own globals, not copies."""
        self.by_value = True
        module = function.__globals__.get("__name__")
        for name in imported_names(function.__code__, function.__globals__.get("__package__") or ""):
            self.needed.need_if_users(name)
        make, (code, base_globals, *rest), (attributes, slots), *tail = self._dynamic_function_reduce(function)
        if isinstance(module, str) and module not in MAIN_MODULES and self._is_home(function, module):
            base_globals, slots["__globals__"] = Namespace(module), {}
        return make, (code, base_globals, *rest), (attributes, slots), *tail

    def _reduce_named(self, obj: Any) -> Any:
        """Reduce something of `NAMED_KINDS` that the other side cannot import."""
        kind = type(obj)
        if kind is functools._lru_cache_wrapper:
            return make_cached, (obj.__wrapped__, obj.cache_parameters())
        if kind is typing.NewType:
            return kind, (obj.__name__, obj.__supertype__), {"__module__": obj.__module__, "__qualname__": obj.__qualname__}
        if kind is typing.TypeVar:
            return NotImplemented  # cloudpickle knows these
        if kind.__name__ == "TypeAliasType":
            return make_alias, (obj.__name__, obj.__value__, obj.__type_params__)
        return kind, (obj.__name__,)

    def _is_home(self, function: FunctionType, name: str) -> bool:
        module = sys.modules.get(name)
        return module is not None and vars(module) is function.__globals__ and self.needed.importable(module)

    def _reduce_class(self, cls: type) -> Any:
        if cls.__module__ in ("builtins", None):
            return super().reducer_override(cls)  # knows NoneType, FunctionType and others that have no name to import
        self.by_value = True
        *reduced, _ = _dynamic_class_reduce(cls)
        return *reduced, fill_class

    def _note_module(self, module: ModuleType) -> None:
        if module.__name__ in MAIN_MODULES:
            raise pickle.PicklingError("the module __main__ cannot travel; pass what is needed of it")
        if sys.modules.get(module.__name__) is module:
            self.needed.importable(module)


class Namespace:
    """Stand in a pickle for the globals of a module that the other side imports."""

    __slots__ = ("module",)

    def __init__(self, module: str) -> None:
        self.module = module

    def __reduce__(self) -> tuple[Any, ...]:
        return globals_of, (self.module,)


def globals_of(module: str) -> dict[str, Any]:
    """Import a module and return its globals. Part of the pickles' format."""
    __import__(module)
    return vars(sys.modules[module])


def make_cached(function: Callable[..., Any], parameters: dict[str, Any]) -> Any:
    """Wrap a function in a fresh `functools.lru_cache`. Part of the pickles' format."""
    return functools.lru_cache(**parameters)(function)


def make_alias(name: str, value: Any, parameters: tuple[Any, ...]) -> Any:
    """Make what ``type NAME = VALUE`` makes. Part of the pickles' format."""
    return typing.TypeAliasType(name, value, type_params=parameters)  # type: ignore[attr-defined]


def fill_class(cls: type, state: Any) -> type:
    """
    Fill a class that was made from its value. Part of the pickles' format.

    cloudpickle finds the original where a class comes home to the process that defined it. It then stays as it is: else its
    methods would be replaced by copies, which no longer see the globals of their module.
    """
    home = sys.modules.get(cls.__module__)
    if home is not None:
        for value in vars(cls).values():
            function = getattr(value, "__func__", value)
            if isinstance(function, FunctionType) and function.__globals__ is vars(home):
                return cls
    filled: type = _class_setstate(cls, state)
    return filled


def imported_names(code: CodeType, package: str) -> Iterator[str]:
    """Yield the dotted names that a function imports in its body, at every depth; some may be no modules."""
    steps = [step for step in dis.get_instructions(code) if step.opname not in ("EXTENDED_ARG", "CACHE", "NOP")]
    for index, step in enumerate(steps):
        if step.opname == "IMPORT_NAME":
            level, names = steps[index - 2].argval, steps[index - 1].argval
            base = absolute_name(step.argval, level, package)
            yield base
            for name in names or ():
                yield f"{base}.{name}"
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from imported_names(constant, package)
