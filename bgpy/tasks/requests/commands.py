"""
The commands of the task set of timed requests, as data. The words of the WebSocket at ``/requests`` are the gateway's.
"""

from __future__ import annotations

from bgpy.tasks.schema import REQUIRED, Command, Field

#: Characters of a connection id.
MAX_CONNID = 200
#: Seconds that a request may live: thirty days.
MAX_TIME = 30 * 86_400
#: Numbers of requests that are recalled at once.
MAX_RECALLED = 1000
#: Libraries that one search looks through.
MAX_LIBS = 16
#: Characters of the name of a library, and of the text that is searched for.
MAX_TEXT = 200

_CONNID = Field(
    "connid",
    ("string", "integer"),
    REQUIRED,
    "The connection id of the request: a text or a whole number, but for 'id' and 'status'.",
)

START_REQUEST = Command(
    "start_request",
    "Start a request that lives for some seconds at most, with a script that runs in it or without one.",
    (
        _CONNID,
        Field("time", ("number",), REQUIRED, f"Seconds that it lives at most, more than 0 and up to {MAX_TIME:,}."),
        Field("job", ("string", "null"), None, "A script; the request ends with it, and stops it at the end of the time."),
        Field("timeout", ("number",), 0, "Seconds to wait for the end of the request.", minimum=0),
    ),
    'connid, request (its number) and status: "Started"; or, ended within the timeout, "Ok", "Killed", "Timeout" or "Error", with'
    " a job also value, output, and where it failed message and error.",
)
KILL_REQUEST = Command(
    "kill_request",
    "End a request, and the process of its job, at once.",
    (_CONNID,),
    'connid, and status: "Ok", or "Invalid connection Id" where no such request runs.',
)
GET_REQUESTS = Command("get_requests", "Tell which requests run.", (), "The seconds that are left of each, by its connection id.")
RECALL_REQUESTS = Command(
    "recall_requests",
    "Tell how requests have ended.",
    (
        Field("requests", ("array",), REQUIRED, f"The numbers of at most {MAX_RECALLED:,} requests.", items="integer"),
        Field("timeout", ("number",), 0, "Seconds to wait for the end of one request, where only that is asked for.", minimum=0),
    ),
    "The answer of each by its number, null while it runs; an error where it is no longer known.",
)
WATCH_REQUESTS = Command(
    "watch_requests",
    "Stream the starts and ends of requests as numbered events.",
    (
        Field(
            "since", ("integer", "null"), None,
            "The last number that was seen: what came after it is replayed; by default only what is new.", minimum=0,
        ),
    ),
    "event (started, ended, alive, gap, gone), number, time; request, connid; left, or answer: null where it is large, and to be"
    " recalled.",
    stream=True,
)  # fmt: skip
QUERY_MODULE = Command(
    "query_module",
    "Search the public names of Python modules, in a worker that imports them and ends.",
    (
        Field("lib", ("array", "string"), REQUIRED, f"The names of at most {MAX_LIBS} modules.", items="string"),
        Field("text", ("string",), REQUIRED, "What the names contain, in upper or lower case; '' for all."),
    ),
    "status, message, data: an array of lib, name, kind, signature, doc; names that begin with the text come first.",
)

COMMANDS: tuple[Command, ...] = (
    START_REQUEST,
    KILL_REQUEST,
    GET_REQUESTS,
    RECALL_REQUESTS,
    WATCH_REQUESTS,
    QUERY_MODULE,
)
