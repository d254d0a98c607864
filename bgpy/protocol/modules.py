"""
Find the user's own modules that a message needs, and read their source.

A module is the user's own if it is neither of the standard library nor in an installation folder (site-packages,
dist-packages, a folder with ``*.dist-info``) and its loader gives its source. Objects of such modules are pickled by name; the
sources of the modules, and of the user's modules that these import, go in front of the pickle (`bgpy.protocol.shipped`). The
receiving side imports the modules from these sources, under their own names, when the pickle (or a function in it) first asks
for them. Files beside the modules do not travel.
"""

from __future__ import annotations

import functools
import os
import sys
import typing
from collections.abc import Iterable, Iterator, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, NamedTuple

MAIN_MODULES = frozenset({"__main__", "__mp_main__"})
#: Never shipped, also where they lie in a folder of the user: these two are on both sides by definition.
_ON_BOTH_SIDES = MAIN_MODULES | {"bgpy", "cloudpickle"}
_INSTALL_FOLDERS = frozenset({"site-packages", "dist-packages"})
_STDLIB = os.path.dirname(os.__file__) + os.sep
#: The ids of those kinds of objects that have a name of their own, and pickle as nothing but that name.
NAMED_KINDS = frozenset(
    id(getattr(home, name))
    for home, name in (
        (functools, "_lru_cache_wrapper"),
        (typing, "NewType"),
        (typing, "TypeVar"),
        (typing, "ParamSpec"),
        (typing, "TypeVarTuple"),
        (typing, "TypeAliasType"),
    )
    if hasattr(home, name)
)


class Shipped(NamedTuple):
    """
    Hold one module of the user as it travels.

    Attributes
    ----------
    name
        Dotted name.
    version
        Digest over the sources of this module and of all shipped modules that it imports: equal versions behave the same.
    source
        Text; None for a namespace package, which has none.
    is_package
        Whether it has submodules.
    file
        Where it lies on the sending side, for tracebacks.
    """

    name: str
    version: str
    source: str | None
    is_package: bool
    file: str


class NeededModules:
    """
    Collect, while one message is pickled, which modules it needs by name. For one thread.

    Attributes
    ----------
    users
        Those among them whose source has to travel.
    """

    __slots__ = ("_kinds", "_names", "users")

    def __init__(self) -> None:
        self._names: dict[str, bool] = {}
        self.users: set[str] = set()
        self._kinds: set[int] = set()

    def by_name(self, obj: Any) -> bool:
        """Say whether the other side can import a function, class or the like by its name, and note the module for that."""
        name = obj.__module__
        module = sys.modules.get(name) if isinstance(name, str) else None
        if module is None or name in MAIN_MODULES:
            return False
        found: Any = module
        path = str(getattr(obj, "__qualname__", None) or getattr(obj, "__name__", ""))
        for part in path.split("."):
            found = getattr(found, part, None)
        return found is obj and self.importable(module, name)

    def importable(self, module: ModuleType, name: str | None = None) -> bool:
        """Say whether the other side can import a module, be it from a source that travels, and note it."""
        name = name or module.__name__
        known = self._names.get(name)
        if known is None:
            known = self._names[name] = not is_users(name) or self._note_users(name)
        return known

    def need_if_users(self, name: str) -> None:
        """Note a module that is imported by the code of a function, if it is one of the user's."""
        if name not in self._names and is_users(name):
            self._names[name] = self._note_users(name)

    def note_kind(self, kind: type) -> None:
        """Note the module of a class of which an instance is pickled: the instance may go by its own name, without its class."""
        if id(kind) not in self._kinds:
            self._kinds.add(id(kind))
            if kind.__module__ not in MAIN_MODULES and kind.__module__ in sys.modules:
                self.need_if_users(kind.__module__)

    def _note_users(self, name: str) -> bool:
        module = sys.modules.get(name)
        if source_of(name) is None:
            # A compiled module may be there on the other side, which names it if not; one made at run time cannot be.
            return getattr(module, "__file__", None) is not None
        self.users.add(name)
        return True

    def collect(self) -> list[Shipped]:
        """Read the modules of the user that the message needs, themselves and through their imports."""
        return collect(self.users)

    def mentions(self, module: str) -> bool:
        """Say whether the message needs a module, itself or through the modules of the user that travel with it."""
        names = set(self._names)
        for shipped in self.collect():
            names.add(shipped.name)
            names.update(_imports(shipped.source or "", _package(shipped.name, shipped.is_package)))
        return any(name == module or name.startswith(module + ".") for name in names)


