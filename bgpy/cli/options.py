"""
The options that commands share: which server, and how to get in.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from bgpy.cli.group import DEFAULT_NAME, TOKEN_FROM, TRACEBACK

if TYPE_CHECKING:
    from bgpy.client import Client
    from bgpy.records import Record
    from bgpy.tls import Tls

F = TypeVar("F", bound=Callable[..., Any])

_GIVE_A_PLACE = "Give HOST and PORT, or --name"


class Place(NamedTuple):
    """Which server is meant: by name, or by host and port."""

    name: str | None
    host: str
    port: int

    def __str__(self) -> str:
        from bgpy.addresses import format_address

        return self.name or format_address(self.host, self.port)

    @property
    def arguments(self) -> str:
        """What names this server on a command line."""
        return f"{self.host} {self.port}" if self.name is None else f"--name {self.name}"

    def record(self) -> Record:
        """Return the record of this server; raises ServerNotFoundError, with the names of those that run."""
        from bgpy.errors import ServerNotFoundError
        from bgpy.records import Registry

        registry = Registry()
        record = registry.find_address(self.host, self.port) if self.name is None else registry.find(check_name(self.name))
        if record is None:
            raise ServerNotFoundError(str(self), tuple(other.name for other in registry.running() if other.name))
        return record


class Access(NamedTuple):
    """How to get in: where the token comes from, and TLS."""

    ask: bool
    token_file: str | None
    no_token: bool
    tls: Tls
    #: Seconds to reach the server.
    connect_timeout: float = 10.0

    def read_token(self) -> str | None:
        """Return the token, None for the one that all programs of this user share. May ask for it, so call it last."""
        if self.ask:
            try:
                token: str = click.prompt("Token", hide_input=True, err=True)
            except click.Abort as abort:
                if isinstance(abort.__context__, EOFError):
                    raise click.ClickException("There is nobody to ask for the token; --token-file - reads it") from None
                raise  # Ctrl-C
            return token
        if self.token_file is not None:
            token = read_token_file(self.token_file)
            if not token:
                raise click.UsageError(f"{self.token_file} is empty; use --no-token for no token")
            return token
        if self.no_token:
            return ""
        click.get_current_context().meta[TOKEN_FROM] = f"the one in {shared_token_place()}; --token asks for another"
        return None

    def client(self, place: Place, token: str | None = None, timeout: float | None = None) -> Client:
        """
        Return a client of the server, with a token that was read before if there is one; by name it is connected already.

        `timeout` is for that too, where the command has one.
        """
        if token is None:
            token = self.read_token()
        connect_timeout = self.connect_timeout if timeout is None else min(self.connect_timeout, timeout)
        if place.name is not None:
            from bgpy.attach import connect

            return connect(place.name, token=token, tls=self.tls, connect_timeout=connect_timeout)
        from bgpy.client import Client

        return Client(place.host, place.port, token, tls=self.tls, connect_timeout=connect_timeout)


def read_token_file(path: str) -> str:
    """Return the token in a file, "" where there is none."""
    with click.open_file(path, encoding="utf-8", errors="surrogateescape") as file:
        text: str = file.read()
    return text.strip()


def shared_token_place() -> str:
    """Return where the token is that all programs of this user share."""
    from bgpy.system import user_state_dir

    return "BGPY_TOKEN" if "BGPY_TOKEN" in os.environ else os.path.join(user_state_dir(), "token")


def check_name(name: str) -> str:
    """Return the name of a server on this side; raises a usage error for one that is none."""
    from bgpy.records import check_name as check

    try:
        return check(name)
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def place_options(function: F) -> F:
    """Give a command HOST PORT, or --name in their place; it gets a `Place`."""
    return _place_options(function, None)


def default_place_options(function: F) -> F:
    """As `place_options`, where neither means the server `DEFAULT_NAME`."""
    return _place_options(function, DEFAULT_NAME)


def _place_options(function: F, default: str | None) -> F:
    note = "" if default is None else f" With neither: {default}."

    @click.argument("address", nargs=-1, metavar="[HOST PORT]")
    @click.option(
        "--name", metavar="NAME", shell_complete=_complete_name, help=f"The server's name, in place of HOST PORT.{note}"
    )
    @traceback_option
    @functools.wraps(function)
    def command(address: tuple[str, ...], name: str | None, **others: Any) -> Any:
        if name is not None and address:
            raise click.UsageError("--name takes the place of HOST and PORT")
        if name is None and not address:
            name = default
        host, port = read_address(address) if name is None else ("", 0)
        return function(Place(name, host, port), **others)

    return command  # type: ignore[return-value]


def traceback_option(function: F) -> F:
    """Give a command --traceback."""
    option = click.option(
        "--traceback", is_flag=True, expose_value=False, callback=_want_traceback, help="Show where an error comes from."
    )
    return option(function)


def read_address(address: tuple[str, ...]) -> tuple[str, int]:
    """Return host and port. No error shows what was given: it might be a token that went to the wrong place."""
    if len(address) != 2:
        raise click.UsageError(f"{_GIVE_A_PLACE} (arguments given: {len(address)}; --token takes none, it asks)")
    host, port = address
    if not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise click.UsageError("PORT is a number from 0 to 65535")
    return host, int(port)


def split_address(text: str, option: str, least: int = 0) -> tuple[str, int]:
    """Return host and port of HOST:PORT, [HOST]:PORT for IPv6; `least` is 1 for where somebody listens already."""
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise click.UsageError(f"{option} is HOST:PORT; an IPv6 address has brackets, as [::1]:8000")
    if not colon or not port.isascii() or not port.isdigit() or not least <= int(port) <= 65535:
        raise click.UsageError(f"{option} is HOST:PORT, with a port from {least} to 65535")
    return host, int(port)


def dialable(host: str) -> str:
    """Return where a server that listens at `host` is reached from this machine."""
    from bgpy.addresses import is_wildcard

    if is_wildcard(host):
        return "::1" if ":" in host else "127.0.0.1"
    return host or "localhost"


def access_options(function: F) -> F:
    """Give a command the options for token and TLS; it gets an `Access`."""

    @click.option("-t", "--token", "ask", is_flag=True, help="Ask for the token, without showing it.")
    @click.option("--token-file", metavar="FILE", help="Read the token from a file; - is standard input.")
    @click.option("--no-token", is_flag=True, help="Use no token.")
    @click.option("--tls", type=click.Choice(["token"]), help="TLS from the token alone (Python 3.13 or newer).")
    @click.option("--certfile", metavar="FILE", help="TLS: the certificate of this side.")
    @click.option("--keyfile", metavar="FILE", help="TLS: its key.")
    @click.option("--cafile", metavar="FILE", help="TLS: the certificate that the other side must show, or that signed it.")
    @functools.wraps(function)
    def command(
        *args: Any,
        ask: bool,
        token_file: str | None,
        no_token: bool,
        tls: str | None,
        certfile: str | None,
        keyfile: str | None,
        cafile: str | None,
        **others: Any,
    ) -> Any:
        if ask + (token_file is not None) + no_token > 1:
            raise click.UsageError("--token, --token-file and --no-token exclude each other")
        access = Access(ask, token_file, no_token, read_tls(tls, certfile, keyfile, cafile))
        return function(*args, access=access, **others)

    return command  # type: ignore[return-value]


def client_options(function: F) -> F:
    """As `access_options`, for a command that talks to a server."""

    @access_options
    @click.option(
        "--connect-timeout",
        type=click.FloatRange(min=0),
        default=10.0,
        show_default=True,
        metavar="SECONDS",
        help="How long to try to reach the server.",
    )
    @functools.wraps(function)
    def command(*args: Any, access: Access, connect_timeout: float, **others: Any) -> Any:
        return function(*args, access=access._replace(connect_timeout=connect_timeout), **others)

    return command  # type: ignore[return-value]


def token_options(function: F) -> F:
    """Give a command the options for where a token comes from, `ask` and `token_file`."""
    file = click.option("--token-file", metavar="FILE", help="Read the token from a file; - is standard input.")
    return click.option("-t", "--token", "ask", is_flag=True, help="Ask for the token, without showing it.")(file(function))


def read_tls(tls: str | None, certfile: str | None, keyfile: str | None, cafile: str | None) -> Tls:
    """Return what the options for TLS say."""
    files = (certfile, keyfile, cafile)
    if not any(files):
        return tls
    if tls is not None:
        raise click.UsageError("--tls token and certificates exclude each other")
    from bgpy.tls import Certificates

    return Certificates(*files)


def _want_traceback(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    ctx.meta[TRACEBACK] = value


def _complete_name(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    from bgpy.records import Registry

    return [record.name for record in Registry().running() if record.name and record.name.startswith(incomplete)]
