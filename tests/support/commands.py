"""The command line as processes of its own, which end with their test."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
#: Seconds for one command.
TIMEOUT = 50.0


def command(*args: str) -> list[str]:
    """Return the program that is ``bgpy ARGS``."""
    return [sys.executable, "-m", "bgpy", *args]


def environment(**more: str) -> dict[str, str]:
    """Return the environment of a command, in which it finds this package from any folder."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8", **more}


def run_command(*args: str, text: str = "", cwd: Path = ROOT, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        command(*args),
        input=text,
        capture_output=True,
        text=True,
        encoding="utf-8",
        cwd=cwd,
        env=environment(**env),
        timeout=TIMEOUT,
        check=False,
    )


def one_line_error(done: subprocess.CompletedProcess[str]) -> str:
    """Return the one line of an error, which nothing else may come with."""
    assert (done.returncode, done.stdout) == (1, ""), (done.returncode, done.stdout, done.stderr)
    assert re.fullmatch(r"Error: [^\n]+\n", done.stderr), done.stderr
    return done.stderr[len("Error: ") : -1]


@contextlib.contextmanager
def running_command(*args: str, cwd: Path = ROOT, group: bool = False, **env: str) -> Iterator[subprocess.Popen[str]]:
    """Start a command, with a process group of its own where a test signals all of it; killed where it has not ended."""
    process = subprocess.Popen(
        command(*args),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        cwd=cwd,
        env=environment(**env),
        start_new_session=group,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def next_line(process: subprocess.Popen[str]) -> str:
    """Return the next line that a command prints; fails with what it said on standard error where it has ended."""
    assert process.stdout is not None
    assert process.stderr is not None
    line = process.stdout.readline()
    assert line, process.stderr.read()
    return line.rstrip("\n")
