"""The rules of docs/architecture.rst, checked on the source of every module; the floors are read from that page."""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "bgpy"
FILES = sorted(PACKAGE.rglob("*.py"))
MAX_MODULE_LINES = 500
MAX_FUNCTION_LINES = 60


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in FILES}
TREES = {name: ast.parse(path.read_text(encoding="utf-8"), str(path)) for name, path in MODULES.items()}


def floors_on_the_page() -> list[list[str]]:
    """Return the modules and folders of each floor, top floor first."""
    page = (ROOT / "docs" / "architecture.rst").read_text(encoding="utf-8")
    block = re.search(r"^   :name: floors\n\n((?:    .*\n|\n)+)", page, re.MULTILINE)
    assert block is not None, "docs/architecture.rst has no literal block named floors"
    return [[line.split()[0] for line in floor.splitlines()] for floor in re.split(r"\n\s*\n", block[1].strip("\n"))]


FLOORS = floors_on_the_page()
HEIGHT = {room: len(FLOORS) - number for number, floor in enumerate(FLOORS) for room in floor}


def room(module: str) -> str:
    """Return the word that stands for a module on the page: bgpy.protocol.frames is in protocol, bgpy itself is __init__."""
    return module.split(".")[1] if "." in module else "__init__"


def loading_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """Walk a tree without what stands under TYPE_CHECKING."""
    for node in ast.iter_child_nodes(tree):
        if not (isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")):
            yield node
            yield from loading_nodes(node)


def imports(module: str) -> set[str]:
    """Return the modules of this package that a module imports, at its top or within a function."""
    found: set[str] = set()
    for node in loading_nodes(TREES[module]):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names if alias.name.split(".")[0] == "bgpy")
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}:{node.lineno}: imports are absolute"
            if (node.module or "").split(".")[0] == "bgpy":
                names = (f"{node.module}.{alias.name}" for alias in node.names)
                found.update(name if name in MODULES else str(node.module) for name in names)
    return found


IMPORTS = {module: imports(module) for module in MODULES}


def external_imports(module: str) -> Iterator[tuple[str, int]]:
    for node in loading_nodes(TREES[module]):
        if isinstance(node, ast.Import):
            yield from ((alias.name.split(".")[0], node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield str(node.module).split(".")[0], node.lineno


def test_the_page_names_every_module_and_no_other() -> None:
    on_the_page = [name for floor in FLOORS for name in floor]
    assert len(set(on_the_page)) == len(on_the_page)
    assert set(on_the_page) == {room(module) for module in MODULES}


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down(module: str) -> None:
    own = room(module)
    wrong = [other for other in IMPORTS[module] if room(other) != own and HEIGHT.get(room(other), 0) >= HEIGHT.get(own, 0)]
    assert not wrong, f"{module} imports {', '.join(wrong)}, which docs/architecture.rst does not put on a lower floor"


def test_imports_have_no_cycle() -> None:
    finished: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, "import cycle: " + " -> ".join((*path[path.index(module) :], module))
        if module not in finished:
            for other in sorted(IMPORTS[module]):
                visit(other, (*path, module))
            finished.add(module)

    for module in sorted(MODULES):
        visit(module, ())


@pytest.mark.parametrize("module", [module for module in MODULES if room(module) == "gateway"])
def test_the_gateway_knows_of_task_sets_their_commands_and_closed_values_alone(module: str) -> None:
    tasks = {other for other in IMPORTS[module] if room(other) == "tasks"}
    allowed = {"bgpy.tasks.schema", "bgpy.tasks.workspace.values"}
    assert not {name for name in tasks if name not in allowed and not name.endswith(".commands")}


@pytest.mark.parametrize("module", [module for module in MODULES if room(module) == "protocol"])
def test_the_protocol_does_no_io(module: str) -> None:
    wrong = [f"{name} (line {line})" for name, line in external_imports(module) if name in IO_MODULES]
    used = {ast.unparse(node) for node in ast.walk(TREES[module]) if isinstance(node, ast.Attribute)}
    wrong += [name for name in used if name.startswith("socket.") and name not in ADDRESS_NAMES]
    assert not wrong + sorted(used & {"threading.Thread", "threading.Timer"})


IO_MODULES = {"asyncio", "multiprocessing", "select", "selectors", "ssl", "subprocess", "time"}
ADDRESS_NAMES = {"socket.AF_INET", "socket.AF_INET6", "socket.inet_ntop", "socket.inet_pton"}


@pytest.mark.parametrize("module", MODULES)
def test_a_module_is_short(module: str) -> None:
    lines = MODULES[module].read_text(encoding="utf-8").count("\n")
    assert lines <= MAX_MODULE_LINES


@pytest.mark.parametrize("module", MODULES)
def test_functions_are_short(module: str) -> None:
    long = {node.name: size for node in functions(TREES[module]) if (size := code_lines(node)) > MAX_FUNCTION_LINES}
    assert not long


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)))


