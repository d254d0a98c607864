"""A user's folder; and two interpreters in two folders: one pickles messages, the other one has not got its modules."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]

PROLOGUE = f"""
import pickle, sys, threading
sys.path.append({str(ROOT)!r})
from bgpy.errors import SerializationError
from bgpy.protocol.messages import Payload, dump, key_of_module, load

def write(name, message):
    payload = dump(message)
    with open(name, "wb") as file:
        pickle.dump(Payload(payload.pickle, [bytearray(buffer) for buffer in payload.buffers], payload.by_value), file)

def read(name):
    with open(name, "rb") as file:
        payload = pickle.load(file)
    return load(payload.pickle, payload.buffers)

"""


class Sides:
    """Run scripts on a client's and on a server's side. Messages go from one to the other as files in a third folder."""

    def __init__(self, folder: Path) -> None:
        self.client = folder / "client"
        self.server = folder / "server"
        self.messages = folder / "messages"
        for made in (self.client, self.server, self.messages):
            made.mkdir()

    def add(self, files: dict[str, str], folder: Path | None = None) -> None:
        """Write modules into a folder, the client's own unless told."""
        for name, text in files.items():
            path = (folder or self.client) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text), encoding="utf-8")

    def on_client(self, script: str) -> str:
        """Run a script as a user would, so that its functions are those of ``__main__``, and return what it prints."""
        self.add({"program.py": PROLOGUE + textwrap.dedent(script)})
        return self._run([str(self.client / "program.py")], self.messages)

    def on_server(self, script: str, *, path: Path | None = None) -> str:
        """Run a script in a process that is not in the client's folder, and return what it prints."""
        head = f"import sys; sys.path.append({str(path)!r})\n" if path else ""
        return self._run(["-I", "-c", head + PROLOGUE + textwrap.dedent(script)], self.messages)

    def payload(self, name: str) -> Any:
        """Return a message as it was pickled."""
        return pickle.loads((self.messages / name).read_bytes())

    def _run(self, arguments: list[str], folder: Path) -> str:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        done = subprocess.run(
            [sys.executable, "-X", "utf8", *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=50
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


@pytest.fixture
def sides(tmp_path: Path) -> Sides:
    """Return a client's and a server's side, each with an empty folder."""
    return Sides(tmp_path)


@pytest.fixture
def user_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a folder on the path; what is imported from it is forgotten afterwards, and shipped modules are as well."""
    loaded, finders = set(sys.modules), list(sys.meta_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.meta_path[:] = finders
    for name in set(sys.modules) - loaded:
        if name.startswith("users_"):
            del sys.modules[name]
