"""
The commands of the workspace task set, as data. Names, fields and defaults of Pserve's API are kept; `guide` texts are its own.
"""

from __future__ import annotations

from bgpy.tasks.schema import REQUIRED, Command, Field

_BACKENDS = (0, 1, 2, "process", "thread", "ray", None)

NAME = Field("name", ("string",), REQUIRED, "The workspace's name.", guide="Workspace name(Necessary field)")
TIMEOUT = Field(
    "timeout", ("number",), 1, "Seconds to wait for the job's end.", minimum=0, guide="Wait time for job result(Default:1)"
)
INTERVAL = Field(
    "time_interval",
    ("number",),
    1,
    "Accepted for old clients: nothing polls.",
    minimum=0,
    guide="Time interval for checking job(Default:1)",
)
_JOB = Field("job", ("integer",), REQUIRED, "The job's number.", minimum=0)
_LAST_JOB = Field("job", ("integer", "null"), None, "The job's number; by default the last one.", minimum=0)
_ENCODING = Field(
    "encoding", ("string",), "objects", "How values come: as JSON, or as Python objects for a Python client.", ("json", "objects")
)
_VARIABLES = Field(
    "variables", ("boolean", "array"), True, "Whether the answer has all variables, or the names of those it has.", items="string"
)
_LIMIT = Field(
    "limit", ("integer", "null"), None, "Bytes of JSON from which on a variable is only described; by default 1 MB.", minimum=0
)
_VARIABLE = Field("variable", ("string",), REQUIRED, "Its name.")
WINDOW = Field(
    "window",
    ("array", "null"),
    None,
    "Which rows of a table, an array or a list: [from, to], to not included; by default as many as fit into 1 MB.",
    items="integer",
)

