"""
How commands end: what goes wrong becomes one line on standard error and exit code 1.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from typing import Any, NoReturn

import click

#: The server that is meant where none is named: `bgpy serve` gives its own this name.
DEFAULT_NAME = "default"
#: Under this name a command notes in the context that tracebacks are wanted.
TRACEBACK = "bgpy.traceback"
#: Under this name it notes where the token is from, where nobody has named one.
TOKEN_FROM = "bgpy.token_from"
_INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it


class Failed(click.ClickException):
    """Carry the one line that says what went wrong, and a traceback where one is wanted."""

    def __init__(self, message: str, more: str = "") -> None:
        super().__init__(message)
        self.more = more


class CommandGroup(click.Group):
    """A group that lists its commands in the order of their importance, and reports errors as this module says."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands in the order in which they were added."""
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; whatever it raises becomes `Failed`."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.Abort, click.exceptions.Exit, BrokenPipeError):
            raise
        except KeyboardInterrupt:
            ctx.exit(_INTERRUPTED)
        except Exception as error:
            said = one_line(error) + _token_hint(error, ctx.meta.get(TOKEN_FROM))
            if ctx.meta.get(TRACEBACK):
                raise Failed(said, _more(error)) from error
            hint = " (--traceback shows where.)" if getattr(error, "traceback_text", "") else ""
            raise Failed(said + hint) from error

    def main(  # type: ignore[override]
        self, args: Sequence[str] | None = None, prog_name: str | None = None, *, standalone_mode: bool = True, **extra: Any
    ) -> Any:
        """Run the command line and end the process."""
        if not standalone_mode:
            return super().main(args, prog_name, standalone_mode=False, **extra)
        try:
            code = super().main(args, prog_name, standalone_mode=False, **extra)
        except click.UsageError as error:
            hint = f" Try '{error.ctx.command_path} --help'." if error.ctx is not None else ""
            _fail(f"{error.format_message().rstrip('.')}.{hint}")
        except click.ClickException as error:
            _fail(error.format_message(), getattr(error, "more", ""))
        except click.Abort:
            sys.exit(_INTERRUPTED)
        sys.exit(code if isinstance(code, int) else 0)


def one_line(error: BaseException) -> str:
    """Say in one line what an error says, without its traceback."""
    from bgpy.errors import BgpyError

    text = str(error)
    if isinstance(error, BgpyError):
        text = _for_people(error) or text
        text = text.rstrip().removesuffix(getattr(error, "traceback_text", "").rstrip())
    elif isinstance(error, OSError) and error.strerror:
        text = ": ".join(filter(None, (error.filename and str(error.filename), error.strerror)))
    else:
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return " ".join(text.split())


def _for_people(error: BaseException) -> str | None:
    """Return what to say in place of an error's own text, where that tells a Python program what to do."""
    from bgpy import errors

    if isinstance(error, errors.NameTakenError):
        holder = f" by process {error.pid}" if error.pid else ""
        return f"The name {error.name!r} is taken{holder}. Use that server, or end it: bgpy terminate --name {error.name}"
    if isinstance(error, errors.ServerNotFoundError):
        running = f"Running: {', '.join(error.running)}" if error.running else ""
        if error.name == DEFAULT_NAME:
            others = f" {running} (--name)." if running else ""
            return f"The server {DEFAULT_NAME!r} does not run.{others} Start it: bgpy serve --background"
        others = running or "None of your servers runs on this machine"
        return f"No server {error.name!r} runs. {others}. To start one: bgpy serve, or bgpy server."
    if isinstance(error, errors.NotInitializedError):
        return "The server has no tasks yet. Start it with --tasks, or initialise it from Python."
    if isinstance(error, errors.ClientClosedError):
        return "The connection was closed."
    return None


def _token_hint(error: BaseException, token_from: str | None) -> str:
    """Say which token was refused, where the user has named none: it may be one that is forgotten in the environment."""
    from bgpy.errors import AuthenticationError

    if not isinstance(error, AuthenticationError) or token_from is None:
        return ""
    return f" Tried: {token_from}."


def _more(error: BaseException) -> str:
    """Return the traceback of an error: the server's own where it brought one."""
    return getattr(error, "traceback_text", "") or "".join(traceback.format_exception(type(error), error, error.__traceback__))


def _fail(message: str, more: str = "") -> NoReturn:
    if more:
        click.echo(more.rstrip(), err=True)
    click.echo(f"Error: {' '.join(message.split())}", err=True)
    sys.exit(1)
