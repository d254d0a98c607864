"""
Commands that start and end servers, list them and show their logs.
"""

from __future__ import annotations

import os
import sys
import time
from typing import IO, TYPE_CHECKING

import click

from bgpy.cli.options import (
    Access,
    Place,
    access_options,
    check_name,
    client_options,
    default_place_options,
    place_options,
    read_address,
)
from bgpy.cli.showing import duration, print_json, print_table
from bgpy.logs import LOG_FORMAT

if TYPE_CHECKING:
    from bgpy.server import Server

_LEVELS = ["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]
#: Seconds for a killed process to be gone.
_END_TIMEOUT = 10.0


@click.command()
@click.argument("address", nargs=-1, metavar="[HOST PORT]")
@click.option("--name", metavar="NAME", help="A name by which it is found; HOST PORT is then 127.0.0.1 0 unless given.")
@access_options
@click.option("--insecure", is_flag=True, help="Allow --no-token where other machines reach the server.")
@click.option("-l", "--log-level", type=click.Choice(_LEVELS, case_sensitive=False), default="INFO", show_default=True)
@click.option(
    "-f", "--log-file", metavar="FILE", help="Where the log goes; by default standard error, or a file of its own with -b."
)
@click.option("-i", "--init-file", metavar="FILE", help="A Python file with init_task, exec_task and exit_task.")
@click.option("--tasks", metavar="MODULE", help="The same in a module that can be imported.")
@click.option("-b", "--background", is_flag=True, help="Start it as a process of its own, and return when it is ready.")
@click.option("--timeout", type=float, default=30.0, show_default=True, help="Seconds until a background server must be ready.")
def server(
    address: tuple[str, ...],
    name: str | None,
    access: Access,
    insecure: bool,
    log_level: str,
    log_file: str | None,
    init_file: str | None,
    tasks: str | None,
    background: bool,
    timeout: float,
) -> None:
    """Serve at HOST PORT (0 picks a free port) until Ctrl-C, or in the background."""
    from bgpy.server import Server

    host, port = ("127.0.0.1", 0) if name is not None and not address else read_address(address)
    if init_file is not None and tasks is not None:
        raise click.UsageError("--init-file and --tasks exclude each other")
    made = Server(
        host,
        port,
        access.read_token(),
        log_level=log_level,
        log_file=log_file,
        init_file=init_file,
        tasks=tasks,
        insecure=insecure,
        tls=access.tls,
        name=None if name is None else check_name(name),
    )
    if background:
        made.run_background(timeout)
        click.echo(f"Serving at {_where(made)}, log {made.log_file}")
        return
    _log_to(log_file, log_level)
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # as a background server does: a module of the user's may lie here
    code = made.run(lambda: click.echo(f"Serving at {_where(made)}. Ctrl-C ends it."))
    click.get_current_context().exit(code)


@click.command()
@default_place_options
@client_options
@click.option("--timeout", type=float, help="Seconds for running tasks to end, and then for the exit task (10).")
def terminate(place: Place, access: Access, timeout: float | None) -> None:
    """End a server: it runs its exit task; the port is free afterwards."""
    with access.client(place) as client:
        client.terminate(timeout=timeout)
    click.echo(f"Terminated {place}.")


@click.command()
@place_options
def kill(place: Place) -> None:
    """End a server of yours on this machine by force, without its exit task. Its state is lost."""
    from bgpy.system import kill_process, wait_for_end

    record = place.record()
    killed = kill_process(record.pid, record.start_time)
    if killed and not wait_for_end(record.pid, record.start_time, _END_TIMEOUT):
        raise click.ClickException(
            f"Process {record.pid} was killed and is not gone after {_END_TIMEOUT:g} s: the system holds it."
        )
    from bgpy.records import Registry

    Registry().running()  # cleans away what it left
    click.echo(f"Killed {place}, process {record.pid}." if killed else f"Process {record.pid} of {place} had ended already.")


@click.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_servers(as_json: bool) -> None:
    """List your running servers on this machine: the named ones, and those in the background."""
    from bgpy.addresses import format_address
    from bgpy.records import Registry

    records = Registry().running()
    if as_json:
        print_json([record._asdict() for record in records])
        return
    if not records:
        click.echo("None of your servers runs on this machine.")
        return
    rows = [
        (r.name or "-", format_address(r.host, r.port), str(r.pid), duration(time.time() - r.started), r.log_file or "-")
        for r in records
    ]
    print_table(("NAME", "ADDRESS", "PID", "UPTIME", "LOG"), rows)


@click.command()
@default_place_options
@click.option("-f", "--follow", is_flag=True, help="Go on until the server ends.")
def logs(place: Place, follow: bool) -> None:
    """Print what a background server of yours on this machine has logged."""
    from bgpy.errors import ServerNotFoundError
    from bgpy.system import follow_file

    try:
        record = place.record()
    except ServerNotFoundError:
        path = _old_log(place)
        if path is None or follow:
            raise
        with open(path, "rb") as file:
            _copy(file)
        return
    if record.log_file is None:
        raise click.ClickException(f"{place} runs in the foreground of process {record.pid} and logs there.")
    with open(record.log_file, "rb") as file:
        if not follow:
            _copy(file)
            return
        for _ in follow_file(record.log_file, record.pid, record.start_time):
            _copy(file)


def _where(server: Server) -> str:
    from bgpy.addresses import format_address

    return f"{format_address(server.host, server.port)}, process {server.pid}"


def _log_to(path: str | None, level: str) -> None:
    import logging

    # The root's level, as in the background: what the tasks log belongs there as well.
    logging.basicConfig(filename=path, format=LOG_FORMAT, level=level.upper())


def _old_log(place: Place) -> str | None:
    """Return the log of a named server that has ended: why it did stands there."""
    from bgpy.background import named_log

    path = None if place.name is None else named_log(place.name)
    return path if path is not None and os.path.isfile(path) else None


def _copy(file: IO[bytes]) -> None:
    """Print the rest of a file."""
    import shutil

    sys.stdout.flush()
    shutil.copyfileobj(file, sys.stdout.buffer)
    sys.stdout.buffer.flush()
