"""
Import modules whose source came with a message.

One finder serves the whole process, as `sys.meta_path` does; it stands in front and knows the shipped names only.

What happens to a name that is shipped, by what `sys.modules` holds under it:

======================================  ============================================================
nothing                                 the shipped source is imported when something asks for it
the same version, shipped earlier       stays
another version, shipped earlier        is replaced by a module of its own; old objects keep working
a module of this side, same source      stays: an object comes home
a module of this side, another source   `SerializationError`; nothing is replaced
======================================  ============================================================
"""

from __future__ import annotations

import marshal
import sys
import threading
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import CodeType, ModuleType
from typing import Any, cast

from bgpy.errors import SerializationError
from bgpy.protocol.modules import Shipped, source_of

_MARKER = b"\x01"
_LENGTH_SIZE = 8
#: How many replaced versions of a module are kept, so that clients with different versions do not remake each other's classes.
_KEPT_VERSIONS = 8


def join(modules: list[Shipped], pickle: bytes | bytearray | memoryview) -> bytes:
    """Put modules in front of the pickle that needs them."""
    listed = marshal.dumps([tuple(module) for module in modules], 2)
    return b"".join((_MARKER, len(listed).to_bytes(_LENGTH_SIZE, "big"), listed, pickle))


def split(data: bytes | bytearray | memoryview) -> tuple[list[Shipped], memoryview]:
    """
    Undo `join`.

    Raises
    ------
    SerializationError
        The bytes are no such thing.
    """
    view = memoryview(data)
    start = len(_MARKER) + _LENGTH_SIZE
    end = start + int.from_bytes(view[len(_MARKER) : start], "big")
    if view[: len(_MARKER)] != _MARKER or not start < end <= len(view):
        raise SerializationError("Cannot unpickle the message: it starts neither with a pickle nor with modules")
    try:
        modules = [Shipped(*fields) for fields in marshal.loads(view[start:end])]
    except (ValueError, TypeError, EOFError) as exc:
        raise SerializationError("Cannot unpickle the message: its list of modules cannot be read") from exc
    if not all(_is_sound(module) for module in modules):
        raise SerializationError("Cannot unpickle the message: its list of modules holds something else")
    return modules, view[end:]


def _is_sound(module: Shipped) -> bool:
    texts = (module.name, module.version, module.file, module.source or "")
    return all(type(text) is str for text in texts) and type(module.is_package) is bool


def load_with_modules(data: bytes | bytearray | memoryview, unpickle: Callable[[memoryview], object]) -> object:
    """
    Unpickle a message that has modules in front. Blocks while another such message is unpickled: it could swap the modules.

    Parameters
    ----------
    data
        What `join` made.
    unpickle
        Called with the pickle once its modules can be imported.

    Raises
    ------
    SerializationError
        A module of this side has the name of a shipped one, and another source.
    Exception
        Whatever the modules and the objects raise.
    """
    modules, pickle = split(data)
    foreign = [module for module in modules if not is_own(module)]
    if not foreign:
        return unpickle(pickle)
    finder = ShippedModules.of_process()
    with finder.lock:
        finder.install(foreign)
        return unpickle(pickle)


def is_own(module: Shipped) -> bool:
    """
    Say whether a shipped module is loaded here already from this side's own, equal source.

    Raises
    ------
    SerializationError
        It is loaded from another source.
    """
    present = sys.modules.get(module.name)
    if present is None or _shipped_of(present) is not None:
        return False
    own = source_of(module.name)
    text = own.text if own is not None else None
    if text == module.source or not module.source:  # a package without code of its own adds nothing to the one that is here
        return True
    where = getattr(present, "__file__", None) or "no file"
    raise SerializationError(
        f"The module {module.name!r} of the message ({module.file}) differs from the one that is loaded here ({where}); "
        "rename one of them, or make them equal"
    )