def code_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Count the lines of a function without its docstring."""
    lines = int(node.end_lineno or node.lineno) - node.lineno + 1
    if ast.get_docstring(node) is not None:
        lines -= int(node.body[0].end_lineno or 0) - node.body[0].lineno + 1
    return lines


def platform_branches(tree: ast.AST, skipped: ast.AST | None = None) -> Iterator[str]:
    for node in ast.iter_child_nodes(tree):
        if node is skipped:
            continue
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ("sys.platform", "os.name", "platform.system"):
            yield f"{ast.unparse(node)} (line {node.lineno})"
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names = {alias.name for alias in node.names} | {getattr(node, "module", None)}
            yield from (f"{name} (line {node.lineno})" for name in names & PLATFORM_MODULES)
        yield from platform_branches(node, skipped)


PLATFORM_MODULES = {"_winapi", "ctypes", "fcntl", "msvcrt", "platform", "resource", "winreg"}


@pytest.mark.parametrize("module", [module for module in MODULES if room(module) != "system"])
def test_platform_branches_are_in_one_place(module: str) -> None:
    tree = TREES[module]
    machine = None
    if module == "bgpy.machine":
        machine = next(node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == "Machine")
    assert not list(platform_branches(tree, machine))


def mutable_globals(tree: ast.Module) -> Iterator[str]:
    """Yield what could change while the program runs: containers under a name that does not say constant, and `global`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Global):
            yield f"global {', '.join(node.names)} (line {node.lineno})"
    for statement in tree.body:
        if isinstance(statement, ast.Assign):
            targets, constant = statement.targets, False
        elif isinstance(statement, ast.AnnAssign):
            targets, constant = [statement.target], "Final" in ast.unparse(statement.annotation)
        else:
            continue
        for name in (target.id for target in targets if isinstance(target, ast.Name)):
            if name != "__all__" and name != name.upper() and not constant and is_mutable(statement.value):
                yield f"{name} (line {statement.lineno})"


def is_mutable(value: ast.expr | None) -> bool:
    if isinstance(value, ast.Call):
        return ast.unparse(value.func).split(".")[-1] in MUTABLE_TYPES
    return isinstance(value, (ast.Dict, ast.List, ast.Set, ast.DictComp, ast.ListComp, ast.SetComp))


MUTABLE_TYPES = {
    *("Counter", "OrderedDict", "WeakKeyDictionary", "WeakSet", "WeakValueDictionary"),
    *("bytearray", "defaultdict", "deque", "dict", "list", "set"),
}


@pytest.mark.parametrize("module", MODULES)
def test_no_module_keeps_state(module: str) -> None:
    assert not list(mutable_globals(TREES[module]))


@pytest.mark.parametrize("path", [*FILES, *sorted((ROOT / "tests").rglob("*.py"))], ids=lambda path: str(path.relative_to(ROOT)))
def test_every_noqa_has_code_and_reason(path: Path) -> None:
    with path.open("rb") as file:
        comments = [token for token in tokenize.tokenize(file.readline) if token.type == tokenize.COMMENT]
    exceptions = [token for token in comments if EXCEPTION.search(token.string)]
    assert not [f"line {token.start[0]}: {token.string}" for token in exceptions if not JUSTIFIED.search(token.string)]


