"""
Commands for workspaces: run a script in one, list them.
"""

from __future__ import annotations

import functools
import io
import json
import shlex
import signal
import sys
import threading
from collections.abc import Mapping
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

import click

from bgpy.cli.options import Access, Place, client_options, default_place_options
from bgpy.cli.screen import Screen, make_screen
from bgpy.cli.showing import print_json, print_table

if TYPE_CHECKING:
    from bgpy.client import Client
    from bgpy.tasks.workspace.face import Job, Workspace

_INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it
#: Seconds for an interrupt under way to be answered when the job has ended.
_LAST_WORD = 5.0
#: What is said of a job in a state.
_ENDS = {
    "cancelled": "was cancelled",
    "interrupted": "was interrupted",
    "killed": "was killed",
    "timed_out": "passed its time limit",
    "crashed": "crashed",
    "aborted": "was aborted",
}


@click.command()
@click.argument("file", metavar="FILE")
@default_place_options
@client_options
@click.option(
    "-w", "--workspace", default="default", show_default=True, metavar="WORKSPACE", help="Where; made at its first use."
)
@click.option("--clear", is_flag=True, help="Empty the workspace first.")
@click.option("--time-limit", type=click.FloatRange(min=0), metavar="SECONDS", help="How long it may run.")
@click.option("-d", "--detach", is_flag=True, help="Print the job's number, and let it run.")
def run(place: Place, access: Access, file: str, workspace: str, clear: bool, time_limit: float | None, detach: bool) -> None:
    """
    Run a Python script, FILE or - for standard input, in a workspace that keeps its variables.

    Its output comes live. Exit code 1 says that it raised, or did not run to its end. Ctrl-C interrupts it, and leaves the
    workspace; the second Ctrl-C leaves the job.
    """
    script = read_script(file)
    with access.client(place) as client:
        home = _find_or_create(client, workspace)
        push = functools.partial(home.push_job, script, type="script", clear=clear, time_limit=time_limit)
        if detach:
            click.echo(push().number)
            return
        since = home.status()["last_event"]
        with _CtrlC() as ctrl_c:
            # From here on, so that none is lost between the push and its answer: the job would run unseen.
            job = ctrl_c.job = push()
            code = _follow(home, job, since, ctrl_c, place)
    click.get_current_context().exit(code)


@click.command()
@default_place_options
@client_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--ray", metavar="ADDRESS", help="List those of a Ray cluster in place of a server's: auto, HOST:PORT or ray://HOST:PORT."
)
@click.option("--prune", is_flag=True, help="With --ray: end those that have no server, and list them.")
def workspaces(place: Place, access: Access, as_json: bool, ray: str | None, prune: bool) -> None:
    """
    List the workspaces of a server, and how they are.

    With --ray those of all servers on a cluster, also of servers that have ended; --prune ends what these have left, and
    what is of a server that is just being started again.
    """
    if ray is not None:
        from bgpy.cli.clusters import show_actors

        show_actors(ray, prune, as_json)
        return
    if prune:
        raise click.UsageError("--prune goes with --ray")
    with access.client(place) as client:
        found = _statuses(client)
    if as_json:
        print_json(found)
        return
    if not found:
        click.echo(f"There are no workspaces at {place}.")
        return
    heads = ("NAME", "TYPE", "STATUS", "LAST JOB", "QUEUED", "HELD", "RESTARTS", "PID")
    print_table(heads, [_row(status) for status in found])


def read_script(path: str) -> str:
    """Return the text of a script in the encoding that it names; - is standard input."""
    import tokenize

    if path == "-":
        source = sys.stdin.buffer.read()
    else:
        with open(path, "rb") as file:
            source = file.read()
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(source).readline)
        # Universal newlines, as for any script.
        return io.TextIOWrapper(io.BytesIO(source), encoding).read()
    except (SyntaxError, UnicodeDecodeError) as error:
        raise click.ClickException(f"{path} cannot be read: {error}") from error


def _find_or_create(client: Client, name: str) -> Workspace:
    from bgpy.errors import WorkspaceNotFoundError
    from bgpy.tasks.workspace.face import Workspaces

    workspaces = Workspaces(client)
    try:
        return workspaces[name]
    except WorkspaceNotFoundError:
        made = workspaces.create(name, exist_ok=True)
    click.echo(f"Created the workspace {name!r}.", err=True)
    return made


def _follow(workspace: Workspace, job: Job, since: int, ctrl_c: _CtrlC, place: Place) -> int:
    """Show a job until its end; return the exit code."""
    screen = make_screen()
    left = f"Left job {job.number} of the workspace {job.workspace!r}; it may go on."
    try:
        _tell_wait(workspace, job, place)
        end = _show(workspace, job, since, screen)
    except KeyboardInterrupt:
        screen.close()
        click.echo(left, err=True)
        return _INTERRUPTED
    except BrokenPipeError:
        click.echo(left, err=True)
        raise
    except BaseException:
        screen.close()
        raise
    ctrl_c.wait()
    screen.close()
    if end["state"] == "done":
        return 0
    _explain(job, end)
    return _INTERRUPTED if ctrl_c.pressed else 1