def is_users(name: str) -> bool:
    """Say whether a module is neither of the standard library nor installed, as far as can be told."""
    module = sys.modules.get(name)
    file = getattr(module, "__file__", None)
    if module is None or file is None:
        return _is_users_without_file(name)
    # A module that came from another side is a user's; the paths of that side mean nothing here.
    return not _is_installed(file, name) or hasattr(getattr(module.__spec__, "loader", None), "bgpy_shipped")


def _is_users_without_file(name: str) -> bool:
    """Do the same for a module that is not loaded, or is a namespace, built in, or made at run time."""
    root = name.partition(".")[0]
    if root in _ON_BOTH_SIDES or name in sys.builtin_module_names:
        return False
    spec = _spec(name)
    if spec is not None and spec.has_location and spec.origin is not None:
        return not _is_installed(spec.origin, name)
    folders = spec.submodule_search_locations if spec is not None else None
    if folders:
        return not _is_installed(os.path.join(next(iter(folders)), "__init__.py"), name)
    # Parts of an installed package that have no file are made by that package.
    return root not in sys.stdlib_module_names and (name == root or is_users(root))


@functools.lru_cache(maxsize=4096)
def _is_installed(file: str, name: str) -> bool:
    file, root = os.path.abspath(file), name.partition(".")[0]
    if root in _ON_BOTH_SIDES or not _INSTALL_FOLDERS.isdisjoint(file.split(os.sep)) or file.startswith(_STDLIB):
        return True
    if root in sys.stdlib_module_names and not file.endswith(".py"):
        return True
    above, found, _ = file.rpartition(os.sep + root + os.sep)
    return _has_distributions(above if found else os.path.dirname(file))


@functools.lru_cache(maxsize=256)
def _has_distributions(folder: str) -> bool:
    """Recognise the folder of ``pip install --target``."""
    try:
        return any(name.endswith(".dist-info") for name in os.listdir(folder or os.sep))
    except OSError:  # an archive, or gone: no installation folder
        return False


def _spec(name: str) -> ModuleSpec | None:
    """Find a module's spec without importing anything."""
    module = sys.modules.get(name)
    if module is not None:
        return getattr(module, "__spec__", None)
    parent, _, _ = name.rpartition(".")
    path: Sequence[str] | None = None
    if parent:
        path = getattr(sys.modules.get(parent), "__path__", None)
        if path is None:
            above = _spec(parent)
            path = above.submodule_search_locations if above is not None else None
        if path is None:
            return None
    for finder in sys.meta_path:
        spec = finder.find_spec(name, path, None)
        if spec is not None:
            return spec
    return None


class _Source(NamedTuple):
    text: str | None
    is_package: bool
    file: str


def source_of(name: str) -> _Source | None:
    """
    Read the source of a module that is loaded or can be found.

    For a loaded module this is the text of the first time it was asked for since its import: what this process runs, not what
    an editor has saved since.
    """
    spec = _spec(name)
    if spec is None:
        return None
    kept: _Source | None = vars(spec).get("bgpy_source")
    if kept is not None:
        return kept
    is_package = spec.submodule_search_locations is not None
    if is_package and not spec.has_location:
        source = _Source(None, True, "")
    else:
        text = _read(spec)
        if text is None:
            return None
        source = _Source(text, is_package, spec.origin or f"<{name}>")
    if name in sys.modules:
        vars(spec)["bgpy_source"] = source
    return source


