"""
Be the first code of a detached server's process, started by `bgpy.background` as a script.

A script and no ``-m bgpy._entry``, so that its first statement runs before any other module is loaded: the process that the
starter knows ends there, and its copy goes on. So the server is no child that its starter has to wait for, it never leads its
session and so gets no terminal, and no interpreter is started twice.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":
    if hasattr(os, "fork"):  # not asked of bgpy.system: nothing is loaded yet
        if os.fork():
            os._exit(0)
        os.write(int(sys.argv[-1]), b'{"pid": %d}\n' % os.getpid())
    if os.path.isfile(os.path.join(sys.path[0], "_entry.py")):
        del sys.path[0]  # the folder of this script: from there bgpy/token.py would pass for the standard library's module

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Answer:
    """The pipe to the starter. The answer is sent once; then, or in a forked child, the pipe is closed."""

    def __init__(self, fd: int) -> None:
        self._fd: int | None = fd
        if hasattr(os, "register_at_fork"):
            # Else a process forked by the init task would keep the starter waiting for a server that has died.
            os.register_at_fork(after_in_child=self.close)

    @property
    def sent(self) -> bool:
        """Tell whether the starter has its answer."""
        return self._fd is None

    def ready(self, message: dict[str, Any]) -> None:
        """Tell the starter that the server is ready."""
        self._send({"ok": True, **message})

    def failed(self, error: BaseException) -> None:
        """Tell the starter, and the log, why the server does not start."""
        import traceback

        text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        sys.stderr.write(text)
        name = type(error).__name__
        args = list(error.args) if name == "NameTakenError" else []
        self._send({"ok": False, "type": name, "reason": _reason(error), "traceback": text, "args": args})

    def _send(self, message: dict[str, Any]) -> None:
        import json

        if self._fd is None:
            return
        view = memoryview(json.dumps(message).encode("ascii") + b"\n")
        try:
            while view:
                view = view[os.write(self._fd, view) :]
        except BrokenPipeError:
            pass  # the starter has been killed; the server that it wanted lives on all the same
        self.close()

    def close(self) -> None:
        """Close the pipe; a second call does nothing."""
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)


def _reason(error: BaseException) -> str:
    from bgpy.errors import ServerStartError

    try:
        return error.reason if isinstance(error, ServerStartError) else str(error)
    except Exception:  # noqa: BLE001 - a user's exception whose text fails must not hide that the start did
        return "(its text cannot be made)"


def complete_path(folder: str) -> None:
    """
    Make the same bgpy importable as in the starter, then what lies in the working directory.

    The latter comes last: started in a folder like /tmp, a server must not load somebody's json.py from there.
    """
    package = os.path.basename(os.path.dirname(os.path.abspath(__file__)))
    for index, entry in enumerate(sys.path):
        if os.path.isdir(os.path.join(entry, package)):
            if not os.path.samefile(entry, folder):
                sys.path.insert(index, folder)  # before another bgpy
            break
    else:
        sys.path.append(folder)
    try:
        here = os.getcwd()
    except FileNotFoundError:
        return  # the starter's folder was removed: nothing can be imported from there
    if here not in sys.path:
        sys.path.append(here)


def main() -> int:
    """Set the process up, serve, and return the exit code."""
    complete_path(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    import faulthandler
    import pickle

    from bgpy.system import open_inherited, reset_signals

    reset_signals()
    answer = Answer(open_inherited(sys.argv[-1]))
    for stream in (sys.stdout, sys.stderr):
        # Line by line, so that the log can be followed; and no text that a task prints may fail for the locale's encoding.
        stream.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)  # type: ignore[union-attr]
    faulthandler.enable()
    try:
        name, config = pickle.load(sys.stdin.buffer)  # noqa: S301 - from our own starter, over a pipe that nobody else has
        _empty_input()
        module, _, function = name.partition(":")
        __import__(module)
        code: int = getattr(sys.modules[module], function)(config, answer.ready)
    except BaseException as error:
        if answer.sent:
            raise
        answer.failed(error)
        return 1
    if not answer.sent:
        answer.failed(RuntimeError(f"It ended with code {code} before it was ready."))
    return code


def _empty_input() -> None:
    """Make standard input empty for good, and descriptor 0 one that no later file can get."""
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)


if __name__ == "__main__":
    sys.exit(main())
