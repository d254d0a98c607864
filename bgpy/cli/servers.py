"""
The options of a gateway in front of several servers: which there are, and who has a token of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from bgpy.cli.group import TOKEN_FROM
from bgpy.cli.options import Access, Place, check_name, dialable, read_token_file, split_address

if TYPE_CHECKING:
    from bgpy.gateway import ServerPlace

_SERVER = "--server is NAME=HOST:PORT, or the NAME of a server that runs on this machine"


def read_places(given: tuple[str, ...]) -> dict[str, Place]:
    """Return which server each --server means, by the name that the gateway has for it."""
    places: dict[str, Place] = {}
    for text in given:
        name, equals, address = text.partition("=")
        if not equals and ":" in name:
            raise click.UsageError(f"{_SERVER}; {text!r} has no NAME=")
        check_name(name)
        if name in places:
            raise click.UsageError(f"--server {name} is there twice: each server needs a name of its own")
        if equals:
            host, port = split_address(address, f"--server {name}=", least=1)
            places[name] = Place(None, dialable(host), port)
        else:
            places[name] = Place(name, "", 0)
    return places


def read_token_files(given: tuple[str, ...], places: dict[str, Place]) -> dict[str, str]:
    """Return the token of each server that has one of its own, from the file that --server-token-file names."""
    tokens: dict[str, str] = {}
    for text in given:
        name, equals, path = text.partition("=")
        if not equals or not path:
            raise click.UsageError("--server-token-file is NAME=FILE")
        if name not in places:
            raise click.UsageError(f"--server-token-file {name}= is for no server: there is no --server {name}")
        if name in tokens:
            raise click.UsageError(f"--server-token-file {name}= is there twice")
        tokens[name] = read_token_file(path)
        if not tokens[name]:
            raise click.UsageError(f"{path} is empty: --server-token-file {name}= needs a file with a token")
    return tokens


def find_servers(places: dict[str, Place], tokens: dict[str, str], token: str, access: Access) -> dict[str, ServerPlace]:
    """Return where the servers are; one that is named alone has to run, and to know its token."""
    from bgpy.gateway import ServerPlace

    found, hints = {}, click.get_current_context().meta
    of_gateway = hints.get(TOKEN_FROM)
    for name, place in places.items():
        own = tokens.get(name, token)
        host, port = place.host, place.port
        if place.name is not None:
            hints[TOKEN_FROM] = f"the one that --server-token-file {name}= names" if name in tokens else of_gateway
            with access.client(place, own) as client:
                host, port = client.host, client.port
        found[name] = ServerPlace(host, port, own)
    return found
