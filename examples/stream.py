"""One request, many responses: each arrives when the task sends it."""

import bgpy


def init_task():
    return {}


def exec_task(client_socket, state, args):
    total = 0
    for number in range(1, args["up_to"] + 1):
        total += number
        bgpy.respond(client_socket, {"number": number, "total": total}, more=True)
    bgpy.respond(client_socket, {"done": True})
    return state


def exit_task(client_socket, state, args):
    pass


with bgpy.start("totals", init_task, exec_task, exit_task) as client:
    for response in client.stream({"up_to": 3}):
        print(response)
    client.terminate()