def _tell_wait(workspace: Workspace, job: Job, place: Place) -> None:
    """Say what a job waits for: else nobody understands why nothing happens."""
    if job.state.value != "queued":
        return
    status = workspace.status()
    if status["held"]:
        resume = json.dumps({"command": "resume", "name": job.workspace})
        click.echo(
            f"Job {job.number} waits behind jobs that are held since the server's restart ({status['held']}). "
            f"To let them run: bgpy execute {place.arguments} {shlex.quote(resume)}",
            err=True,
        )
    elif status["CUR_JOB_NUM"] != status["FIN_JOB_NUM"] and status["CUR_JOB_NUM"] < job.number:
        click.echo(f"Job {job.number} waits behind job {status['CUR_JOB_NUM']}.", err=True)


def _show(workspace: Workspace, job: Job, since: int, screen: Screen) -> Mapping[str, Any]:
    """Show events until the job's end, and return what that brought."""
    for event in workspace.watch(since, until=job.number):
        if event.kind == "gap":
            screen.write("stderr", "[... some output was missed here: it came faster than it could be shown ...]\n")
        elif event.kind == "gone" or event.job != job.number:
            continue
        elif event.kind == "output":
            screen.write(event.details["stream"], event.details["text"])
        elif event.kind == "progress":
            screen.progress(event.details["name"], event.details["done"], event.details["total"], event.time)
        elif event.kind == "finished":
            return event.details
    _gone(job)


def _gone(job: Job) -> NoReturn:
    raise click.ClickException(f"The workspace {job.workspace!r} has ended, and job {job.number} with it")


def _explain(job: Job, end: Mapping[str, Any]) -> None:
    """Say on standard error why a job did not run through."""
    error = end["error"] or {"type": "", "message": "", "traceback": ""}
    if error["traceback"]:
        click.echo(error["traceback"].rstrip(), err=True)
    if end["state"] != "failed" or not error["traceback"]:
        said = "" if error["traceback"] or not error["message"] else f": {error['message']}"
        what = _ENDS.get(end["state"], end["state"])
        click.echo(f"Error: Job {job.number} of the workspace {job.workspace!r} {what}{said}.", err=True)
    if "unsaved" in end:
        click.echo(f"Error: Its record could not be kept. {end['unsaved']}", err=True)


def _statuses(client: Client) -> list[dict[str, Any]]:
    from bgpy.errors import WorkspaceNotFoundError
    from bgpy.tasks.workspace.face import Workspaces

    workspaces, found = Workspaces(client), []
    for name in workspaces:
        try:
            found.append({"name": name, **workspaces[name].status()})
        except WorkspaceNotFoundError:
            continue  # destroyed since
    return found


def _row(status: Mapping[str, Any]) -> list[str]:
    last = status["CUR_JOB_NUM"]
    numbers = (status["JOB_COUNT"], status["held"], status["restarts"])
    pid = "-" if status["pid"] is None else str(status["pid"])
    return [status["name"], status["type"], status["STATUS"], "-" if last < 0 else str(last), *map(str, numbers), pid]


class _CtrlC:
    """
    Ctrl-C while a job is pushed and shown: the first interrupts it, or takes it out of the queue, once `job` is known; the second
    is a KeyboardInterrupt here.
    """

    def __init__(self) -> None:
        self.pressed = False
        self._job: Job | None = None
        self._before: Any = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> _CtrlC:
        self._before = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        signal.signal(signal.SIGINT, self._before)
        if kind is None:
            self.wait()

    @property
    def job(self) -> Job | None:
        """The job that is meant, None while it is on its way."""
        return self._job

    @job.setter
    def job(self, job: Job) -> None:
        self._job = job
        self._stop_if_wanted()

    def wait(self) -> None:
        """Let an interrupt under way be answered."""
        if self._thread is not None:
            self._thread.join(_LAST_WORD)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.pressed:
            raise KeyboardInterrupt
        self.pressed = True
        self._stop_if_wanted()

    def _stop_if_wanted(self) -> None:
        # No lock: signals are handled in the thread that sets the job.
        if self.pressed and self._job is not None and self._thread is None:
            # The stream goes on meanwhile: what the job says to it is shown.
            self._thread = threading.Thread(target=_stop, args=(self._job,), name="bgpy-ctrl-c", daemon=True)
            self._thread.start()


def _stop(job: Job) -> None:
    from bgpy.errors import BgpyError

    click.echo(f"Interrupting job {job.number}; Ctrl-C again leaves it.", err=True)
    try:
        # Its turn may come between the first two.
        _ = job.interrupt() or job.cancel() or job.interrupt()
    except BgpyError as error:
        click.echo(f"It could not be interrupted: {error}", err=True)
