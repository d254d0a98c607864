"""
A server from a script's own functions. Run it several times: the count goes on.

End the server with: bgpy terminate --name counter
"""

import bgpy


def init_task():
    return {"count": 0}


def exec_task(client_socket, state, args):
    state["count"] += args["add"]
    bgpy.respond(client_socket, state)
    return state


def exit_task(client_socket, state, args):
    print("The last count:", state["count"])  # goes to the server's log


with bgpy.start("counter", init_task, exec_task, exit_task) as client:
    print(client.execute({"add": 1}, await_response=True))