EXCEPTION = re.compile(r"#\s*noqa\b", re.IGNORECASE)
JUSTIFIED = re.compile(r"# noqa: [A-Z]+\d+(, ?[A-Z]+\d+)* - \w")


def test_import_bgpy_loads_little() -> None:
    script = "import sys; import bgpy; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    # -S: without site-packages, so that only what bgpy itself imports is counted, and nothing installed can be imported at all.
    command = [sys.executable, "-S", "-W", "error", "-c", script]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    loaded = set(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.split())
    assert "bgpy" in loaded
    assert not loaded & {"asyncio", "click", "cloudpickle", "ray", "starlette", "subprocess", "tensorflow"}


def test_all_is_what_the_package_offers() -> None:
    package = importlib.import_module("bgpy")
    offered = {name for name in dir(package) if not name.startswith("_") and not inspect.ismodule(getattr(package, name))}
    assert {name for name in package.__all__ if not name.startswith("_")} == offered - {"annotations"}


def test_all_holds_the_promised_names_and_every_error() -> None:
    package = importlib.import_module("bgpy")
    errors = importlib.import_module("bgpy.errors")
    classes = {name for name, value in vars(errors).items() if inspect.isclass(value) and issubclass(value, errors.BgpyError)}
    promised = {"Server", "Client", "AsyncClient", "ClientSocket", "respond", "token_create", "concurrent", "start", "connect"}
    assert classes | promised <= set(package.__all__)
    assert all(getattr(package, name) is getattr(errors, name) for name in classes)


@pytest.mark.parametrize("module", [module for module in MODULES if room(module) not in ("__init__", "__main__", "_entry")])
def test_an_all_names_all_that_is_public(module: str) -> None:
    """What a module defines must be in its `__all__`; what it passes on may be."""
    declared = getattr(importlib.import_module(module), "__all__", None)
    if declared is not None:
        own, passed_on = public_names(TREES[module])
        assert own <= set(declared) <= own | passed_on


def public_names(tree: ast.Module) -> tuple[set[str], set[str]]:
    """Return the names without an underscore that a module defines, and those that it imports from elsewhere."""
    defined: set[str] = set()
    imported: set[str] = set()
    # What stands under TYPE_CHECKING is passed on when it is first asked for.
    late = [inner for node in tree.body if isinstance(node, ast.If) for inner in node.body]
    for statement in (*tree.body, *late):
        if isinstance(statement, ast.ImportFrom):
            imported.update(alias.asname or alias.name for alias in statement.names)
        elif isinstance(statement, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            defined.add(statement.name)
        elif isinstance(statement, (ast.Assign, ast.AnnAssign)):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            defined.update(target.id for target in targets if isinstance(target, ast.Name))
    return {name for name in defined if not name.startswith("_")}, imported


def test_the_checks_find_what_they_look_for() -> None:
    """Each check of a syntax tree, on a piece of code that breaks its rule."""
    bad = ast.parse(
        "import fcntl\nfrom msvcrt import locking\nif os.name == 'nt': pass\ncache = {}\nx: dict = {}\ndef f():\n    global x"
    )
    assert len(list(platform_branches(bad))) == 3
    assert len(list(mutable_globals(bad))) == 3
    assert list(mutable_globals(ast.parse("TABLE = {}\nrows: Final = [1]\n__all__ = []\nlimit = 3"))) == []
    assert code_lines(ast.parse('def f():\n    """Say\n    more."""\n    return 1').body[0]) == 2  # type: ignore[arg-type]
    assert EXCEPTION.search("x  # noqa")
    assert not JUSTIFIED.search("x  # noqa: E501")
    assert JUSTIFIED.search("x  # noqa: BLE001 - a task may raise anything")
