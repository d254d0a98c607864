"""
Commands for HTTP: the gateway of a running server, and server and gateway in one go.
"""

from __future__ import annotations

import functools
import os
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from bgpy.cli.group import DEFAULT_NAME
from bgpy.cli.options import (
    Access,
    Place,
    check_name,
    default_place_options,
    dialable,
    read_tls,
    shared_token_place,
    split_address,
    token_options,
    traceback_option,
)
from bgpy.logs import log_to_standard_error

if TYPE_CHECKING:
    from bgpy.cli.pairing import Pair
    from bgpy.server import Server

F = TypeVar("F", bound=Callable[..., Any])

_LEVELS = ["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]
_BIND = "127.0.0.1:8000"


class Entrance(NamedTuple):
    """How clients get to the gateway and in; the fields of `bgpy.gateway.Settings` of these names."""

    bind_host: str
    bind_port: int
    no_token: bool
    insecure: bool
    certfile: str | None
    keyfile: str | None
    allow_hosts: tuple[str, ...]
    proxy: tuple[str, ...]


def entrance_options(function: F) -> F:
    """Give a command what a gateway's clients meet; it gets an `Entrance`."""

    @click.option(
        "--bind", default=_BIND, show_default=True, metavar="HOST:PORT", help="Where the gateway listens; port 0 picks one."
    )
    @click.option("--no-token", is_flag=True, help="Ask nobody for the token; on loopback only.")
    @click.option("--certfile", metavar="FILE", help="TLS of the gateway: its certificate.")
    @click.option("--keyfile", metavar="FILE", help="TLS of the gateway: its key.")
    @click.option("--insecure", is_flag=True, help="Allow to listen off loopback without TLS.")
    @click.option(
        "--allow-host", "allow_hosts", multiple=True, metavar="NAME", help="A name that the gateway may be asked for by."
    )
    @click.option("--proxy", multiple=True, metavar="ADDRESS", help="A reverse proxy whose X-Forwarded headers are believed.")
    @functools.wraps(function)
    def command(
        *args: Any,
        bind: str,
        no_token: bool,
        certfile: str | None,
        keyfile: str | None,
        insecure: bool,
        allow_hosts: tuple[str, ...],
        proxy: tuple[str, ...],
        **others: Any,
    ) -> Any:
        if keyfile is not None and certfile is None:
            raise click.UsageError("--keyfile needs --certfile")
        host, port = split_address(bind, "--bind")
        entrance = Entrance(host, port, no_token, insecure, _absolute(certfile), _absolute(keyfile), allow_hosts, proxy)
        return function(*args, entrance=entrance, **others)

    return command  # type: ignore[return-value]


@click.command()
@default_place_options
@entrance_options
@token_options
@click.option(
    "--server",
    "servers",
    multiple=True,
    metavar="NAME[=HOST:PORT]",
    help="A server, below /servers/NAME/; again for several. Without HOST:PORT one that runs on this machine.",
)
@click.option(
    "--server-token-file",
    "server_token_files",
    multiple=True,
    metavar="NAME=FILE",
    help="Read the token of that --server from a file; the others have the gateway's.",
)
@click.option("--server-no-token", is_flag=True, help="The server has no token.")
@click.option("--server-tls", type=click.Choice(["token"]), help="TLS to the server: from the token alone.")
@click.option("--server-certfile", metavar="FILE", help="TLS to the server: the certificate of this side.")
@click.option("--server-keyfile", metavar="FILE", help="TLS to the server: its key.")
@click.option("--server-cafile", metavar="FILE", help="TLS to the server: the certificate that it must show, or that signed it.")
@click.option("-l", "--log-level", type=click.Choice(_LEVELS, case_sensitive=False), default="INFO", show_default=True)
def gateway(
    place: Place,
    entrance: Entrance,
    ask: bool,
    token_file: str | None,
    servers: tuple[str, ...],
    server_token_files: tuple[str, ...],
    server_no_token: bool,
    server_tls: str | None,
    server_certfile: str | None,
    server_keyfile: str | None,
    server_cafile: str | None,
    log_level: str,
) -> None:
    """
    Let programs and browsers reach a running server by HTTP, until Ctrl-C; or several, by --server.

    The server need not run yet where HOST PORT are given. Whoever logs in shows the server's token.
    """
    from bgpy.cli.servers import find_servers, read_places, read_token_files
    from bgpy.gateway import Settings, serve_gateway
    from bgpy.token import find_token

    if ask + (token_file is not None) + server_no_token > 1:
        raise click.UsageError("--token, --token-file and --server-no-token exclude each other")
    access = Access(ask, token_file, server_no_token, read_tls(server_tls, server_certfile, server_keyfile, server_cafile))
    places = read_places(servers)
    if places and any(click.get_current_context().params.get(one) for one in ("address", "name")):
        raise click.UsageError("--server takes the place of HOST PORT and --name")
    way_in = _way_in(entrance, ask, token_file)
    tokens = read_token_files(server_token_files, places)
    token = find_token(access.read_token())
    settings = Settings(token=token, tls=access.tls, **entrance._asdict())
    if places:
        settings = settings._replace(servers=find_servers(places, tokens, token, access))
    else:
        host, port = _find(access, place, token)
        settings = settings._replace(host=host, port=port)
    log_to_standard_error(log_level)
    to = ", ".join(places) or str(place)

    def ready(url: str) -> None:
        click.echo(f"The page: {url}\n{way_in}\nIt passes on to {to}. Ctrl-C ends it.")

    click.get_current_context().exit(serve_gateway(settings, ready))


@click.command()
@click.option(
    "--tasks",
    multiple=True,
    metavar="NAME",
    help="A task set of bgpy, or a module; again for several. By default tensorflow, which has all of bgpy.",
)
@entrance_options
@token_options
@click.option(
    "--listen", default="127.0.0.1:0", metavar="HOST:PORT", help="Where the server itself listens; by default at a free port."
)
@click.option("--name", default=DEFAULT_NAME, show_default=True, metavar="NAME", help="The server's name.")
@click.option("--store", metavar="PATH", help="Keep workspaces, jobs and results in this file.")
@click.option(
    "--ray",
    metavar="ADDRESS",
    help="Run workspaces on this Ray cluster: auto, local (a small one that ends with the server), HOST:PORT or ray://HOST:PORT.",
)
@click.option("-l", "--log-level", type=click.Choice(_LEVELS, case_sensitive=False), default="INFO", show_default=True)
@click.option("-f", "--log-file", metavar="FILE", help="Where the log goes with --background; by default a file of its own.")
@click.option("-b", "--background", is_flag=True, help="Start both as processes of their own, and return when they are ready.")
@click.option("--timeout", type=float, default=30.0, show_default=True, help="Seconds until background processes must be ready.")
@traceback_option
def serve(
    tasks: tuple[str, ...],
    entrance: Entrance,
    ask: bool,
    token_file: str | None,
    listen: str,
    name: str,
    store: str | None,
    ray: str | None,
    log_level: str,
    log_file: str | None,
    background: bool,
    timeout: float,
) -> None:
    """
    Serve workspaces and models to Python programs, and by HTTP to all others, until Ctrl-C or in the background.

    One server with the task sets, and a gateway; bgpy.connect("default") finds the server, a browser the page.
    """
    from bgpy.cli.pairing import DEFAULT_TASKS, STORING, Pair, make_tasks
    from bgpy.server import Server
    from bgpy.token import find_token

    if log_file is not None and not background:
        raise click.UsageError("--log-file goes with --background; in the foreground the log goes to standard error")
    names = list(tasks or DEFAULT_TASKS)
    for option, value in (("--store", store), ("--ray", ray)):
        if value is not None and not set(STORING).intersection(names):
            raise click.UsageError(f"{option} is for the task sets {' and '.join(STORING)}, of which none is among --tasks")
    host, port = split_address(listen, "--listen")
    way_in = _way_in(entrance, ask, token_file)
    token = find_token(_read_token(ask, token_file, False))
    make_server = functools.partial(Server, host, port, token, name=check_name(name), log_level=log_level, log_file=log_file)
    config = {"host": dialable(host), **entrance._asdict(), "log_level": log_level.upper()}
    store = _absolute(store)
    if background:
        server = make_server()
        page = _start_pair(server, name, {"gateway": config, "tasks": names, "store": store, "ray": ray}, timeout)
        _tell_pair(page, way_in, server)
        ends = "bgpy terminate" if name == DEFAULT_NAME else f"bgpy terminate --name {name}"
        click.echo(f"Their log: {server.log_file}. {ends} ends both.")
        return
    log_to_standard_error(log_level)
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # as a background server does: a module of the user's may lie here
    pair = Pair(config, token)
    server = make_server(tasks=pair.tasks(make_tasks(names, store, ray)))
    click.get_current_context().exit(_run_pair(server, pair, way_in))


@click.command("_gateway", hidden=True)
def paired() -> None:
    """Be the gateway of bgpy serve: configuration and lifeline on standard input."""
    from bgpy.cli.pairing import serve_paired

    click.get_current_context().exit(serve_paired())


def _start_pair(server: Server, name: str, more: dict[str, Any], timeout: float) -> str:
    """Start server and gateway as detached processes; return the page's address."""
    from bgpy.errors import NameTakenError
    from bgpy.records import Registry

    deadline, registry = time.monotonic() + timeout, Registry()
    with registry.starting(name, timeout):
        if (holder := registry.find(name)) is not None:  # else the new process would say so in the log of that server
            raise NameTakenError(name, holder.pid)
        left = max(deadline - time.monotonic(), 0)
        page: str = server.spawn(left, "bgpy.cli.pairing:serve_detached_pair", {"pair": more})["page"]
    return page


def _run_pair(server: Server, pair: Pair, way_in: str) -> int:
    """Serve in this process, the gateway in a child; return the exit code."""

    def ready() -> None:
        page = pair.start(server.port)
        if page is not None:
            _tell_pair(page, way_in, server)
            click.echo("Ctrl-C ends both.")

    with pair:
        return server.run(ready)


def _find(access: Access, place: Place, token: str) -> tuple[str, int]:
    """Return where the server is; by name it has to run, and to know the token."""
    if place.name is None:
        return dialable(place.host), place.port
    with access.client(place, token) as client:
        return client.host, client.port


def _absolute(path: str | None) -> str | None:
    return None if path is None else os.path.abspath(path)


def _read_token(ask: bool, token_file: str | None, no_token: bool) -> str | None:
    return Access(ask, token_file, no_token, None).read_token()


def _tell_pair(page: str, way_in: str, server: Server) -> None:
    from bgpy.addresses import format_address

    click.echo(f"The page: {page}")
    click.echo(way_in)
    where = format_address(server.host, server.port)
    click.echo(f'From Python: bgpy.connect("{server.name}"), the server at {where}, process {server.pid}.')


def _way_in(entrance: Entrance, ask: bool, token_file: str | None) -> str:
    """Say how to log in; never the token itself: it would stay on the screen, and in logs."""
    if entrance.no_token:
        return "Nobody is asked for a token: every program and user of this machine gets in."
    if ask or token_file == "-":
        return "Log in with the token that you gave."
    if token_file is not None:
        return f"Log in with the token in {token_file}."
    return f"Log in with the token in {shared_token_place()}."
