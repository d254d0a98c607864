"""
The public names of a module that contain a text; for the worker that imports it, and ends afterwards.

Everything here may run code of the library: an attribute that is made when it is asked for, a signature of its own, a text that
is no text. What fails is left out, or told as far as it can be.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any, NamedTuple

from bgpy.tasks.workspace.values import Value

#: Characters of a signature and of a docstring's first line.
MAX_SIGNATURE = 300
MAX_DOC = 300


class Found(NamedTuple):
    """A public name, and what it stands for; a method's has its class before it."""

    name: str
    own: str
    kind: str
    value: object

    def describe(self, lib: str) -> dict[str, str]:
        """Return what is told of it; "" where there is nothing."""
        return {"lib": lib, "name": self.name, "kind": self.kind, "signature": _signature(self), "doc": _doc(self)}


class Searcher:
    """What a worker does for a search; see `bgpy.tasks.workspace.calls`."""

    def search(self, arguments: Sequence[Mapping[str, Any]]) -> list[Value]:
        """Search one library each; the value has what was found, as far as the limit, and how many that are."""
        try:
            return [Value(_search(argument["lib"], argument["text"], argument["limit"]), None) for argument in arguments]
        except SystemExit as error:  # with the code 0 it would be taken for an end as it should be
            raise ImportError(f"SystemExit: {error.code}") from None


def _search(lib: str, text: str, limit: int) -> dict[str, Any]:
    module = importlib.import_module(lib)
    found = sorted((found for found in public_names(module) if matches(found, text)), key=lambda found: order(found, text))
    return {"count": len(found), "found": [each.describe(lib) for each in found[:limit]]}


def matches(found: Found, text: str) -> bool:
    """Tell whether a name contains the text, in upper or lower case; of a method it is the name without the class."""
    return text.casefold() in found.own.casefold()


def order(found: Found, text: str) -> tuple[bool, bool, str, str]:
    """Return what found names are sorted by: those that begin with the text first, methods behind the others."""
    own = found.own.casefold()
    return not own.startswith(text.casefold()), found.name != found.own, own, found.name


def public_names(module: ModuleType) -> Iterator[Found]:
    """
    Yield the public names of a module, and the public methods of its public classes.

    What a module says in ``__all__`` is public; where it says nothing, each name without an underscore before it. A method that a
    class inherits from another class of these is told with that one, and what all objects and exceptions have is told nowhere.
    """
    classes: dict[str, type] = {}
    for name in _public(module):
        try:
            value = getattr(module, name)
        except Exception:  # noqa: BLE001 - a name that cannot be had is none
            continue
        if isinstance(value, type):
            classes[name] = value
        yield Found(name, name, _kind(value), value)
    for name, value in classes.items():
        for method, kind, attribute in _methods(value, set(classes.values())):
            yield Found(f"{name}.{method}", method, kind, attribute)


def _public(module: ModuleType) -> list[str]:
    names = getattr(module, "__all__", None)
    if not isinstance(names, (list, tuple)):
        try:
            names = dir(module)
        except Exception:  # noqa: BLE001 - a module's own may fail, or name what cannot be sorted
            names = list(vars(module))
        names = [name for name in names if isinstance(name, str) and not name.startswith("_")]
    return list(dict.fromkeys(name for name in names if isinstance(name, str)))


def _methods(cls: type, others: set[type]) -> Iterator[tuple[str, str, object]]:
    seen = set()
    for base in cls.__mro__:
        if base is not cls and (base in others or base.__module__ == "builtins"):
            continue
        for name, attribute in list(vars(base).items()):
            if name.startswith("_") or name in seen:
                continue
            seen.add(name)
            kind = _kind_of_attribute(attribute)
            if kind:
                yield name, kind, attribute


def _kind(value: object) -> str:
    if isinstance(value, ModuleType):
        return "module"
    if isinstance(value, type):
        return "class"
    return "function" if callable(value) else "value"


def _kind_of_attribute(attribute: object) -> str:
    if isinstance(attribute, property) or inspect.isgetsetdescriptor(attribute) or inspect.ismemberdescriptor(attribute):
        return "property"
    if isinstance(attribute, (classmethod, staticmethod)) or (callable(attribute) and not isinstance(attribute, type)):
        return "method"
    return ""


def _signature(found: Found) -> str:
    value = found.value
    if found.kind not in ("function", "class", "method"):
        return ""
    if isinstance(value, (classmethod, staticmethod)):
        value = value.__func__
    try:
        text = str(inspect.signature(value))  # type: ignore[arg-type]
    except Exception:  # noqa: BLE001 - many builtins have none, and a library's own may fail
        return ""
    return _short(text, MAX_SIGNATURE)


def _doc(found: Found) -> str:
    """Return the first line of a docstring; not that of the type of a mere value, which says nothing about it."""
    if found.kind == "value":
        return ""
    try:
        text = inspect.getdoc(found.value)
        lines = text.strip().splitlines() if isinstance(text, str) else []
    except Exception:  # noqa: BLE001 - as above
        return ""
    return _short(lines[0].strip(), MAX_DOC) if lines else ""


def _short(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
