"""
How jobs ended, as plain data for a `bgpy.tasks.workspace.channel`, and back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bgpy.tasks.workspace.backends import Outcome
from bgpy.tasks.workspace.channel import close_value, take_value
from bgpy.tasks.workspace.values import Value

_DONE = Outcome("done", None, None)


def close_outcome(outcome: Outcome) -> dict[str, Any]:
    """Return an outcome as plain data, nothing for one that ran through without a value. Leaves `rest` out."""
    state, value, error = outcome[:3]
    if value is not None:
        packed = None if value.packed is None else close_value(value.packed)
        fields = {"state": state, "json": value.json, "packed": packed, "type": value.type, "nulls": value.nulls}
        return {**fields, "runs": value.runs} if value.runs else fields
    return {} if error is None else {"state": state, "error": error}


def close_outcomes(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return the outcomes of calls that ran as one as plain data."""
    return {"calls": [close_outcome(outcome) for outcome in outcomes]}


def take_outcome(fields: dict[str, Any]) -> Outcome:
    """Undo `close_outcome` and `close_outcomes`; raises KeyError, TypeError, RemoteProtocolError for anything else."""
    if "calls" in fields:
        first, *rest = map(take_outcome, fields["calls"])
        return first._replace(rest=rest)
    if not fields:
        return _DONE
    value = None
    if "json" in fields:
        packed = None if fields["packed"] is None else take_value(fields["packed"])
        # Of an older worker, on Ray, without the last ones.
        value = Value(fields["json"], packed, fields.get("type"), tuple(fields.get("nulls", ())), fields.get("runs", 0))
    return Outcome(fields["state"], value, fields.get("error"))