def _shipped_of(module: ModuleType | None) -> Shipped | None:
    spec = getattr(module, "__spec__", None)
    shipped: Shipped | None = getattr(getattr(spec, "loader", None), "bgpy_shipped", None)
    return shipped


class ShippedLoader:
    """Run the source of one shipped module."""

    __slots__ = ("bgpy_shipped",)

    def __init__(self, shipped: Shipped) -> None:
        self.bgpy_shipped = shipped

    def create_module(self, spec: ModuleSpec) -> None:
        """Leave the making of the module to the import system."""

    def exec_module(self, module: ModuleType) -> None:
        """Run the source in the module."""
        import linecache

        shipped = self.bgpy_shipped
        text = shipped.source or ""
        # An entry without a time is never checked against the file, which on this side may be missing, or another one.
        linecache.cache[shipped.file] = (len(text), None, text.splitlines(keepends=True), shipped.file)
        exec(self.get_code(shipped.name), vars(module))

    def get_code(self, name: str) -> CodeType:
        """Compile the source; tracebacks name the file of the sending side."""
        return compile(self.bgpy_shipped.source or "", self.bgpy_shipped.file, "exec", dont_inherit=True)

    def get_source(self, name: str) -> str:
        """Return the source: for tracebacks, and for shipping the module on."""
        return self.bgpy_shipped.source or ""

    def is_package(self, name: str) -> bool:
        """Say whether the module has submodules."""
        return self.bgpy_shipped.is_package


class ShippedModules:
    """
    Find the modules that were shipped to this process.

    Attributes
    ----------
    lock
        Held from `install` to the end of the unpickling that needs the modules.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._current: dict[str, Shipped] = {}
        self._replaced: dict[str, dict[str, ModuleType]] = {}

    @classmethod
    def of_process(cls) -> ShippedModules:
        """Return the one finder of this process, put in front of all others when it is first needed."""
        found = cls._last()
        if found is None:
            sys.meta_path.insert(0, cls())
            # Two threads may both have come here. The first insertion is the last in the list, so both see the same one.
            found = cls._last()
            assert found is not None
        return found

    @classmethod
    def _last(cls) -> ShippedModules | None:
        return next((finder for finder in reversed(sys.meta_path) if type(finder) is cls), None)

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Return the spec of a shipped module; called by the import system."""
        shipped = self._current.get(name)
        if shipped is None:
            return None
        if shipped.source is None:  # a namespace may have a part on this side too, which must stay in reach
            own = PathFinder.find_spec(name, path)
            if own is not None:
                return own
        spec = ModuleSpec(name, cast(Any, ShippedLoader(shipped)), origin=shipped.file, is_package=shipped.is_package)
        spec.has_location = shipped.source is not None
        return spec

    def install(self, modules: list[Shipped]) -> None:
        """Make these versions the ones that an import finds. The caller holds `lock`."""
        changed = [module for module in modules if self._current.get(module.name) != module]
        for module in changed:
            if module.name in self._current:
                self._retire(module.name)
            self._current[module.name] = module
        for module in changed:
            kept = self._replaced.get(module.name, {}).pop(module.version, None)
            if kept is not None:
                sys.modules[module.name] = kept
        for module in changed:
            parent, _, child = module.name.rpartition(".")
            if parent in sys.modules and module.name in sys.modules:
                setattr(sys.modules[parent], child, sys.modules[module.name])

    def _retire(self, name: str) -> None:
        """Take a replaced module, and what was shipped below it, out of the import system; objects made from it keep it alive."""
        for below in [name, *(other for other in self._current if other.startswith(name + "."))]:
            shipped = _shipped_of(sys.modules.get(below))
            if shipped is None:
                continue
            present = sys.modules.pop(below)
            parent, _, child = below.rpartition(".")
            if parent in sys.modules and vars(sys.modules[parent]).get(child) is present:
                delattr(sys.modules[parent], child)
            versions = self._replaced.setdefault(below, {})
            versions[shipped.version] = present
            if len(versions) > _KEPT_VERSIONS:
                del versions[next(iter(versions))]
