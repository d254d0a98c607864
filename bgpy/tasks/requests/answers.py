"""
How a request has ended, as the answer to whoever has started it. No I/O.
"""

from __future__ import annotations

from typing import Any

from bgpy.tasks.workspace.jobs import JobRecord, JobState

#: The answer of a request whose time is over, and of one that the end of the server has ended.
OK = {"status": "Ok"}
SERVER_ENDS = {"status": "Error", "message": "The server is ending"}


def make_answer(record: JobRecord) -> dict[str, Any]:
    """Return the answer of a request whose script has ended; where the workspaces have ended first, it says so."""
    output = {
        "stdout": record.stdout.decode("utf-8", "replace"),
        "stderr": record.stderr.decode("utf-8", "replace"),
        "truncated": record.truncated,
    }
    if record.state is JobState.DONE:
        return {**OK, "value": None if record.value is None else record.value.json, "output": output}
    if not record.state.ended:
        return {**SERVER_ENDS, "output": output}
    error = record.error or {"type": "", "message": f"The script is {record.state.value}", "traceback": ""}
    message = ": ".join(part for part in (error["type"], error["message"]) if part)
    return {"status": "Error", "message": message, "error": error, "output": output}
