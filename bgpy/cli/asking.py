"""
Commands that ask a running server for something.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from bgpy.cli.options import Access, Place, client_options, default_place_options
from bgpy.cli.showing import duration, print_json, print_pairs


@click.command()
@default_place_options
@client_options
@click.argument("text", metavar="JSON")
@click.option("--timeout", type=float, help="Seconds to wait for the response; without it as long as the task takes.")
def execute(place: Place, access: Access, text: str, timeout: float | None) -> None:
    """
    Send JSON, an object, to the exec task, and print its response as JSON.

    A JSON of - is read from standard input. Where the task ends without a response, the confirmation is printed.
    """
    from bgpy.errors import NoResponseError

    args = _read_object(text)
    with access.client(place, timeout=timeout) as client:
        try:
            response = client.execute(args, await_response=True, timeout=timeout)
        except NoResponseError:
            response = {"message": "Received 'EXEC'"}
    print_json(response)


@click.command()
@default_place_options
@client_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--timeout", type=float, default=10.0, show_default=True, help="Seconds to wait for the answer.")
def status(place: Place, access: Access, as_json: bool, timeout: float) -> None:
    """Tell how a server is."""
    with access.client(place, timeout=timeout) as client:
        found = client.status(timeout)
    if as_json:
        print_json(found)
        return
    print_pairs(_describe(found))


def _read_object(text: str) -> dict[str, Any]:
    """Read a JSON object; no error shows the text: it might be a token that went to the wrong place."""
    try:
        value = json.loads(sys.stdin.buffer.read() if text == "-" else text)
    except (ValueError, RecursionError) as error:
        where = f" (line {error.lineno}, column {error.colno})" if isinstance(error, json.JSONDecodeError) else ""
        raise click.UsageError(f"JSON cannot be read{where}") from None
    if not isinstance(value, dict):
        raise click.UsageError('JSON must be an object, as {"command": "increase", "value_change": 10}')
    return value


def _describe(found: dict[str, Any]) -> list[tuple[str, str]]:
    from bgpy.addresses import format_address

    failed = f" ({found['failed']} failed)" if found["failed"] else ""
    pairs = [
        ("Name", found["name"] or "-"),
        ("Address", format_address(found["host"], found["port"])),
        ("Process", f"{found['pid']} (Python {found['python']}, bgpy {found['version']})"),
        ("Uptime", duration(found["uptime"])),
        ("Initialised", "yes" if found["initialized"] else "no"),
        ("Requests", f"{found['requests']}{failed}"),
        ("Connections", str(found["connections"])),
        ("Memory", f"{found['memory'] / 1e6:.1f} MB"),
        ("Log", found["log_file"] or "-"),
    ]
    if found["failures"]:
        last = found["failures"][-1]
        pairs.append(("Last failure", " ".join(f"{last['request']}: {last['error']} ({last['where']})".split())))
    return pairs
