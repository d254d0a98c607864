"""
The commands of ``bgpy``: they read options, call what is below, and print. Errors are one line and exit code 1.
"""

from __future__ import annotations

import click

from bgpy._version import __version__
from bgpy.cli import asking, gateway, helping, running, serving
from bgpy.cli.group import CommandGroup


@click.group(cls=CommandGroup, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="bgpy")
@click.pass_context
def main(ctx: click.Context) -> None:
    """Python servers that keep their state after whoever started them has gone."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


for command in (
    gateway.serve,
    running.run,
    running.workspaces,
    gateway.gateway,
    serving.server,
    serving.terminate,
    serving.kill,
    asking.execute,
    asking.status,
    serving.list_servers,
    serving.logs,
    helping.token,
    helping.demo,
    helping.doctor,
    helping.completion,
    helping.version,
    helping.far,
    gateway.paired,
):
    main.add_command(command)
del command
