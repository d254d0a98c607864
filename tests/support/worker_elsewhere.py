"""The script of a worker that takes this system for another one: `mac` or `windows`, as the environment says."""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":
    sys.path[:1] = os.environ["BGPY_TEST_PATH"].split(os.pathsep)

import ctypes
import socket

from bgpy.system import spawning, windows, workers
from bgpy.tasks.workspace import worker

if __name__ == "__main__":
    workers.LINUX = False
    if os.environ["BGPY_TEST_SYSTEM"] == "windows":
        from support import windows_kernel

        workers.WINDOWS = spawning.WINDOWS = True
        windows.module = windows_kernel.Kernel().module
        library = ctypes.CDLL(None)
        ctypes.CDLL = lambda name: library  # type: ignore[assignment, misc]
        socket.fromshare = windows_kernel.fromshare  # type: ignore[attr-defined]
    else:
        workers.MACOS = True
    sys.exit(worker.main(sys.argv[1:]))