def _read(spec: ModuleSpec) -> str | None:
    get_source = getattr(spec.loader, "get_source", None)
    if get_source is not None:
        try:
            text: str | None = get_source(spec.name)
            return text
        except (ImportError, OSError, SyntaxError, UnicodeDecodeError):
            return None
    if spec.origin is None or not spec.origin.endswith(".py"):
        return None
    import importlib.util

    try:
        with open(spec.origin, "rb") as file:
            return importlib.util.decode_source(file.read())
    except (OSError, SyntaxError, UnicodeDecodeError):
        return None


def collect(names: Iterable[str]) -> list[Shipped]:
    """Read these modules of the user and those that they import, parents first."""
    sources: dict[str, _Source] = {}
    edges: dict[str, set[str]] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in sources:
            continue
        source = source_of(name)
        if source is None:
            if name not in sys.modules:
                continue
            # A parent that was put into sys.modules without a file: an empty package serves.
            source = _Source(None, True, "")
        sources[name] = source
        edges[name] = set(_needs(name, source))
        waiting.extend(edges[name])
    return [
        Shipped(name, _version(name, sources, edges), source.text, source.is_package, source.file)
        for name, source in sorted(sources.items())
    ]


def _needs(name: str, source: _Source) -> Iterator[str]:
    """Yield the modules of the user that one module imports; its parents are imported before it."""
    parent = name.rpartition(".")[0]
    if parent and is_users(parent):
        yield parent
    for candidate in _imports(source.text or "", _package(name, source.is_package)):
        for wanted in _exported(candidate) if candidate.endswith(".*") else (candidate,):
            if _is_users_module(wanted):
                yield wanted


def _exported(star: str) -> list[str]:
    """Name what ``from package import *`` may import: the submodules in its ``__all__``."""
    package = star[:-2]
    return [f"{package}.{name}" for name in getattr(sys.modules.get(package), "__all__", ()) if isinstance(name, str)]


def _is_users_module(name: str) -> bool:
    """Say whether a dotted name is a module of the user with a source."""
    parent = name.rpartition(".")[0]
    if parent and not _is_users_module(parent):  # quick for most names: they are of the standard library, or installed
        return False
    return _spec(name) is not None and is_users(name) and source_of(name) is not None


def _package(name: str, is_package: bool) -> str:
    return name if is_package else name.rpartition(".")[0]


@functools.lru_cache(maxsize=512)
def _imports(source: str, package: str) -> tuple[str, ...]:
    """List the dotted names that a source imports, at every depth; names of ``from`` imports may be no modules."""
    import ast

    names: dict[str, None] = {}
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):  # the import over there will say so, with the line
        return ()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = absolute_name(node.module or "", node.level, package)
            names[base] = None
            names.update((f"{base}.{alias.name}", None) for alias in node.names)
    return tuple(name for name in names if name)


def absolute_name(name: str, level: int, package: str) -> str:
    """Resolve a relative import as the import statement does."""
    if not level:
        return name
    parents = package.split(".")
    return ".".join([*parents[: len(parents) - level + 1], *([name] if name else [])])


def _version(name: str, sources: dict[str, _Source], edges: dict[str, set[str]]) -> str:
    """Digest the sources that a module runs: its own and those of all that it imports, in a fixed order."""
    reached: set[str] = set()
    waiting = [name]
    while waiting:
        here = waiting.pop()
        if here in sources and here not in reached:
            reached.add(here)
            waiting.extend(edges[here])
    import hashlib

    digest = hashlib.sha256()
    for here in sorted(reached):
        digest.update(f"{here} {_digest(sources[here].text or '')}\n".encode())
    return digest.hexdigest()


@functools.lru_cache(maxsize=512)
def _digest(source: str) -> str:
    import hashlib

    return hashlib.sha256(source.encode("utf-8", "surrogatepass")).hexdigest()
