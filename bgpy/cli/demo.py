"""
The demonstration: a server, and two clients that never meet.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import click

#: Seconds for one client, and for the server to be gone.
_TIMEOUT = 30.0


def run_demo() -> None:
    """Run the demonstration. Blocks for a second or two; raises ClickException where the server does not do as it should."""
    from bgpy.client import Client

    click.echo("A bgpy server keeps its state after whoever started it, or used it, has gone. See:\n")
    with _own_home(), _server() as (host, port, pid):
        click.echo(f"1. A server runs in the background now: {host}:{port}, process {pid}.")
        click.echo("   Its state: a count of requests, and a value of 1000.\n")
        click.echo("2. A first client, a process of its own, adds 10 to the value:")
        first, first_pid = _client(host, port, {"command": "increase", "value_change": 10})
        click.echo(f"   That client, process {first_pid}, has ended.\n")
        click.echo("3. A second client takes 100 away:")
        second, second_pid = _client(host, port, {"command": "decrease", "value_change": 100})
        if (first, second) != ({"request_count": 1, "value": 1010}, {"request_count": 2, "value": 910}):
            raise click.ClickException("The server did not answer as it should.")
        click.echo(f"   It was process {second_pid}, and it found what the first one had left: 1000 + 10 - 100 = 910.\n")
        click.echo("4. The server is told to end. Its exit task has the last word:")
        with Client(host, port) as client:
            click.echo(f"   {json.dumps(client.terminate(await_response=True))}\n")
    click.echo("Nothing is left running. Now yours: bgpy server --help, or the README.")


@contextlib.contextmanager
def _own_home() -> Iterator[None]:
    """Keep the secret, records and logs of the demonstration in a folder that goes with it."""
    before = os.environ.get("BGPY_HOME")
    with tempfile.TemporaryDirectory(prefix="bgpy-demo-") as folder:
        os.environ["BGPY_HOME"] = folder
        try:
            yield
        finally:
            if before is None:
                del os.environ["BGPY_HOME"]
            else:
                os.environ["BGPY_HOME"] = before


@contextlib.contextmanager
def _server() -> Iterator[tuple[str, int, int]]:
    """Start the server and see to it that it is gone afterwards, whatever happens."""
    from bgpy.server import Server
    from bgpy.system import kill_process, process_start_time, wait_for_end

    server = Server("127.0.0.1", 0, tasks="bgpy.example.tasks")
    server.run_background()
    assert server.pid is not None
    start_time = process_start_time(server.pid)
    ended = False
    try:
        yield server.host, server.port, server.pid
        ended = True
    finally:
        if start_time is not None:
            if not ended:
                kill_process(server.pid, start_time)
            wait_for_end(server.pid, start_time, _TIMEOUT)


def _client(host: str, port: int, args: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """Run ``bgpy execute`` as a process of its own; return the response and the process's id."""
    text = json.dumps(args)
    click.echo(f"   $ bgpy execute {host} {port} '{text}'")
    command = [sys.executable, "-m", "bgpy", "execute", "--timeout", str(_TIMEOUT), host, str(port), text]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8") as process:
        try:
            output, errors = process.communicate(timeout=_TIMEOUT)
        finally:
            process.kill()
    if process.returncode:
        raise click.ClickException(f"The client failed: {errors.strip()}")
    click.echo(f"   {output.strip()}")
    response: dict[str, Any] = json.loads(output)
    return response, process.pid
