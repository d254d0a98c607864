"""
The options that commands share: which server, and how to get in.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from bgpy.cli.group import TRACEBACK

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

    def read_token(self) -> str | None:
        """Return the token, None for the one that all programs of this user share. May ask for it, so call it last."""
        if self.ask:
            token: str = click.prompt("Token", hide_input=True, err=True)
            return token
        if self.token_file is not None:
            with click.open_file(self.token_file, encoding="utf-8", errors="surrogateescape") as file:
                token = file.read().strip()
            if not token:
                raise click.UsageError(f"{self.token_file} is empty; use --no-token for no token")
            return token
        return "" if self.no_token else None

    def client(self, place: Place) -> Client:
        """Return a client of the server; by name it is connected already."""
        token = self.read_token()
        if place.name is not None:
            from bgpy.attach import connect

            return connect(place.name, token=token, tls=self.tls)
        from bgpy.client import Client

        return Client(place.host, place.port, token, tls=self.tls)


def check_name(name: str) -> str:
    """Return the name of a server on this side; raises a usage error for one that is none."""
    from bgpy.records import check_name as check

    try:
        return check(name)
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def place_options(function: F) -> F:
    """Give a command HOST PORT, or --name in their place; it gets a `Place`."""

    @click.argument("address", nargs=-1, metavar="[HOST PORT]")
    @click.option("--name", metavar="NAME", shell_complete=_complete_name, help="The server's name, in place of HOST PORT.")
    @click.option(
        "--traceback", is_flag=True, expose_value=False, callback=_want_traceback, help="Show where an error comes from."
    )
    @functools.wraps(function)
    def command(address: tuple[str, ...], name: str | None, **others: Any) -> Any:
        if name is not None and address:
            raise click.UsageError("--name takes the place of HOST and PORT")
        host, port = read_address(address) if name is None else ("", 0)
        return function(Place(name, host, port), **others)

    return command  # type: ignore[return-value]


def read_address(address: tuple[str, ...]) -> tuple[str, int]:
    """Return host and port. No error shows what was given: it might be a token that went to the wrong place."""
    if len(address) != 2:
        raise click.UsageError(f"{_GIVE_A_PLACE} (arguments given: {len(address)}; --token takes none, it asks)")
    host, port = address
    if not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise click.UsageError("PORT is a number from 0 to 65535")
    return host, int(port)


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
        access = Access(ask, token_file, no_token, _read_tls(tls, certfile, keyfile, cafile))
        return function(*args, access=access, **others)

    return command  # type: ignore[return-value]


def _read_tls(tls: str | None, certfile: str | None, keyfile: str | None, cafile: str | None) -> Tls:
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
