"""
The commands of the runtime task set, as data: those of the Runtime server with its fields, nested as there.

No other task set has commands of these names, so that they are bare beside all others. The actions of the Runtime server, which
are shorter, stand for them in `ACTIONS`.
"""

from __future__ import annotations

from collections.abc import Mapping

from bgpy.tasks.schema import REQUIRED, Command, Field
from bgpy.tasks.workspace.commands import WINDOW

#: Seconds that a request may wait at most.
MAX_TIMEOUT = 86_400

#: An integer, as in the original's examples, is no wrong type: there is only no session of it.
SESSION = Field("sessionId", ("string", "integer"), REQUIRED, "The session of a run, as its start has told it.")
_NAME = Field("name", ("string",), REQUIRED, "The name of the placeholder.")
_FILES = Field(
    "files",
    ("array",),
    REQUIRED,
    "The files.",
    items="object",
    fields=(
        Field("filename", ("string",), REQUIRED, "Its name in the folder of the run; folders in it stand before a slash."),
        Field("content", ("string",), REQUIRED, "What is in it."),
        Field("encoding", ("string",), "text", "How the content is written: text, or base64 for bytes.", ("text", "base64")),
    ),
)
_PYTHON = Field(
    "python",
    ("object",),
    REQUIRED,
    "What is run: number, files and mainfile.",
    fields=(
        Field("number", ("integer",), REQUIRED, "How many files there are."),
        _FILES,
        Field("mainfile", ("string",), REQUIRED, "The name of the file that is run, one of the files."),
    ),
)
_MODEL = Field(
    "model",
    ("object",),
    REQUIRED,
    "What is asked of which model: sessionId, name, is_data and data.",
    fields=(
        SESSION,
        _NAME,
        Field("is_data", ("boolean",), True, "Whether the data are the instances themselves, not the path of a file."),
        Field("data", (), REQUIRED, "The instances; or the path of a CSV, JSON or .npy file on the server."),
        Field(
            "timeout",
            ("number",),
            60,
            f"Seconds to wait for the prediction, at most {MAX_TIMEOUT:,}; then it is stopped.",
            minimum=0,
        ),
    ),
)

RUN = Command(
    "run",
    "Write files into a folder of their own and run one of them in a fresh process.",
    (_PYTHON,),
    "type [status]:EXECUTION_STARTED, sessionId, message; and number, behind which watch_run goes on.",
)
GET_PLACEHOLDER = Command(
    "get_placeholder",
    "Read the value of a placeholder, also while the run goes on.",
    (
        Field(
            "placeholder", ("object",), REQUIRED, "Which one: sessionId, name; and window.", fields=(SESSION, _NAME, WINDOW)
        ),
    ),
    "type [placeholder]:VALUE, sessionId, name, value, value_type, shape, window, truncated; and columns, encoding.",
)  # fmt: skip
RUN_MODEL = Command(
    "run_model",
    "Have a placeholder predict that can: one with a method predict, or a callable.",
    (_MODEL,),
    "type [model]:RESULT, sessionId, name, value.",
)
GET_STATS = Command(
    "get_stats",
    "Describe each column of a table or an array: counts, extremes, mean, quartiles, a histogram.",
    (Field("placeholder", ("object",), REQUIRED, "Which one: sessionId, name.", fields=(SESSION, _NAME)),),
    "type [placeholder]:STATS, sessionId, name, value.",
)
LIST_PLACEHOLDERS = Command(
    "list_placeholders",
    "List the placeholders that there are now.",
    (SESSION,),
    "type [placeholder]:LIST, sessionId, placeholders: name, type and shape of each.",
)
RUN_STATUS = Command(
    "run_status",
    "Tell how a run is.",
    (SESSION, Field("timeout", ("number",), 0, f"Seconds to wait for its end, at most {MAX_TIMEOUT:,}.", minimum=0)),
    "type [status]:STATUS, sessionId, status: Alive, Finished, Failed, Stopped, or Session not found.",
)
STOP_RUN = Command(
    "stop_run",
    "Interrupt a run, or the prediction that runs in it, and kill it where that does not end it.",
    (SESSION,),
    "type [status]:STATUS, sessionId, status: how it has ended.",
)
LIST_RUNS = Command(
    "list_runs",
    "List the sessions.",
    (),
    "type [status]:LIST, sessions: sessionId, status, mainfile, files, started, ended, placeholders of each.",
)
FORGET_RUN = Command(
    "forget_run",
    "End a session: what runs, its placeholders and its folder go.",
    (SESSION,),
    "type [status]:FORGOTTEN, sessionId.",
)
WATCH_RUN = Command(
    "watch_run",
    "Stream what a run tells, from its start to its end.",
    (
        SESSION,
        Field(
            "since", ("integer",), 0, "The last number that was seen: what came after it follows; by default all.", minimum=0
        ),
    ),
    "type, sessionId, number and more by type; the last one is [state]:EXECUTION_FINISHED or [state]:EXECUTION_FAILED.",
    stream=True,
)  # fmt: skip

COMMANDS: tuple[Command, ...] = (
    RUN,
    GET_PLACEHOLDER,
    RUN_MODEL,
    GET_STATS,
    LIST_PLACEHOLDERS,
    RUN_STATUS,
    STOP_RUN,
    LIST_RUNS,
    FORGET_RUN,
    WATCH_RUN,
)

#: What the Runtime server calls them, and what is new beside those.
ACTIONS: Mapping[str, Command] = {
    "run": RUN,
    "get_placeholder": GET_PLACEHOLDER,
    "run_model": RUN_MODEL,
    "get_stats": GET_STATS,
    "list_placeholders": LIST_PLACEHOLDERS,
    "status": RUN_STATUS,
    "stop": STOP_RUN,
    "list": LIST_RUNS,
    "forget": FORGET_RUN,
    "subscribe": WATCH_RUN,
}
