"""
Where a job's output and progress go: plain lines, or, on a terminal and with rich, bars below the output.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Literal, Protocol, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

Stream = Literal["stdout", "stderr"]

#: Without bars: percent points, and where nobody knows the whole seconds, from one line to the next.
_STEP = 10.0
_INTERVAL = 10.0


class Screen(Protocol):
    """What a job is shown on."""

    def write(self, stream: Stream, text: str) -> None:
        """Show what the job has written."""

    def progress(self, name: str, done: float, total: float | None, time: float) -> None:
        """Show how far it has come."""

    def close(self) -> None:
        """Leave everything shown, and the terminal as it was."""


def make_screen() -> Screen:
    """Return the best screen for standard error."""
    if sys.stderr.isatty():
        try:
            return BarScreen()
        except ImportError:  # the extra "cli" is not installed
            pass
    return LineScreen()


class LineScreen:
    """Plain text: a line of progress now and then."""

    def __init__(self) -> None:
        self._lines = ProgressLines()

    def write(self, stream: Stream, text: str) -> None:
        """See `Screen`."""
        write_text(sys.stdout if stream == "stdout" else sys.stderr, text)

    def progress(self, name: str, done: float, total: float | None, time: float) -> None:
        """See `Screen`."""
        line = self._lines.next(name, done, total, time)
        if line is not None:
            write_text(sys.stderr, f"{line}\n")

    def close(self) -> None:
        """See `Screen`."""


class ProgressLines:
    """Choose which steps of progress are worth a line. No clock: it is told the time."""

    def __init__(self) -> None:
        #: By name: percent and time of the last line.
        self._last: dict[str, tuple[float, float]] = {}

    def next(self, name: str, done: float, total: float | None, time: float) -> str | None:
        """Return a line for this step, or None."""
        percent = 100 * done / total if total else 0.0
        before = self._last.get(name)
        if before is not None and not self._worth(before, percent, total, time):
            return None
        self._last[name] = percent, time
        text = f"{done:g}/{total:g} ({percent:.0f} %)" if total else f"{done:g}"
        return f"{name or 'Progress'}: {text}"

    def _worth(self, before: tuple[float, float], percent: float, total: float | None, time: float) -> bool:
        if not total:
            return time - before[1] >= _INTERVAL
        return percent - before[0] >= _STEP or (percent >= 100 > before[0]) or percent < before[0]


class BarScreen:
    """
    Bars on the terminal, the output above them. Raises ImportError without rich.

    While there are bars, a line of output is shown when it is whole: the bars stand where it would go on.
    """

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        # Drawn when there is news, by this thread alone: no other one writes between two lines of output.
        self._progress: Progress = Progress(
            *columns,
            console=Console(stderr=True),
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._bars: dict[str, TaskID] = {}
        self._held: dict[Stream, str] = {"stdout": "", "stderr": ""}
        self._midline = False

    def write(self, stream: Stream, text: str) -> None:
        """See `Screen`."""
        file = sys.stdout if stream == "stdout" else sys.stderr
        if not file.isatty():
            write_text(file, text)
            return
        if not self._bars:
            write_text(file, text)
            self._midline = not text.endswith("\n")
            return
        whole, newline, rest = (self._held[stream] + text).rpartition("\n")
        self._held[stream] = rest
        if newline:
            self._progress.stop()
            write_text(file, whole + newline)
            self._start()

    def progress(self, name: str, done: float, total: float | None, time: float) -> None:
        """See `Screen`."""
        bar = self._bars.get(name)
        if bar is None:
            if not self._bars and self._midline:
                write_text(sys.stderr, "\n")
            self._bars[name] = self._progress.add_task(name or "Progress", total=total, completed=done)  # type: ignore[arg-type]
            self._start()
            return
        self._progress.update(bar, completed=done, total=total, refresh=True)

    def close(self) -> None:
        """See `Screen`."""
        if not self._bars:
            return
        self._progress.live.transient = False
        self._progress.refresh()
        self._progress.stop()
        for stream in self._held:
            write_text(sys.stdout if stream == "stdout" else sys.stderr, self._held[stream])

    def _start(self) -> None:
        self._progress.start()
        self._progress.refresh()


def write_text(file: TextIO, text: str) -> None:
    """Write and flush a text, with escapes for the letters that the terminal lacks."""
    encoding = file.encoding or "utf-8"
    file.write(text.encode(encoding, "backslashreplace").decode(encoding))
    file.flush()