CREATE = Command(
    "create",
    "Switch the service on; it is on at the start.",
    (),
    "true",
    guide="Server on(Default:Created)",
    guide_result="Server on result",
)
DESTROY = Command(
    "destroy", "Switch the service off: every workspace goes, and all but create answers false.", (), "true",
    guide="Server off", guide_result="Server off result",
)  # fmt: skip
CREATE_WORKSPACE = Command(
    "create_workspace",
    "Create a workspace.",
    (
        Field("name", ("string", "null"), None, "Its name; by default a random one.", guide="Workspace name(Default:Random)"),
        Field(
            "type",
            ("integer", "string", "null"),
            None,
            "Where it runs: 0 or process, 1 or thread, 2 or ray; by default a process, or as the server was started.",
            _BACKENDS,
            guide="0 is multiprocess, 1 is thread(Default:0)",
        ),
        INTERVAL,
        Field("on_crash", ("string",), "abort", "What becomes of queued jobs when the worker dies.", ("abort", "continue")),
        Field(
            "memory_limit",
            ("integer", "null"),
            None,
            "Bytes of address space that the worker may take (not on macOS).",
            minimum=1,
        ),
        Field("max_jobs", ("integer", "null"), None, "How many jobs are remembered; by default the last 10,000.", minimum=1),
        Field("num_cpus", ("number", "null"), None, "On Ray: CPUs that are set aside for it.", minimum=0),
        Field("num_gpus", ("number", "null"), None, "On Ray: GPUs that are set aside for it.", minimum=0),
        Field("memory", ("integer", "null"), None, "On Ray: bytes of memory that are set aside for it.", minimum=1),
        Field("resources", ("object", "null"), None, "On Ray: other resources that its node must have, and how much of each."),
        Field("runtime_env", ("object", "null"), None, "On Ray: packages, files and variables that it needs, as Ray takes them."),
        Field("node", ("string", "null"), None, "On Ray: the node that it runs on, by id, address or name."),
    ),
    "The workspace's name.",
    guide="Create workspace",
    guide_result="Created workspace name",
)
DESTROY_WORKSPACE = Command(
    "destroy_workspace",
    "End a workspace, its worker and all that the worker started.",
    (
        Field(
            "name", ("string", "null"), None, "Its name; by default all of them.", guide="Workspace name(Default:All workspace)"
        ),
    ),
    "true",
    guide="Destroy workspace",
    guide_result="Workspace destuction result",
)
GET_WORKSPACE = Command(
    "get_workspace",
    "List the workspaces.",
    (),
    "A list of names.",
    guide="Get workspace name",
    guide_result="Created workspace name",
)
GET_STATUS = Command(
    "get_status", "Tell how a workspace is.", (NAME,),
    "STATUS, CUR_JOB_NUM, FIN_JOB_NUM, JOB_COUNT; and last_state, type, restarts, pid, node and address (on Ray), held, "
    "abilities, first_job, next_job, last_event.",
    guide="Get workspace status", guide_result="Workspace status",
)  # fmt: skip
PUSH_JOB = Command(
    "push_job",
    "Queue a script or a file; wait a while for its end.",
    (
        NAME,
        Field("job", ("string",), REQUIRED, "A path on the server, or a script.", guide="File path or script(Necessary field)"),
        Field(
            "type",
            ("integer", "string"),
            0,
            "0 or file, 1 or script.",
            (0, 1, "file", "script"),
            guide="0 is File, 1 is Script(Default:0)",
        ),
        Field(
            "clear",
            ("boolean",),
            False,
            "Whether to empty the namespace first.",
            guide="Clear memory before running job(Defalut:False)",
        ),
        TIMEOUT,
        INTERVAL,
        Field(
            "time_limit",
            ("number", "null"),
            None,
            "Seconds that the job may run; then it is interrupted, then killed.",
            minimum=0,
        ),
        _VARIABLES,
        _LIMIT,
        _ENCODING,
    ),
    "job, finish, result, time, variable; and state, value, value_type, output, error.",
    guide="Push job by python file or script",
    guide_result={
        "job": "Job number",
        "finish": "Complete status for job",
        "result": "Executed job result",
        "time": "Response time",
        "variable": {"Variable name": "Variable value"},
    },
)
CLEAR = Command(
    "clear",
    "Queue a job that empties the namespace.",
    (NAME, TIMEOUT, INTERVAL),
    "job, finish, result, time; and state, error.",
    guide="Push job for clear memory",
    guide_result={
        "job": "Job number",
        "finish": "Complete status for job",
        "result": "Executed job result",
        "time": "Response time",
    },
)
GET_JOB = Command(
    "get_job",
    "Count the jobs that are still queued.",
    (NAME,),
    "A number.",
    guide="Get residual job count",
    guide_result="Residual job count",
)
GET_FINISH = Command(
    "get_finish",
    "Tell whether a job has ended.",
    (NAME, _LAST_JOB._replace(guide="Job number(Default:Last job number)")),
    "true or false.",
    guide="Check whether job is executing",
    guide_result="Complete status for job",
)
GET_VARIABLE = Command(
    "get_variable",
    "Read variables: one by name, a list of names, or all. An unknown name is null.",
    (
        NAME,
        Field(
            "variable", ("string", "array", "null"), None, "One name, or a list of names; by default all.",
            items="string", guide="Variable name(Default:All variable)",
        ),
        _LIMIT,
        _ENCODING,
    ),
    "The value of one; or a dict of values by name.",
    guide="Get variable by executed jobs",
    guide_result={"Variable name": "Variable value"},
)  # fmt: skip
LIST_VARIABLES = Command(
    "list_variables",
    "List the variables, also while a job runs.",
    (NAME,),
    "variables: name, type and shape of each of the first 1,000; left_out, how many more there are.",
)
GET_VALUE = Command(
    "get_value",
    "Read a variable as a person looks at it: what is small whole, of a table, an array or a long list some rows.",
    (NAME, _VARIABLE, WINDOW),
    "value, type, shape, window, truncated; of tables columns, index, dtypes; encoding of a value that is bytes or a picture.",
)
GET_STATISTICS = Command(
    "get_statistics",
    "Describe each column of a table or an array: counts, extremes, mean, quartiles, a histogram.",
    (NAME, _VARIABLE),
    "type, shape, rows, columns, left_out, sample.",
)
SET_VARIABLE = Command(
    "set_variable",
    "Set a variable, at once, also while a job runs.",
    (
        NAME,
        _VARIABLE,
        Field("value", (), REQUIRED, "Its value: JSON, or a Python object from a Python client."),
    ),
    "true",
)  # fmt: skip
COPY_VARIABLE = Command(
    "copy_variable",
    "Copy a variable into another workspace; between two on Ray without passing through the server.",
    (
        NAME,
        _VARIABLE,
        Field("to", ("string",), REQUIRED, "The other workspace's name."),
        Field("new_name", ("string", "null"), None, "Its name there; by default the same."),
    ),
    "true",
)
LEND_VARIABLE = Command(
    "lend_variable",
    "On Ray: put a variable into the object store, for a program on the cluster, until return_variable.",
    (NAME, Field("variable", ("string",), REQUIRED, "Its name.")),
    "reference, as Ray pickles it, and key; both hexadecimal.",
)
RETURN_VARIABLE = Command(
    "return_variable",
    "On Ray: let go of what lend_variable has put into the object store.",
    (NAME, Field("key", ("string",), REQUIRED, "What lend_variable has answered.")),
    "true",
)
FETCH_VARIABLE = Command(
    "fetch_variable",
    "For a Python program on a Ray cluster: read variables, what is large by the object store, until return_variable.",
    (
        NAME,
        Field("variable", ("array", "null"), None, "A list of names; by default all.", items="string"),
        Field("node", ("string",), REQUIRED, "The id of the node that the program runs on."),
    ),
    "values, a dict of those that there are; or reference and key as of lend_variable, for that dict.",
)
TAKE_VARIABLE = Command(
    "take_variable",
    "On Ray: set a variable to what lies in the object store.",
    (
        NAME,
        Field("variable", ("string",), REQUIRED, "Its name."),
        Field("reference", ("string",), REQUIRED, "A reference of Ray's, as Ray pickles it, hexadecimal."),
        Field("packed", ("boolean",), False, "Whether a Python client has packed what lies there."),
    ),
    "true; false where it is packed and cannot be had from there.",
)
GET_RESULT = Command(
    "get_result",
    "Tell whether a job ran through: true, false where it did not, null while it has not ended.",
    (
        NAME,
        Field(
            "job",
            ("integer", "null"),
            None,
            "The job's number; by default all, as a list in their order.",
            minimum=0,
            guide="Job number(Default:All result)",
        ),
    ),
    "true, false or null; or a list of these.",
    guide="Get result for executed job",
    guide_result="Executed job result",
)
INTERRUPT = Command(
    "interrupt",
    "Raise KeyboardInterrupt in a running job.",
    (NAME, _LAST_JOB._replace(help="The job's number; by default the one that runs.")),
    "Whether the job ran and was interrupted.",
)
CANCEL = Command("cancel", "Take a queued or held job out of the queue.", (NAME, _JOB), "Whether the job was still waiting.")
KILL = Command(
    "kill",
    "End the running job's process, and all that it started, at once.",
    (NAME, _LAST_JOB._replace(help="The job's number; by default the one that runs.")),
    "Whether the job ran and was killed.",
)
GET_OUTPUT = Command("get_output", "Read what a job has written so far.", (NAME, _LAST_JOB), "stdout, stderr, truncated.")
GET_RECORD = Command(
    "get_record",
    "Tell all that is known of a job.",
    (NAME, _LAST_JOB, TIMEOUT._replace(default=0, guide=""), _ENCODING),
    "number, state, result, value, value_type, error, output, times, job.",
)
RESUME = Command(
    "resume",
    "Let jobs run that were held at a restart.",
    (NAME, Field("job", ("integer", "null"), None, "One job's number; by default all that are held.", minimum=0)),
    "How many jobs were resumed.",
)
WATCH = Command(
    "watch",
    "Stream what happens in a workspace as numbered events.",
    (
        NAME,
        Field(
            "since", ("integer", "null"), None,
            "The last number that was seen: what came after it is replayed; by default only what is new.", minimum=0,
        ),
        Field("until", ("integer", "null"), None, "End the stream with the end of this job.", minimum=0),
    ),
    "event, number, time, job and more by event.",
    stream=True,
)  # fmt: skip
GET_METRICS = Command(
    "get_metrics", "Count workspaces, and their jobs by state.", (), "workspaces, a number; jobs, a number for each state."
)
GET_OVERVIEW = Command(
    "get_overview",
    "Tell how the server and all workspaces are, and how long the jobs took that ended lately.",
    (
        Field(
            "since", ("number", "null"), None,
            "Seconds since 1970: of jobs only those that ended later; by default the last ones.",
        ),
    ),
    "time, server, workspaces, a list of statuses, and ended: workspace, job, state, ended, waited, ran of each.",
)  # fmt: skip

GET_NODES = Command(
    "get_nodes", "List the nodes of the Ray cluster; none where the server uses no cluster.", (),
    "A list: node (its id), address, name, alive, resources, and workspaces, the number of this server's that run there.",
)  # fmt: skip

COMMANDS: tuple[Command, ...] = (
    CREATE,
    DESTROY,
    CREATE_WORKSPACE,
    DESTROY_WORKSPACE,
    GET_WORKSPACE,
    GET_STATUS,
    PUSH_JOB,
    CLEAR,
    GET_JOB,
    GET_FINISH,
    GET_VARIABLE,
    GET_RESULT,
    LIST_VARIABLES,
    GET_VALUE,
    GET_STATISTICS,
    SET_VARIABLE,
    COPY_VARIABLE,
    LEND_VARIABLE,
    FETCH_VARIABLE,
    RETURN_VARIABLE,
    TAKE_VARIABLE,
    GET_OUTPUT,
    GET_RECORD,
    INTERRUPT,
    CANCEL,
    KILL,
    RESUME,
    WATCH,
    GET_METRICS,
    GET_OVERVIEW,
    GET_NODES,
)  # fmt: skip
