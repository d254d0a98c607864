"""
The three tasks of the README: a counter and a value.
"""

from __future__ import annotations

from typing import Any

from bgpy.sockets import ClientSocket, respond


def init_task(client_socket: ClientSocket) -> dict[str, Any]:
    """Make the state: no requests yet, and a value of 1000."""
    return {"request_count": 0, "value": 1000}


def exec_task(client_socket: ClientSocket, init_args: dict[str, Any], exec_args: dict[str, Any]) -> dict[str, Any]:
    """Increase or decrease the value, and respond with the state to a client that waits for it."""
    init_args["request_count"] += 1
    if exec_args["command"] == "increase":
        init_args["value"] += exec_args["value_change"]
    if exec_args["command"] == "decrease":
        init_args["value"] -= exec_args["value_change"]
    respond(client_socket, init_args)
    return init_args


def exit_task(client_socket: ClientSocket, init_args: dict[str, Any], exit_args: dict[str, Any]) -> None:
    """Respond with the last state, marked as exited."""
    init_args["request_count"] += 1
    init_args["status"] = "Exited."
    respond(client_socket, init_args)
