"""The command line in this process, and servers that it is for; for processes of their own see `support.commands`."""

from __future__ import annotations

import re
import subprocess
from typing import Any

from click.testing import CliRunner, Result

import bgpy
from bgpy.cli import main
from bgpy.records import Record, Registry

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
