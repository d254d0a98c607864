"""A gateway as a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from support.commands import ROOT
from support.gateways import TOKEN

SCRIPT = """
import json, sys
from bgpy.gateway import Settings, serve_gateway
settings = Settings(**json.loads(sys.stdin.readline()))
sys.exit(serve_gateway(settings, lambda url: print(url, flush=True)))
"""


class Process:
    """A gateway in a process of its own. Whoever starts it ends it, by a signal and `end`."""

    def __init__(self, **settings: Any) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-W", "error", "-c", SCRIPT]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        self._popen = subprocess.Popen(command, env=environment, text=True, **pipes)  # type: ignore[call-overload]
        self._popen.stdin.write(json.dumps({"token": TOKEN, "bind_port": 0, **settings}) + "\n")
        self._popen.stdin.flush()
        self.url = self._popen.stdout.readline().strip()

    def signal(self, number: int) -> None:
        self._popen.send_signal(number)

    def end(self) -> tuple[int, str]:
        """Wait for the end; return exit code and standard error."""
        try:
            _, errors = self._popen.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.communicate()
            raise
        return self._popen.returncode, errors
