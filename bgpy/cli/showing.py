"""
Print things for people and programs.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

import click

from bgpy.encoding import to_json


def print_json(value: object, *, indent: int | None = None) -> None:
    """Print a value as JSON, in one line unless `indent` is given; letters as they are where the terminal has them."""
    converted = to_json(value)
    text = json.dumps(converted, ensure_ascii=False, allow_nan=False, indent=indent)
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        text = json.dumps(converted, allow_nan=False, indent=indent)
    click.echo(text)


def print_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under their heads, each column as wide as it needs."""
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    for row in (heads, *rows):
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def print_pairs(pairs: Sequence[tuple[str, str]]) -> None:
    """Print names and values, the values under one another."""
    width = max(len(name) for name, _ in pairs)
    for name, value in pairs:
        click.echo(f"{name.ljust(width)}  {value}".rstrip())


def duration(seconds: float) -> str:
    """Say how long, in the two largest units: 3 d 4 h, 5 min 6 s, 7 s."""
    left = max(int(seconds), 0)
    parts: list[str] = []
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, left = divmod(left, size)
        if parts or count or unit == "s":
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2])
