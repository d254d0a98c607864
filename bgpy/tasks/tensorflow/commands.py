"""
The commands of the TensorFlow task set, as data: all of the workspace set, and those of TFserve under their names and defaults.
"""

from __future__ import annotations

from bgpy.tasks.schema import REQUIRED, Command, Field
from bgpy.tasks.workspace import commands as workspace
from bgpy.tasks.workspace.commands import INTERVAL, NAME, TIMEOUT

_PATH = Field("path", ("string",), REQUIRED, "A path on the server.", guide="Model path(Necessary field)")
_TIME_LIMIT = Field(
    "time_limit", ("number", "null"), None, "Seconds that the job may run; then it is interrupted, then killed.", minimum=0
)
_REPLICAS = (
    Field("replicas", ("integer", "null"), None, "On how many workspaces; null: as many as now, or one.", minimum=1),
    Field("min_replicas", ("integer", "null"), None, "How many at least, where load decides.", minimum=1),
    Field("max_replicas", ("integer", "null"), None, "How many at most, where load decides.", minimum=1),
    Field("idle_time", ("number", "null"), None, "Seconds after which a replica goes that is not needed; 300.", minimum=0),
)
_ENCODING = Field(
    "encoding", ("string",), "objects", "How arrays come: as JSON, or as NumPy arrays for a Python client.", ("json", "objects")
)
_MODEL = "job, finish, result, time; and state, error, value: what describe tells of the model."
_RESULT = {
    "job": "Job number",
    "finish": "Complete status for job",
    "result": "Executed job result",
    "time": "Response time",
}

DEPLOY = Command(
    "deploy",
    "Load a model: a SavedModel folder, a .keras or .h5 file, a TF 1 checkpoint with its meta graph.",
    (
        NAME,
        _PATH,
        Field("device", ("string",), "/cpu:0", "Where it runs.", guide="Device name(Default:'/cpu:0')"),
        Field("warmup", ("boolean",), False, "Whether to run each signature once on zeros."),
        Field("max_batch", ("integer",), 64, "Rows of waiting predictions that are run as one; 1: each alone.", minimum=1),
        Field("safe_mode", ("boolean",), True, "Whether a .keras file that would run code of its own is refused."),
        *_REPLICAS,
        TIMEOUT,
        INTERVAL,
        _TIME_LIMIT,
    ),
    _MODEL,
    guide="Push job for model deployment",
    guide_result=_RESULT,
)
UPDATE = Command(
    "update",
    "Give the deployed model new weights: a checkpoint, a .weights.h5 file, a SavedModel of the same signature.",
    (NAME, _PATH, TIMEOUT, INTERVAL, _TIME_LIMIT),
    _MODEL,
    guide="Push job for update of deployed model",
    guide_result=_RESULT,
)
UNDEPLOY = Command(
    "undeploy",
    "Let the model go.",
    (NAME, TIMEOUT, INTERVAL, _TIME_LIMIT),
    "job, finish, result, time; and state, error.",
    guide="Push job for undeployment of deployed model",
    guide_result=_RESULT,
)
PREDICT = Command(
    "predict",
    "Run the deployed model.",
    (
        NAME,
        Field(
            "fetches",
            ("string", "array", "null"),
            None,
            "Names of outputs, SIGNATURE/OUTPUT, or of a TF 1 graph collection keys or tensors; by default all outputs.",
            items="string",
            guide="List or string by collection key or tensor name'(Necessary field)",
        ),
        Field(
            "feed_dict",
            (),
            None,
            "Values by the name of the input, or in a TF 1 graph by collection key or tensor.",
            guide="Dictionary by collection key or tensor name & feeding data(Default:None)",
        ),
        TIMEOUT,
        INTERVAL,
        _TIME_LIMIT,
        _ENCODING,
    ),
    "job, finish, result, time: the result is a list of arrays in the order of the fetches; and state, error, name: the workspace"
    " whose job it is.",
    guide="Push job for prediction of deployed model",
    guide_result=_RESULT,
)
DESCRIBE = Command(
    "describe",
    "Tell what is deployed; never waits for a job.",
    (NAME,),
    "null where nothing is; else name, path, format, platform, device, version, versions, load_time, predictions,"
    " executions (runs of the model, of which each may have made several predictions), failed_predictions, last_prediction,"
    " max_batch, default_signature and signatures: by name inputs and outputs, each by name dtype and shape; replicas: of each"
    " workspace, state, version and waiting. With several also min_replicas, max_replicas and idle_time.",
)
GET_RESULT = workspace.GET_RESULT._replace(
    result="true, false or null; of a prediction that ran, and was asked for as JSON, the list of its arrays; of all jobs a list"
    " of the former."
)
INFER = Command(
    "infer",
    "Run the deployed model on a request of a model server's protocol, for the gateway.",
    (
        NAME,
        Field("protocol", ("string",), REQUIRED, "Whose request: TensorFlow Serving's, Open Inference's.", ("v1", "v2")),
        Field("verb", ("string",), REQUIRED, "What is asked for.", ("predict", "classify", "regress", "infer")),
        Field("body", (), REQUIRED, "A Packed that has the bytes of the request's body as its one buffer."),
        Field("version", ("string", "null"), None, "The version that is asked for; null for the current one."),
        Field("header_length", ("integer", "null"), None, "Bytes of JSON at the body's start, with the binary extension."),
        Field("timeout", ("number",), 60, "Seconds to wait for the job's end.", minimum=0),
    ),
    "job, finish, result, time, state, error, name, value: content_type and header_length of the body, which is in the buffers of"
    " the Packed in result; max_batch: as many predictions the model may take at once.",
)
#: Requests in one message of `INFER_ALL`.
MAX_TOGETHER = 64
INFER_ALL = Command(
    "infer_all",
    "Run the deployed model on several requests, which are answered together when the last one has ended.",
    (
        Field("requests", (), REQUIRED, "What infer takes, command included, as an array."),
        Field("timeout", ("number",), 60, "The longest timeout of these, for who carries the message; here each has its own."),
    ),
    "What infer answers, envelope included, as an array.",
)

#: What is only for the gateway's own adapters.
HIDDEN: tuple[Command, ...] = (INFER, INFER_ALL)
OWN: tuple[Command, ...] = (DEPLOY, UPDATE, UNDEPLOY, PREDICT, DESCRIBE)
#: What answers otherwise than in a server without models.
CHANGED: tuple[Command, ...] = (GET_RESULT,)
_OF_WORKSPACES = (GET_RESULT if command.name == GET_RESULT.name else command for command in workspace.COMMANDS)
COMMANDS: tuple[Command, ...] = (*_OF_WORKSPACES, *OWN)
