"""The command line, run in this process or in one of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

import bgpy
from bgpy.cli import main
from bgpy.records import Record, Registry

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = "bgpy.example.tasks"
SECRET = "s3cret-of-more-than-22-characters"
INCREASE = '{"command": "increase", "value_change": 10}'
TASKS = """
import os

def init_task():
    return {}

def exec_task(client_socket, state, args):
    from bgpy import respond
    print(args.get("say", "nothing"))
    if args.get("fail"):
        raise ValueError("first line\\nsecond line")
    if "respond" in args:
        respond(client_socket, {"echo": args["respond"], "odd": float("nan")})
    return state

def exit_task(client_socket, state, args):
    print("exit task")
"""


def command(*args: str) -> list[str]:
    return [sys.executable, "-m", "bgpy", *args]


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8", **more}


def run(*args: str, text: str = "", cwd: Path = ROOT, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*args), input=text, capture_output=True, text=True, encoding="utf-8", cwd=cwd, env=environment(**env), timeout=50
    )


def invoke(*args: str, text: str | None = None) -> Result:
    return CliRunner().invoke(main, list(args), input=text)


def failed(result: Result | subprocess.CompletedProcess[str]) -> str:
    """Return the one line of an error, which nothing else may come with."""
    code = result.exit_code if isinstance(result, Result) else result.returncode
    assert (code, result.stdout) == (1, ""), result.stderr
    assert re.fullmatch(r"Error: [^\n]+\n", result.stderr), result.stderr
    return str(result.stderr)[len("Error: ") : -1]


def started(name: str | None = None, tasks: str | None = EXAMPLE, **options: Any) -> bgpy.Server:
    server = bgpy.Server("127.0.0.1", 0, tasks=tasks, name=name, **options)
    server.run_background()
    return server


def found(registry: Registry, name: str) -> Record:
    record = registry.find(name)
    assert record is not None
    return record
