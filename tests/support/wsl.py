"""Machines with two sides, as they tell of themselves."""

from __future__ import annotations

import json
import os
import sys
import textwrap
from pathlib import Path
from typing import Any

from bgpy.machine import Finished, Machine
from bgpy.wsl import Surroundings, Target

WSL1 = (
    "Linux version 4.4.0-19041-Microsoft (Microsoft@Microsoft.com) (gcc version 5.4.0 (GCC) ) "
    "#1237-Microsoft Sat Sep 11 14:32:00 PST 2021\n"
)


WSL2 = (
    "Linux version 5.15.153.1-microsoft-standard-WSL2 (root@941d701f84f1) (gcc (GCC) 11.2.0, GNU ld (GNU Binutils) 2.37) "
    "#1 SMP Fri Mar 29 23:14:13 UTC 2024\n"
)


DEBIAN = (
    "Linux version 6.1.0-21-amd64 (debian-kernel@lists.debian.org) (gcc-12 (Debian 12.2.0-14) 12.2.0) "
    "#1 SMP PREEMPT_DYNAMIC Debian 6.1.90-1 (2024-05-03)\n"
)


ROUTE_HEAD = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
ROUTE_NAT = (
    ROUTE_HEAD
    + "eth0\t00000000\t01401CAC\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"
    + "eth0\t00401CAC\t00000000\t0001\t0\t0\t0\t00F0FFFF\t0\t0\t0\n"
)


NAT = Surroundings("wsl2", "nat", "Ubuntu", "172.28.64.1")
MIRRORED = Surroundings("wsl2", "mirrored", "Ubuntu", "192.168.1.1")
VIRTIOPROXY = Surroundings("wsl2", "virtioproxy", "Ubuntu", "192.168.1.1")
NO_NETWORK = Surroundings("wsl2", "none", "Ubuntu")
UNTOLD = Surroundings("wsl2", None, "Ubuntu", "172.28.64.1")
ONE = Surroundings("wsl1", None, "Debian", "192.168.1.1")
WINDOWS = Surroundings("windows")
LINUX = Surroundings("linux")
MODELS = Target("windows", None, "models")
IN_UBUNTU = Target("wsl", "Ubuntu", "models")
TOKEN = "a-token-of-more-than-22-characters"


class Recorded(Machine):
    """A machine made of recorded files and of programs that answer from a table (by the end of their command line)."""

    def __init__(self, files: dict[str, str], environ: dict[str, str] | None = None, platform: str = "linux") -> None:
        self.platform = platform
        self.environ = environ or {}
        self.files = files
        self.programs: dict[str, Finished | OSError] = {}
        self.asked: list[str] = []

    def read_text(self, path: str) -> str | None:
        return self.files.get(path)

    def exists(self, path: str) -> bool:
        return path in self.files

    def newest(self, folder: str, ending: str) -> str | None:
        return None

    def run(self, argv: Any, timeout: float, stdin: bytes = b"", cwd: str | None = None, **env: str) -> Finished:
        line = " ".join(argv)
        self.asked.append(line)
        answer = next(
            (found for end, found in self.programs.items() if line.endswith(end)), FileNotFoundError(2, "No such file", argv[0])
        )
        if isinstance(answer, OSError):
            raise answer
        return answer


def printed(text: str, encoding: str = "utf-8") -> Finished:
    return Finished(0, text.encode(encoding), b"")


def wsl2_machine(mode: Finished | OSError | None = None, version: str = WSL2, route: str = ROUTE_NAT) -> Recorded:
    machine = Recorded(
        {"/proc/version": version, "/proc/net/route": route}, {"WSL_DISTRO_NAME": "Ubuntu", "WSL_INTEROP": "/run/WSL/7_interop"}
    )
    if mode is not None:
        machine.programs["wslinfo --networking-mode"] = mode
    return machine


class Standing(Machine):
    """This machine, with a folder of stand-ins first on PATH and our own /run/WSL."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.environ = {**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "WSL_INTEROP": "/run/WSL/9_interop"}
        self.socket: str | None = None

    def exists(self, path: str) -> bool:
        return False

    def newest(self, folder: str, ending: str) -> str | None:
        assert (folder, ending) == ("/run/WSL", "_interop")
        return self.socket

    def install(self, name: str, body: str) -> None:
        """Write a stand-in that notes how it was called, then does `body`."""
        note = f"""\
            import json, os, sys
            called = {{"argv": sys.argv[1:], "stdin": sys.stdin.read(), "cwd": os.getcwd(),
                       "interop": os.environ.get("WSL_INTEROP"), "utf8": os.environ.get("WSL_UTF8")}}
            with open({str(self.folder / "calls")!r}, "a") as calls:
                print(json.dumps(called), file=calls)
            """
        self.script(name, f"#!{sys.executable}\n{textwrap.dedent(note)}{textwrap.dedent(body)}")

    def script(self, name: str, text: str) -> None:
        path = self.folder / name
        path.write_text(text)
        path.chmod(0o755)

    @property
    def calls(self) -> list[dict[str, Any]]:
        path = self.folder / "calls"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
