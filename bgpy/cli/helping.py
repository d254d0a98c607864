"""
Commands about bgpy itself: tokens, a demonstration, what this machine allows.
"""

from __future__ import annotations

import sys

import click

from bgpy._version import __version__


@click.command()
def token() -> None:
    """Print a new random token."""
    from bgpy.token import token_create

    click.echo(token_create())


@click.command()
def demo() -> None:
    """Show that a server's state outlives its clients. Leaves nothing behind."""
    from bgpy.cli.demo import run_demo

    run_demo()


@click.command()
@click.option("--port", type=click.IntRange(1, 65535), help="Make the firewall command for this port alone.")
def doctor(port: int | None) -> None:
    """Say what this machine allows: folder, token, servers, and the way between Windows and WSL. Changes nothing."""
    import os

    from bgpy.errors import TokenError
    from bgpy.system import private_folder, user_state_dir
    from bgpy.token import find_token
    from bgpy.wsl import diagnose

    folder = user_state_dir()
    click.echo(f"bgpy {__version__}, Python {_python()} ({sys.executable}).")
    click.echo(f"Your secret, records and logs: {folder}{'' if os.path.isdir(folder) else ' (made at the first use)'}.")
    click.echo(
        f"Token: {'from BGPY_TOKEN' if 'BGPY_TOKEN' in os.environ else 'from your secret file'}, unless a call names another."
    )
    try:
        if os.path.isdir(folder):
            private_folder(folder)
            if os.path.exists(os.path.join(folder, "token")):
                find_token()
    except TokenError as error:
        click.echo(f"Wrong with it: {error}")
    for line in diagnose(port=port):
        click.echo(line)


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """
    Print what makes a shell complete the commands of bgpy.

    \b
    bash: put  eval "$(bgpy completion bash)"  into ~/.bashrc
    zsh:  put  eval "$(bgpy completion zsh)"  into ~/.zshrc
    fish: bgpy completion fish > ~/.config/fish/completions/bgpy.fish
    """
    from click.shell_completion import get_completion_class

    root = click.get_current_context().find_root()
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(root.command, {}, "bgpy", "_BGPY_COMPLETE").source())


@click.command()
def version() -> None:
    """Print the versions of bgpy and Python."""
    click.echo(f"bgpy {__version__}, Python {_python()}")


@click.command("_far", hidden=True)
@click.argument("verb", type=click.Choice(["start", "find"]))
@click.argument("name")
def far(verb: str, name: str) -> None:
    """Start or find a server for the other side of WSL: one JSON object in, one line of JSON out."""
    import json
    import os

    from bgpy.attach import answer_far

    # The other side chose a folder that suited the way here; a server belongs to its user's home.
    os.chdir(os.path.expanduser("~"))
    request = json.loads(sys.stdin.buffer.readline())
    click.echo(json.dumps(answer_far(verb, name, request)))


def _python() -> str:
    return ".".join(map(str, sys.version_info[:3]))
