"""The gateway is light to import, and knows nothing of a task set but its commands."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import bgpy.gateway
from bgpy.errors import MissingExtraError

PACKAGE = Path(bgpy.gateway.__file__).parent
FILES = sorted(PACKAGE.glob("*.py"))


def imported(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            found.add(str(node.module))
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_of_the_tasks_only_the_commands_and_closed_values_are_imported(path: Path) -> None:
    ours = {name for name in imported(path) if name.startswith("bgpy.tasks")}
    allowed = {"bgpy.tasks.schema", "bgpy.tasks.workspace.values"}
    assert not {name for name in ours if name not in allowed and not name.endswith(".commands")}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_nothing_is_unpickled_here(path: Path) -> None:
    assert not imported(path) & {"pickle", "cloudpickle", "marshal", "shelve", "bgpy.protocol.messages"}


def test_no_task_set_imports_the_gateway() -> None:
    tasks = sorted((PACKAGE.parent / "tasks").rglob("*.py"))
    assert not [path for path in tasks if any(name.startswith("bgpy.gateway") for name in imported(path))]


def run(script: str, *options: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parents[1])}
    command = [sys.executable, *options, "-W", "error", "-c", script]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=50, check=False)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def test_to_import_the_package_loads_none_of_its_packages() -> None:
    script = "import sys, bgpy.gateway; print(*sys.modules)"
    assert not {"starlette", "uvicorn", "websockets", "anyio"} & {name.split(".")[0] for name in run(script).split()}


@pytest.mark.parametrize("name", bgpy.gateway.__all__)
def test_without_the_extra_every_name_says_what_to_install(name: str) -> None:
    script = f"""
import sys, importlib.abc
class Nothing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.split('.')[0] in ('starlette', 'uvicorn', 'websockets', 'anyio', 'httptools'):
            raise ModuleNotFoundError(f'No module named {{name!r}}', name=name)
sys.meta_path.insert(0, Nothing())
import bgpy.gateway
from bgpy.errors import MissingExtraError
try:
    bgpy.gateway.{name}
except MissingExtraError as error:
    print(error)
"""
    assert run(script) == 'The gateway needs an optional dependency: pip install "bgpy[gateway]"\n'


def test_another_missing_module_is_told_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(bgpy.gateway._HOMES, "Nothing", "bgpy.gateway.nothing")
    with pytest.raises(ModuleNotFoundError) as missing:
        bgpy.gateway.Nothing  # noqa: B018 - to look it up is what loads it
    assert not isinstance(missing.value, MissingExtraError)


def test_the_names_are_those_of_all() -> None:
    assert dir(bgpy.gateway) == sorted(bgpy.gateway.__all__)
    assert all(hasattr(bgpy.gateway, name) for name in bgpy.gateway.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        bgpy.gateway.nothing  # noqa: B018 - to look it up is what raises
