"""
Read the machine and run programs, in one place, so that tests can stand a recorded machine in for it.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class Finished(NamedTuple):
    """Hold what a program left behind; `code` is None where it was killed because its time was up."""

    code: int | None
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        """What it printed."""
        return _decode(self.stdout)

    @property
    def error_text(self) -> str:
        """What it printed as errors."""
        return _decode(self.stderr)

    @property
    def last_words(self) -> str:
        """The end of what it printed, errors before the rest, as one line."""
        said = self.error_text.strip() or self.text.strip()
        return " | ".join(line.strip() for line in said.splitlines()[-5:] if line.strip())[-600:].rstrip(".") or "nothing"


class Machine:
    """Be the one way by which `bgpy.wsl` reads the machine and runs programs. Safe from several threads."""

    def __init__(self) -> None:
        self.platform = sys.platform
        self.environ: Mapping[str, str] = os.environ

    def read_text(self, path: str) -> str | None:
        """Return the text of a small file, or None where it is missing or cannot be read."""
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                return file.read()
        except OSError:
            return None

    def exists(self, path: str) -> bool:
        """Return whether the path exists."""
        return os.path.exists(path)

    def newest(self, folder: str, ending: str) -> str | None:
        """Return the path of the entry that was changed last among those with this ending, or None."""
        try:
            with os.scandir(folder) as entries:
                found = [(entry.stat().st_mtime_ns, entry.path) for entry in entries if entry.name.endswith(ending)]
        except OSError:
            return None
        return max(found)[1] if found else None

    def run(self, argv: Sequence[str], timeout: float, stdin: bytes = b"", cwd: str | None = None, **env: str) -> Finished:
        """
        Run a program and return what it printed. Blocks for at most `timeout` seconds, then kills it.

        `env` is added to this process's environment. Raises OSError where the program is missing or cannot be run.
        """
        import subprocess
        import tempfile
        import threading
        import time

        deadline = time.monotonic() + timeout
        # Files instead of pipes: a grandchild that keeps a pipe open would hold us long after the program itself has ended.
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            # Without the flag a program without a console of its own flashes one (on Windows; elsewhere there is none).
            flags = getattr(subprocess, "CREATE_NO_WINDOW", 0)
            environ = {**self.environ, **env}
            pipe = subprocess.PIPE
            with subprocess.Popen(argv, stdin=pipe, stdout=out, stderr=err, cwd=cwd, env=environ, creationflags=flags) as process:
                # A timer and not communicate(timeout=): on Windows that does not bound the writing of a long stdin.
                timer = threading.Timer(timeout, process.kill)
                timer.start()
                try:
                    process.communicate(stdin)
                finally:
                    timer.cancel()
                    timer.join()
                    process.kill()
            out.seek(0)
            err.seek(0)
            killed = process.returncode != 0 and time.monotonic() >= deadline
            return Finished(None if killed else process.returncode, out.read(), err.read())


def _decode(raw: bytes) -> str:
    """Decode what a program of either side of WSL printed: UTF-8, or the UTF-16 of wsl.exe's own messages."""
    if raw.startswith(b"\xff\xfe") or raw.count(0) > len(raw) // 4:
        return raw.decode("utf-16-le", "replace").lstrip("\ufeff")
    return raw.replace(b"\0", b"").decode("utf-8", "replace").lstrip("\ufeff")
